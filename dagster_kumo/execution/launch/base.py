"""One launch, one job: attach to the job of an earlier attempt instead of paying for it again.

What identifies a launch (see `attempt`) is a tag on the Kumo job. Before anything is launched, and again
whenever the answer to a launch was lost, the job is looked for. After launching, the jobs are listed again: if
two processes launched at the same time, the older job stays, and the other process cancels its own.

This is the evidence for a job that is there already:

1. The tags of the jobs in Kumo: a job that carries the launch key was launched by an attempt of the launch.
2. The notes in Dagster: a job that an attempt noted under the launch key is one too, also when its tags
   were lost or changed. Kumo is asked for it by its id.
3. Time: Kumo may show a job only some seconds after its launch. That nothing is found proves nothing
   before the settling time is over. A first attempt that has noted nothing need not wait: nobody can
   have launched before it.

The launch key stands for the request, so what carries it was asked for the same thing. A job is attached to
unless it FAILED, was CANCELLED, or was delivered before. One that was launched for this very run while it was held
in the queue is attached to however it ended: the run says so.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import dagster as dg

from dagster_kumo.api.client import LIST_LIMIT, KumoClient
from dagster_kumo.api.errors import KumoError, KumoNotFoundError, ValidationIssue
from dagster_kumo.api.records import (
    CANCELLED,
    FAILED,
    MISSING,
    BatchPredictionJobResource,
    PredictionTableJobResource,
    TrainingJobResource,
)
from dagster_kumo.api.retry import looks_until
from dagster_kumo.execution.launch.attempt import Attempt
from dagster_kumo.execution.launch.deliveries import (
    Beginning,
    beginning_of_launch,
    materialized_job_ids,
    newest_metadata,
)
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

    Materializing again on purpose launches again: the job was delivered, since its assets have been
    materialized from it.

    Args:
        attempt: The attempt of the step.
        partition_key: The partition that the job is for.
        request: The request to Kumo as JSON, without tags.
        assets: The assets that the job is noted at.
        delivered_in: For each asset that is made from the job, the metadata entry that names the job.
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
        self.notes = attempt.notes
        self._attempt = attempt
        self._partition_key = partition_key
        self._assets = assets
        self._delivered_in = delivered_in
        self._key = attempt.launch_key(request, partition_key)
        self._keys = [self._key]
        if wider_request is not None and not attempt.is_first:
            self._keys.append(attempt.launch_key(wider_request, partition_key))
        self._missing: list[str] = []
        """The jobs that were noted and that Kumo did not show at the last look."""
        self._may_show_later = False
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
        job_id = self._job_id or answered or self._look()
        if job_id is None:
            return f"No {self.kind} had been launched."
        page = f": {self.page}" if self.page else ""
        if self.job(job_id).cancel() is False:
            status = self._status(job_id)
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

    # Whether a job is there already

    def _find(self) -> str | None:
        """The job to attach to, looked for until the settling time is over if there may be one."""
        is_waiting = False
        for _ in looks_until(self._attempt.settled_at):
            if is_waiting:
                self._raise_if_stopped()
            found = self._look()
            if found is not None or not self._may_show_later:
                return found
            if not is_waiting:
                is_waiting = True
                self._attempt.log.info(
                    f"An earlier attempt may have launched a {self.kind} that Kumo does not show yet: looking "
                    "for it a little longer before another one is launched."
                )
        return None

    def _look(self) -> str | None:
        """The job to attach to, as far as Kumo shows it now."""
        statuses = self._tagged()
        noted = self._known_ids()
        by_id = {job_id: self._shown_status(job_id) for job_id in noted if job_id not in statuses}
        self._missing = [job_id for job_id, status in by_id.items() if status == MISSING]
        is_again = bool(noted) or not self._attempt.is_first
        self._may_show_later = bool(self._missing) or (self.is_listed and is_again)
        return next(iter(self._usable({**statuses, **by_id})), None)

    def _shown_status(self, job_id: str) -> str:
        try:
            return self._status(job_id)
        except KumoNotFoundError:
            return MISSING

    def _usable(self, statuses: Mapping[str, str]) -> list[str]:
        """Those of the jobs that can be attached to."""
        held = self._held_ids
        return [
            job_id
            for job_id, status in statuses.items()
            if status != MISSING
            and (status not in (FAILED, CANCELLED) or job_id in held)
            # No earlier attempt can have delivered what this one has launched.
            and (job_id == self._launched_id or not self._is_delivered(job_id))
        ]

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

    # Notes in Dagster

    def _noted(self, entry: str | None = None, *, run_id: str | None = None) -> list[str]:
        """What attempts of this launch, or those of one run, have noted, newest first."""
        return self.notes.of_launch(
            self._keys, self._assets, self._partition_key, entry or self.entry, run_id=run_id
        )

    def _known_ids(self) -> list[str]:
        """The jobs that attempts of this launch have noted, newest first."""
        return self._noted()

    @cached_property
    def _held_ids(self) -> list[str]:
        """The jobs that were launched for this attempt while its run was held."""
        attempt = self._attempt
        return self._noted(run_id=attempt.run.run_id) if attempt.was_held else []

    def _note(self, job_id: str) -> None:
        self._add_note(job_id, f"{self.kind.capitalize()} {job_id}")

    def _show_on_run(self, job_id: str) -> None:
        if self.run_tag:
            self.notes.show_on_run(self.run_tag, job_id)

    def _add_note(self, value: str, description: str, *, entry: str | None = None) -> None:
        self.notes.add(
            self._key,
            self._assets,
            self._partition_key,
            entry or self.entry,
            value,
            description=description,
        )

    @abstractmethod
    def _tagged(self) -> dict[str, str]:
        """The statuses of the jobs whose own tags say that an attempt of this launch has launched them, oldest first."""

    @abstractmethod
    def _status(self, job_id: str) -> str:
        """The status of a job, asked for by its id."""

    @abstractmethod
    def _create(self) -> str: ...

    @abstractmethod
    def job(self, job_id: str) -> ListedJob | ArtifactExportJob:
        """The job, to be waited for or cancelled."""


class TaggedLaunch(Launch):
    """The launch of a job that carries its launch key as a tag."""

    handle: ClassVar[type[ListedJob]]
    """The class of the job."""
    _client: KumoClient

    def _tagged(self) -> dict[str, str]:
        # The tags are looked at again: a server may ignore a filter that it does not know.
        return {
            job.job_id: job.job_status_report.status
            for key in self._keys
            for job in reversed(self.listed(self._client, {LAUNCH_KEY_TAG: key}))
            if job.tags.get(LAUNCH_KEY_TAG) == key
        }

    def _status(self, job_id: str) -> str:
        return self.job(job_id).status().status

    def _create(self) -> str:
        tags = {**self._own_tags(), LAUNCH_KEY_TAG: self._key}
        return self._create_tagged(tags, self._find_unless_stopped)

    def _find_unless_stopped(self) -> str | None:
        """The job to attach to. If there is none and the run has ended, the request is not repeated."""
        found = self._look()
        if found is None:
            self._raise_if_stopped()
        return found

    def _resolve_duplicate(self, job_id: str) -> str:
        jobs = self._usable(self._tagged())
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
    def listed(
        client: KumoClient, tags: Mapping[str, str], /, *, limit: int = LIST_LIMIT
    ) -> Sequence[BatchPredictionJobResource | PredictionTableJobResource | TrainingJobResource]:
        """The jobs of this kind with `tags`, newest first."""
