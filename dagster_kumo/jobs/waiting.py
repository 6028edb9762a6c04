"""Wait until a job has ended."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Set
from typing import TypeVar

from dagster_kumo.api.errors import KumoError, KumoTimeoutError
from dagster_kumo.api.records import (
    LIVE_STATUSES,
    RUNNING,
    TERMINAL_STATUSES,
    JobStatusReport,
    Progress,
)

logger = logging.getLogger("dagster_kumo")

P = TypeVar("P", bound=Progress)

POLL_INTERVAL = 120.0
SHORTEST_PAUSE = 0.5
PAUSE_FRACTION = 0.1  # of the time waited: without an estimate, the end is noticed this late
LONGEST_FRACTION = 0.2  # of the time waited: an estimate makes no pause longer than that
JITTER = 0.2  # of a pause, so that jobs launched together are not polled together


class PollSchedule:
    """When to request a job's status, and when its progress.

    All times are seconds since the wait began. Without an estimate, a pause is a fraction of the time
    waited. With one it is half of the remaining time, within bounds, and no longer than that time.

    Examples:
        >>> schedule = PollSchedule(poll_interval=120)
        >>> 10 <= schedule.pause(waited=100) <= 12
        True
        >>> schedule.update(waited=100, remaining=80)
        >>> 20 <= schedule.pause(waited=100) <= 24
        True
    """

    def __init__(self, poll_interval: float) -> None:
        self._poll_interval = poll_interval
        self._progress_due = 0.0
        self._estimated_end = 0.0  # in the past if there is no estimate, or a wrong one

    def progress_is_due(self, waited: float) -> bool:
        """Whether to request the progress now."""
        return waited >= self._progress_due

    def update(self, waited: float, remaining: float | None) -> None:
        """Take over the job's estimate of the remaining time; None if there is none."""
        self._estimated_end = waited + (remaining or 0.0)
        # Each tenth of the job is logged. But an estimate may be wrong either way.
        distance = min(waited, max(waited / 4, self._estimated_end / 10))
        self._progress_due = waited + max(SHORTEST_PAUSE, distance)

    def pause(self, waited: float) -> float:
        """How long to wait before the next request."""
        remaining = self._estimated_end - waited
        pause = max(waited * PAUSE_FRACTION, min(remaining / 2, waited * LONGEST_FRACTION))
        if remaining > 0:
            pause = min(pause, remaining)
        jitter = random.uniform(1, 1 + JITTER)
        return min(self._poll_interval, max(SHORTEST_PAUSE, pause) * jitter)


def wait_for_end(
    get_report: Callable[[], JobStatusReport],
    *,
    job: str,
    poll_interval: float = POLL_INTERVAL,
    timeout: float | None = None,
    on_status: Callable[[JobStatusReport], None] | None = None,
    get_progress: Callable[[], P] | None = None,
    on_progress: Callable[[P], None] | None = None,
    ends: Set[str] = TERMINAL_STATUSES,
) -> JobStatusReport:
    """Poll a job until it has ended, at growing intervals of at most `poll_interval` seconds.

    An unknown status, perhaps of a newer server, counts as not ended and is warned of. Progress is
    optional: a request for it may fail.

    Raises:
        KumoTimeoutError: `timeout` seconds are over. The job goes on.
    """
    started = time.monotonic()
    schedule = PollSchedule(poll_interval)
    warned: set[str] = set()
    while True:
        report = get_report()
        is_due = schedule.progress_is_due(time.monotonic() - started)
        if get_progress and report.status == RUNNING and is_due:
            progress = _unless_it_fails(get_progress, job)
            schedule.update(time.monotonic() - started, progress.remaining if progress else None)
            if progress and on_progress:
                on_progress(progress)
        if on_status:
            on_status(report)
        if report.status in ends:
            return report
        if report.status not in LIVE_STATUSES | warned:
            warned.add(report.status)
            logger.warning(
                "%s has the status %s, which this version of dagster-kumo does not know. Waiting on.",
                job,
                report.status,
            )
        waited = time.monotonic() - started
        pause = schedule.pause(waited)
        if timeout is not None and waited + pause > timeout:
            pause = timeout - waited
            if pause <= 0:
                raise KumoTimeoutError(
                    f"{job} is still {report.status} after {timeout:g} s. It has not been cancelled: "
                    "a retry attaches to it. poll_timeout sets how long to wait."
                )
        time.sleep(pause)


def _unless_it_fails(get_progress: Callable[[], P], job: str) -> P | None:
    try:
        return get_progress()
    except KumoError as error:  # progress is optional
        logger.debug("The progress of %s is not known: %s", job, error)
        return None
