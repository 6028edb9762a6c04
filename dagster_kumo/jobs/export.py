"""Exports: Kumo writes an output of a prediction job to a warehouse or a bucket."""

from __future__ import annotations

from collections.abc import Callable

from dagster_kumo.api.errors import KumoJobFailedError
from dagster_kumo.api.records import CANCELLED, MISSING, TERMINAL_STATUSES, JobStatusReport
from dagster_kumo.jobs.progressing_job import Handle
from dagster_kumo.jobs.waiting import POLL_INTERVAL, wait_for_end


class ArtifactExportJob(Handle):
    """A job that writes an output to a connector.

    Examples:
        >>> ArtifactExportJob("export-1", client).result()  # doctest: +SKIP
        'export-1'
    """

    _kind = "export job"

    def status(self) -> str:
        """The status of the job, which is all that Kumo says about an export."""
        return self._client.get_export_status(self.id)

    def cancel(self) -> bool:
        """Cancel the job. True if it is cancelled now."""
        return self._client.cancel_export(self.id) == CANCELLED

    def result(
        self,
        *,
        poll_interval: float = POLL_INTERVAL,
        timeout: float | None = None,
        on_status: Callable[[JobStatusReport], None] | None = None,
    ) -> str:
        """Wait until everything is written, and return the export job's id.

        Raises:
            KumoJobFailedError: The export ended FAILED or CANCELLED, or the service has forgotten it.
            KumoTimeoutError: `timeout` seconds are over; the export goes on.
        """
        report = wait_for_end(
            lambda: JobStatusReport(status=self.status()),
            job=self._called,
            poll_interval=poll_interval,
            timeout=timeout,
            on_status=on_status,
            ends={*TERMINAL_STATUSES, MISSING},
        )
        if report.status == MISSING:
            raise KumoJobFailedError(
                f"{self._called} is MISSING: the service has forgotten it, so whether everything was written is "
                "not known. Look at its target before you export again.",
                job_id=self.id,
                status=MISSING,
            )
        self._check_done(report, _NO_REASON)
        return self.id


# The API answers with a bare status. The usual causes are on the connector's side.
_NO_REASON = (
    "Kumo gives no reason for exports. Check that the connector exists in Kumo, may write there, "
    "and that the table or folder is not held by something else"
)
