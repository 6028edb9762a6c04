"""The metadata of a materialization whose output has been stored.

It goes into Dagster's event log and is loaded with every page that shows it, so its size is limited: only the first
columns of a wide output and the beginning of a long text are shown, and the metadata says so.

Only the counts are always there. The rest is optional: if something cannot be computed, it is left out with a
warning, and the asset does not fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_kumo.execution.metadata import NAMESPACE, ROW_COUNT, finite
from dagster_kumo.execution.partitions.previous import partition_before

if TYPE_CHECKING:
    import pyarrow as pa

    from dagster_kumo.predictions.predictions import Predictions, Provenance
    from dagster_kumo.predictions.statistics.summary import ColumnSummary, OutputSummary
    from dagster_kumo.predictions.store.store import PartitionStore
    from dagster_kumo.predictions.store.transfer import Transferred

MAX_COLUMNS = 300
"""How many columns the schema, the statistics and the preview show."""
MAX_PLOTTED_COLUMNS = 50
"""How many columns have numbers of their own, which Dagit plots."""
MAX_TEXT = 200
"""How many characters of a text are shown."""
MAX_PREVIEW_CELLS = 3_000

COLUMN_DESCRIPTIONS = {
    "ENTITY": "The primary key of the entity that is predicted for.",
    "ANCHOR_TIMESTAMP": "The point in time that the prediction looks ahead from.",
    "TARGET_PRED": "The predicted value; of a yes or no question, by the threshold.",
    "True_PROB": "The probability of yes, 0 to 1.",
    "False_PROB": "The probability of no, 0 to 1.",
    "CLASS": "One of the possible classes or items.",
    "SCORE": "How likely the class is for the entity.",
    "EMBEDDING": "The vector of the entity: entities that are alike have vectors that are near.",
}


def output_metadata(
    context: dg.OutputContext,
    stored: Predictions,
    transferred: Transferred,
    *,
    partition_key: str | None,
    provenance: Provenance | None,
    preview_rows: int,
    store_of: Callable[[str], PartitionStore],
) -> dict[str, Any]:
    """The entries of an output that is in force.

    Args:
        context: of the output.
        stored: the output as it can be read now.
        transferred: its files, and its statistics if they were requested.
        partition_key: its partition; None for an asset without partitions.
        provenance: its job.
        preview_rows: how many rows are shown.
        store_of: returns the store of a partition of the same asset.
    """
    entries: dict[str, Any] = {
        ROW_COUNT: transferred.num_rows,
        "dagster/size_bytes": transferred.size_bytes,
        "dagster/column_schema": _column_schema(transferred.schema),
        f"{NAMESPACE}num_files": len(transferred.files),
    }
    width = len(transferred.schema)
    if width > MAX_PLOTTED_COLUMNS:
        entries[f"{NAMESPACE}shortened"] = (
            f"Of {width:,} columns, tables show the first {min(width, MAX_COLUMNS)}, "
            f"and the first {MAX_PLOTTED_COLUMNS} have plots."
        )
    optional: dict[str, Callable[[], Mapping[str, Any]]] = {}
    summary = transferred.summary
    if summary is not None:
        for name, why in summary.failed.items():
            context.log.warning(f"There are no statistics of the column {name}: {why}")
        threshold = provenance.binary_classification_threshold if provenance else None
        optional["statistics"] = lambda: _statistics(summary)
        optional["distribution"] = lambda: _distribution(summary, threshold)
        if partition_key is not None:
            optional["drift"] = lambda: _drift(context, summary, partition_key, store_of)
    if preview_rows:
        optional["preview"] = lambda: _preview(stored, preview_rows)
    for what, compute in optional.items():
        try:
            entries |= {f"{NAMESPACE}{name}": value for name, value in compute().items()}
        except Exception as error:  # noqa: BLE001 - the data is stored: its metadata must not fail the asset
            context.log.warning(f"There is no {what} in the metadata, the data is stored: {error}")
    return entries


# Columns and statistics


def _column_schema(schema: pa.Schema) -> dg.TableSchema:
    """The columns with their types, and what Kumo's own columns mean."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                _shortened(field.name),
                _shortened(str(field.type)),
                description=COLUMN_DESCRIPTIONS.get(field.name),
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in list(schema)[:MAX_COLUMNS]
        ]
    )


def _statistics(summary: OutputSummary) -> dict[str, Any]:
    """A table for people, and single numbers that Dagit plots."""
    columns = list(summary.columns.values())
    entries: dict[str, Any] = {"statistics": _statistics_table(columns[:MAX_COLUMNS])}
    for column in columns[:MAX_PLOTTED_COLUMNS]:
        name = _shortened(column.name)
        mean = finite(column.mean)
        if mean is not None:
            entries[f"{name}/mean"] = float(mean)
        # Kumo never leaves these two empty: as plots they would be flat lines before the others.
        if name not in ("ENTITY", "ANCHOR_TIMESTAMP"):
            entries[f"{name}/null_fraction"] = column.null_fraction
    return entries


