"""The runs of a launch: which run is an attempt at the same launch as another one.

The root of a launch is the first of the runs, or the first of the backfills, of which the others are retries or
re-executions. So a retry and a re-execution are the same launch as the attempt before them.
"""

from __future__ import annotations

import threading

import dagster as dg

from dagster_kumo.execution.launch.held_run import CONTINUES_TAG, PROGRESS_TAG

RUNS_LOCK = threading.RLock()
"""Held by the threads of a run over several partitions while they read or write runs.

Dagster reads the tags of a run, adds to them and writes them back, and SQLite refuses to read runs
while another thread writes one.
"""

# Dagster's web UI sets them on a backfill that is re-executed, and Dagster on its runs.
BACKFILL_TAG = "dagster/backfill"
PARENT_BACKFILL_TAG = "dagster/parent_backfill_id"
ROOT_BACKFILL_TAG = "dagster/root_backfill_id"

_RETRY_TAG = "dagster/retry_number"
"""Of a run that Dagster itself launched to retry another."""

PARTITION_TAGS = (
    "dagster/partition",
    "dagster/asset_partition_range_start",
    "dagster/asset_partition_range_end",
)


def partition_of(run: dg.DagsterRun) -> tuple[bool, str | None]:
    """Whether a run is for one partition at most, and for which."""
    one, first, last = (run.tags.get(tag) for tag in PARTITION_TAGS)
    return first == last, one or first


def root_of_launch(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The first backfill, or else the first run, of which this run is a retry, a re-execution or the
    continuation."""
    root_run_id = run.root_run_id or run.run_id
    first = run
    if root_run_id != run.run_id:
        # A re-execution of a run does not belong to the backfill any more when that has ended.
        with RUNS_LOCK:
            first = instance.get_run_by_id(root_run_id) or run
    if (continued := first.tags.get(CONTINUES_TAG)) is not None:
        with RUNS_LOCK:
            dead = instance.get_run_by_id(continued)
        return continued if dead is None else root_of_launch(instance, dead)
    return root_backfill(first) or root_run_id


def previous_attempt(run: dg.DagsterRun) -> str | None:
    """The run that this one re-executes or continues."""
    return run.parent_run_id or run.tags.get(CONTINUES_TAG)


def root_backfill(run: dg.DagsterRun) -> str | None:
    """The backfill of a run, or the first of those of which that one is a re-execution."""
    return run.tags.get(ROOT_BACKFILL_TAG) or run.tags.get(BACKFILL_TAG)


def root_of_retries(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The run that Dagster retries by this one, or that this one continues, or this run. A re-execution by a person
    is no retry."""
    while (parent_id := previous_attempt(run)) is not None:
        if run.parent_run_id is not None and _RETRY_TAG not in run.tags:
            break
        with RUNS_LOCK:
            parent = instance.get_run_by_id(parent_id)
        if parent is None:
            return parent_id
        run = parent
    return run.run_id


def is_first_attempt(run: dg.DagsterRun, retry_number: int) -> bool:
    """Whether no attempt of the same launch can have come before this one.

    For a run that was held in the queue, the hold sensor may have launched before the run began.
    """
    is_again = previous_attempt(run) is not None or PARENT_BACKFILL_TAG in run.tags
    return not is_again and retry_number == 0 and PROGRESS_TAG not in run.tags
