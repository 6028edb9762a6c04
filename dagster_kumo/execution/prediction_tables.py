"""Prediction tables that are generated for an anchor time, which every Kumo server knows.

`prediction_time` in a launch is a recent field. A server that does not know it predicts for the
latest time in its data. The anchor time in the plan of a prediction table is as old as the API.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoDataError, KumoError, KumoModelError, KumoNotFoundError
from dagster_kumo.api.records import TrainingJobResource
from dagster_kumo.execution.anchor_check import check_table
from dagster_kumo.execution.launch.deliveries import materialized_job_ids
from dagster_kumo.jobs.prediction_spec import TABLE_OPTIONS, BatchPrediction
from dagster_kumo.jobs.prediction_table import PredictionTable

LEFT_TO_THE_SERVER = "???"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class GeneratedTable:
    """A prediction table whose anchor time has been checked."""

    job_id: str
    anchor_time: datetime | None


def table_request(
    prediction: BatchPrediction, model: TrainingJobResource, anchor_time: datetime | None
) -> dict[str, Any]:
    """The request to Kumo: the table of a model's query, for an anchor time.

    Raises:
        KumoModelError: The training job does not name its query.
    """
    if not model.config.pquery_id:
        raise KumoModelError(
            f"Training job {model.job_id} does not say which predictive query it answers, so no "
            'prediction table can be generated for it. Write prediction_table="inline", or generate a '
            "table in Kumo and give its job as prediction_table_job_id."
        )
    plan = {
        "anchor_time": "inferred" if anchor_time is None else _nanoseconds(anchor_time),
        **dict.fromkeys(TABLE_OPTIONS, LEFT_TO_THE_SERVER),
        **prediction.prediction_table_options,
    }
    return {
        "pquery_id": model.config.pquery_id,
        "plan": plan,
        "graph_snapshot_id": prediction.graph_snapshot_id,
    }


def checked_table(client: KumoClient, job_id: str, anchor_time: datetime | None) -> GeneratedTable:
    """A finished table, checked to be for the requested anchor time.

    Raises:
        KumoDataError: It stands for another time, or for none.
    """
    found = PredictionTable(job_id, client).anchor_time
    check_table(job_id, stated=found, asked=anchor_time)
    return GeneratedTable(job_id, found)


def materialized_table(
    client: KumoClient,
    instance: dg.DagsterInstance,
    asset_key: dg.AssetKey,
    partition_key: str | None,
    *,
    model: TrainingJobResource,
    anchor_time: datetime | None,
) -> GeneratedTable:
    """The table of an asset's latest materialization, checked like a new one.

    As with any asset that a run leaves out, its dependents use its latest version.

    Raises:
        KumoError: There is none, or Kumo no longer has it.
        KumoDataError: It stands for another time, or was made for another query.
    """
    where = f", partition {partition_key}," if partition_key else ""
    name = f"The prediction table {asset_key.to_user_string()}{where}"
    job_ids = materialized_job_ids(instance, asset_key, partition_key, limit=1)
    if not job_ids:
        raise KumoError(
            f"{name} has not been materialized, so there is nothing to predict from. Materialize it "
            "first, or together with the predictions."
        )
    try:
        job = client.get_prediction_table_job(job_ids[0])
    except KumoNotFoundError as error:
        raise KumoError(
            f"{name} was made by job {job_ids[0]}, which Kumo no longer has: {error.detail}\n"
            "Materialize it again."
        ) from None
    if job.config.pquery_id and job.config.pquery_id != model.config.pquery_id:
        raise KumoDataError(
            f"{name} was made for the query {job.config.pquery_id}, but the model {model.job_id} "
            f"answers {model.config.pquery_id}. Materialize the table again."
        )
    return checked_table(client, job.job_id, anchor_time)


def row_count(client: KumoClient, job_id: str) -> int:
    """How many rows a table has, from the ends of its files."""
    from dagster_kumo.jobs.outputs import read_files

    table = PredictionTable(job_id, client)
    return read_files(client, table.data_urls, what=f"Prediction table {job_id}").num_rows


def _nanoseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000
