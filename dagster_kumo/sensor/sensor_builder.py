"""A sensor for prediction jobs that were launched outside Dagster: in Kumo's own UI, or by its SDK."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import cache

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoAPIError, KumoDataError
from dagster_kumo.api.records import DONE, BatchPredictionJobResource, OutputType
from dagster_kumo.execution.adopted_job import DELIVER_JOB_TAG
from dagster_kumo.execution.launch.identity import materialized_job_ids
from dagster_kumo.execution.metadata import job_metadata
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
from dagster_kumo.resource import DEFAULT_RESOURCE_KEY, KumoResource
from dagster_kumo.sensor.job_search import Cursor, JobSearch, Limit, TickOver
from dagster_kumo.sensor.watched_assets import ModelAssets

DEFAULT_CALLS = 50
FEWEST_CALLS = 10  # a few go to groups and lists before any job is looked at
# Dagster gives a tick a minute, all in all.
TICK_SECONDS = 30.0
CALL_SECONDS = 20.0
JOBS_PER_TICK = 100
# Of one partition, the newest: whatever a tick recorded is among them, should its cursor get lost.
MATERIALIZATIONS_LOOKED_AT = 2 * JOBS_PER_TICK
JOBS_NAMED = 5


def build_kumo_sensor(
    assets: Iterable[dg.AssetsDefinition | dg.AssetSpec],
    *,
    name: str = "kumo_jobs_sensor",
    deliver: bool = False,
    lookback: timedelta = timedelta(days=1),
    max_calls_per_tick: int = DEFAULT_CALLS,
    resource_key: str = DEFAULT_RESOURCE_KEY,
    minimum_interval_seconds: int | None = None,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.SensorDefinition:
    """Make a sensor that finds prediction jobs which were launched outside Dagster and are done.

    Each job of the assets' models shows up once: as a materialization of the partition that it
    predicted for, or, with `deliver=True`, by a run that brings its data. What Dagster launched itself
    is left alone, and so is a job that a materialization names already.

    Args:
        assets: what `build_kumo_assets_definitions` or `@kumo_assets` made, of one model or several.
        name: the sensor's name.
        deliver: whether to request a run that brings the data of each job to the I/O manager. Without,
            the materialization is recorded and the data stay with Kumo.
        lookback: how far back the first tick looks, by when jobs were launched.
        max_calls_per_tick: how many calls to Kumo's API a tick makes at most, 10 or more; the next
            tick goes on.
        resource_key: the key of the `KumoResource`.
        minimum_interval_seconds: how long to wait between two ticks; by default as Dagster has it.
        default_status: whether it runs as soon as it is deployed; by default it is switched on by hand.
        description: what Dagit shows; says what the sensor does by default.
        tags: tags of the sensor.

    Raises:
        ValueError: none of the assets are outputs of a model, or fewer calls than it takes.

    Examples:
        >>> from dagster_kumo import BatchPrediction, build_kumo_assets_definitions
        >>> churn = build_kumo_assets_definitions(
        ...     name="churn", prediction=BatchPrediction(training_job_id="trainingjob-1")
        ... )
        >>> build_kumo_sensor(churn, minimum_interval_seconds=60).name
        'kumo_jobs_sensor'
    """
    definitions = [one for one in assets if isinstance(one, dg.AssetsDefinition)]
    known = [found for found in map(ModelAssets.of, definitions) if found is not None]
    if not known:
        raise ValueError(
            "build_kumo_sensor is given no outputs of a model. Pass what build_kumo_assets_definitions "
            "returned, or the assets that @kumo_assets made, as a list."
        )
    if max_calls_per_tick < FEWEST_CALLS:
        raise ValueError(f"max_calls_per_tick is {FEWEST_CALLS} or more, not {max_calls_per_tick}.")

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        kumo: KumoResource = getattr(context.resources, resource_key)
        limit = Limit(max_calls_per_tick, TICK_SECONDS)
        client = kumo.get_client().with_limits(timeout=CALL_SECONDS, before_request=limit)
        search = JobSearch(client, _cursor(context, lookback), context.log.warning)
        tick = _Tick(context, client, known, deliver=deliver)
        cursor = search.run(tick.look)
        said = tick.said
        if search.error is not None:
            said.append(
                f"A job could not be read and is tried again in the next tick: {search.error}"
            )
            context.log.warning(said[-1])
        elif search.ended_early:
            said.append("The next tick goes on.")
        return dg.SensorResult(
            run_requests=tick.run_requests,
            asset_events=tick.materializations,
            skip_reason=None if tick.run_requests else " ".join(said),
            cursor=cursor.to_text(),
        )

    keys = [key for one in known for key in one.outputs.values()]
    return dg.SensorDefinition(
        name=name,
        evaluation_fn=evaluate,
        asset_selection=dg.AssetSelection.assets(*keys) if deliver else None,
        required_resource_keys={resource_key},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=description or _description(keys, deliver=deliver),
        tags=tags,
    )


class _Tick:
    """What one tick makes of the jobs that the search hands to it."""

    def __init__(
        self,
        context: dg.SensorEvaluationContext,
        client: KumoClient,
        known: Sequence[ModelAssets],
        *,
        deliver: bool,
    ) -> None:
        self._context = context
        self._client = client
        self._known = known
        self._deliver = deliver
        self._recorded = cache(self._job_ids)
        self._tags_of_model = cache(self._model_tags)
        self.run_requests: list[dg.RunRequest] = []
        self.materializations: list[dg.AssetMaterialization] = []
        self._jobs: list[str] = []

    def look(self, job: BatchPredictionJobResource) -> bool:
        """Record a job, or request it, or leave it alone; False for one that has not ended yet."""
        if is_launched_by_dagster(job):
            return True
        meant = [assets for assets in self._known if self._is_meant(assets, job)]
        status = job.job_status_report
        if not meant or (status.is_terminal and status.status != DONE):
            return True
        if not status.is_terminal:
            return False
        if len(self._jobs) >= JOBS_PER_TICK:
            raise TickOver
        # All of it, or nothing: an error on the way lets the next tick look at the job again.
        found = [(assets, *self._place(assets, job)) for assets in meant]
        for assets, outputs, partition_key, time in found:
            if outputs and self._deliver:
                self.run_requests.append(_run_request(job, assets, outputs, partition_key))
            elif outputs:
                self.materializations += self._materialized(
                    job, assets, outputs, partition_key, time
                )
            if outputs:
                self._jobs.append(job.job_id)
        return True

    @property
    def said(self) -> list[str]:
        """What the tick did, in sentences."""
        if not self._jobs:
            return [
                "No prediction job of these models was launched outside Dagster and is newly done."
            ]
        named = ", ".join(self._jobs[:JOBS_NAMED])
        more = len(self._jobs) - JOBS_NAMED
        return [f"Recorded {named}{f' and {more} more' if more > 0 else ''}."]

    def _is_meant(self, assets: ModelAssets, job: BatchPredictionJobResource) -> bool:
        model = model_of(job)
        by_id = assets.prediction.training_job_id is not None
        return bool(model) and is_meant(
            assets.prediction, model, {} if by_id else self._tags_of_model(model)
        )

    def _model_tags(self, training_job_id: str) -> Mapping[str, str]:
        try:
            return self._client.get_training_job(training_job_id).tags
        except KumoAPIError as error:
            if error.status_code != 404:
                raise
            return {}

    def _place(
        self, assets: ModelAssets, job: BatchPredictionJobResource
    ) -> tuple[list[OutputType], str | None, datetime | None]:
        """Which outputs a job makes of which partition, and for which time; none where it does not fit
        or has been delivered."""
        time = job.config.prediction_time
        try:
            check_entities(job, assets.prediction)
            if assets.have_times:
                time = predicted_for(self._client, job)
            partition_key = assets.partition_of(time)
        except KumoDataError as reason:
            name = next(iter(assets.outputs.values())).to_user_string()
            self._context.log.info(f"Prediction job {job.job_id} is no {name}: {reason}.")
            return [], None, None
        wanted: list[OutputType] = [
            output_type
            for output_type, key in assets.outputs.items()
            if job.job_id not in self._recorded(key, partition_key)
        ]
        return outputs_of(self._client, job, wanted), partition_key, time

    def _job_ids(self, key: dg.AssetKey, partition_key: str | None) -> set[str]:
        """The jobs that materializations name. The cursor knows what it has dealt with; this knows it
        also after a crash between the two, or when the cursor is reset."""
        return set(
            materialized_job_ids(
                self._context.instance, key, partition_key, limit=MATERIALIZATIONS_LOOKED_AT
            )
        )

    def _materialized(
        self,
        job: BatchPredictionJobResource,
        assets: ModelAssets,
        outputs: Sequence[OutputType],
        partition_key: str | None,
        time: datetime | None,
    ) -> list[dg.AssetMaterialization]:
        return [
            dg.AssetMaterialization(
                assets.outputs[output_type],
                description="Launched outside Dagster. The data are with Kumo.",
                partition=partition_key,
                metadata=job_metadata(
                    job,
                    Provenance(
                        job_id=job.job_id,
                        output_type=output_type,
                        training_job_id=model_of(job),
                        prediction_time=time,
                    ),
                    tracking_url=self._client.public_url(job.job_status_report.tracking_url),
                    seconds=seconds_of(job),
                ),
                tags={  # as Dagster's own endpoint for materializations from outside sets them
                    "dagster/data_version": job.job_id,
                    "dagster/data_version_is_user_provided": "true",
                },
            )
            for output_type in outputs
        ]


def _run_request(
    job: BatchPredictionJobResource,
    assets: ModelAssets,
    outputs: Sequence[OutputType],
    partition_key: str | None,
) -> dg.RunRequest:
    keys = [assets.outputs[output_type] for output_type in outputs]
    return dg.RunRequest(
        run_key=f"{job.job_id} {keys[0].to_user_string()}",
        asset_selection=keys,
        partition_key=partition_key,
        tags={DELIVER_JOB_TAG: job.job_id},
    )


def _cursor(context: dg.SensorEvaluationContext, lookback: timedelta) -> Cursor:
    if context.cursor:
        try:
            return Cursor.from_text(context.cursor)
        except ValueError as error:
            context.log.warning(
                f"The cursor cannot be read ({error}): beginning {lookback} ago. What has been recorded "
                "since then is not recorded again."
            )
    return Cursor(datetime.now(timezone.utc) - lookback)


def _description(keys: Sequence[dg.AssetKey], *, deliver: bool) -> str:
    names = ", ".join(key.to_user_string() for key in keys)
    does = "Delivers the data of" if deliver else "Records"
    return f"{does} prediction jobs that were launched outside Dagster: {names}."
