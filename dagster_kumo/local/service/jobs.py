"""Jobs: their records, their store, and the threads that run them.

A job goes NOT_STARTED → QUEUED → RUNNING → DONE, or ends FAILED or CANCELLED. Each job runs in its
own thread. Every change is written to the data folder. If a server stops before a job ends, the next
server of the folder runs it again from the start.
"""

from __future__ import annotations

import copy
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from dagster_kumo.local.folder import write_json

Kind = Literal["prediction_jobs", "genpredtable_jobs", "training_jobs", "artifact"]

_ID_PREFIXES: dict[Kind, str] = {
    "prediction_jobs": "bp-job",
    "genpredtable_jobs": "gen-predtable-job",
    "training_jobs": "trainingjob",
    "artifact": "export-job",
}
TERMINAL = frozenset({"DONE", "FAILED", "CANCELLED"})
# How long a launch waits for its job at most.
_AT_ONCE_SECONDS = 1.0
# How long to wait for running jobs when the server stops.
_STOP_SECONDS = 0.5


class JobFailed(Exception):
    """A job cannot continue. It ends FAILED with this title and message."""

    def __init__(self, title: str, message: str) -> None:
        super().__init__(message)
        self.title = title
        self.message = message


class _Cancelled(Exception):
    pass


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(timezone.utc)


def duration(seconds: float) -> str:
    """An ISO 8601 duration."""
    return f"PT{round(seconds, 3):g}S"


def validation(*errors: dict[str, str], warnings: list[dict[str, str]] | None = None) -> Any:
    """Kumo's ValidationResponse."""
    return {"warnings": warnings or [], "errors": list(errors), "info_items": []}


@dataclass
class Job:
    """One job of any kind. `config` is the request that made it, as Kumo echoes it."""

    kind: Kind
    id: str
    created_at: datetime
    config: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict[str, str])
    project_id: str | None = None
    status: str = "NOT_STARTED"
    start_time: datetime | None = None
    end_time: datetime | None = None
    event_log: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    errors: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    result: dict[str, Any] | None = None
    # For the stand-in itself: the API does not show it.
    private: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def has_ended(self) -> bool:
        """Whether the job is DONE, FAILED or CANCELLED."""
        return self.status in TERMINAL

    @property
    def age_seconds(self) -> float:
        """Seconds since its launch."""
        return (now() - self.created_at).total_seconds()

    @property
    def seconds(self) -> float:
        """How long it has run."""
        if self.start_time is None:
            return 0.0
        return ((self.end_time or now()) - self.start_time).total_seconds()

    def log(self, stage: str, detail: str | None = None) -> None:
        """Add a stage to the event log."""
        self.event_log.append(
            {"stage_name": stage, "last_updated_at": now().isoformat(), "detail": detail}
        )

    def end(self, status: str, failure: JobFailed | None = None) -> None:
        """End as DONE, FAILED or CANCELLED."""
        if failure is not None:
            self.errors = [{"title": failure.title, "message": failure.message}]
        self.status = status
        self.end_time = now()
        self.log(status.capitalize())

    def status_report(self) -> dict[str, Any]:
        """Kumo's JobStatusReport."""
        return {
            "status": self.status,
            # An internal host, as Kumo's own service has it: clients replace it.
            "tracking_url": f"http://kumo-internal:8080/jobs/{self.id}",
            "start_time": (self.start_time or self.created_at).isoformat(),
            "end_time": self.end_time.isoformat() if self.end_time else None,
            "event_log": self.event_log,
            "validation_response": validation(*self.errors) if self.errors else None,
        }

    def resource(self) -> dict[str, Any]:
        """Kumo's resource for this kind of job, a copy."""
        resource: dict[str, Any] = {
            "job_id": self.id,
            "job_status_report": self.status_report(),
            "created_at": self.created_at.isoformat(),
            "tags": self.tags,
            "project_id": self.project_id,
            "config": self.config,
        }
        if self.kind == "genpredtable_jobs":
            resource |= {"source": "REST", "user": None}
        else:
            resource["result"] = self.result
        return copy.deepcopy(resource)


# As the data folder keeps a job.
_RECORD = TypeAdapter(Job)


