"""The metadata of jobs, models, tables and exports: entries and their names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from dagster_kumo.api.connectors import is_bucket
from dagster_kumo.api.records import (
    BatchPredictionJobResource,
    Metric,
    PredictiveQuery,
    TrainingJobResource,
)
from dagster_kumo.execution.settings import CostRate
from dagster_kumo.jobs.export_target import ExportTarget
from dagster_kumo.jobs.job_matching import seconds_of
from dagster_kumo.jobs.tags import CHAMPION_BEFORE_TAG, PROMOTED_BY_TAG, PROMOTED_WHY_TAG
from dagster_kumo.jobs.trained_model import promoted_at
from dagster_kumo.predictions.predictions import Provenance

BATCH_PREDICTION = "dagster-kumo/batch_prediction"
"""On the spec of an asset: the `BatchPrediction` that makes it, as JSON, which the Dagster UI can show."""
TRAINING = "dagster-kumo/training"
"""On the spec of an asset: the `TrainingSpec` that it trains by, as JSON."""
EVALUATION = "dagster-kumo/evaluation"
"""On the spec of an evaluation: how it evaluates, as JSON."""
OUTPUT_TYPE = "dagster-kumo/output_type"
"""On the spec of an asset: `predictions` or `embeddings`."""
IO_MANAGER_KEY = "dagster/io_manager_key"
"""On the spec of an asset: where Dagster's `AssetSpec.with_io_manager_key` notes the key."""

NAMESPACE = "dagster-kumo/"
JOB_ID_METADATA = f"{NAMESPACE}job_id"
"""The Kumo job that made the asset. For an export, the prediction job whose output it wrote."""
TABLE_JOB_ID_METADATA = f"{NAMESPACE}prediction_table_job_id"
TRACKING_URL_METADATA = f"{NAMESPACE}tracking_url"
TRAINING_JOB_ID_METADATA = f"{NAMESPACE}training_job_id"
SNAPSHOT_METADATA = f"{NAMESPACE}graph_snapshot_id"
EXPORT_JOB_ID_METADATA = f"{NAMESPACE}export_job_id"
LAUNCH_KEY_METADATA = f"{NAMESPACE}launch_key"
RUN_METADATA = f"{NAMESPACE}run"
PREDICTION_TIME_METADATA = f"{NAMESPACE}prediction_time"
DURATION_METADATA = f"{NAMESPACE}duration_seconds"
DEADLINE = "dagster-kumo/deadline_seconds"
"""On the spec of an output: how long after the end of its partition it should be there."""
ROW_COUNT = "dagster/row_count"
COLUMN_SCHEMA = "dagster/column_schema"
COLUMN_LINEAGE = "dagster/column_lineage"
STORAGE_KIND = "dagster/storage_kind"

_BEFORE_CLAUSE = re.compile(r"\s+(?=(?:FOR EACH|WHERE|ASSUMING)\b)")


def job_metadata(
    job: BatchPredictionJobResource,
    provenance: Provenance,
    *,
    tracking_url: str,
    seconds: float | None,
    rate: CostRate,
) -> dict[str, Any]:
    """The metadata of the prediction job behind a materialization, most important first."""
    entities = job.result.num_entities_predicted if job.result is not None else None
    job_seconds = seconds_of(job)
    return _named(
        {
            "prediction_time": _timestamp(provenance.prediction_time),
            "tracking_url": dg.MetadataValue.url(tracking_url),
            "training_job_id": provenance.training_job_id or None,
            "num_entities_predicted": entities,
            "duration_seconds": _rounded(seconds),
            "job_seconds": _rounded(job_seconds),
            "cost": finite(rate.cost(job_seconds, entities)),
            "job_id": job.job_id,
            "prediction_table_job_id": provenance.prediction_table_job_id or None,
        }
    )


def model_metadata(
    job: TrainingJobResource,
    query: PredictiveQuery | None,
    *,
    tracking_url: str,
    deployment_url: str,
    now: datetime,
) -> dict[str, Any]:
    """The metadata of a model: its query, its metrics, its age, and where it is in Kumo.

    Each metric on the holdout data is an entry of its own, which the Dagster UI plots.
    """
    entries: dict[str, Any] = {}
    if query is not None:
        text = _BEFORE_CLAUSE.sub("\n", query.query_string)  # the Dagster UI cuts off a long line
        entries["query"] = dg.MetadataValue.md(f"```sql\n{text}\n```")
    if job.result is not None:
        entries |= _metrics("holdout", job.result.eval_metrics.test_metrics)
    trained_at = job.job_status_report.end_time or job.created_at
    if trained_at is not None:
        entries["age_days"] = round((now - trained_at).total_seconds() / 86_400)
    entries["trained_at"] = _timestamp(trained_at)
    entries["tables"] = ", ".join(query.tables) if query is not None else None
    entries |= links({"tracking_url": tracking_url, "deployment_url": deployment_url})
    entries["training_job_id"] = job.job_id
    return _named(entries)


