"""The training of a candidate, from launch to end: what `KumoResource.train` does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from dagster_kumo.execution.launch.attempt import Attempt
from dagster_kumo.execution.launch.training import TrainingLaunch
from dagster_kumo.execution.metadata import candidate_metadata, champion_metadata
from dagster_kumo.execution.settings import RunSettings
from dagster_kumo.execution.termination import RunJobs
from dagster_kumo.jobs.trained_model import find_champion
from dagster_kumo.jobs.training_spec import TrainingSpec


def train(
    context: dg.AssetExecutionContext,
    settings: RunSettings,
    training: TrainingSpec,
    champion_of: str | None,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Train a candidate, and yield the result when the training job is done."""
    client = settings.client
    started = time.monotonic()
    jobs = RunJobs(context, settings, brief=False)
    jobs.raise_if_terminated()
    attempt = Attempt.of(context, client.launch_settling_time)
    launch = TrainingLaunch(client, training, attempt, context.asset_key)
    with jobs.cancel_jobs_on_termination():
        job_id = jobs.finish(launch, f", which trains {training.said}")
        metadata = candidate_metadata(
            client.get_training_job(job_id),
            tracking_url=launch.page,
            seconds=time.monotonic() - started,
        )
        if champion_of:
            metadata |= champion_metadata(find_champion(client, champion_of))
        yield dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(job_id))
