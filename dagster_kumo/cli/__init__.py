"""The command line: `dagster-kumo`."""

from __future__ import annotations

import click

from dagster_kumo.cli.connection import check
from dagster_kumo.cli.jobs import jobs
from dagster_kumo.cli.models import models
from dagster_kumo.cli.stand_in import local
from dagster_kumo.version import __version__


@click.group("dagster-kumo", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dagster-kumo")
def main() -> None:
    """Kumo predictions in Dagster.

    check, models and jobs ask a Kumo deployment. They take its key from the environment variable
    KUMO_API_KEY, and its address from --url, from KUMO_API_ENDPOINT or from the key. They exit with 0
    when all is well, 1 when Kumo refuses or fails, and 2 when they were called wrongly.
    """


main.add_command(check)
main.add_command(models)
main.add_command(jobs)
main.add_command(local)
