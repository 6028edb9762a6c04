"""Runs that died without an error while their Kumo job went on, and the one run that continues each."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.records import DONE, BatchPredictionJobResource
from dagster_kumo.execution.launch.held_run import CONTINUES_TAG
from dagster_kumo.execution.launch.prediction import PredictionLaunch
from dagster_kumo.jobs.prediction_spec import MAX_TAG_VALUE
from dagster_kumo.jobs.tags import ASSET_TAG, RUN_ID_TAG
from dagster_kumo.sensor.job_search import JobOutcome

# Dagster's own tags of a run.
_ROOT_RUN_TAG = "dagster/root_run_id"
_WILL_RETRY_TAG = "dagster/will_retry"

_OVER = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.CANCELING,
    dg.DagsterRunStatus.CANCELED,
)
_MAY_BE_DEAD = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE)
# Which partitions the run is for, and the jobs that it launched.
_CONTINUED_TAGS = (
    "dagster/partition",
    "dagster/asset_partition_range_",
    f"{PredictionLaunch.run_tag}.",
)
_RESERVED_TAGS = ("dagster/", ".dagster/", "dagster-kumo/")
_EVENTS = dg.DagsterEventType


class DeadRuns:
    """Looks at the run behind a job, and requests the run that continues it.

    A run is dead if its worker is gone: Dagster shows it as STARTED, or as FAILURE though no step failed, and it
    has logged nothing for the time of `silence` after its jobs ended. A run that failed with an error is not dead,
    and one that Dagster retries is left to Dagster. The connection has the limits of a tick.
    """

    def __init__(
        self,
        context: dg.SensorEvaluationContext,
        client: KumoClient,
        assets: Collection[dg.AssetKey],
        silence: timedelta,
    ) -> None:
        self._instance = context.instance
        self._repository = context.repository_def
        self._log = context.log
        self._client = client
        self._assets = {key.to_user_string()[:MAX_TAG_VALUE]: key for key in assets}
        self._silence = silence
        self._requested = set[str]()
        # A run may have launched hundreds of jobs: its log and the list of them are read once for all.
        self._log_of = cache(context.instance.all_logs)
        self._jobs_of = cache(self._launched_by)

    def visit(self, job: BatchPredictionJobResource) -> JobOutcome:
        """What a job that a run launched leads to: the run that continues it, if that one is dead."""
        settled, later = JobOutcome(job.job_id), JobOutcome(job.job_id, is_settled=False)
        asset_key = self._assets.get(job.tags.get(ASSET_TAG, ""))
        report = job.job_status_report
        if asset_key is None or (report.is_terminal and report.status != DONE):
            return settled
        if not report.is_terminal:
            return later
        run = self._newest_attempt(job.tags.get(RUN_ID_TAG, ""))
        if run is None or run.status in _OVER or self._is_continued(run):
            return settled
        if run.status not in _MAY_BE_DEAD or run.tags.get(_WILL_RETRY_TAG) == "true":
            return later
        log = self._log_of(run.run_id)
        events = [entry.dagster_event for entry in log if entry.dagster_event]
        planned, made = (
            {e.asset_key for e in events if e.event_type == kind and e.asset_key}
            for kind in (_EVENTS.ASSET_MATERIALIZATION_PLANNED, _EVENTS.ASSET_MATERIALIZATION)
        )
        has_failed = any(e.event_type == _EVENTS.STEP_FAILURE for e in events)
        if asset_key not in planned - made or has_failed:
            return settled
        ended = report.end_time.timestamp() if report.end_time else 0.0
        last_sign = max(ended, *(entry.timestamp for entry in log))
        silent_for = datetime.now(timezone.utc).timestamp() - last_sign
        if silent_for < self._silence.total_seconds() or self._has_live_job(job):
            return later
        self._log.info(
            f"Run {run.run_id} launched prediction job {job.job_id} and has logged nothing for "
            f"{silent_for:.0f} seconds, although the job is DONE. Another run continues it."
        )
        return JobOutcome(job.job_id, run_requests=[self._request(run, planned - made)])

    def _newest_attempt(self, run_id: str) -> dg.DagsterRun | None:
        """The last one of a run and its re-executions; None if another Dagster launched the run."""
        run = self._instance.get_run_by_id(run_id)
        if run is None:
            return None
        group = dg.RunsFilter(tags={_ROOT_RUN_TAG: _root(run)})
        return next(iter(self._instance.get_runs(group, limit=1)), run)

    def _is_continued(self, run: dg.DagsterRun) -> bool:
        """Whether the run has been continued, also by the sensor of another model, or continues one itself."""
        if run.run_id in self._requested or CONTINUES_TAG in run.tags:
            return True
        continued = dg.RunsFilter(tags={CONTINUES_TAG: run.run_id})
        return bool(self._instance.get_runs(continued, limit=1))

    def _has_live_job(self, job: BatchPredictionJobResource) -> bool:
        """Whether the run launched other jobs too, and may be waiting for one of them."""
        jobs = self._jobs_of(job.tags[RUN_ID_TAG])
        return any(not other.job_status_report.is_terminal for other in jobs)

    def _launched_by(self, run_id: str) -> list[BatchPredictionJobResource]:
        jobs = self._client.list_prediction_jobs({RUN_ID_TAG: run_id})
        return [job for job in jobs if job.tags.get(RUN_ID_TAG) == run_id]

    def _request(self, run: dg.DagsterRun, assets: set[dg.AssetKey]) -> dg.RunRequest:
        self._requested.add(run.run_id)
        assert self._repository is not None
        known = self._repository.assets_defs_by_key
        keys = sorted(key for key in assets if key in known)
        ops = {known[key].node_def.name for key in keys}
        given: Any = run.run_config.get("ops") or {}
        config = {op: of_op for op, of_op in given.items() if op in ops}
        tags = {
            name: value
            for name, value in run.tags.items()
            if name.startswith(_CONTINUED_TAGS) or not name.startswith(_RESERVED_TAGS)
        }
        return dg.RunRequest(
            run_key=f"continues {_root(run)}",
            run_config={"ops": config} if config else None,
            asset_selection=keys,
            tags={**tags, CONTINUES_TAG: run.run_id},
        )


def _root(run: dg.DagsterRun) -> str:
    return run.root_run_id or run.run_id
