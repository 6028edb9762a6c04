"""One launch, one job: attach to the job of an earlier attempt instead of paying for it again.

What identifies a launch (see `identity`) is a tag on the Kumo job. Before anything is launched, and again
whenever the answer to a launch was lost, the job is looked for (see `evidence`). After launching, the jobs
are listed again: if two processes launched at the same time, the older job stays, and the other process
cancels its own.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import cached_property
from typing import Any, TypeAlias

import dagster as dg

from dagster_kumo.api.client import LIST_LIMIT, KumoClient
from dagster_kumo.api.errors import KumoError, ValidationIssue
from dagster_kumo.api.records import (
    BatchPredictionJobResource,
    PredictionTableJobResource,
    TrainingJobResource,
)
from dagster_kumo.execution.expected_end import EXPECTED_END_TAG
from dagster_kumo.execution.launch.attempt import Attempt
from dagster_kumo.execution.launch.deliveries import (
    Beginning,
    beginning_of_launch,
    materialized_job_ids,
    newest_metadata,
)
from dagster_kumo.execution.launch.evidence import Evidence, FoundJob
from dagster_kumo.execution.metadata import DURATION_METADATA, JOB_ID_METADATA
from dagster_kumo.jobs.export import ArtifactExportJob
from dagster_kumo.jobs.prediction_spec import MAX_TAG_VALUE
from dagster_kumo.jobs.prediction_table import PredictionTableJob
from dagster_kumo.jobs.progressing_job import ProgressingJob
from dagster_kumo.jobs.tags import (
    ASSET_TAG,
    CODE_LOCATION_TAG,
    LAUNCH_KEY_TAG,
    PARTITION_TAG,
    RUN_ID_TAG,
)

# Seconds that a terminated run waits for the answer to a launch. Processes usually get half a minute to end.
ANSWER_SECONDS = 15.0

Find = Callable[[], str | None]
ListedJob: TypeAlias = ProgressingJob[Any, Any] | PredictionTableJob


class Launch(ABC):
    """The one job of one launch, whichever attempt launched it.

    It does not attach to a job that FAILED, was CANCELLED, or was delivered (its assets have been
    materialized from it). So materializing again on purpose launches again.

    Args:
        attempt: The attempt of the step.
        partition_key: The partition that the job is for.
        request: The request to Kumo as JSON, without tags.
        assets: The assets that the job is noted at.
        delivered_in: For each asset that is made from the job, the metadata entry that names the
            job.
        wider_request: A request whose job can be used as well, if there is one.
    """

    kind: str
    """The name of this kind of job in messages."""
    run_tag = ""
    """The tag of the run that names the newest job of the kind, if one does."""
    entry = JOB_ID_METADATA
    """The entry of a note that names the job."""
    is_listed = True
    """Whether Kumo lists the jobs of this kind."""

    def __init__(
        self,
        attempt: Attempt,
        partition_key: str | None,
        request: Mapping[str, Any],
        *,
        assets: Sequence[dg.AssetKey],
        delivered_in: Mapping[dg.AssetKey, str],
        wider_request: Mapping[str, Any] | None = None,
    ) -> None:
        self._attempt = attempt
        self._partition_key = partition_key
        self._assets = assets
        self._delivered_in = delivered_in
        self._key = attempt.launch_key(request, partition_key)
        self._keys = [self._key]
        if wider_request is not None and not attempt.is_first:
            self._keys.append(attempt.launch_key(wider_request, partition_key))
        self._evidence = Evidence(
            attempt,
            tagged=self._tagged,
            noted=self._known_ids,
            held=self._noted_while_held,
            get=self._get,
            is_delivered=self._is_delivered,
            is_listed=self.is_listed,
        )
        self._lock = threading.Lock()
        self._stopped = False
        self._answer: Future[str] | None = None
        self._launched_id: str | None = None
        self._job_id: str | None = None
        self.attached = False
        """Whether an earlier attempt launched the job."""
        self.page = ""
        """The job's page in Kumo, once it is known."""
        self.warnings: Sequence[ValidationIssue] = ()
        """The server's warnings about the request."""

    def run(self) -> str:
        """Attach or launch, note the job on the run, and return its id.

        Raises:
            KumoValidationError: The server refused the request.
            KumoConnectionError: There was no answer, and the request has made no job.
        """
        job_id = self._find() or self._resolve_duplicate(self._launch_on_thread())
        self._job_id = job_id
        self.attached = job_id != self._launched_id
        if self.attached:
            if job_id not in self._noted():
                self._note(job_id)
            self._show_on_run(job_id)
        return job_id

    def keep_note(self, *, at_the_end: bool = False) -> None:
        """Make sure that the tags of the run still name the job. Called now and then, and at the end."""
        self._attempt.notes.keep_on_run(at_the_end=at_the_end)

    def show_expected_end(self, text: str) -> None:
        """Let a tag of the run say when the job is expected to end."""
        self._attempt.notes.show_on_run(EXPECTED_END_TAG, text)

    def usual_seconds(self) -> float | None:
        """How many seconds it took the last time that the asset was made; None if that is not known."""
        made = newest_metadata(self._attempt.instance, self._assets[0], None) or {}
        seconds = made.get(DURATION_METADATA)
        return seconds if isinstance(seconds, float) else None

    def stop(self) -> None:
        """Send nothing more, and wait a little for a pending answer."""
        with self._lock:
            self._stopped = True
        if self._answer is not None:
            wait([self._answer], ANSWER_SECONDS)

    def cancel(self) -> str:
        """Cancel the job, even if the launch was interrupted before its id was known.

        Returns:
            What became of the job, in a sentence.
        """
        self.stop()
        answer = self._answer
        if answer is not None and not answer.done():
            raise KumoError("the answer to its launch has not arrived")
        answered = answer.result() if answer is not None and not answer.exception() else None
        job_id = self._job_id or answered or self._evidence.look()
        if job_id is None:
            return f"No {self.kind} had been launched."
        page = f": {self.page}" if self.page else ""
        if self.job(job_id).cancel() is False:
            status = self._get(job_id).status
            return f"{self.kind.capitalize()} {job_id} was not cancelled, it is {status}{page}"
        return f"Cancelled {self.kind} {job_id}{page}"

    def _launch_on_thread(self) -> str:
        """Launch on a separate thread, so that an interrupt does not lose the answer. The answer
        names the job to cancel, or to attach to in the next attempt."""
        with self._lock:
            self._raise_if_stopped()
            self._answer = answer = Future[str]()

        def launch() -> None:
            try:
                job_id = self._create()
                self._note(job_id)
                self._show_on_run(job_id)
                answer.set_result(job_id)
            except BaseException as error:  # noqa: BLE001 - raised where the answer is waited for
                answer.set_exception(error)

        threading.Thread(target=launch, name="kumo-launch", daemon=True).start()
        self._launched_id = answer.result()
        return self._launched_id

    def _raise_if_stopped(self) -> None:
        if self._stopped:
            raise KumoError(f"The run ended before the {self.kind} was launched.")

    def _resolve_duplicate(self, job_id: str) -> str:
        """The job to keep, if another process launched at the same time."""
        return job_id

    def _is_delivered(self, job_id: str) -> bool:
        return all(
            job_id
            in materialized_job_ids(
                self._attempt.instance,
                key,
                self._partition_key,
                entry=entry,
                before=self._beginning,
            )
            for key, entry in self._delivered_in.items()
        )

    @cached_property
    def _beginning(self) -> Beginning:
        attempt = self._attempt
        return beginning_of_launch(attempt.instance, attempt.run.run_id, attempt.step_key)

    def _find(self) -> str | None:
        """The job that an attempt of this launch has launched, if it can be attached to."""
        return self._evidence.find(self.kind, self._raise_if_stopped)

    def _noted(self) -> list[str]:
        """What attempts of this launch have noted in Dagster, newest first."""
        notes = self._attempt.notes
        return notes.of_launch(self._keys, self._assets, self._partition_key, self.entry)

    def _known_ids(self) -> list[str]:
        """The jobs that attempts of this launch have noted, newest first."""
        return self._noted()

    @cached_property
    def _held_ids(self) -> list[str]:
        notes, run_id = self._attempt.notes, self._attempt.run.run_id
        return notes.of_launch(
            self._keys, self._assets, self._partition_key, self.entry, run_id=run_id
        )

    def _noted_while_held(self) -> list[str]:
        """The jobs that were launched for this attempt while its run was held."""
        return self._held_ids if self._attempt.was_held else []

    def _note(self, job_id: str) -> None:
        self._add_note(job_id, f"{self.kind.capitalize()} {job_id}")

    def _show_on_run(self, job_id: str) -> None:
        if self.run_tag:
            self._attempt.notes.show_on_run(self.run_tag, job_id)

    def _add_note(self, value: str, description: str) -> None:
        self._attempt.notes.add(
            self._key,
            self._assets,
            self._partition_key,
            self.entry,
            value,
            description=description,
        )

    @abstractmethod
    def _tagged(self) -> list[FoundJob]:
        """The jobs whose own tags say that an attempt of this launch has launched them, oldest first."""

    @abstractmethod
    def _get(self, job_id: str) -> FoundJob:
        """A job as Kumo shows it by its id."""

    @abstractmethod
    def _create(self) -> str: ...

    @abstractmethod
    def job(self, job_id: str) -> ListedJob | ArtifactExportJob:
        """The job, to be waited for or cancelled."""


