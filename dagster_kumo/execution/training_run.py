"""The training of a candidate, from launch to end: what `KumoResource.train` does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from dagster_kumo.execution.launch.attempt import Attempt
from dagster_kumo.execution.launch.training import TrainingLaunch
from dagster_kumo.execution.metadata import candidate_metadata, champion_metadata
from dagster_kumo.execution.run_config import KumoTrainingRunConfig
from dagster_kumo.execution.settings import RunSettings
from dagster_kumo.execution.termination import RunJobs
from dagster_kumo.jobs.trained_model import done_training_job, find_champion
from dagster_kumo.jobs.training_spec import TrainingSpec


def train(
    context: dg.AssetExecutionContext,
    settings: RunSettings,
    training: TrainingSpec,
    champion_of: str | None,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Train a candidate, and yield the result when the training job is done."""
    client = settings.client
    config = KumoTrainingRunConfig.given(context.op_execution_context.op_config)
    training = config.applied_to(training)
    jobs = RunJobs(context, settings, brief=False)
    jobs.raise_if_terminated()
    with jobs.cancel_jobs_on_termination():
        if config.deliver_job is None:
            started = time.monotonic()
            attempt = Attempt.of(context, client.launch_settling_time, is_anew=config.launch_anew)
            launch = TrainingLaunch(client, training, attempt, context.asset_key)
            job_id = jobs.finish(launch, f", which trains {training.said}")
            job, seconds = client.get_training_job(job_id), time.monotonic() - started
        else:
            job, seconds = done_training_job(client, config.deliver_job), None
            training.check_query(client, job)
            context.log.info(
                f"Training job {job.job_id}, which is done, is the candidate: the run configuration names it"
            )
        tracking_url = client.public_url(job.job_status_report.tracking_url)
        metadata = candidate_metadata(job, tracking_url=tracking_url, seconds=seconds)
        if champion_of:
            metadata |= champion_metadata(find_champion(client, champion_of))
        yield dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(job.job_id))
