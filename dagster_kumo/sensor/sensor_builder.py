"""A sensor for prediction jobs that were launched outside Dagster, in Kumo's UI or by its SDK."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg

from dagster_kumo.resource import DEFAULT_RESOURCE_KEY, KumoResource
from dagster_kumo.sensor.call_budget import CallBudget
from dagster_kumo.sensor.cursor import Cursor
from dagster_kumo.sensor.dead_runs import DeadRuns
from dagster_kumo.sensor.job_search import JobOutcome, JobSearch
from dagster_kumo.sensor.tick import Tick
from dagster_kumo.sensor.watched_assets import WatchedAssets

DEFAULT_CALLS = 50
FEWEST_CALLS = 10  # listing groups and jobs takes a few calls before the first job is read
# Dagster stops a tick after a minute.
TICK_SECONDS = 30.0
CALL_SECONDS = 20.0
JOBS_PER_TICK = 100
JOBS_NAMED = 5


def build_kumo_sensor(
    assets: dg.AssetsDefinition | Iterable[dg.AssetsDefinition | dg.AssetSpec],
    *,
    name: str = "kumo_jobs_sensor",
    deliver: bool = False,
    continue_runs_after: timedelta | None = None,
    lookback: timedelta = timedelta(days=1),
    max_calls_per_tick: int = DEFAULT_CALLS,
    resource_key: str = DEFAULT_RESOURCE_KEY,
    minimum_interval_seconds: int | None = None,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.SensorDefinition:
    """Make a sensor that finds prediction jobs that were launched outside Dagster and are done.

    It handles each job of the assets' models once. It records a materialization of the partition that
    the job predicted for, or, with `deliver=True`, requests a run that stores the job's data. It skips
    jobs that a materialization already names, and jobs that Dagster launched. With `continue_runs_after` it looks
    at those too: if the worker of a run is gone, one run continues it and attaches to its jobs.

    Args:
        assets: What `build_kumo_assets_definitions` or `@kumo_assets` made, for one or several models.
        name: The sensor's name.
        deliver: Whether to request a run that passes the data of each job to the I/O manager. If not,
            the sensor records a materialization, and the data stay with Kumo.
        continue_runs_after: How long a run that launched a job and did not end has logged nothing when the
            sensor takes its worker for gone, at least a poll interval after the job's end. By default
            no run is continued.
        lookback: The maximum age of jobs at the first tick, counted from their launch.
        max_calls_per_tick: How many calls to Kumo's API a tick makes at most, 10 or more. The next tick
            continues.
        resource_key: The key of the `KumoResource`.
        minimum_interval_seconds: The minimum time between two ticks, by default Dagster's.
        default_status: Whether the sensor runs as soon as it is deployed. By default you switch it on.
        description: What the Dagster UI shows. By default it says what the sensor does.
        tags: Tags of the sensor.

    Raises:
        ValueError: None of the assets is an output of a model, or `max_calls_per_tick` is too low.

    Examples:
        >>> from dagster_kumo import BatchPrediction, build_kumo_assets_definitions
        >>> churn = build_kumo_assets_definitions(
        ...     name="churn", prediction=BatchPrediction(training_job_id="trainingjob-1")
        ... )
        >>> build_kumo_sensor(churn, minimum_interval_seconds=60).name
        'kumo_jobs_sensor'
    """
    known = map(WatchedAssets.of, _definitions(assets))
    watched = [found for found in known if found is not None]
    if not watched:
        raise ValueError(
            "build_kumo_sensor is given no outputs of a model. Pass what build_kumo_assets_definitions "
            "returned, or the assets that @kumo_assets made: keys and specs do not say which model."
        )
    if max_calls_per_tick < FEWEST_CALLS:
        raise ValueError(f"max_calls_per_tick is {FEWEST_CALLS} or more, not {max_calls_per_tick}.")

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        kumo: KumoResource = getattr(context.resources, resource_key)
        budget = CallBudget(TICK_SECONDS, max_calls_per_tick)
        client = kumo.get_client().with_limits(timeout=CALL_SECONDS, before_request=budget)
        cursor = _cursor(context, lookback)
        search = JobSearch(client, cursor, context.log.warning, max_outcomes=JOBS_PER_TICK)
        dead_runs = None
        if continue_runs_after is not None:
            silence = continue_runs_after + timedelta(seconds=kumo.poll_interval)
            dead_runs = DeadRuns(context, client, keys, silence)
        tick = Tick(
            context, client, watched, deliver=deliver, rate=kumo.cost_rate, dead_runs=dead_runs
        )
        found = search.run(tick.visit)
        run_requests = [request for outcome in found.outcomes for request in outcome.run_requests]
        summary = _summary(found.outcomes)
        if found.error is not None:
            failed = f"A job could not be read. The next tick tries it again: {found.error}"
            context.log.warning(failed)
            summary += f" {failed}"
        elif found.ended_early:
            summary += " The next tick continues."
        return dg.SensorResult(
            run_requests=run_requests,
            asset_events=[made for outcome in found.outcomes for made in outcome.materializations],
            skip_reason=None if run_requests else summary,
            cursor=found.cursor.to_text(),
        )

    keys = [key for one in watched for key in one.outputs.values()]
    selection = dg.AssetSelection.assets(*keys) if deliver else None
    if continue_runs_after is not None:
        selection = dg.AssetSelection.all()  # a dead run may have been to make any of them
    return dg.SensorDefinition(
        name=name,
        evaluation_fn=evaluate,
        asset_selection=selection,
        required_resource_keys={resource_key},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=description or _description(keys, deliver=deliver),
        tags=tags,
    )


def _definitions(assets: Any) -> list[dg.AssetsDefinition]:
    """The definitions among what a user passes: one, or lists of them, also nested."""
    if isinstance(assets, dg.AssetsDefinition):
        return [assets]
    # Dagster's keys and specs are tuples too.
    is_collection = isinstance(assets, Iterable) and (
        not isinstance(assets, (str, tuple)) or type(assets) is tuple
    )
    return [found for item in assets for found in _definitions(item)] if is_collection else []


def _summary(outcomes: Sequence[JobOutcome]) -> str:
    """What a tick did, in a sentence."""
    if not outcomes:
        return (
            "No prediction job of these models was launched outside Dagster and has newly finished."
        )
    named = ", ".join(job.job_id for job in outcomes[:JOBS_NAMED])
    more = len(outcomes) - JOBS_NAMED
    return f"Recorded {named}{f' and {more} more' if more > 0 else ''}."


def _cursor(context: dg.SensorEvaluationContext, lookback: timedelta) -> Cursor:
    if context.cursor:
        try:
            return Cursor.from_text(context.cursor)
        except ValueError as error:
            context.log.warning(
                f"The cursor cannot be read ({error}). The search begins {lookback} ago. Jobs that are already "
                "recorded are not recorded again."
            )
    return Cursor(datetime.now(timezone.utc) - lookback)


def _description(keys: Sequence[dg.AssetKey], *, deliver: bool) -> str:
    names = ", ".join(key.to_user_string() for key in keys)
    does = "Delivers the data of" if deliver else "Records"
    return f"{does} prediction jobs that were launched outside Dagster: {names}."
