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

from dagster_kumo.execution.metadata import (
    COLUMN_SCHEMA,
    EVALUATION,
    NAMESPACE,
    PREDICTION_TIME_METADATA,
    ROW_COUNT,
    finite,
)
from dagster_kumo.execution.partitions.previous import partition_before
from dagster_kumo.predictions.columns import (
    ANCHOR_TIMESTAMP,
    CLASS,
    ENTITY,
    SCORE,
    SCORE_COLUMNS,
    TARGET_PRED,
    TRUE_PROB,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from dagster_kumo.predictions.predictions import Predictions, Provenance
    from dagster_kumo.predictions.statistics.summary import ColumnSummary, OutputSummary
    from dagster_kumo.predictions.store.store import PartitionStore
    from dagster_kumo.predictions.store.transfer import Transferred

MAX_COLUMNS = 300
"""How many columns the schema, the statistics and the preview show."""
MAX_PLOTTED_COLUMNS = 50
"""How many columns have entries with single numbers, which the Dagster UI plots."""
MAX_PLOTTED_CLASSES = 20
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
    "TARGET": "What happened.",
    "EVALUATED_AT": "When predictions and outcomes were joined, in UTC.",
    "PREDICTION_ID": "The prediction job.",
    "MODEL_ID": "The training job of the model.",
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
    """The entries of a stored output, most important first.

    `store_of` returns the store of another partition of the same asset.
    """
    entries: dict[str, Any] = {}
    if provenance is not None and provenance.prediction_time is None and transferred.anchors:
        # Nobody asked for a time: it is the newest of Kumo's data.
        time = dg.MetadataValue.timestamp(transferred.anchors[1])
        entries[PREDICTION_TIME_METADATA] = time
    summary = transferred.summary
    optional: dict[str, Callable[[], Mapping[str, Any]]] = {}
    if summary is not None:
        for name, why in summary.failed.items():
            context.log.warning(f"There are no statistics of {name}: {why}")
    # The numbers of an evaluation say it all, and those of the rows would stand between them.
    if summary is not None and EVALUATION not in (context.definition_metadata or {}):
        entities = provenance.num_entities if provenance else None
        threshold = provenance.binary_classification_threshold if provenance else None
        optional["distribution"] = lambda: _distribution(summary, threshold, entities)
        optional["plotted numbers"] = lambda: _numbers(summary, entities)
        if partition_key is not None:
            optional["drift"] = lambda: _drift(
                context, transferred, entities, partition_key, store_of
            )
        optional["statistics"] = lambda: {"statistics": _statistics_table(summary)}
    if preview_rows:
        optional["preview"] = lambda: _preview(stored, preview_rows)
    for what, compute in optional.items():
        try:
            entries |= {f"{NAMESPACE}{name}": value for name, value in compute().items()}
        except Exception as error:  # noqa: BLE001 - the data is stored: its metadata must not fail the asset
            context.log.warning(f"There is no {what} in the metadata, the data is stored: {error}")
    width = len(transferred.schema)
    if width > MAX_PLOTTED_COLUMNS:
        entries[f"{NAMESPACE}shortened"] = (
            f"Of {width:,} columns, tables show the first {min(width, MAX_COLUMNS)}, "
            f"and the first {MAX_PLOTTED_COLUMNS} have plots."
        )
    return entries | {
        f"{NAMESPACE}num_files": len(transferred.files),
        COLUMN_SCHEMA: _column_schema(transferred.schema, summary),
        ROW_COUNT: transferred.num_rows,
        "dagster/size_bytes": transferred.size_bytes,
    }


# Columns and statistics


def _column_schema(schema: pa.Schema, summary: OutputSummary | None = None) -> dg.TableSchema:
    """The columns with their types, and the meaning of Kumo's columns."""
    known = summary.columns if summary is not None else {}
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                _shortened(field.name),
                _type_name(str(field.type), known.get(field.name)),
                description=COLUMN_DESCRIPTIONS.get(field.name),
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in list(schema)[:MAX_COLUMNS]
        ]
    )


def _type_name(type_name: str, column: ColumnSummary | None) -> str:
    if column is not None and column.is_vector and column.dimension is not None:
        return f"vector[{column.dimension}]"
    return _shortened(type_name)


def _redundant_columns(summary: OutputSummary) -> set[str]:
    """Columns that say nothing new: one value in all rows, or derived from another column."""
    redundant = {ENTITY, ANCHOR_TIMESTAMP}
    if TRUE_PROB in summary.columns:
        redundant |= {"False_PROB", TARGET_PRED}
    if summary.class_shares is not None:
        redundant |= {CLASS, SCORE}
    return redundant


def _scores_first(summary: OutputSummary) -> list[ColumnSummary]:
    columns = summary.columns
    scores = [columns[name] for name in SCORE_COLUMNS if name in columns]
    return scores + [column for name, column in columns.items() if name not in SCORE_COLUMNS]


