"""Which jobs have been delivered: the jobs that an asset's materializations name."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import dagster as dg

from dagster_kumo.execution.launch.identity import RUNS_LOCK
from dagster_kumo.execution.metadata import JOB_ID_METADATA

# Of one partition. A root run with more deliveries than this is not a retry.
MATERIALIZATIONS_LOOKED_AT = 20
# Before Dagster 1.12.18, SQLite refuses to read an in-memory event log while another thread writes to it.
_LOCKED = "table is locked"
_LOCKED_SECONDS = 2.0


def delivered_before(context: dg.AssetExecutionContext) -> float:
    """The unix time before which a delivery belongs to an earlier launch.

    Materializing again on purpose predicts again: a job that was delivered before the run was created is not used
    again. A run that continues an unfinished run is not on purpose, and neither is another attempt in the same run.
    They use what their own attempts delivered, also if a process of an earlier attempt still works beside them.
    """
    instance = context.instance
    step_key = str(context.op_execution_context.node_handle)
    with RUNS_LOCK:
        begun = instance.get_run_record_by_id(context.run.run_id)
        while begun is not None and (parent_id := begun.dagster_run.parent_run_id) is not None:
            parent = instance.get_run_record_by_id(parent_id)
            if parent is None or _succeeded(instance, parent_id, step_key):
                break
            begun = parent
    return begun.create_timestamp.timestamp() if begun is not None else 0.0


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
    before: float | None = None,
) -> list[str]:
    """The jobs behind an asset's materializations, newest first.

    Args:
        instance: where materializations are recorded.
        asset_key: the asset.
        partition_key: its partition; None for an asset without partitions.
        entry: the entry of the metadata that names the job.
        limit: how many materializations to look at.
        before: leaves out what was materialized at this unix time or later.
    """
    partitions = None if partition_key is None else [partition_key]
    wanted = dg.AssetRecordsFilter(
        asset_key=asset_key, asset_partitions=partitions, before_timestamp=before
    )
    job_ids: list[str] = []
    for record in read_events(lambda: instance.fetch_materializations(wanted, limit=limit)):
        materialization = record.asset_materialization
        named = materialization.metadata.get(entry) if materialization else None
        if named is not None and isinstance(named.value, str):
            job_ids.append(named.value)
    return job_ids


def read_events(fetch: Callable[[], dg.EventRecordsResult]) -> Sequence[dg.EventLogRecord]:
    """Records of the event log, also while another thread writes to it."""
    give_up = time.monotonic() + _LOCKED_SECONDS
    while True:
        try:
            return fetch().records
        except Exception as error:
            if _LOCKED not in str(error) or time.monotonic() > give_up:
                raise
        time.sleep(0.02)  # the other thread writes one event
