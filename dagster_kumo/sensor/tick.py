"""What one prediction job leads to in a tick of the sensor: nothing, a run, or materializations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoDataError, KumoNotFoundError
from dagster_kumo.api.records import DONE, BatchPredictionJobResource, OutputType
from dagster_kumo.execution.adopted_job import DELIVER_JOB_TAG
from dagster_kumo.execution.launch.deliveries import materialized_job_ids
from dagster_kumo.execution.metadata import job_metadata
from dagster_kumo.execution.settings import CostRate
from dagster_kumo.jobs.job_matching import (
    check_entities,
    is_launched_by_dagster,
    is_meant,
    model_of,
    outputs_of,
    predicted_for,
    seconds_of,
)
from dagster_kumo.predictions.predictions import Provenance
from dagster_kumo.sensor.dead_runs import DeadRuns
from dagster_kumo.sensor.job_search import JobOutcome
from dagster_kumo.sensor.watched_assets import WatchedAssets

# The newest ones of a partition. If the cursor is lost, the jobs of the last tick are among them.
MATERIALIZATIONS_LOOKED_AT = 200


@dataclass(frozen=True)
class _Match:
    """Which outputs and partition of some assets a job made, and the time it predicted for."""

    assets: WatchedAssets
    outputs: Sequence[OutputType]
    partition_key: str | None = None
    time: datetime | None = None


@dataclass
class Tick:
    """Visits the jobs that the search finds."""

    context: dg.SensorEvaluationContext
    client: KumoClient
    """The connection, with the limits of a tick."""
    watched: Sequence[WatchedAssets]
    deliver: bool
    """Whether a job leads to a run that delivers it, or to a materialization."""
    rate: CostRate
    """What jobs cost."""
    dead_runs: DeadRuns | None
    """Looks at the runs behind jobs that Dagster launched; None skips those jobs."""

    def __post_init__(self) -> None:
        self._recorded = cache(self._job_ids)
        self._tags_of_model = cache(self._model_tags)

    def visit(self, job: BatchPredictionJobResource) -> JobOutcome:
        """What a job leads to. After an error the next tick visits the job again."""
        if is_launched_by_dagster(job):
            return self.dead_runs.visit(job) if self.dead_runs else JobOutcome(job.job_id)
        meant = [assets for assets in self.watched if self._is_meant(assets, job)]
        status = job.job_status_report
        if not meant or (status.is_terminal and status.status != DONE):
            return JobOutcome(job.job_id)
        if not status.is_terminal:
            return JobOutcome(job.job_id, is_settled=False)
        matches = [match for assets in meant if (match := self._match(assets, job)).outputs]
        if self.deliver:
            return JobOutcome(
                job.job_id, run_requests=[_run_request(job, match) for match in matches]
            )
        made = [one for match in matches for one in self._materializations(job, match)]
        return JobOutcome(job.job_id, materializations=made)

    def _is_meant(self, assets: WatchedAssets, job: BatchPredictionJobResource) -> bool:
        model = model_of(job)
        by_id = assets.prediction.training_job_id is not None
        return bool(model) and is_meant(
            assets.prediction, model, {} if by_id else self._tags_of_model(model)
        )

    def _model_tags(self, training_job_id: str) -> Mapping[str, str]:
        try:
            return self.client.get_training_job(training_job_id).tags
        except KumoNotFoundError:
            return {}

    def _match(self, assets: WatchedAssets, job: BatchPredictionJobResource) -> _Match:
        """A match without outputs if the job does not fit the assets, or is already recorded."""
        time = job.config.prediction_time
        try:
            check_entities(self.client, job, assets.prediction)
            if assets.have_times:
                time = predicted_for(self.client, job)
            partition_key = assets.partition_of(time)
        except KumoDataError as reason:
            name = next(iter(assets.outputs.values())).to_user_string()
            self.context.log.info(f"Prediction job {job.job_id} does not fit {name}: {reason}.")
            return _Match(assets, [])
        wanted: list[OutputType] = [
            output_type
            for output_type, key in assets.outputs.items()
            if job.job_id not in self._recorded(key, partition_key)
        ]
        return _Match(assets, outputs_of(self.client, job, wanted), partition_key, time)

    def _job_ids(self, key: dg.AssetKey, partition_key: str | None) -> set[str]:
        """The jobs that materializations name.

        The cursor alone is not enough: it may be reset, or a tick may crash before it is saved.
        """
        return set(
            materialized_job_ids(
                self.context.instance, key, partition_key, limit=MATERIALIZATIONS_LOOKED_AT
            )
        )

    def _materializations(
        self, job: BatchPredictionJobResource, match: _Match
    ) -> list[dg.AssetMaterialization]:
        return [
            dg.AssetMaterialization(
                match.assets.outputs[output_type],
                description="Launched outside Dagster. The data stay with Kumo.",
                partition=match.partition_key,
                metadata=job_metadata(
                    job,
                    Provenance(
                        job_id=job.job_id,
                        output_type=output_type,
                        training_job_id=model_of(job),
                        prediction_time=match.time,
                    ),
                    tracking_url=self.client.public_url(job.job_status_report.tracking_url),
                    seconds=seconds_of(job),
                    rate=self.rate,
                ),
                tags={  # as Dagster's own endpoint for materializations from outside sets them
                    "dagster/data_version": job.job_id,
                    "dagster/data_version_is_user_provided": "true",
                },
            )
            for output_type in match.outputs
        ]


def _run_request(job: BatchPredictionJobResource, match: _Match) -> dg.RunRequest:
    keys = [match.assets.outputs[output_type] for output_type in match.outputs]
    return dg.RunRequest(
        run_key=f"{job.job_id} {keys[0].to_user_string()}",
        asset_selection=keys,
        partition_key=match.partition_key,
        tags={DELIVER_JOB_TAG: job.job_id},
    )
