"""Which attempts are one launch, and what has been delivered before.

A launch is identified by the assets, the partition, the root run and the request. The root run, and
not the run, so that a retry and a re-execution are the same launch as the attempt before them.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

JOB_ID_METADATA = "dagster-kumo/job_id"
TABLE_JOB_ID_METADATA = "dagster-kumo/prediction_table_job_id"
# Of one partition: a root run that delivered more often is no retry.
MATERIALIZATIONS_LOOKED_AT = 20
# For the threads of a run over several partitions: Dagster reads the tags of a run, adds to them and
# writes them back, and SQLite refuses to read runs while another thread writes one.
_runs = threading.RLock()
# Before Dagster 1.12.18, SQLite refuses to read an in-memory event log while another thread writes to it.
_LOCKED = "table is locked"
_LOCKED_SECONDS = 2.0


def launch_key(
    request: Mapping[str, Any], context: dg.AssetExecutionContext, partition_key: str | None
) -> str:
    """What tells a launch from others: assets, partition, root run and request."""
    identity = {
        "assets": sorted(key.to_user_string() for key in context.assets_def.keys),
        "partition": partition_key,
        "root_run": root_run_id(context),
        "request": request,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def root_run_id(context: dg.AssetExecutionContext) -> str:
    """The run that all retries and re-executions go back to."""
    return context.run.root_run_id or context.run.run_id


def runs_of_launch(context: dg.AssetExecutionContext) -> list[dg.DagsterRun]:
    """All attempts: the root run, and what has been run again from it."""
    root = root_run_id(context)
    with _runs:
        again = context.instance.get_runs(dg.RunsFilter(tags={"dagster/root_run_id": root}))
        first = context.instance.get_run_by_id(root)
    return list({run.run_id: run for run in [*again, first] if run is not None}.values())


def status_of_run(context: dg.AssetExecutionContext) -> dg.DagsterRunStatus | None:
    """How the run stands by now; None when its record is gone."""
    with _runs:
        run = context.instance.get_run_by_id(context.run.run_id)
    return run.status if run is not None else None


def is_over_its_time(context: dg.AssetExecutionContext) -> bool:
    """Whether Dagster's monitoring ends the run, since it has taken longer than `dagster/max_runtime`.

    Nothing but the words of the event tells it from a user's terminate.
    """
    with _runs:
        canceling = context.instance.all_logs(
            context.run.run_id, of_type=dg.DagsterEventType.PIPELINE_CANCELING
        )
    return any("maximum runtime" in entry.message for entry in canceling)


def note_on_run(
    context: dg.AssetExecutionContext, prefix: str, partition_key: str | None, noted: str
) -> None:
    """Write a job's id to the run's own tags, where a person finds it."""
    with _runs:
        tag = run_tag(prefix, context, partition_key)
        context.instance.add_run_tags(context.run.run_id, {tag: noted})


def run_tag(prefix: str, context: dg.AssetExecutionContext, partition_key: str | None) -> str:
    """The tag of the run that names the job of an op, or of one of its partitions."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", context.assets_def.node_def.name)
    if partition_key is not None and len(context.partition_keys) > 1:
        name += "." + re.sub(r"[^A-Za-z0-9_.-]", "_", partition_key)
    return f"{prefix}.{name}"[:76]


def delivered_before(context: dg.AssetExecutionContext) -> float:
    """Until when (unix time) a delivery is an earlier one, which this launch does not take up.

    Materializing again on purpose is to predict again: what was delivered before its run was
    created is done with. A run that carries on what an earlier one left unfinished is not on
    purpose, and neither is another attempt in the same run: they take up what their own attempts
    delivered, and so does a run beside which a left-over process of an earlier attempt still works.
    """
    instance = context.instance
    step_key = str(context.op_execution_context.node_handle)
    with _runs:
        begun = instance.get_run_record_by_id(context.run.run_id)
        while begun is not None and (parent_id := begun.dagster_run.parent_run_id) is not None:
            parent = instance.get_run_record_by_id(parent_id)
            if parent is None or _finished(instance, parent_id, step_key):
                break
            begun = parent
    return begun.create_timestamp.timestamp() if begun is not None else 0.0


def _finished(instance: dg.DagsterInstance, run_id: str, step_key: str) -> bool:
    """Whether a step came to its good end in a run."""
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
    """The jobs behind an asset's materializations, newest first; `entry` of the metadata names them.

    `before` leaves out what was materialized at that unix time or later.
    """
    partitions = None if partition_key is None else [partition_key]
    wanted = dg.AssetRecordsFilter(
        asset_key=asset_key, asset_partitions=partitions, before_timestamp=before
    )
    job_ids: list[str] = []
    for record in _materializations(instance, wanted, limit):
        materialization = record.asset_materialization
        named = materialization.metadata.get(entry) if materialization else None
        if named is not None and isinstance(named.value, str):
            job_ids.append(named.value)
    return job_ids


def _materializations(
    instance: dg.DagsterInstance, wanted: dg.AssetRecordsFilter, limit: int
) -> Sequence[dg.EventLogRecord]:
    give_up = time.monotonic() + _LOCKED_SECONDS
    while True:
        try:
            return instance.fetch_materializations(wanted, limit=limit).records
        except Exception as error:
            if _LOCKED not in str(error) or time.monotonic() > give_up:
                raise
        time.sleep(0.02)  # the other thread writes one event
