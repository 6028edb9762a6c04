"""The sensor that holds runs in Dagster's queue while Kumo works."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from dagster_kumo.execution.launch.held_run import NOT_HELD
from dagster_kumo.resource import DEFAULT_RESOURCE_KEY, KumoResource
from dagster_kumo.sensor.call_budget import CallBudget
from dagster_kumo.sensor.hold.held_jobs import HeldJobs
from dagster_kumo.sensor.hold.queue import HoldQueue
from dagster_kumo.sensor.hold.run_steps import RunSteps
from dagster_kumo.sensor.hold.tick import HoldTick, TickSummary

# Dagster stops a tick after a minute.
TICK_SECONDS = 35.0
# Of these. A launch takes some seconds, and then the runs are to show what has been launched.
LAUNCH_SECONDS = 25.0
CALL_SECONDS = 15.0
_NOT_HOLDING = (
    "Dagster does not hold runs here: the log of the first such tick says what is missing."
)
_DESCRIPTION = (
    "Launches the Kumo jobs of runs that are held in the queue (tag dagster-kumo/hold), and releases "
    "each run when its jobs have ended."
)


def build_kumo_hold_sensor(
    *,
    name: str = "kumo_hold_sensor",
    max_jobs_in_flight: int | None = None,
    resource_key: str = DEFAULT_RESOURCE_KEY,
    minimum_interval_seconds: int | None = None,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.SensorDefinition:
    """Make a sensor for runs that wait for Kumo in Dagster's queue, without a worker.

    A run with the tag `HOLD_UNTIL_DONE` stays QUEUED where the deployment says so (see the guide
    "Waiting costs nothing"). The sensor launches the jobs that the run would launch, with the same launch
    keys, and shows them on the run. When they have ended, it lets the run start: the run attaches to
    its jobs, delivers what is done and fails with Kumo's reason for what is not.

    Runs that cannot be prepared ahead are released at once and wait as usual: runs over several
    partitions, predictions from tables that the same run makes, and runs without predictions and candidates.

    Args:
        name: The sensor's name.
        max_jobs_in_flight: How many jobs of held runs may go on in Kumo at the same time; further runs
            stay in the queue without a job, those with a higher `dagster/priority` first. By default all
            jobs are launched.
        resource_key: The key of the `KumoResource`. Only assets that use it are prepared.
        minimum_interval_seconds: The least time between two ticks, by default Dagster's.
        default_status: Whether the sensor runs as soon as it is deployed, which is the default: without it,
            tagged runs would stay in the queue.
        description: What the Dagster UI shows. By default it says what the sensor does.
        tags: Tags of the sensor.

    Raises:
        ValueError: `max_jobs_in_flight` is less than 1.

    Examples:
        >>> import dagster as dg
        >>> from dagster_kumo import HOLD_UNTIL_DONE
        >>> nightly = dg.define_asset_job("nightly", selection="*", tags=HOLD_UNTIL_DONE)
        >>> build_kumo_hold_sensor(max_jobs_in_flight=25).name
        'kumo_hold_sensor'
    """
    if max_jobs_in_flight is not None and max_jobs_in_flight < 1:
        raise ValueError(f"max_jobs_in_flight is 1 or more, not {max_jobs_in_flight}.")
    run_steps = RunSteps(resource_key)

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        kumo: KumoResource = getattr(context.resources, resource_key)
        # Not marked as public, and the only place that says which code location this is.
        origin = context.code_location_origin
        location = origin.location_name if origin is not None else None
        assert context.repository_def is not None
        queue = HoldQueue(context.instance, location)
        held, terminated = queue.held(), queue.terminated()
        summary = TickSummary()
        if held or terminated:
            budget = CallBudget(TICK_SECONDS)
            client = kumo.get_client().with_limits(timeout=CALL_SECONDS, before_request=budget)
            tick = HoldTick(
                context.instance,
                context.repository_def,
                queue,
                run_steps,
                client,
                HeldJobs(client, location),
                context.log,
                budget=budget,
                launch_budget=CallBudget(LAUNCH_SECONDS),
                max_jobs_in_flight=max_jobs_in_flight,
                cancels=kumo.cancel_on_termination != "never",
            )
            summary = tick.run(held, terminated)
        said = cursor = str(summary)
        not_held = queue.not_held()
        if not_held is not None:
            cursor = f"{said} {_NOT_HOLDING}"
            if _NOT_HOLDING not in (context.cursor or ""):
                context.log.error(f"Run {not_held.dagster_run.run_id}: {NOT_HELD}")
                said = cursor
        # The sensor's page shows the cursor, and the reason only by a click.
        return dg.SensorResult(skip_reason=said, cursor=cursor)

    return dg.SensorDefinition(
        name=name,
        evaluation_fn=evaluate,
        required_resource_keys={resource_key},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=description or _DESCRIPTION,
        tags=tags,
    )
