"""`dagster-kumo check`: does Kumo accept the key?"""

from __future__ import annotations

import click

from dagster_kumo.api.client import KumoClient
from dagster_kumo.cli.kumo_command import as_json_option, kumo_command
from dagster_kumo.cli.output import print_facts, print_json


@click.command()
@as_json_option
@kumo_command
def check(client: KumoClient, *, as_json: bool) -> None:
    """Check the API key, and list its groups and projects."""
    groups = client.list_groups()
    options = click.get_current_context().params
    if groups is None and (options["group"] or options["project"]):
        raise click.UsageError("This deployment has no groups. Leave out --group and --project.")
    if groups is None or options["group"]:
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
                "api": client.generation.version,
                "key_accepted": True,
                "groups": None if groups is None else projects,
            }
        )
        return
    facts = {
        "deployment": client.url,
        "API": f"of SDK {client.generation.version}",
        "API key": "accepted",
    }
    if groups is not None and not groups:
        facts["groups"] = "none: ask in Kumo to be added to one"
    for group, names in projects.items():
        facts[f"group {group}"] = f"projects {', '.join(names)}" if names else "no projects"
    print_facts(facts)
