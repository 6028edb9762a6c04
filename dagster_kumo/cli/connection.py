"""`dagster-kumo check`: whether Kumo answers, and to whom."""

from __future__ import annotations

import click

from dagster_kumo.api.client import KumoClient
from dagster_kumo.cli.asking import as_json_option, asks_kumo, print_facts, print_json


@click.command()
@as_json_option
@asks_kumo
def check(client: KumoClient, *, as_json: bool) -> None:
    """Ask Kumo whether it accepts the key, and which groups and projects it opens."""
    groups = client.list_groups()
    if groups is None or click.get_current_context().params["group"]:
        client.check()
    projects = {
        group.display_name or group.id: [
            project.display_name or project.id for project in client.list_projects(group.id)
        ]
        for group in groups or ()
    }
    if as_json:
        print_json(
            {
                "url": client.url,
                "key_accepted": True,
                "groups": None if groups is None else projects,
            }
        )
        return
    facts = {"deployment": client.url, "API key": "accepted"}
    if groups is not None and not groups:
        facts["groups"] = "the key belongs to none: ask for one in Kumo"
    for group, names in projects.items():
        facts[f"group {group}"] = f"projects {', '.join(names)}" if names else "no projects"
    print_facts(facts)
