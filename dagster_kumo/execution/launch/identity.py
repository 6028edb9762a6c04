"""Which attempts are one launch.

A launch is identified by the assets, the partition, the root run and the request. It is the root run,
not the run, so that a retry and a re-execution are the same launch as the attempt before them.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from typing import Any

import dagster as dg

RUNS_LOCK = threading.RLock()
"""Held by the threads of a run over several partitions while they read or write runs.

Dagster reads the tags of a run, adds to them and writes them back, and SQLite refuses to read runs
while another thread writes one.
"""


def launch_key(
    request: Mapping[str, Any], context: dg.AssetExecutionContext, partition_key: str | None
) -> str:
    """The key of a launch: the same for all its attempts, different for any other launch."""
    identity = {
        "assets": sorted(key.to_user_string() for key in context.assets_def.keys),
        "partition": partition_key,
        "root_run": root_run_id(context),
        "request": request,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def root_run_id(context: dg.AssetExecutionContext) -> str:
    """The first run, of which the others are retries or re-executions."""
    return context.run.root_run_id or context.run.run_id


def runs_of_launch(context: dg.AssetExecutionContext) -> list[dg.DagsterRun]:
    """The runs of all attempts: the root run and its re-executions."""
    root = root_run_id(context)
    with RUNS_LOCK:
        again = context.instance.get_runs(dg.RunsFilter(tags={"dagster/root_run_id": root}))
        first = context.instance.get_run_by_id(root)
    return list({run.run_id: run for run in [*again, first] if run is not None}.values())


def status_of_run(context: dg.AssetExecutionContext) -> dg.DagsterRunStatus | None:
    """The status of the run as it is recorded now; None when its record is gone."""
    with RUNS_LOCK:
        run = context.instance.get_run_by_id(context.run.run_id)
    return run.status if run is not None else None


def is_over_its_time(context: dg.AssetExecutionContext) -> bool:
    """Whether Dagster's monitoring ends the run, since it has taken longer than `dagster/max_runtime`.

    Nothing but the words of the event tells it from a user's terminate.
    """
    with RUNS_LOCK:
        canceling = context.instance.all_logs(
            context.run.run_id, of_type=dg.DagsterEventType.PIPELINE_CANCELING
        )
    return any("maximum runtime" in entry.message for entry in canceling)


def note_on_run(
    context: dg.AssetExecutionContext, prefix: str, partition_key: str | None, noted: str
) -> None:
    """Write a job's id to the run's own tags, where a person finds it."""
    with RUNS_LOCK:
        tag = run_tag(prefix, context, partition_key)
        context.instance.add_run_tags(context.run.run_id, {tag: noted})


def run_tag(prefix: str, context: dg.AssetExecutionContext, partition_key: str | None) -> str:
    """The tag of the run that names the job of an op, or of one of its partitions."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", context.assets_def.node_def.name)
    if partition_key is not None and len(context.partition_keys) > 1:
        name += "." + re.sub(r"[^A-Za-z0-9_.-]", "_", partition_key)
    return f"{prefix}.{name}"[:76]
