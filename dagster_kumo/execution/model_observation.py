"""What is known of the trained model, shown on the asset that stands for it."""

from __future__ import annotations

from datetime import datetime, timezone

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoError
from dagster_kumo.api.records import PredictiveQuery, TrainingJobResource
from dagster_kumo.execution.metadata import model_metadata


def observe_model(
    context: dg.AssetExecutionContext,
    client: KumoClient,
    model: TrainingJobResource,
    asset_key: dg.AssetKey,
) -> None:
    """Show what is known of a model on the asset that stands for it. Nothing here fails the run.

    It is an observation, not a materialization: nothing was made, and what is downstream is not to
    run for it. It has no data version: Dagster takes the versions of a step's inputs when the step
    begins, so that predictions would count as out of date by the news that they brought themselves.
    """
    try:
        metadata = model_metadata(
            model,
            _query_of(context, client, model),
            tracking_url=client.public_url(model.job_status_report.tracking_url),
            now=datetime.now(timezone.utc),
        )
        context.log_event(dg.AssetObservation(asset_key, metadata=metadata))
    except Exception as error:  # noqa: BLE001 - whatever it is, the model predicts
        context.log.warning(f"What is known of the model {model.job_id} is not shown: {error}")


def _query_of(
    context: dg.AssetExecutionContext, client: KumoClient, model: TrainingJobResource
) -> PredictiveQuery | None:
    if not model.config.pquery_id:
        return None
    try:
        return client.get_predictive_query(model.config.pquery_id)
    except KumoError as error:
        context.log.warning(f"The query of the model {model.job_id} is not shown: {error}")
        return None
