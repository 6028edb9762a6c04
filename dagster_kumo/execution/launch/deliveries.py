"""Which jobs have been delivered: the jobs that an asset's materializations name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import dagster as dg

from dagster_kumo.execution.launch.identity import (
    RUNS_LOCK,
    previous_attempt,
    root_backfill,
    root_of_launch,
)
from dagster_kumo.execution.metadata import JOB_ID_METADATA

T = TypeVar("T")

# Of one partition. A root run with more deliveries than this is not a retry.
MATERIALIZATIONS_LOOKED_AT = 20
_FROM_FAILURE_TAGS = {"dagster/is_resume_retry", "dagster/is_asset_resume_retry"}
# Before Dagster 1.12.18, SQLite refuses to use an in-memory event log while another thread writes to it.
_LOCKED = "table is locked"
_LOCKED_SECONDS = 2.0


@dataclass(frozen=True)
class Beginning:
    """Where a launch begins: what other runs delivered before belongs to earlier launches.

    Attributes:
        created: The unix time at which its first run was created.
        backfill: The first backfill of those that were re-executed from each other, if one launched that run.
    """

    created: float
    backfill: str | None

    def is_after(self, instance: dg.DagsterInstance, run: dg.RunRecord) -> bool:
        """Whether a run belongs to an earlier launch."""
        if run.create_timestamp.timestamp() >= self.created:
            return False
        # Dagster takes the tags of the backfill from a run that is retried or re-executed after its end.
        return self.backfill is None or root_of_launch(instance, run.dagster_run) != self.backfill


def beginning_of_launch(instance: dg.DagsterInstance, run_id: str, step_key: str) -> Beginning:
    """Where the launch of a step begins.

    Materializing again on purpose predicts again: a job that an earlier run has delivered is not used
    again. A run that continues an unfinished run is not on purpose, and neither is another attempt in the same run,
    nor a backfill that is re-executed: Dagster asks again for what a run of the first one delivered after its end.
    They use what their own attempts delivered, also if a process of an earlier attempt still works beside them. A run
    from failure has a step that succeeded before only if that ended after the run was launched.
    """
    with RUNS_LOCK:
        begun = instance.get_run_record_by_id(run_id)
        while begun is not None and (parent_id := previous_attempt(begun.dagster_run)) is not None:
            parent = instance.get_run_record_by_id(parent_id)
            is_on_purpose = _FROM_FAILURE_TAGS.isdisjoint(begun.dagster_run.tags)
            if parent is None or (is_on_purpose and _succeeded(instance, parent_id, step_key)):
                break
            begun = parent
    if begun is None:
        return Beginning(0.0, None)
    run = begun.dagster_run
    backfill = root_backfill(run) if previous_attempt(run) is None else None
    return Beginning(begun.create_timestamp.timestamp(), backfill)


def _succeeded(instance: dg.DagsterInstance, run_id: str, step_key: str) -> bool:
    """Whether a step succeeded in a run."""
    ends = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
    return any(event.step_key == step_key for event in ends)


def materialized_job_ids(
    instance: dg.DagsterInstance,
    asset_key: dg.AssetKey,
    partition_key: str | None,
    *,
    entry: str = JOB_ID_METADATA,
    limit: int = MATERIALIZATIONS_LOOKED_AT,
    before: Beginning | None = None,
) -> list[str]:
    """The jobs behind an asset's materializations, newest first.

    The `entry` of the metadata names the job. What was materialized by runs of the launch that begins at `before`
    is left out.
    """
    records = _materializations(instance, asset_key, partition_key, limit=limit)
    if before is not None:
        records = _of_earlier_runs(instance, records, before)
    job_ids: list[str] = []
    for record in records:
        materialization = record.asset_materialization
        named = materialization.metadata.get(entry) if materialization else None
        if named is not None and isinstance(named.value, str):
            job_ids.append(named.value)
    return job_ids


def newest_metadata(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partition_key: str | None
) -> Mapping[str, Any] | None:
    """The values of the metadata of an asset's newest materialization; None if there is none."""
    records = _materializations(instance, asset_key, partition_key, limit=1)
    newest = records[0].asset_materialization if records else None
    if newest is None:
        return None
    return {name: value.value for name, value in newest.metadata.items()}


def _materializations(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partition_key: str | None, *, limit: int
) -> Sequence[dg.EventLogRecord]:
    partitions = None if partition_key is None else [partition_key]
    wanted = dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=partitions)
    return read_events(lambda: instance.fetch_materializations(wanted, limit=limit))


def _of_earlier_runs(
    instance: dg.DagsterInstance, records: Sequence[dg.EventLogRecord], before: Beginning
) -> list[dg.EventLogRecord]:
    # An event has the time of the machine that the run was on, whose clock may be wrong. Runs are created
    # by Dagster's own services. What no run has materialized, or one that was deleted, has only the event.
    run_ids = list({record.run_id for record in records})
    runs: Sequence[dg.RunRecord] = []
    if run_ids:
        with RUNS_LOCK:
            runs = instance.get_run_records(dg.RunsFilter(run_ids=run_ids))
    is_earlier = {run.dagster_run.run_id: before.is_after(instance, run) for run in runs}
    return [
        record
        for record in records
        if is_earlier.get(record.run_id, record.timestamp < before.created)
    ]


def read_events(fetch: Callable[[], dg.EventRecordsResult]) -> Sequence[dg.EventLogRecord]:
    """Records of the event log, also while another thread writes to it."""
    return when_not_locked(fetch).records


def when_not_locked(use: Callable[[], T]) -> T:
    """What reads or writes the event log, also while another thread writes to it."""
    give_up = time.monotonic() + _LOCKED_SECONDS
    while True:
        try:
            return use()
        except Exception as error:
            if _LOCKED not in str(error) or time.monotonic() > give_up:
                raise
        time.sleep(0.02)  # the other thread writes one event
