"""What the commands that call Kumo share: connecting, errors and printing."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from tabulate import DataRow, TableFormat, tabulate

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoAPIError, KumoError
from dagster_kumo.api.records import LIVE_STATUSES, TERMINAL_STATUSES

# Short: a person waits at the terminal, and can call again.
REQUEST_TIMEOUT = 30.0
REQUEST_MAX_RETRIES = 2

_SERVER_TAGS = ("model_id", "pquery_id", "pquery_name")
_ROW = DataRow("", "   ", "")
_PLAIN = TableFormat(None, None, None, None, _ROW, _ROW, padding=0, with_header_hide=None)


def asks_kumo(command: Callable[..., None]) -> Callable[..., None]:
    """Pass a command the client as its first argument, and turn errors into exit codes.

    An error of Kumo is printed to stderr, without a traceback, and exits with 1. A connection that is
    not fully specified exits with 2.
    """

    @click.option("--url", metavar="URL", help="The API's address, instead of KUMO_API_ENDPOINT.")
    @click.option("--group", help="The group to work in, by name or id, where there are groups.")
    @click.option("--project", help="The project to work in, by name or id.")
    @functools.wraps(command)
    def asking(
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
            raise click.UsageError(_words(error)) from None
        except KumoError as error:
            words = _words(error)
            is_missing = isinstance(error, KumoAPIError) and error.status_code == 404
            if is_missing and client is not None and not client.url.endswith("/api"):
                words += f"\nDoes the address end in /api? It is {client.url}."
            raise click.ClickException(words) from None

    return asking


as_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for other programs."
)
limit_option = click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1), help="How many at most."
)


def _as_mapping(
    context: click.Context, option: click.Parameter, pairs: Sequence[str]
) -> dict[str, str]:
    del context, option
    return dict(map(_pair, pairs))


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise click.BadParameter(f"{text!r} is not of the form KEY=VALUE.")
    return key, value


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


def print_json(value: Any) -> None:
    """Print a value for other programs; times as ISO 8601."""
    click.echo(json.dumps(value, indent=2, default=datetime.isoformat))


def print_table(rows: Sequence[Mapping[str, Any]], *, if_none: str) -> None:
    """Print rows that all have the same columns. Empty columns are left out.

    On a terminal that is too narrow, the last columns are left out, and named on stderr.
    """
    if not rows:
        click.echo(if_none)
        return
    columns = [[name, *(shown(row[name]) for row in rows)] for name in rows[0]]
    columns = [column for column in columns if any(column[1:])]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf
    left_out: list[str] = []
    while len(columns) > 1 and sum(max(map(len, c)) + 3 for c in columns) - 3 > width:
        left_out.insert(0, columns.pop()[0])
    _print_columns(list(zip(*columns, strict=True)))
    if left_out:
        click.echo(
            f"The terminal is too narrow for: {', '.join(left_out)}. --json prints all.", err=True
        )


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print what is known of one thing, a line each; what is not known is left out."""
    _print_columns(
        [[name, shown(value)] for name, value in facts.items() if value not in (None, "", {}, [])]
    )


def shown(value: Any) -> str:
    """A value for people, in one line."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S %Z}".replace(":00 ", " ", 1)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        pairs: Mapping[Any, Any] = value
        return " ".join(f"{key}={shown(item)}" for key, item in pairs.items())
    # Else the name of a job could send control characters to the terminal.
    return "".join(c if c.isprintable() else "?" for c in str(value))


def own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags without those that the server adds."""
    return {key: value for key, value in tags.items() if key not in _SERVER_TAGS}


def _words(error: Exception) -> str:
    return "\n".join(map(shown, str(error).splitlines()))


def _print_columns(lines: Sequence[Sequence[str]]) -> None:
    text = tabulate(lines, tablefmt=_PLAIN, disable_numparse=True)
    click.echo("\n".join(line.rstrip() for line in text.splitlines()))
