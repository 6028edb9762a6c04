"""One launch, one export: attach to the export of an earlier attempt instead of writing rows twice.

Kumo's API has neither tags nor a list for exports. So an export's id is written to the tags of the
prediction job whose output it writes, and to the run's own, the moment it is known. An export that
appends is announced there before it is sent: an attempt that ends in between leaves a mark, and the
next one asks a person instead of appending again.
"""

from __future__ import annotations

import re
from contextlib import suppress

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoAPIError, KumoConnectionError, KumoError
from dagster_kumo.api.records import CANCELLED, FAILED
from dagster_kumo.execution.launch.base import Launch
from dagster_kumo.execution.launch.identity import run_tag, runs_of_launch
from dagster_kumo.execution.metadata import EXPORT_JOB_ID_METADATA
from dagster_kumo.jobs.export import ArtifactExportJob
from dagster_kumo.jobs.export_target import ExportTarget

EXPORT_TAG = "dagster.export"
ANNOUNCED = "announced"


class ExportLaunch(Launch):
    """The launch of an export job.

    Args:
        client: the connection.
        context: the context of the export asset.
        partition_key: the partition; None for an asset without partitions.
        job_id: the prediction job whose output is exported.
        target: what is exported, and where to.
        full_name: the target's name as a person writes it.
    """

    kind = "export job"
    run_tag = "dagster-kumo/export_job"

    def __init__(
        self,
        client: KumoClient,
        context: dg.AssetExecutionContext,
        partition_key: str | None,
        *,
        job_id: str,
        target: ExportTarget,
        full_name: str,
    ) -> None:
        self._output = target.request()
        super().__init__(
            context,
            partition_key,
            {"job_id": job_id, **self._output},
            delivered_in={context.asset_key: EXPORT_JOB_ID_METADATA},
        )
        self._client = client
        self._job_id_exported = job_id
        self._full_name = full_name
        self._tag = f"{EXPORT_TAG}.{self._key}"
        # Rows that are replaced may be written twice; rows that are appended, never.
        self._appends = target.appends

    def _find(self) -> str | None:
        on_job = self._client.get_prediction_job(self._job_id_exported).tags.get(self._tag)
        for export_id in dict.fromkeys([on_job, *self._noted_on_runs()]):
            if export_id in (None, ANNOUNCED):
                continue
            status = self._client.get_export_status(export_id)
            if status not in (FAILED, CANCELLED) and not self._is_delivered(export_id):
                return export_id
        if on_job == ANNOUNCED:
            raise self._unknown("An earlier attempt began the export and ended before its id came.")
        return None

    def _noted_on_runs(self) -> list[str]:
        """The exports that the attempts of this launch have noted on their runs."""
        tag = run_tag(self.run_tag, self._context, self._partition_key)
        values = [run.tags.get(tag, "") for run in runs_of_launch(self._context)]
        noted = [re.fullmatch(r"(\S+) \(launch (\w+)\)", value) for value in values]
        return [match[1] for match in noted if match and match[2] == self._key[:12]]

    def _create(self) -> str:
        if self._appends:
            self._tag_job(ANNOUNCED)
        try:
            return self._client.create_export(self._job_id_exported, self._output)
        except KumoConnectionError as error:
            raise self._unknown(str(error)) from error
        except KumoAPIError as error:
            if error.status_code == 408 or error.status_code >= 500:  # a proxy may have answered
                raise self._unknown(str(error)) from error
            if self._appends:
                with suppress(KumoError):  # what the server said is the news
                    self._tag_job(None)
            raise

    def _unknown(self, reason: str) -> Exception:
        """The error for an export that may have been started."""
        said = f"{reason}\nWhether the export was started is not known: Kumo keeps no list of them."
        if not self._appends:
            return KumoConnectionError(
                f"{said} Materialize again: what is written replaces what is there."
            )
        return dg.Failure(
            f"{said} Look whether the rows are in {self._full_name} before you materialize again, "
            "for they would be appended twice.",
            allow_retries=False,
        )

    def _note(self, job_id: str) -> None:
        super()._note(f"{job_id} (launch {self._key[:12]})")
        try:
            self._tag_job(job_id)
        except KumoError as error:  # the run has it too
            self._context.log.warning(f"Export job {job_id} is not noted in Kumo: {error}")

    def _tag_job(self, value: str | None) -> None:
        self._client.update_prediction_job_tags(self._job_id_exported, {self._tag: value})

    def job(self, job_id: str) -> ArtifactExportJob:
        """The export job."""
        return ArtifactExportJob(job_id, self._client)
