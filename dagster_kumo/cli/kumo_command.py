"""A command that calls Kumo: its connection, its errors and the options that commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoError, KumoNotFoundError
from dagster_kumo.api.records import (
    LIVE_STATUSES,
    TERMINAL_STATUSES,
    BatchPredictionJobResource,
    TrainingJobResource,
)
from dagster_kumo.cli.output import as_text

# Low: a person waits at the terminal, and can call again.
REQUEST_TIMEOUT = 30.0
REQUEST_MAX_RETRIES = 2


def kumo_command(command: Callable[..., None]) -> Callable[..., None]:
    """Pass the client to a command as its first argument, and turn errors into exit codes.

    An error of Kumo is printed to stderr, without a traceback, and exits with 1. A connection that is
    not fully specified exits with 2.
    """

    @click.option("--url", metavar="URL", help="The API's address, instead of KUMO_API_ENDPOINT.")
    @click.option("--group", help="The group to work in, by name or id, if there are groups.")
    @click.option("--project", help="The project to work in, by name or id.")
    @functools.wraps(command)
    def with_client(
        *args: Any, url: str | None, group: str | None, project: str | None, **options: Any
    ) -> None:
        if not os.getenv("KUMO_API_KEY"):
            # Not an option: everybody on the machine can see the arguments of a process.
            raise click.UsageError(
                "There is no Kumo API key: set the environment variable KUMO_API_KEY."
            )
        client: KumoClient | None = None
        try:
            client = KumoClient(
                url,
                group=group,
                project=project,
                request_timeout=REQUEST_TIMEOUT,
                request_max_retries=REQUEST_MAX_RETRIES,
            )
            command(client, *args, **options)
        except ValueError as error:
            raise click.UsageError(_message(error)) from None
        except KumoError as error:
            message = _message(error)
            if isinstance(error, KumoNotFoundError):
                message = _of_another_kind(options) or message
                if client is not None and not client.url.endswith("/api"):
                    message += f"\nDoes the address end in /api? It is {client.url}."
            raise click.ClickException(message) from None

    return with_client


def _message(error: Exception) -> str:
    return "\n".join(map(as_text, str(error).splitlines()))


def _of_another_kind(options: Mapping[str, Any]) -> str | None:
    """What to say of an id that names a training job instead of a prediction job, or the reverse."""
    for argument, prefix, kind, command in (
        ("job_id", "trainingjob-", "a training job, not a prediction job", "models"),
        ("training_job_id", "bp-job-", "a prediction job, not a training job", "jobs"),
    ):
        job_id = options.get(argument, "")
        if job_id.startswith(prefix):
            return f"{as_text(job_id)} is {kind}. To show it: dagster-kumo {command} show {as_text(job_id)}"
    return None


def _as_mapping(_: click.Context, _option: click.Parameter, pairs: Sequence[str]) -> dict[str, str]:
    return dict(map(_pair, pairs))


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise click.BadParameter(f"{text!r} is not of the form KEY=VALUE.")
    return key, value


as_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for other programs."
)
limit_option = click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1), help="How many at most."
)
tags_option = click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_as_mapping,
    help="Only those with this tag; may be given several times.",
)
status_option = click.option(
    "--status",
    type=click.Choice(sorted(LIVE_STATUSES | TERMINAL_STATUSES), case_sensitive=False),
    help="Only those with this status.",
)


def fits(
    job: BatchPredictionJobResource | TrainingJobResource,
    tags: Mapping[str, str],
    status: str | None,
) -> bool:
    """Whether a job is one that was asked for. The server may have ignored a filter."""
    return status in (None, job.job_status_report.status) and all(
        job.tags.get(key) == value for key, value in tags.items()
    )