def _numbers(summary: OutputSummary, entities: int | None) -> dict[str, Any]:
    """Numbers that the Dagster UI plots: what says most of the output, each an entry of its own."""
    entries: dict[str, Any] = {}
    target = summary.columns.get(TARGET_PRED)
    if target is not None and target.values and summary.class_shares is None:
        if all(isinstance(value, bool) for value in target.values):
            entries["share_yes"] = finite(target.values[True] / target.count)
        else:
            entries |= _shares(
                "share", {str(c): n / target.count for c, n in target.values.items()}
            )
    if summary.class_shares is not None:
        entries |= _shares("share", summary.class_shares.mean_scores(entities))
        best = summary.class_shares.best_of(entities) or {}
        count = sum(best.values()) or 1
        entries |= _shares("best_for", {name: n / count for name, n in best.items()})
    redundant = _redundant_columns(summary)
    plotted = [column for column in _scores_first(summary) if column.name not in redundant]
    for column in plotted[:MAX_PLOTTED_COLUMNS]:
        mean = finite(column.mean)
        if column.is_vector and mean is not None:
            entries["dimension"] = column.dimension
            entries["mean_norm"] = mean
        elif mean is not None:
            entries[f"{_shortened(column.name)}/mean"] = mean
    nulls = max((column.null_fraction for column in summary.columns.values()), default=0.0)
    if nulls:
        entries["null_fraction"] = finite(nulls)
    return {name: value for name, value in entries.items() if value is not None}


def _shares(name: str, shares: Mapping[str, float]) -> dict[str, float]:
    """The largest shares, in the order of their classes."""
    largest = sorted(shares, key=lambda one: -shares[one])[:MAX_PLOTTED_CLASSES]
    return {f"{name}/{_shortened(one)}": finite(shares[one]) or 0.0 for one in sorted(largest)}


# The Dagster UI cuts off wide tables on the right: at 1600 pixels there is room for these, three digits each.
DIGITS = 3
_STATISTICS_COLUMNS = {
    "column": "string",
    "mean": "float",
    "5 %": "float",
    "median": "float",
    "95 %": "float",
    "min": "string",
    "max": "string",
    "nulls": "int",
}


def _statistics_table(summary: OutputSummary) -> dg.TableMetadataValue:
    left_out = _redundant_columns(summary) - {CLASS, SCORE}
    has_nulls = any(column.nulls for column in summary.columns.values())
    columns = {k: v for k, v in _STATISTICS_COLUMNS.items() if has_nulls or k != "nulls"}
    shown = [column for column in _scores_first(summary) if column.name not in left_out]
    return dg.MetadataValue.table(
        [_statistics_row(column) for column in shown[:MAX_COLUMNS]],
        schema=dg.TableSchema([dg.TableColumn(*column) for column in columns.items()]),
    )


def _statistics_row(column: ColumnSummary) -> dg.TableRecord:
    low, median, high = column.quantiles() or [None] * 3
    name = _shortened(column.name)
    return dg.TableRecord(
        {
            "column": f"{name} (norm)" if column.is_vector else name,
            "mean": finite(column.mean, digits=DIGITS),
            "5 %": finite(low, digits=DIGITS),
            "median": finite(median, digits=DIGITS),
            "95 %": finite(high, digits=DIGITS),
            "min": _cell(column.min, digits=DIGITS),
            "max": _cell(column.max, digits=DIGITS),
            "nulls": column.nulls,
        }
    )


# Distribution and drift


def _distribution(
    summary: OutputSummary, threshold: float | None, entities: int | None
) -> dict[str, Any]:
    """A text that the Dagster UI shows in place, and the picture, one click away."""
    from dagster_kumo.io_manager.distribution import (
        chart_of,
        distribution_as_picture,
        distribution_as_text,
    )

    chart = chart_of(summary, threshold=threshold, entities=entities)
    if chart is None:
        return {}
    entries = {"distribution_in_brief": distribution_as_text(chart)}
    picture = distribution_as_picture(chart)
    if picture is not None:
        entries["distribution"] = picture
    return {name: dg.MetadataValue.md(value) for name, value in entries.items()}


def _drift(
    context: dg.OutputContext,
    transferred: Transferred,
    entities: int | None,
    partition_key: str,
    store_of: Callable[[str], PartitionStore],
) -> dict[str, Any]:
    """The drift of scores and classes from the previous partition, as numbers that the Dagster UI plots.

    Empty if that partition is not stored with statistics.
    """
    from dagster_kumo.predictions.statistics.drift import compared_columns, drift
    from dagster_kumo.predictions.store.statistics_file import read_statistics

    before = partition_before(context.asset_partitions_def, partition_key, _instance())
    earlier = read_statistics(store_of(before)) if before is not None else None
    now = transferred.statistics(entities)
    if earlier is None or now is None:
        return {}
    moved = drift(earlier, now, compared_columns(now))
    return {f"{name}/psi": float(f"{value:.4g}") for name, value in moved.items()}


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


def _cell(value: object, *, digits: int = 6) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return finite(value, digits=digits)
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
