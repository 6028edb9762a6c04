"""The search for prediction jobs that are new or have ended since the last tick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import takewhile

import dagster as dg

from dagster_kumo.api.client import LIST_LIMIT, KumoClient
from dagster_kumo.api.errors import KumoError, KumoNotFoundError
from dagster_kumo.api.records import BatchPredictionJobResource
from dagster_kumo.sensor.call_budget import BudgetExhausted
from dagster_kumo.sensor.cursor import MAX_SEEN, MAX_WAITING, Cursor

MAX_LISTED = 16 * LIST_LIMIT
# A job may appear in the list a little after a newer one: look back this far.
OVERLAP = timedelta(minutes=10)
# After that, the sensor no longer watches a job that has not ended.
MAX_WAIT = timedelta(days=30)

_BEFORE_ALL = datetime.min.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class JobOutcome:
    """What one job leads to: runs, materializations or nothing."""

    job_id: str
    is_settled: bool = True
    """Whether later ticks need not visit the job again."""
    run_requests: Sequence[dg.RunRequest] = ()
    materializations: Sequence[dg.AssetMaterialization] = ()

    def __bool__(self) -> bool:
        return bool(self.run_requests or self.materializations)


@dataclass(frozen=True)
class SearchResult:
    """What one search found."""

    cursor: Cursor
    """Where the next search begins."""
    outcomes: Sequence[JobOutcome]
    """Of the jobs that lead to a run or a materialization, oldest first."""
    error: KumoError | None
    """Why the search ended early. The next search visits that job again."""
    ended_early: bool
    """Whether there were more jobs to visit."""


@dataclass(frozen=True)
class JobSearch:
    """One search through the jobs of a deployment."""

    client: KumoClient
    cursor: Cursor
    """Where the last search stopped."""
    warn: Callable[[str], None]
    max_outcomes: int
    """How many jobs may lead to a run or a materialization."""

    def run(self, visit: Callable[[BatchPredictionJobResource], JobOutcome]) -> SearchResult:
        """Visit each new job, oldest first, then the jobs that had not ended at the last search.

        Raises:
            KumoError: The list of jobs could not be read. No job was visited.
        """
        listed = self._listed()
        by_id = {job.job_id: job for job in listed}
        known = {*self.cursor.seen, *self.cursor.waiting}
        new = [
            j.job_id for j in listed if _created(j) > self.cursor.after and j.job_id not in known
        ]
        waiting = list(self.cursor.waiting)
        visited = set[str]()
        outcomes: list[JobOutcome] = []
        error: KumoError | None = None
        ended_early = False
        for job_id in [*new, *self.cursor.waiting]:
            is_new = job_id not in known
            if len(outcomes) >= self.max_outcomes or (is_new and len(waiting) >= MAX_WAITING):
                ended_early = True
                if not is_new:
                    break
                continue
            try:
                job = by_id.get(job_id) or self._get(job_id)
                outcome = visit(job) if job is not None else JobOutcome(job_id)
                settled = outcome.is_settled or (job is not None and self._is_given_up(job))
            except BudgetExhausted:
                ended_early = True
                break
            except KumoError as reason:
                error, outcome, settled = reason, JobOutcome(job_id), False
            if outcome:
                outcomes.append(outcome)
            if job_id in waiting:
                waiting.remove(job_id)
            if not settled:
                waiting.append(job_id)  # at the end: the others come first next time
            visited.add(job_id)
            if error is not None:
                ended_early = True
                break
        return SearchResult(self._moved(listed, visited, waiting), outcomes, error, ended_early)

    def _get(self, job_id: str) -> BatchPredictionJobResource | None:
        """A job that is too old for the list; None if Kumo no longer has it."""
        try:
            return self.client.get_prediction_job(job_id)
        except KumoNotFoundError:
            self.warn(f"Kumo no longer has prediction job {job_id}.")
            return None

    def _is_given_up(self, job: BatchPredictionJobResource) -> bool:
        if datetime.now(timezone.utc) - _created(job) < MAX_WAIT:
            return False
        self.warn(
            f"Prediction job {job.job_id} has not ended in {MAX_WAIT.days} days. The sensor no longer "
            "watches it."
        )
        return True

    def _listed(self) -> list[BatchPredictionJobResource]:
        """The jobs since the cursor and some earlier ones, oldest first."""
        limit, before = LIST_LIMIT, -1
        while True:
            jobs = self.client.list_prediction_jobs(limit=limit)
            jobs.sort(key=lambda job: (_created(job), job.job_id))
            if len(jobs) == 0 or _created(jobs[0]) <= self.cursor.after:
                return jobs
            # As many as with a lower limit: the server lists no more.
            is_cut_off = len(jobs) == before
            if len(jobs) < limit and not is_cut_off:
                return jobs
            if is_cut_off or limit >= MAX_LISTED:
                self.warn(
                    f"Kumo lists only {len(jobs)} jobs, the oldest from {_created(jobs[0]):%Y-%m-%d %H:%M %Z}. "
                    "The sensor does not find older jobs."
                )
                return jobs
            limit, before = limit * 4, len(jobs)

    def _moved(
        self,
        listed: Sequence[BatchPredictionJobResource],
        visited: set[str],
        waiting: Sequence[str],
    ) -> Cursor:
        known = visited.union(self.cursor.seen, waiting)
        later = [job for job in listed if _created(job) > self.cursor.after]
        worked_through = list(takewhile(lambda job: job.job_id in known, later))
        after = max([self.cursor.after, *(_created(job) - OVERLAP for job in worked_through)])
        if len(worked_through) > MAX_SEEN:
            after = max(after, _created(worked_through[-MAX_SEEN - 1]))
        seen = [job.job_id for job in later if job.job_id in known and _created(job) > after]
        return Cursor(after, seen[-MAX_SEEN:], waiting)


def _created(job: BatchPredictionJobResource) -> datetime:
    return job.created_at or job.job_status_report.start_time or _BEFORE_ALL
