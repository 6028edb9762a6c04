"""Which prediction jobs there is news of since the last look: a search that goes on where it stopped.

Kumo lists jobs newest first by their creation, and they end in any order. So the cursor keeps how far
the list has been worked through, oldest first, and which jobs from before had not ended by then.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import takewhile
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dagster_kumo.api.client import LIST_LIMIT, KumoClient
from dagster_kumo.api.errors import KumoAPIError, KumoError
from dagster_kumo.api.records import BatchPredictionJobResource, UTCDatetime

MOST_LISTED = 16 * LIST_LIMIT
# A job may come into the list a little after a newer one: those of so long are looked for again.
OVERLAP = timedelta(minutes=10)
# What bounds the cursor. Where more are waiting, newer jobs are looked at when some of them have ended.
MOST_WAITING = 200
MOST_SEEN = 500
# A job that has not ended by then never will.
LONGEST_WAIT = timedelta(days=30)

_BEFORE_ALL = datetime.min.replace(tzinfo=timezone.utc)

Look = Callable[[BatchPredictionJobResource], bool]
"""Looks at a job that is new, or that had not ended: whether it is done with."""


@dataclass(frozen=True)
class Cursor:
    """How far the search has come; a few kilobytes as text, whatever happens in Kumo."""

    after: datetime
    """Jobs created until then have been looked at."""
    seen: Sequence[str] = ()
    """Those created later that have been looked at as well."""
    waiting: Sequence[str] = ()
    """Those looked at that had not ended, or could not be read; the longest untouched come first."""

    @classmethod
    def from_text(cls, text: str) -> Cursor:
        """Read what `to_text` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            value = TypeAdapter(dict[str, Any]).validate_json(text)
            return cls(
                TypeAdapter(UTCDatetime).validate_python(value["after"]),
                TypeAdapter(list[str]).validate_python(value["seen"]),
                TypeAdapter(list[str]).validate_python(value["waiting"]),
            )
        except (ValidationError, KeyError):
            raise ValueError("this is no cursor of a search for jobs") from None

    def to_text(self) -> str:
        """The cursor as text."""
        return json.dumps({**asdict(self), "after": self.after.isoformat()})


class TickOver(Exception):
    """The calls or the time of a tick are used up; the next one goes on."""


class Limit:
    """Counts the calls of a tick; called before each.

    Raises:
        TickOver: there are to be no more.
    """

    def __init__(self, calls: int, seconds: float) -> None:
        self._left = calls
        self._until = time.monotonic() + seconds

    def __call__(self) -> None:
        if self._left <= 0 or time.monotonic() > self._until:
            raise TickOver
        self._left -= 1


@dataclass
class JobSearch:
    """One look at the jobs of a deployment.

    Args:
        client: the connection.
        cursor: where the last look stopped.
        warn: told of jobs that will not be looked at.
    """

    client: KumoClient
    cursor: Cursor
    warn: Callable[[str], None]
    error: KumoError | None = field(default=None, init=False)
    """Why the look ended early; the job that it came of is looked at again the next time."""
    ended_early: bool = field(default=False, init=False)
    """Whether there was more to look at."""

    def run(self, look: Look) -> Cursor:
        """Look at each job that is new, oldest first, and then at those that had not ended.

        Raises:
            KumoError: the list of jobs could not be read; nothing has been looked at.
        """
        listed = self._listed()
        new = [
            job
            for job in listed
            if _created(job) > self.cursor.after
            and job.job_id not in self.cursor.seen
            and job.job_id not in self.cursor.waiting
        ]
        waiting = list(self.cursor.waiting)
        looked_at = set[str]()
        try:
            for job in new:
                if len(waiting) >= MOST_WAITING:
                    self.ended_early = True
                    break
                if not self._done_with(job.job_id, job, look):
                    waiting.append(job.job_id)
                looked_at.add(job.job_id)
            by_id = {job.job_id: job for job in listed}
            for job_id in self.cursor.waiting:
                done_with = self._done_with(job_id, by_id.get(job_id), look)
                waiting.remove(job_id)
                if not done_with:
                    waiting.append(job_id)  # the others come first the next time
        except TickOver:
            self.ended_early = True
        return self._moved(listed, looked_at, waiting)

    def _done_with(self, job_id: str, job: BatchPredictionJobResource | None, look: Look) -> bool:
        """Look at a job, which is asked for unless it is in the list.

        Raises:
            TickOver: Kumo is not to be asked any more.
        """
        if self.error is not None:
            raise TickOver
        try:
            job = job or self._get(job_id)
            return job is None or look(job) or self._is_given_up(job)
        except KumoError as error:
            self.error = error
            return False

    def _get(self, job_id: str) -> BatchPredictionJobResource | None:
        """A job that is too old for the list; None when Kumo does not have it any more."""
        try:
            return self.client.get_prediction_job(job_id)
        except KumoAPIError as error:
            if error.status_code != 404:
                raise
            self.warn(f"Kumo does not have prediction job {job_id} any more.")
            return None

    def _is_given_up(self, job: BatchPredictionJobResource) -> bool:
        if datetime.now(timezone.utc) - _created(job) < LONGEST_WAIT:
            return False
        self.warn(
            f"Prediction job {job.job_id} has not ended in {LONGEST_WAIT.days} days, and is not looked "
            "at any more."
        )
        return True

    def _listed(self) -> list[BatchPredictionJobResource]:
        """The jobs since the cursor, and some before, oldest first."""
        limit, before = LIST_LIMIT, -1
        while True:
            jobs = self.client.list_prediction_jobs(limit=limit)
            jobs.sort(key=lambda job: (_created(job), job.job_id))
            if len(jobs) == 0 or _created(jobs[0]) <= self.cursor.after:
                return jobs
            # As many as when fewer were asked for: that is all that this server lists.
            is_cut_off = len(jobs) == before
            if len(jobs) < limit and not is_cut_off:
                return jobs
            if is_cut_off or limit >= MOST_LISTED:
                self.warn(
                    f"Kumo lists {len(jobs)} jobs, the oldest of {_created(jobs[0]):%Y-%m-%d %H:%M %Z}. "
                    "If there are older ones that are new, they are not looked at."
                )
                return jobs
            limit, before = limit * 4, len(jobs)

    def _moved(
        self,
        listed: Sequence[BatchPredictionJobResource],
        looked_at: set[str],
        waiting: Sequence[str],
    ) -> Cursor:
        known = looked_at.union(self.cursor.seen, waiting)
        later = [job for job in listed if _created(job) > self.cursor.after]
        worked_through = list(takewhile(lambda job: job.job_id in known, later))
        after = max([self.cursor.after, *(_created(job) - OVERLAP for job in worked_through)])
        if len(worked_through) > MOST_SEEN:
            after = max(after, _created(worked_through[-MOST_SEEN - 1]))
        seen = [job.job_id for job in later if job.job_id in known and _created(job) > after]
        return Cursor(after, seen[-MOST_SEEN:], waiting)


def _created(job: BatchPredictionJobResource) -> datetime:
    return job.created_at or job.job_status_report.start_time or _BEFORE_ALL
