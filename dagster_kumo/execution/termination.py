"""The Kumo jobs of a run: wait for them, and cancel or leave them when the run is terminated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from dagster_kumo.api.errors import KumoError
from dagster_kumo.api.records import JobStatusReport
from dagster_kumo.execution.launch.base import Launch
from dagster_kumo.execution.launch.identity import is_over_its_time, status_of_run
from dagster_kumo.execution.progress_log import ProgressLog
from dagster_kumo.execution.settings import RunSettings
from dagster_kumo.jobs.batch_prediction import BatchPredictionJob

OnLook = Callable[[JobStatusReport], None]


class RunJobs:
    """The jobs that a run is waiting for, on whatever threads; all of them end with it, or none.

    An error is no termination: the jobs are left alone, for a retry to attach to. A termination
    arrives in the main thread as an exception outside `Exception`, wherever that is: in the asset's
    body, or in the I/O manager while the body waits at a `yield`. The body would learn of the latter
    only when its generator is closed, which a process that ends does not always come to: what is
    written while jobs go on says so by `cancel_jobs_on_termination` as well.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, settings: RunSettings, *, brief: bool
    ) -> None:
        self._context = context
        self._settings = settings
        self._brief = brief
        self._waited_for: list[Launch] = []
        self._ended = threading.Event()

    @contextmanager
    def cancel_jobs_on_termination(self) -> Generator[None, None, None]:
        """Cancel the jobs when the run is terminated while the block runs; the termination goes on."""
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self._end()
            raise

    def finish(self, launch: Launch, about: str) -> str:
        """Attach to a job or launch it, log how it gets on, and wait until it is done: its id.

        Raises:
            KumoJobFailedError: the job ended FAILED or CANCELLED.
            KumoTimeoutError: it takes longer than `poll_timeout`; it goes on.
        """
        with self.track(launch):
            job_id = launch.run()
            done = "Attached to" if launch.attached else "Launched"
            self._context.log.info(f"{done} {launch.kind} {job_id}{about}")
            for warning in launch.warnings:
                self._context.log.warning(f"Kumo warns of {job_id}: {warning}")
            log = ProgressLog(
                self._context, f"{launch.kind.capitalize()} {job_id}", brief=self._brief
            )

            def on_look(report: JobStatusReport) -> None:
                launch.keep_note()
                log(report)

            job = launch.job(job_id)
            how: dict[str, Any] = {
                "poll_interval": self._settings.poll_interval,
                "timeout": self._settings.poll_timeout,
                "on_status": self.interruptible(on_look),
            }
            if isinstance(job, BatchPredictionJob):
                how["on_progress"] = log.on_progress
            job.result(**how)
        return job_id

    @contextmanager
    def track(self, launch: Launch) -> Generator[None, None, None]:
        """Let a job count as one that is waited for while the block runs."""
        self._raise_if_ended()
        self._waited_for.append(launch)
        try:
            yield
        except Exception:
            self._waited_for.remove(launch)
            raise
        self._waited_for.remove(launch)

    def interruptible(self, on_look: OnLook) -> OnLook:
        """`on_look`, by which a thread that waits for a job learns that the run has ended."""

        def look(report: JobStatusReport) -> None:
            self._raise_if_ended()
            on_look(report)

        return look

    def _raise_if_ended(self) -> None:
        # The termination itself reaches the main thread alone.
        if self._ended.is_set():
            raise KumoError("The run has ended.")

    def _end(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        launches = list(self._waited_for)
        for launch in launches:
            launch.stop()
        if launches and not self._cancels():
            why = "has passed its time limit" if is_over_its_time(self._context) else "ends"
            self._context.log.info(
                f"The run {why}, but {_named(launches)} goes on: a retry of this run attaches to it."
            )
            return
        for launch in launches:
            self._context.log.info(f"The run is being terminated: cancelling the {launch.kind}.")
            try:
                launch.cancel()
            except KumoError as error:
                self._context.log.warning(
                    f"The {launch.kind} could not be cancelled and may still run: {error}"
                )

    def _cancels(self) -> bool:
        """Whether jobs end with the run: with a user's terminate, and not with an eviction.

        A run that Dagster ends by its own time limit has the status of a user's terminate.
        """
        if self._settings.cancel_on_termination != "user":
            return self._settings.cancel_on_termination == "always"
        terminated = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
        status = status_of_run(self._context)
        return status in terminated and not is_over_its_time(self._context)


def _named(launches: list[Launch]) -> str:
    first = f"the {launches[0].kind}"
    return first if len(launches) == 1 else f"{first} (and {len(launches) - 1} more)"
