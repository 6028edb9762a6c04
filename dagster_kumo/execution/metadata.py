"""What is shown of an asset in Dagster: the entries of its materializations, and their names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_kumo.api.connectors import Connector, WriteMode, is_bucket
from dagster_kumo.api.records import (
    BatchPredictionJobResource,
    PredictiveQuery,
    TrainingJobResource,
)
from dagster_kumo.predictions.predictions import Provenance

if TYPE_CHECKING:
    import pyarrow as pa

    from dagster_kumo.predictions.statistics.stored_statistics import StoredStatistics
    from dagster_kumo.predictions.statistics.summary import ColumnSummary, OutputSummary

BATCH_PREDICTION = "dagster-kumo/batch_prediction"
"""On the spec of an asset: the `BatchPrediction` that makes it, as JSON, which Dagit can show."""
OUTPUT_TYPE = "dagster-kumo/output_type"
"""On the spec of an asset: `predictions` or `embeddings`."""

NAMESPACE = "dagster-kumo/"
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


def job_metadata(
    job: BatchPredictionJobResource,
    provenance: Provenance | None,
    *,
    tracking_url: str,
    seconds: float | None,
) -> dict[str, Any]:
    """What is known of the prediction job behind a materialization."""
    entries: dict[str, Any] = {
        "job_id": job.job_id,
        "tracking_url": dg.MetadataValue.url(tracking_url),
    }
    if job.result is not None:
        entries["num_entities_predicted"] = job.result.num_entities_predicted
    if seconds is not None:
        entries["duration_seconds"] = round(seconds, 3)
    if provenance and provenance.training_job_id:
        entries["training_job_id"] = provenance.training_job_id
    if provenance and provenance.prediction_table_job_id:
        entries["prediction_table_job_id"] = provenance.prediction_table_job_id
    if provenance and provenance.prediction_time:
        entries["prediction_time"] = dg.MetadataValue.timestamp(provenance.prediction_time)
    return _in_namespace(entries)


def model_metadata(
    job: TrainingJobResource, query: PredictiveQuery | None, *, tracking_url: str, now: datetime
) -> dict[str, Any]:
    """What is known of a model: what it answers, how well, and how old it is.

    Each of its numbers on the holdout data is an entry of its own, which Dagit plots.
    """
    entries: dict[str, Any] = {"training_job_id": job.job_id}
    if tracking_url:
        entries["tracking_url"] = dg.MetadataValue.url(tracking_url)
    trained_at = job.job_status_report.end_time or job.created_at
    if trained_at is not None:
        entries["trained_at"] = dg.MetadataValue.timestamp(trained_at)
        entries["age_days"] = round((now - trained_at).total_seconds() / 86_400, 2)
    if query is not None:
        entries["query"] = dg.MetadataValue.md(f"```sql\n{query.query_string}\n```")
        entries["tables"] = ", ".join(query.tables)
    for metric in job.result.eval_metrics.test_metrics if job.result else ():
        value = _finite(metric.value)
        if value is not None:
            entries[f"holdout/{metric.name}"] = value
    return _in_namespace(entries)


def table_metadata(
    *, job_id: str, anchor_time: datetime | None, rows: int | None, seconds: float
) -> dict[str, Any]:
    """What is known of a prediction table."""
    entries: dict[str, Any] = {"job_id": job_id, "duration_seconds": round(seconds, 3)}
    if anchor_time is not None:
        entries["anchor_time"] = dg.MetadataValue.timestamp(anchor_time)
    return {
        **_in_namespace(entries),
        **({} if rows is None else {"dagster/row_count": rows}),
    }


def export_metadata(
    *,
    export_job_id: str,
    job_id: str,
    connector: Connector,
    target: str,
    write_mode: WriteMode | None,
    seconds: float,
) -> dict[str, Any]:
    """What is known of an export."""
    entries: dict[str, Any] = {
        "export_job_id": export_job_id,
        "job_id": job_id,
        "storage": connector.storage,
        "write_mode": write_mode or "OVERWRITE",
        "duration_seconds": round(seconds, 3),
    }
    return {**_in_namespace(entries), target_entry(connector): target}


def target_entry(connector: Connector) -> str:
    """The entry of the metadata that names what an export writes."""
    return "dagster/uri" if is_bucket(connector) else "dagster/table_name"


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """The columns of an output with their types, and what Kumo's own columns mean."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                f.name,
                str(f.type),
                description=COLUMN_DESCRIPTIONS.get(f.name),
                constraints=dg.TableColumnConstraints(nullable=f.nullable),
            )
            for f in schema
        ]
    )


def statistics_metadata(summary: OutputSummary) -> dict[str, Any]:
    """The statistics of an output: a table for people, and single numbers that Dagit plots."""
    entries: dict[str, Any] = {"statistics": _statistics_table(summary)}
    for name, column in summary.columns.items():
        mean = _finite(column.mean)
        if mean is not None:
            entries[f"{name}/mean"] = float(mean)
        # Kumo never leaves these two empty: as plots they would be flat lines before the others.
        if name not in ("ENTITY", "ANCHOR_TIMESTAMP"):
            entries[f"{name}/null_fraction"] = column.null_fraction
    return _in_namespace(entries)


def drift_metadata(before: StoredStatistics, now: StoredStatistics) -> dict[str, Any]:
    """How far scores and classes have moved from one output to the next, as numbers that Dagit plots."""
    from dagster_kumo.predictions.statistics.drift import compared_columns, mean_shift, psi

    entries: dict[str, Any] = {}
    for name in compared_columns(now):
        if name in before.columns:
            pair = before.columns[name], now.columns[name]
            entries[f"{name}/psi"] = _finite(psi(*pair))
            entries[f"{name}/mean_shift"] = _finite(mean_shift(*pair))
    return _in_namespace({name: value for name, value in entries.items() if value is not None})


def preview_table(rows: pa.Table) -> dg.TableMetadataValue:
    """Rows as a table in the metadata."""
    records = [
        dg.TableRecord({name: _cell(value) for name, value in row.items()})
        for row in rows.to_pylist()
    ]
    return dg.MetadataValue.table(records, schema=column_schema(rows.schema))


def _in_namespace(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{NAMESPACE}{name}": value for name, value in entries.items()}


# What says most comes first: Dagit shows a wide table cut off at its right.
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


def _statistics_table(summary: OutputSummary) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [_statistics_row(column) for column in summary.columns.values()],
        schema=dg.TableSchema([dg.TableColumn(*column) for column in _STATISTICS_COLUMNS.items()]),
    )


def _statistics_row(column: ColumnSummary) -> dg.TableRecord:
    quantiles = column.quantiles() or [None] * 5
    low, lower, median, upper, high = (_finite(q, digits=4) for q in quantiles)
    values: dict[str, str | int | float | bool | None] = {
        "column": column.name,
        "mean": _finite(column.mean),
        "std": _finite(column.std, digits=4),
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
        "type": str(column.type),
    }
    return dg.TableRecord(values)


def _finite(value: float | None, *, digits: int = 6) -> float | None:
    """A number that Dagit can show: it cannot parse a record with NaN or inf in it."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def _cell(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, datetime | date):
        return value.isoformat(sep=" ") if isinstance(value, datetime) else value.isoformat()
    if isinstance(value, list):
        text = ", ".join(str(_cell(v)) for v in value[:4])
        return f"[{text}{', ...' if len(value) > 4 else ''}]"
    return str(value)
