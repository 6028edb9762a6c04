"""Whether a prediction job fits a definition: its model, its entities, its anchor time and its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoAPIError, KumoDataError, KumoError, KumoNotFoundError
from dagster_kumo.api.records import BatchPredictionJobResource, OutputType
from dagster_kumo.jobs.outputs import embeddings_urls
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.jobs.tags import (
    CHAMPION_TAG,
    FORMER_CHAMPION_TAG,
    LAUNCH_KEY_TAG,
    RUN_ID_TAG,
)


def is_launched_by_dagster(job: BatchPredictionJobResource) -> bool:
    """Whether a Dagster run launched the job, here or in another deployment of Dagster."""
    return LAUNCH_KEY_TAG in job.tags or RUN_ID_TAG in job.tags


def model_of(job: BatchPredictionJobResource) -> str:
    """The training job whose model a prediction job used."""
    return job.config.model_training_job_id or job.tags.get("model_id", "")


def is_meant(prediction: BatchPrediction, training_job_id: str, tags: Mapping[str, str]) -> bool:
    """Whether a definition names this model, by its id, by its tags or as its champion.

    By tags it means the newest model that carries them. An older job used the newest one, or the champion, of its
    time.
    """
    if prediction.training_job_id:
        return prediction.training_job_id == training_job_id
    if prediction.champion_of:
        marks = (tags.get(CHAMPION_TAG), tags.get(FORMER_CHAMPION_TAG))
        return prediction.champion_of in marks
    wanted = prediction.training_job_tags or {}
    return all(tags.get(key) == value for key, value in wanted.items())


def check_entities(
    client: KumoClient, job: BatchPredictionJobResource, prediction: BatchPrediction
) -> None:
    """Refuse a job that predicted for other entities than the definition asks for.

    Raises:
        KumoDataError: The job took them from another table.
    """
    try:
        asked = client.generation.own_table(prediction.prediction_table_path)
    except KumoAPIError:
        raise
    except KumoError as error:
        raise KumoDataError(f"its table cannot be compared: {error}") from None
    used = {
        name: value
        for name in ("pred_table_path", "pred_table_source")
        if (value := getattr(job.config, name)) is not None
    }
    table = prediction.prediction_table_job_id
    if used != asked or (table is not None and job.config.pred_table_job_id != table):
        raise KumoDataError("it predicted for the entities of another prediction table")


def predicted_for(client: KumoClient, job: BatchPredictionJobResource) -> datetime | None:
    """The anchor time of a job: the requested one, or that of its prediction table.

    None if neither is known.
    """
    config = job.config
    if config.prediction_time is not None or config.pred_table_job_id is None:
        return config.prediction_time
    with suppress(KumoNotFoundError):
        return client.get_prediction_table_anchor_time(config.pred_table_job_id)
    return None


def outputs_of(
    client: KumoClient, job: BatchPredictionJobResource, wanted: Sequence[OutputType]
) -> list[OutputType]:
    """The wanted outputs that a job has.

    A server may not keep embeddings that were requested, so Kumo is asked for their files.
    """
    named = {str(output.get("artifact_type", "")).lower() for output in job.config.outputs}
    has: list[OutputType] = [
        output_type for output_type in wanted if output_type in (named or {"predictions"})
    ]
    if "embeddings" in has and not embeddings_urls(client, job.job_id):
        has.remove("embeddings")
    return has


def seconds_of(job: BatchPredictionJobResource) -> float | None:
    """How many seconds a job took; None if the server does not say."""
    report = job.job_status_report
    if report.start_time is None or report.end_time is None:
        return None
    return (report.end_time - report.start_time).total_seconds()