class TaggedLaunch(Launch):
    """The launch of a job that carries its launch key as a tag."""

    _client: KumoClient

    def _tagged(self) -> list[FoundJob]:
        # The tags are looked at again: a server may ignore a filter that it does not know.
        return [
            FoundJob(job.job_id, job.job_status_report.status)
            for key in self._keys
            for job in reversed(self.listed(self._client, {LAUNCH_KEY_TAG: key}))
            if job.tags.get(LAUNCH_KEY_TAG) == key
        ]

    def _get(self, job_id: str) -> FoundJob:
        job = self.job(job_id).get()
        return FoundJob(job.job_id, job.job_status_report.status)

    def _create(self) -> str:
        tags = {**self._own_tags(), LAUNCH_KEY_TAG: self._key}
        return self._create_tagged(tags, self._find_unless_stopped)

    def _find_unless_stopped(self) -> str | None:
        """The job to attach to. If there is none and the run has ended, the request is not repeated."""
        found = self._evidence.look()
        if found is None:
            self._raise_if_stopped()
        return found

    def _resolve_duplicate(self, job_id: str) -> str:
        jobs = self._evidence.usable(self._tagged(), launched=job_id)
        if job_id not in jobs or jobs[0] == job_id:
            return job_id
        self._attempt.log.warning(
            f"Another attempt launched {self.kind} {jobs[0]} at the same moment: attaching to it, and "
            f"cancelling {job_id}."
        )
        self.job(job_id).cancel()
        return jobs[0]

    def _own_tags(self) -> dict[str, str]:
        run = self._attempt.run
        tags = {
            RUN_ID_TAG: run.run_id,
            ASSET_TAG: self._assets[0].to_user_string(),
        }
        if self._partition_key is not None:
            tags[PARTITION_TAG] = self._partition_key
        origin = run.remote_job_origin
        if origin is not None:
            tags[CODE_LOCATION_TAG] = origin.repository_origin.code_location_origin.location_name
        return {key: value[:MAX_TAG_VALUE] for key, value in tags.items()}

    @abstractmethod
    def _create_tagged(self, tags: Mapping[str, str], find: Find) -> str: ...

    def job(self, job_id: str) -> ListedJob:
        """The job, to be waited for or cancelled."""
        return self.handle(job_id, self._client)

    @staticmethod
    @abstractmethod
    def handle(job_id: str, client: KumoClient) -> ListedJob:
        """A job of this kind."""

    @staticmethod
    @abstractmethod
    def listed(
        client: KumoClient, tags: Mapping[str, str], *, limit: int = LIST_LIMIT
    ) -> Sequence[BatchPredictionJobResource | PredictionTableJobResource | TrainingJobResource]:
        """The jobs of this kind with `tags`, newest first."""
