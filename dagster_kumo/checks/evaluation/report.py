"""The metadata of an evaluation: numbers that the Dagster UI plots, a table, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from dagster_kumo.checks.evaluation.joined_rows import Counts, Task
from dagster_kumo.checks.evaluation.metric_names import COVERAGE, HOLDOUT
from dagster_kumo.checks.evaluation.metrics import Group, Numbers
from dagster_kumo.execution.metadata import NAMESPACE


def evaluation_metadata(
    task: Task,
    numbers: Numbers,
    counts: Counts,
    *,
    drawn: Mapping[str, str],
    holdout: Mapping[str, float],
    anchor: datetime | None,
    closed_at: datetime | None,
    job_id: str | None,
    training_job_id: str | None,
) -> dict[str, Any]:
    """The entries of one evaluated partition, in the order of what a person asks.

    Each metric is an entry of its own, because the Dagster UI plots them and checks read them. They come last.
    """
    in_brief = [in_words(task, numbers.groups)] if numbers.groups else []
    entries: dict[str, Any] = {
        "in_brief": dg.MetadataValue.md(" ".join([*in_brief, counts.in_words()]))
    }
    if numbers.groups:
        entries["deciles"] = _table(task, numbers.groups)
        entries |= {name: dg.MetadataValue.md(text) for name, text in drawn.items()}
    entries[COVERAGE] = counts.coverage
    if anchor is not None:
        entries["prediction_time"] = dg.MetadataValue.timestamp(anchor)
    if closed_at is not None:
        entries["window_closed_at"] = dg.MetadataValue.timestamp(closed_at)
    if training_job_id is not None:
        entries["training_job_id"] = training_job_id
    if job_id is not None:
        entries["job_id"] = job_id
    for name, value in numbers.metrics.items():
        entries[name] = value
        if name in holdout:
            entries[f"{HOLDOUT}{name}"] = holdout[name]
    return {f"{NAMESPACE}{name}": value for name, value in entries.items()}


def in_words(task: Task, groups: Sequence[Group]) -> str:
    """What the first group says, in a sentence for everybody.

    >>> in_words("binary", [Group(1000, 0.4, 0.412, 412), Group(1000, 0.01, 0.0, 0)])
    'Of the 1,000 most likely, 412 came true (41.2 %). Of all 2,000: 412 (20.6 %).'
    """
    top, rows = groups[0], sum(group.rows for group in groups)
    total = sum(group.total for group in groups)
    if task == "binary":
        return (
            f"Of the {top.rows:,} most likely, {top.total:,.0f} came true ({top.actual:.1%}). "
            f"Of all {rows:,}: {total:,.0f} ({total / rows:.1%})."
        ).replace("%", " %")
    predicted = sum(group.rows * group.predicted for group in groups)
    share = f" ({top.total / total:.1%} of all)".replace("%", " %") if total else ""
    return (
        f"The {top.rows:,} with the highest predictions came to {top.total:,.0f}{share}. "
        f"Predicted for all {rows:,}: {predicted:,.0f}; came: {total:,.0f}."
    )


def _table(task: Task, groups: Sequence[Group]) -> dg.TableMetadataValue:
    total = sum(group.total for group in groups)
    rows = sum(group.rows for group in groups)
    records: list[dg.TableRecord] = []
    so_far = 0.0
    for place, group in enumerate(groups, start=1):
        so_far += group.total
        records.append(
            dg.TableRecord(
                {
                    "group": place,
                    "entities": group.rows,
                    "predicted": float(f"{group.predicted:.4g}"),
                    "actual": float(f"{group.actual:.4g}"),
                    "came true" if task == "binary" else "total": float(f"{group.total:.6g}"),
                    "lift": float(f"{group.actual * rows / total:.3g}") if total else None,
                    "share so far": float(f"{so_far / total:.4g}") if total else None,
                }
            )
        )
    kinds = {"group": "int", "entities": "int"}
    columns = [dg.TableColumn(name, kinds.get(name, "float")) for name in records[0].data]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))
