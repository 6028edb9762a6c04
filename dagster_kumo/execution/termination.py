"""The Kumo jobs of a run: wait for them, and cancel or leave them when the run is terminated."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import Any

import dagster as dg

from dagster_kumo.api.errors import KumoError, KumoJobFailedError
from dagster_kumo.api.records import JobStatusReport, Progress
from dagster_kumo.execution import failures
from dagster_kumo.execution.expected_end import ExpectedEnd
from dagster_kumo.execution.launch.base import Launch
from dagster_kumo.execution.launch.identity import RUNS_LOCK
from dagster_kumo.execution.progress_log import ProgressLog
from dagster_kumo.execution.settings import RunSettings
from dagster_kumo.jobs.progressing_job import ProgressingJob

_TERMINATED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


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
        self._newest: Launch | None = None
        self._ended = threading.Event()

    def raise_if_terminated(self) -> None:
        """End the run if its termination came before the asset's body began.

        Dagster can lose the interrupt of a run that starts, or of a step that waits for its pool.

        Raises:
            DagsterExecutionInterruptedError: The run is being terminated.
        """
        if not self._terminations():
            return
        if self._status() in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELED):
            # The run was canceled by force, perhaps while it started. Dagster would take the interrupt
            # for a failure, and retry the run.
            self._context.instance.report_run_canceling(self._context.run)
        raise dg.DagsterExecutionInterruptedError(
            "The run is being terminated: no Kumo job is launched."
        )

    @contextmanager
    def cancel_jobs_on_termination(self) -> Generator[None, None, None]:
        """Cancel the jobs when the run is terminated while the block runs; the termination goes on.

        At its end the run names its newest job, whatever other processes have written meanwhile.
        """
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self._end()
            raise
        if self._newest is not None:
            self._newest.notes.keep_on_run(at_the_end=True)

    def finish(self, launch: Launch, about: str, *, deadline: datetime | None = None) -> str:
        """Attach to a job or launch it, log its progress, wait until it is done, and return its id.

        `about` is the rest of the first line; after the `deadline`, the job is late.

        Raises:
            KumoJobFailedError: The job ended FAILED or CANCELLED.
            KumoTimeoutError: It takes longer than `poll_timeout`; it goes on.
        """
        with self._waiting_for(launch):
            job_id = launch.run()
            self._newest = launch
            done = "Attached to" if launch.attached else "Launched"
            for warning in launch.warnings:
                self._context.log.warning(f"Kumo warns about {job_id}: {warning}")
            name = f"{launch.kind.capitalize()} {job_id}"
            end = ExpectedEnd(name, deadline, launch.notes, self._context.log)
            if not launch.attached and not self._brief:
                end.estimate(launch.usual_seconds())
            log = ProgressLog(
                self._context,
                name,
                begun=f"{done} {launch.kind} {job_id}{about}",
                brief=self._brief,
            )

            def on_status(report: JobStatusReport) -> None:
                self._raise_if_ended()
                # The first answer to a poll has the page, which the answer to a launch has not.
                launch.page = self._settings.client.public_url(report.tracking_url)
                log.begin(launch.page)
                launch.notes.keep_on_run()
                log(report)

            def on_progress(progress: Progress) -> None:
                log.on_progress(progress)
                if not self._brief:
                    end.estimate(progress.remaining)

            job = launch.job(job_id)
            how: dict[str, Any] = {
                "poll_interval": self._settings.poll_interval,
                "timeout": self._settings.poll_timeout,
                "on_status": on_status,
            }
            if isinstance(job, ProgressingJob):
                how["on_progress"] = on_progress
            try:
                job.result(**how)
            except KumoJobFailedError as error:
                raise failures.KumoJobFailedError(error) from None
            finally:
                log.begin()
        return job_id

    @contextmanager
    def _waiting_for(self, launch: Launch) -> Generator[None, None, None]:
        self._waited_for.append(launch)
        try:
            self._raise_if_ended()  # after the append: a run that ends now finds the launch, or is found here
            yield
        except Exception:
            self._waited_for.remove(launch)
            raise
        self._waited_for.remove(launch)

    def _raise_if_ended(self) -> None:
        # A thread that waits learns of the termination here: the interrupt reaches the main thread alone.
        if self._ended.is_set():
            raise KumoError("The run has ended.")

    def _end(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        launches = list(self._waited_for)
        cancels: Future[bool] = Future()

        def end(launch: Launch) -> None:
            launch.stop()
            if cancels.result():
                self._cancel(launch)

        # All at once: a process that is ended gets only some seconds. Daemons, so that they do not
        # outlive a second signal.
        threads = [threading.Thread(target=end, args=[one], daemon=True) for one in launches]
        for thread in threads:
            thread.start()
        cancels.set_result(self._cancels())
        if launches and cancels.result():
            line = f"The run is being terminated: cancelling {_named(launches)}."
            self._context.log.info(line)
        elif launches:
            why = "has passed its time limit" if self._is_over_its_time else "ends"
            line = f"The run {why}, but {_named(launches)} goes on: a retry of this run attaches to it."
            self._context.log.info(line)
        for thread in threads:
            thread.join()

    def _cancel(self, launch: Launch) -> None:
        try:
            told = launch.cancel()
        except KumoError as error:
            self._context.log.warning(
                f"The {launch.kind} could not be cancelled and may still run: {error}"
            )
        else:
            self._context.log.info(told)

    def _cancels(self) -> bool:
        """Whether jobs end with the run: with a user's terminate, and not with an eviction.

        A run that Dagster ends by its own time limit has the status of a user's terminate.
        """
        if self._settings.cancel_on_termination != "user":
            return self._settings.cancel_on_termination == "always"
        return self._status() in _TERMINATED and not self._is_over_its_time

    @cached_property
    def _is_over_its_time(self) -> bool:
        """Whether Dagster's monitoring ends the run, since it has taken longer than `dagster/max_runtime`.

        Only the text of the event distinguishes this from a user's terminate.
        """
        return any("maximum runtime" in entry.message for entry in self._terminations())

    def _status(self) -> dg.DagsterRunStatus | None:
        """The status of the run as it is recorded now; None when its record is gone."""
        with RUNS_LOCK:
            run = self._context.instance.get_run_by_id(self._context.run.run_id)
        return run.status if run is not None else None

    def _terminations(self) -> Sequence[dg.EventLogEntry]:
        """What says that the run is to end, or has been marked as ended by force."""
        wanted = {dg.DagsterEventType.PIPELINE_CANCELING, dg.DagsterEventType.PIPELINE_CANCELED}
        with RUNS_LOCK:
            return self._context.instance.all_logs(self._context.run.run_id, of_type=wanted)


def _named(launches: list[Launch]) -> str:
    first = f"the {launches[0].kind}"
    return first if len(launches) == 1 else f"{first} (and {len(launches) - 1} more)"
