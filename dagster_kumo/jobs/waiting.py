"""Wait until a job has ended."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from dagster_kumo.api.errors import KumoError, KumoJobFailedError, KumoTimeoutError
from dagster_kumo.api.records import (
    CANCELLED,
    DONE,
    LIVE_STATUSES,
    RUNNING,
    TERMINAL_STATUSES,
    JobProgress,
    JobStatusReport,
)

logger = logging.getLogger("dagster_kumo")

POLL_INTERVAL = 120.0
SHORTEST_PAUSE = 0.5
PAUSE_FRACTION = 0.1  # of the time waited: so late is the end noticed that nothing foretells
LONGEST_FRACTION = 0.2  # of the time waited: no estimate is trusted further than that
JITTER = 0.2  # of a pause, so that jobs which were launched together are not looked at together


class PollSchedule:
    """When to look at a job again, and when to ask how far it is.

    All times are seconds since the wait began. Without an estimate, a pause is a fraction of the time
    waited. With one it is half of what is left, within bounds, and ends when the job is to end.

    Examples:
        >>> pace = PollSchedule(poll_interval=120)
        >>> 10 <= pace.pause(waited=100) <= 12
        True
        >>> pace.hear(waited=100, remaining=80)
        >>> 20 <= pace.pause(waited=100) <= 24
        True
    """

    def __init__(self, poll_interval: float) -> None:
        self._poll_interval = poll_interval
        self._ask_at = 0.0
        self._end = 0.0  # as estimated; before now where there is no estimate, or a wrong one

    def asks(self, waited: float) -> bool:
        """Whether it is time to ask how far the job is."""
        return waited >= self._ask_at

    def hear(self, waited: float, remaining: float | None) -> None:
        """Take in what the job says is left, if it says anything."""
        self._end = waited + (remaining or 0.0)
        # A tenth of the whole, since each tenth is logged; but an estimate may be wrong either way.
        distance = min(waited, max(waited / 4, self._end / 10))
        self._ask_at = waited + max(SHORTEST_PAUSE, distance)

    def pause(self, waited: float) -> float:
        """How long to wait before the next look."""
        remaining = self._end - waited
        pause = max(waited * PAUSE_FRACTION, min(remaining / 2, waited * LONGEST_FRACTION))
        if remaining > 0:
            pause = min(pause, remaining)
        jitter = random.uniform(1, 1 + JITTER)
        return min(self._poll_interval, max(SHORTEST_PAUSE, pause) * jitter)


def wait_for_end(
    look: Callable[[], JobStatusReport],
    *,
    job: str,
    poll_interval: float = POLL_INTERVAL,
    timeout: float | None = None,
    on_look: Callable[[JobStatusReport], None] | None = None,
    progress: Callable[[], JobProgress] | None = None,
    on_progress: Callable[[JobProgress], None] | None = None,
) -> JobStatusReport:
    """Poll a job until it has ended, at growing intervals of at most `poll_interval` seconds.

    A status that is not known, from a newer server perhaps, counts as not ended, with a warning.
    `progress` tells how far a running job is; it is asked now and then, and may fail.

    Raises:
        KumoTimeoutError: `timeout` seconds are over. The job goes on.
    """
    started = time.monotonic()
    pace = PollSchedule(poll_interval)
    warned: set[str] = set()
    while True:
        report = look()
        if progress and report.status == RUNNING and pace.asks(time.monotonic() - started):
            heard = _unless_it_fails(progress, job)
            pace.hear(time.monotonic() - started, heard.remaining if heard else None)
            if heard and on_progress:
                on_progress(heard)
        if on_look:
            on_look(report)
        if report.status in TERMINAL_STATUSES:
            return report
        if report.status not in LIVE_STATUSES | warned:
            warned.add(report.status)
            logger.warning(
                "%s has the status %s, which this version of dagster-kumo does not know. Waiting on.",
                job,
                report.status,
            )
        waited = time.monotonic() - started
        pause = pace.pause(waited)
        if timeout is not None and waited + pause > timeout:
            remaining = timeout - waited
            if remaining <= 0:
                raise KumoTimeoutError(
                    f"{job} is still {report.status} after {timeout:g} s. It has not been cancelled: "
                    "a retry attaches to it. poll_timeout sets how long to wait."
                )
            pause = remaining
        time.sleep(pause)


def _unless_it_fails(progress: Callable[[], JobProgress], job: str) -> JobProgress | None:
    try:
        return progress()
    except KumoError as error:  # nice to have: the status is what counts
        logger.debug("The progress of %s is not known: %s", job, error)
        return None


def raise_unless_done(
    report: JobStatusReport, *, job: str, job_id: str, url: str = "", detail: str = ""
) -> None:
    """Raise what a job's bad end means.

    Raises:
        KumoJobFailedError: the job ended FAILED or CANCELLED.
    """
    if report.status == DONE:
        return
    detail = detail or report.reason
    if report.status == CANCELLED:
        message = f"{job} was cancelled in Kumo, so it has no output."
        way_out = "Run it again to launch another job."
    else:
        message = f"{job} {report.status}: {detail or 'the server gave no reason'}"
        way_out = "Run it again once that is mended: another job is launched."
    message += f"\n{way_out}"
    if url:
        message += f" This one's page in Kumo: {url}"
    raise KumoJobFailedError(message, job_id=job_id, status=report.status, detail=detail)
