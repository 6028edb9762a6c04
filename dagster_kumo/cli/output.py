"""What the commands print: tables, facts and JSON."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from tabulate import DataRow, TableFormat, tabulate

_SERVER_TAGS = ("model_id", "pquery_id", "pquery_name")
_ROW = DataRow("", "   ", "")
_PLAIN = TableFormat(None, None, None, None, _ROW, _ROW, padding=0, with_header_hide=None)


def print_json(value: Any) -> None:
    """Print a value for other programs; times as ISO 8601."""
    click.echo(json.dumps(value, indent=2, default=datetime.isoformat))


def print_rows(
    rows: Sequence[dict[str, Any]],
    cells: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    as_json: bool,
    if_none: str,
) -> None:
    """Print rows as JSON, or the cells of each row as a table. Empty columns are left out.

    On a terminal that is too narrow, the last columns are left out, and named on stderr.
    """
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo(if_none)
        return
    lines = [cells(row) for row in rows]
    columns = [[name, *(as_text(line[name]) for line in lines)] for name in lines[0]]
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
    """Print facts about one thing, one a line. Facts without a value are left out."""
    _print_columns(
        [[name, as_text(value)] for name, value in facts.items() if value not in (None, "", {}, [])]
    )


def as_text(value: Any) -> str:
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
        return " ".join(f"{key}={as_text(item)}" for key, item in pairs.items())
    # A name that a user chose could otherwise send control characters to the terminal.
    return "".join(c if c.isprintable() else "?" for c in str(value))


def own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags without those that the server adds."""
    return {key: value for key, value in tags.items() if key not in _SERVER_TAGS}


def _print_columns(lines: Sequence[Sequence[str]]) -> None:
    text = tabulate(lines, tablefmt=_PLAIN, disable_numparse=True)
    click.echo("\n".join(line.rstrip() for line in text.splitlines()))
