"""Wait until a job has ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dagster_kumo.api.errors import KumoJobFailedError, KumoTimeoutError
from dagster_kumo.api.records import (
    CANCELLED,
    DONE,
    LIVE_STATUSES,
    TERMINAL_STATUSES,
    JobStatusReport,
)

logger = logging.getLogger("dagster_kumo")

POLL_INTERVAL = 60.0
SHORTEST_WAIT = 0.5
WAIT_FRACTION = (
    0.15  # of the time waited so far: short jobs are noticed soon, long ones asked rarely
)


def wait_for_end(
    look: Callable[[], JobStatusReport],
    *,
    job: str,
    poll_interval: float = POLL_INTERVAL,
    timeout: float | None = None,
    on_look: Callable[[JobStatusReport], None] | None = None,
) -> JobStatusReport:
    """Look at a job until it has ended, at growing distances of at most `poll_interval` seconds.

    A status that is not known, from a newer server perhaps, counts as not ended, with a warning.

    Raises:
        KumoTimeoutError: `timeout` seconds are over. The job goes on.
    """
    started = time.monotonic()
    warned: set[str] = set()
    while True:
        report = look()
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
        pause = min(poll_interval, max(SHORTEST_WAIT, waited * WAIT_FRACTION))
        if timeout is not None and waited + pause > timeout:
            remaining = timeout - waited
            if remaining <= 0:
                raise KumoTimeoutError(
                    f"{job} is still {report.status} after {timeout:g} s. It has not been cancelled: "
                    "a retry attaches to it. poll_timeout sets how long to wait."
                )
            pause = remaining
        time.sleep(pause)


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
    else:
        message = f"{job} {report.status}: {detail or 'the server gave no reason'}"
    if url:
        message += f"\nIts page in Kumo: {url}"
    raise KumoJobFailedError(message, job_id=job_id, status=report.status, detail=detail)
