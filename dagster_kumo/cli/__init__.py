"""The command line: `dagster-kumo`."""

from __future__ import annotations

import click

from dagster_kumo.cli.check import check
from dagster_kumo.cli.jobs import jobs
from dagster_kumo.cli.local import local
from dagster_kumo.cli.models import models
from dagster_kumo.version import __version__


@click.group("dagster-kumo", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dagster-kumo")
def main() -> None:
    """Kumo predictions in Dagster.

    check, models and jobs call a Kumo deployment. They take its key from the environment variable
    KUMO_API_KEY, and its address from --url, from KUMO_API_ENDPOINT or from the key. The exit code is 0
    after success, 1 if Kumo refuses or fails, and 2 if the arguments are wrong.
    """


for command in (check, models, jobs, local):
    main.add_command(command)