def candidate_metadata(
    job: TrainingJobResource, *, tracking_url: str, seconds: float | None
) -> dict[str, Any]:
    """The metadata of a candidate: a training job that is done."""
    entries: dict[str, Any] = {
        "training_job_id": job.job_id,
        **links({"tracking_url": tracking_url}),
    }
    if job.result is not None:
        metrics = job.result.eval_metrics
        entries |= _metrics("holdout", metrics.test_metrics)
        entries |= _metrics("validation", metrics.validation_metrics)
        # The job's own time, because an attempt that attached to it has waited for a part of it only.
        if job.result.total_elapsed_time is not None:
            seconds = job.result.total_elapsed_time.total_seconds()
    entries["duration_seconds"] = _rounded(seconds)
    plan = job.config.model_plan
    return _named({**entries, "plan": None if plan is None else _json(plan)})


def promotion_metadata(champion: TrainingJobResource) -> dict[str, Any]:
    """Who promoted a training job, when and why, as its tags in Kumo say."""
    tags = champion.tags
    return _named(
        {
            "promoted_at": _timestamp(promoted_at(champion)),
            "promoted_by": tags.get(PROMOTED_BY_TAG),
            "promoted_why": tags.get(PROMOTED_WHY_TAG),
            "champion_before": tags.get(CHAMPION_BEFORE_TAG),
        }
    )


def champion_metadata(champion: TrainingJobResource | None) -> dict[str, Any]:
    """The champion's metrics on its holdout data, beside those of a candidate."""
    if champion is None or champion.result is None:
        return {}
    metrics = _metrics("champion", champion.result.eval_metrics.test_metrics)
    return _named({**metrics, "champion": champion.job_id})


def values_of(metrics: Sequence[Metric]) -> dict[str, float]:
    """The metrics that have a value which the Dagster UI can show, by Kumo's names."""
    values = {metric.name: finite(metric.value) for metric in metrics}
    return {name: value for name, value in values.items() if value is not None}


def _metrics(measured_on: str, metrics: Sequence[Metric]) -> dict[str, float]:
    """An entry for each metric, which the Dagster UI plots."""
    return {f"{measured_on}/{name}": value for name, value in values_of(metrics).items()}


def _json(value: Any) -> dg.MetadataValue[Any]:
    """What the server gave as JSON. As text if it holds NaN or infinity, which the Dagster UI cannot parse."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return dg.MetadataValue.text(json.dumps(value))
    return dg.MetadataValue.json(value)


def table_metadata(
    *, job_id: str, anchor_time: datetime | None, rows: int | None, seconds: float
) -> dict[str, Any]:
    """The metadata of a prediction table."""
    entries = {
        "job_id": job_id,
        "duration_seconds": _rounded(seconds),
        "anchor_time": _timestamp(anchor_time),
    }
    return _named(entries) | _row_count(rows)


def export_metadata(
    target: ExportTarget,
    *,
    full_name: str,
    export_job_id: str,
    job_id: str,
    tracking_url: str,
    rows: int | None,
    seconds: float,
) -> dict[str, Any]:
    """The metadata of an export, in the order of what a person asks."""
    entries: dict[str, Any] = {
        "storage": target.storage,
        "write_mode": target.write_mode or "OVERWRITE",
        **links({"tracking_url": tracking_url}),
        "duration_seconds": _rounded(seconds),
        "export_job_id": export_job_id,
        "job_id": job_id,
    }
    named = {target_entry(target): full_name, **storage_kind(target), **_row_count(rows)}
    return named | _named(entries)


def links(urls: Mapping[str, str]) -> dict[str, dg.MetadataValue[str | None]]:
    """Those of the urls that are known, as metadata."""
    return {name: dg.MetadataValue.url(url) for name, url in urls.items() if url}


def storage_kind(target: ExportTarget) -> dict[str, str]:
    """Of a table, the warehouse that it is in. Dagster tells tables of the same name apart by it."""
    return {} if is_bucket(target.connector) else {STORAGE_KIND: target.storage}


def target_entry(target: ExportTarget) -> str:
    """The entry of the metadata that names what an export writes."""
    return "dagster/uri" if is_bucket(target.connector) else "dagster/table_name"


def _named(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are known, under their full names."""
    known = {name: value for name, value in entries.items() if value is not None}
    return {f"{NAMESPACE}{name}": value for name, value in known.items()}


def _row_count(rows: int | None) -> dict[str, Any]:
    return {} if rows is None else {ROW_COUNT: rows}


def _timestamp(time: datetime | None) -> dg.TimestampMetadataValue | None:
    return None if time is None else dg.MetadataValue.timestamp(time)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def finite(value: float | None, *, digits: int = 6) -> float | None:
    """A number that the Dagster UI can show: it cannot parse records with NaN or infinity."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")