class JobStore:
    """All jobs of a data folder, in memory and on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._closed = False
        for path in sorted(folder.glob("*/*.json")):
            job = _RECORD.validate_json(path.read_bytes())
            self._jobs[job.id] = job

    def new(
        self,
        kind: Kind,
        config: dict[str, Any],
        *,
        tags: dict[str, str] | None = None,
        project_id: str | None = None,
        private: dict[str, Any] | None = None,
    ) -> Job:
        """Create and store a job, without starting it."""
        job = Job(
            kind=kind,
            id=f"{_ID_PREFIXES[kind]}-{uuid.uuid4().hex[:16]}",
            created_at=now(),
            config=config,
            tags=dict(tags or {}),
            project_id=project_id,
            private=dict(private or {}),
        )
        job.log("Queued")
        self.add(job)
        return job

    def add(self, job: Job) -> None:
        with self.lock:
            self._jobs[job.id] = job
            self.save(job)

    def save(self, job: Job) -> None:
        """Write a changed job to the data folder."""
        with self.lock:
            if self._closed:
                return  # another server may own the folder by now, or it may be gone
            write_json(
                self._folder / job.kind / f"{job.id}.json", _RECORD.dump_python(job, mode="json")
            )

    def close(self) -> None:
        """Stop writing."""
        with self.lock:
            self._closed = True

    def get(self, kind: Kind, id: str) -> Job | None:
        """The job of this kind and id, if there is one."""
        job = self._jobs.get(id)
        return job if job is not None and job.kind == kind else None

    def all(self, kind: Kind | None = None) -> list[Job]:
        """The jobs of a kind (or all), in the order in which they were made."""
        with self.lock:
            jobs = [job for job in self._jobs.values() if kind in (None, job.kind)]
        return sorted(jobs, key=lambda job: job.created_at)


@dataclass(frozen=True)
class Stage:
    """A part of a job's work, and its share of the job's running time."""

    name: str
    share: float
    work: Callable[[Job], None] | None = None


class JobRunner:
    """Runs jobs."""

    def __init__(self, store: JobStore, queue_seconds: float, run_seconds: float) -> None:
        self.store = store
        self.queue_seconds = queue_seconds
        self.run_seconds = run_seconds
        self._stopping = threading.Event()
        self._cancelled: dict[str, threading.Event] = {}
        self._threads: set[threading.Thread] = set()

    def start(self, job: Job, *stages: Stage, upstream: Job | None = None) -> None:
        """Run the stages of a job in a thread, after the job `upstream` has ended if there is one."""
        self._cancelled[job.id] = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(job, stages, upstream), name=job.id, daemon=True
        )
        self._threads.add(thread)
        thread.start()

    def wait_briefly(self, job: Job) -> None:
        """If jobs are set to take no time, wait until the job has ended, before its launch is answered."""
        if self.queue_seconds or self.run_seconds:
            return
        deadline = time.monotonic() + _AT_ONCE_SECONDS
        while not (job.has_ended or self._stopping.is_set()) and time.monotonic() < deadline:
            time.sleep(0.005)

    def cancel(self, job: Job) -> bool:
        """Cancel a job. False if it has ended already."""
        is_ended = self._end(job, "CANCELLED")
        if is_ended and (event := self._cancelled.get(job.id)):
            event.set()
        return is_ended

    def stop(self) -> None:
        """Stop all jobs as they are. The next server runs them again."""
        self._stopping.set()
        for event in list(self._cancelled.values()):
            event.set()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in list(self._threads):
            thread.join(max(deadline - time.monotonic(), 0))
        self.store.close()

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return bool(self._cancelled)

    def fraction_done(self, job: Job) -> float:
        """The share of its running time that a job has run, 0 to 1."""
        if job.status == "DONE":
            return 1.0
        if job.status != "RUNNING" or job.start_time is None or not self.run_seconds:
            return 0.0
        return min((now() - job.start_time).total_seconds() / self.run_seconds, 0.99)

    def _run(self, job: Job, stages: Sequence[Stage], upstream: Job | None) -> None:
        try:
            while upstream is not None and not upstream.has_ended:
                self._wait(job, 0.02)
            with self._changing(job):
                job.status = "QUEUED"
            self._wait(job, self.queue_seconds)
            with self._changing(job):
                job.status, job.start_time = "RUNNING", now()
            started = time.monotonic()
            share = 0.0
            for stage in stages:
                with self._changing(job):
                    job.log(stage.name)
                if stage.work is not None:
                    stage.work(job)
                share += stage.share
                self._wait(job, started + share * self.run_seconds - time.monotonic())
            self._end(job, "DONE")
        except _Cancelled:
            pass
        except JobFailed as failure:
            self._end(job, "FAILED", failure)
        except Exception as error:  # noqa: BLE001 - any error ends the job FAILED
            if not self._stopping.is_set():
                traceback.print_exc()
                failure = JobFailed("Internal error", f"{type(error).__name__}: {error}")
                self._end(job, "FAILED", failure)
        finally:
            self._cancelled.pop(job.id, None)
            self._threads.discard(threading.current_thread())

    def _wait(self, job: Job, seconds: float) -> None:
        event = self._cancelled[job.id]
        if event.wait(max(seconds, 0)) or job.has_ended or self._stopping.is_set():
            raise _Cancelled

    @contextmanager
    def _changing(self, job: Job) -> Generator[None]:
        """Change a job that has not ended, and store it."""
        with self.store.lock:
            if job.has_ended:
                raise _Cancelled
            yield
            self.store.save(job)

    def _end(self, job: Job, status: str, failure: JobFailed | None = None) -> bool:
        """End a job: False if it has ended already."""
        with self.store.lock:
            if job.has_ended:
                return False
            job.end(status, failure)
            self.store.save(job)
        return True
