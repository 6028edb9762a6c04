"""One launch, one export: attach to the export of an earlier attempt instead of writing rows twice.

Kumo's API has neither tags nor a list for exports. So an export's id is written to the tags of the
prediction job whose output it writes, and noted in Dagster, the moment it is known. An attempt may end
before that.

- SDK 3.0: the request carries an id that every attempt makes in the same way. The next attempt sends it
  again, and the server knows it.
- SDK 2.x: an export that appends is announced in both places before it is sent. The attempt leaves that
  mark, and the next one asks a person instead of appending again.
"""

from __future__ import annotations

import uuid
from contextlib import suppress

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoAPIError, KumoConnectionError, KumoError
from dagster_kumo.execution.launch.attempt import Attempt
from dagster_kumo.execution.launch.base import Launch
from dagster_kumo.execution.metadata import EXPORT_JOB_ID_METADATA
from dagster_kumo.jobs.export import ArtifactExportJob
from dagster_kumo.jobs.export_target import ExportTarget

EXPORT_TAG = "dagster.export"
ANNOUNCED = "announced"
REFUSED = "refused"


class ExportLaunch(Launch):
    """The launch of an export job, which writes an output of the prediction job `job_id`."""

    kind = "export job"
    entry = EXPORT_JOB_ID_METADATA
    is_listed = False

    def __init__(
        self,
        client: KumoClient,
        attempt: Attempt,
        asset_key: dg.AssetKey,
        partition_key: str | None,
        *,
        job_id: str,
        target: ExportTarget,
        full_name: str,
    ) -> None:
        self._output = target.request()
        super().__init__(
            attempt,
            partition_key,
            {"job_id": job_id, **self._output},
            assets=[asset_key],
            delivered_in={asset_key: EXPORT_JOB_ID_METADATA},
        )
        self._client = client
        self._job_id_exported = job_id
        self._full_name = full_name
        self._tag = f"{EXPORT_TAG}.{self._key}"
        # Rows that are replaced may be written twice; rows that are appended, never.
        self._appends = target.appends
        self._earlier = 0
        """How many exports of this launch there were that cannot be attached to."""

    def _find(self) -> str | None:
        found = super()._find()
        if found is None and self._appends:
            if ANNOUNCED in (self._tag_of_job(), *self._noted()[:1]):
                raise self._unknown(
                    "An earlier attempt began the export and ended before its id arrived."
                )
            if self._missing:
                raise self._unknown(
                    f"An earlier attempt began export job {self._missing[0]}, which is gone."
                )
        if found is None:
            self._earlier = len(self._known_ids())
        return found

    def _tagged(self) -> dict[str, str]:
        return {}

    def _known_ids(self) -> list[str]:
        noted = [self._tag_of_job(), *self._noted()]
        return [id for id in dict.fromkeys(noted) if id not in (None, ANNOUNCED, REFUSED)]

    def _status(self, job_id: str) -> str:
        return self._client.get_export_status(job_id)

    def _tag_of_job(self) -> str | None:
        return self._client.get_prediction_job(self._job_id_exported).tags.get(self._tag)

    def _request_id(self) -> str:
        """The id of the request, the same for every attempt.

        After an export that ended badly, or was delivered before, it is another one: the server would
        answer with that export again.
        """
        name = f"dagster-kumo/export/{self._key}/{self._earlier}"
        return str(uuid.uuid5(uuid.NAMESPACE_URL, name))

    def _create(self) -> str:
        is_repeatable = self._client.generation.knows_repeated_exports
        announces = self._appends and not is_repeatable
        if announces:
            self._add_note(ANNOUNCED, f"Export to {self._full_name} is about to be launched")
            self._tag_job(ANNOUNCED)
        try:
            return self._client.create_export(
                self._job_id_exported,
                self._output,
                request_id=self._request_id(),
                before_repeat=self._raise_if_stopped,
            )
        except KumoError as error:
            if isinstance(error, KumoAPIError):  # a proxy may have answered
                is_lost = error.status_code == 408 or error.status_code >= 500
            else:
                is_lost = isinstance(error, KumoConnectionError)
            if is_lost and is_repeatable:
                raise KumoConnectionError(
                    f"{error}\nWhether the export was started is not known. Run it again: the request "
                    "is sent with the same id, by which Kumo knows an export that it has already."
                ) from error
            if is_lost:
                raise self._unknown(str(error)) from error
            if announces:
                self._add_note(REFUSED, f"Export to {self._full_name} was refused")
                with suppress(KumoError):  # the server's error is what matters
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
            f"{said} Check whether the rows are in {self._full_name} before you materialize again, "
            "because they would be appended twice.",
            allow_retries=False,
        )

    def _note(self, job_id: str) -> None:
        super()._note(job_id)
        try:
            self._tag_job(job_id)
        except KumoError as error:  # Dagster has it too
            self._attempt.log.warning(f"Export job {job_id} is not noted in Kumo: {error}")

    def _tag_job(self, value: str | None) -> None:
        self._client.update_prediction_job_tags(self._job_id_exported, {self._tag: value})

    def job(self, job_id: str) -> ArtifactExportJob:
        """The export job."""
        return ArtifactExportJob(job_id, self._client)
