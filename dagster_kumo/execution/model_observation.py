"""Observations of the trained model, on its asset."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

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
    """Record an observation of the model that predicts in this run. An error here does not fail the run.

    The observation has no data version. Dagster reads the versions of a step's inputs when the step begins, so
    the predictions would be out of date because of their own observation.
    """
    try:
        metadata = described_model(context, client, model)
        context.log_event(dg.AssetObservation(asset_key, metadata=metadata))
    except Exception as error:  # noqa: BLE001 - the model predicts without it
        context.log.warning(f"The model {model.job_id} cannot be described: {error}")


def described_model(
    context: dg.AssetExecutionContext, client: KumoClient, model: TrainingJobResource
) -> dict[str, Any]:
    """The metadata of a model: its query, its metrics and its age."""
    return model_metadata(
        model,
        _query_of(context, client, model),
        tracking_url=client.public_url(model.job_status_report.tracking_url),
        deployment_url=client.web_url,
        now=datetime.now(timezone.utc),
    )


def _query_of(
    context: dg.AssetExecutionContext, client: KumoClient, model: TrainingJobResource
) -> PredictiveQuery | None:
    if not model.config.pquery_id:
        return None
    try:
        return client.get_predictive_query(model.config.pquery_id)
    except KumoError as error:
        context.log.warning(f"The query of the model {model.job_id} cannot be shown: {error}")
        return None