# The most informative columns come first: the Dagster UI cuts off wide tables on the right.
_STATISTICS_COLUMNS = {
    "column": "string",
    "mean": "float",
    "std": "float",
    "min": "string",
    "5 %": "float",
    "25 %": "float",
    "50 %": "float",
    "75 %": "float",
    "95 %": "float",
    "max": "string",
    "count": "int",
    "nulls": "int",
    "distinct": "int",
    "type": "string",
}


def _statistics_table(columns: list[ColumnSummary]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [_statistics_row(column) for column in columns],
        schema=dg.TableSchema([dg.TableColumn(*column) for column in _STATISTICS_COLUMNS.items()]),
    )


def _statistics_row(column: ColumnSummary) -> dg.TableRecord:
    quantiles = column.quantiles() or [None] * 5
    low, lower, median, upper, high = (finite(q, digits=4) for q in quantiles)
    values: dict[str, str | int | float | bool | None] = {
        "column": _shortened(column.name),
        "mean": finite(column.mean),
        "std": finite(column.std, digits=4),
        "min": _cell(column.min),
        "5 %": low,
        "25 %": lower,
        "50 %": median,
        "75 %": upper,
        "95 %": high,
        "max": _cell(column.max),
        "count": column.count,
        "nulls": column.nulls,
        "distinct": column.distinct,
        "type": _shortened(str(column.type)),
    }
    return dg.TableRecord(values)


# Distribution and drift


def _distribution(summary: OutputSummary, threshold: float | None) -> dict[str, Any]:
    """The picture, and beside it a text that Dagit shows in place; without a picture the text alone."""
    from dagster_kumo.io_manager.distribution import distribution_as_picture, distribution_as_text

    text = distribution_as_text(summary, threshold=threshold)
    if text is None:
        return {}
    entries = {"distribution": text}
    picture = distribution_as_picture(summary, threshold=threshold)
    if picture is not None:
        entries = {"distribution": picture, "distribution_in_brief": text}
    return {name: dg.MetadataValue.md(value) for name, value in entries.items()}


def _drift(
    context: dg.OutputContext,
    summary: OutputSummary,
    partition_key: str,
    store_of: Callable[[str], PartitionStore],
) -> dict[str, Any]:
    """The drift of scores and classes from the previous partition, as numbers that the Dagster UI plots.

    Empty if that partition is not stored with statistics.
    """
    from dagster_kumo.predictions.statistics.drift import compared_columns, mean_shift, psi
    from dagster_kumo.predictions.statistics.stored_statistics import StoredStatistics
    from dagster_kumo.predictions.store.statistics_file import read_statistics

    before = partition_before(context.asset_partitions_def, partition_key, _instance())
    earlier = read_statistics(store_of(before)) if before is not None else None
    if earlier is None:
        return {}
    now = StoredStatistics.of(summary)
    entries: dict[str, float | None] = {}
    for name in compared_columns(now):
        if name in earlier.columns:
            pair = earlier.columns[name], now.columns[name]
            entries[f"{name}/psi"] = finite(psi(*pair))
            entries[f"{name}/mean_shift"] = finite(mean_shift(*pair))
    return {name: value for name, value in entries.items() if value is not None}


def _instance() -> dg.DagsterInstance | None:
    """The instance, which keeps dynamic partitions; None outside of a run."""
    try:
        running: Any = dg.AssetExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return None
    return running.instance


# Rows


def _preview(stored: Predictions, rows: int) -> dict[str, Any]:
    names = stored.schema.names[:MAX_COLUMNS]
    shown = min(rows, max(1, MAX_PREVIEW_CELLS // max(1, len(names))))
    first = next(stored.iter_batches(shown, names))
    records = [
        dg.TableRecord({_shortened(name): _cell(value) for name, value in row.items()})
        for row in first.slice(0, shown).to_pylist()
    ]
    entries: dict[str, Any] = {
        "preview": dg.MetadataValue.table(records, schema=_column_schema(first.schema))
    }
    if shown < min(rows, stored.num_rows):
        entries["preview_shortened"] = (
            f"The output is wide: of {rows} rows, the first {shown} are shown."
        )
    return entries


# Values


def _cell(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list):
        text = ", ".join(str(_cell(v)) for v in value[:4])
        return f"[{text}{', ...' if len(value) > 4 else ''}]"
    return _shortened(value if isinstance(value, str) else str(value))


def _shortened(text: str) -> str:
    """A text, or its beginning and its length.

    >>> _shortened("x" * 500_000)[-26:]
    'xxxx… (500,000 characters)'
    """
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[: MAX_TEXT - 30]}… ({len(text):,} characters)"
