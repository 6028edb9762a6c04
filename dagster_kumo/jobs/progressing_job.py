"""What jobs and results have in common: their id and errors, and of jobs that report progress, how to wait."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoJobFailedError
from dagster_kumo.api.records import CANCELLED, DONE, JobResource, JobStatusReport, Progress
from dagster_kumo.jobs.waiting import POLL_INTERVAL, wait_for_end

P = TypeVar("P", bound=Progress)
R = TypeVar("R")


class Handle:
    """A job, or its result, by the job's id."""

    _kind: str
    """The name of this kind of job in messages."""

    def __init__(self, job_id: str, client: KumoClient) -> None:
        self.id = job_id
        self._client = client

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    @property
    def _called(self) -> str:
        """What messages call the job."""
        return f"{self._kind.capitalize()} {self.id}"

    def _check_done(self, report: JobStatusReport, detail: str = "") -> None:
        """Raise a `KumoJobFailedError` if the job has not ended well. Its report has the reason, if not `detail`."""
        if report.status == DONE:
            return
        detail = detail or report.reason
        if report.status == CANCELLED:
            message = f"{self._called} was cancelled in Kumo, so it has no output."
            way_out = "Run it again to launch a new job."
        else:
            reason = detail or "the server gave no reason"
            message = f"{self._called} {report.status}: {reason}"
            way_out = "Fix the cause and run it again: a new job is launched."
        url = self._client.public_url(report.tracking_url)
        message += f"\n{way_out}" + (f" Page of the job: {url}" if url else "")
        raise KumoJobFailedError(
            message, job_id=self.id, status=report.status, detail=detail, tracking_url=url
        )


class ProgressingJob(Handle, ABC, Generic[P, R]):
    """A job, running or ended."""

    @abstractmethod
    def get(self) -> JobResource: ...

    @abstractmethod
    def progress(self, *, repeat: bool = True) -> P: ...

    @abstractmethod
    def cancel(self) -> bool: ...

    @abstractmethod
    def _result(self) -> R: ...

    def status(self) -> JobStatusReport:
        """The status of the job."""
        return self.get().job_status_report

    @property
    def tracking_url(self) -> str:
        """The job's page in Kumo."""
        return self._client.public_url(self.status().tracking_url)

    def wait(
        self,
        *,
        poll_interval: float = POLL_INTERVAL,
        timeout: float | None = None,
        on_status: Callable[[JobStatusReport], None] | None = None,
        on_progress: Callable[[P], None] | None = None,
    ) -> JobStatusReport:
        """Wait until the job has ended, successfully or not.

        Args:
            poll_interval: The longest time between two status requests, in seconds. Requests are
                frequent at first, and less frequent later.
            timeout: How long to wait, in seconds. None waits without a limit.
            on_status: Called with each status report.
            on_progress: Called with each progress report; there are fewer of them.

        Raises:
            KumoTimeoutError: The time is over; the job goes on.
        """
        return wait_for_end(
            self.status,
            job=self._called,
            poll_interval=poll_interval,
            timeout=timeout,
            on_status=on_status,
            # Without retries, which would delay the status requests.
            get_progress=lambda: self.progress(repeat=False),
            on_progress=on_progress,
        )

    def result(
        self,
        *,
        poll_interval: float = POLL_INTERVAL,
        timeout: float | None = None,
        on_status: Callable[[JobStatusReport], None] | None = None,
        on_progress: Callable[[P], None] | None = None,
    ) -> R:
        """Wait for the job and return its result; the arguments are those of `wait`.

        Raises:
            KumoJobFailedError: The job ended FAILED or CANCELLED.
            KumoTimeoutError: The time is over; the job goes on.
        """
        report = self.wait(
            poll_interval=poll_interval,
            timeout=timeout,
            on_status=on_status,
            on_progress=on_progress,
        )
        self._check_done(report)
        return self._result()
