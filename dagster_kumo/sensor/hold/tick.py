"""One tick of the hold sensor: launch what held runs wait for, look at it, release what has ended.

Nothing is remembered between ticks but by the tags of runs and jobs. So a tick may end anywhere: the next
one goes on from there.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoAPIError, KumoConnectionError, KumoError
from dagster_kumo.api.records import RUNNING, Progress, TrainingJobResource
from dagster_kumo.api.retry import should_retry
from dagster_kumo.execution.expected_end import rounded_end
from dagster_kumo.execution.launch.held_run import PROGRESS_TAG
from dagster_kumo.execution.launch.identity import is_first_attempt
from dagster_kumo.execution.launch.prediction import TableLaunch
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.jobs.progressing_job import ProgressingJob
from dagster_kumo.jobs.trained_model import trained_model
from dagster_kumo.sensor.call_budget import BudgetExhausted, CallBudget
from dagster_kumo.sensor.hold.held_jobs import HeldJobs
from dagster_kumo.sensor.hold.held_step import HeldStep
from dagster_kumo.sensor.hold.queue import HoldQueue
from dagster_kumo.sensor.hold.run_steps import RunSteps

LAUNCHES_AT_ONCE = 8
# Each is a call. With more jobs than this, some estimates are older than one tick.
PROGRESS_CALLS = 10
PER_CENT_STEP = 10
URL_TAG = "dagster/kumo_tracking_url"
_LAUNCHING = "launching at "
_AFTER = "after the deadline "
_TIME = "%Y-%m-%d %H:%M:%S UTC"


@dataclass
class HeldRun:
    """A run that is held, and its steps that wait for jobs."""

    record: dg.RunRecord
    steps: list[HeldStep] = field(default_factory=list[HeldStep])

    @property
    def run(self) -> dg.DagsterRun:
        """The run as it was when the tick began."""
        return self.record.dagster_run

    @property
    def live(self) -> list[HeldStep]:
        """The steps whose jobs go on."""
        return [step for step in self.steps if step.report and not step.report.is_terminal]


@dataclass
class TickSummary:
    """What a tick did, and what is waited for."""

    launched: int = 0
    released: int = 0
    cancelled: int = 0
    waiting: int = 0
    """Runs whose jobs go on."""
    without_job: int = 0
    """Runs that have no job yet."""
    statuses: Counter[str] = field(default_factory=Counter[str])
    """Of the jobs that go on."""
    troubles: list[str] = field(default_factory=list[str])
    """What the next tick tries again."""

    def __str__(self) -> str:
        words: list[str] = []
        if self.waiting:
            jobs = ", ".join(f"{count} {status}" for status, count in self.statuses.most_common())
            words.append(f"{self.waiting} held runs wait for Kumo ({jobs}).")
        if self.without_job:
            words.append(f"{self.without_job} held runs have no job yet.")
        if self.launched:
            words.append(f"Launched {self.launched} jobs.")
        if self.released:
            words.append(f"Released {self.released} runs.")
        if self.cancelled:
            words.append(f"Cancelled {self.cancelled} jobs of terminated runs.")
        if self.troubles:
            words.append(f"The next tick tries again: {self.troubles[0]}")
        return " ".join(words) or "No run is held."


@dataclass
class HoldTick:
    """One tick."""

    instance: dg.DagsterInstance
    repository: dg.RepositoryDefinition
    queue: HoldQueue
    run_steps: RunSteps
    client: KumoClient
    """The connection, with the limits of a tick."""
    jobs: HeldJobs
    log: logging.Logger
    budget: CallBudget
    """The time of the tick."""
    launch_budget: CallBudget
    """The part of it in which launches may begin."""
    max_jobs_in_flight: int | None
    """How many jobs of held runs may go on at the same time."""
    cancels: bool
    """Whether the jobs of a run end with it if a user terminates it."""

    def __post_init__(self) -> None:
        self._models: dict[str, TrainingJobResource] = {}
        self._summary = TickSummary()

    def run(
        self, held_runs: Sequence[dg.RunRecord], terminated: Sequence[dg.RunRecord]
    ) -> TickSummary:
        """Cancel what was terminated, look at all jobs, release what has ended, launch what is missing."""
        for record in terminated:
            self._settle(record)
        held = [HeldRun(record) for record in held_runs]
        self.run_steps.forget_others(one.run.run_id for one in held)
        waiting = [one for one in held if self._look(one)]
        self._launch(waiting)
        self._show_progress(waiting)
        return self._summary

    # Runs

    def _look(self, held: HeldRun) -> bool:
        """Look at the jobs of a run, and release it if there is nothing to wait for. Returns whether it waits."""
        try:
            self.budget()
            steps = self.run_steps.of(held.run, self.instance, self.repository)
            if steps is None:
                return False
            held.steps = steps
            for step in held.steps:
                step.read_notes(held.run, step.attempt(self.instance, held.run, self.log))
            for step in held.steps:
                if step.job_id is not None:
                    step.report = self.jobs.report(step.kind, step.job_id)
        except Exception as error:  # noqa: BLE001 - one run must not keep the others waiting
            return self._handle(held, error)
        if all(step.is_over for step in held.steps):
            ended = ", ".join(step.report.status for step in held.steps if step.report)
            self._release(held, ended)
            return False
        for step in held.live:
            assert step.report is not None
            self._summary.statuses[step.report.status] += 1
        if any(step.job_id for step in held.steps):
            self._summary.waiting += 1
        else:
            self._summary.without_job += 1
        return True

    def _release(self, held: HeldRun, progress: str | None) -> None:
        self.queue.release(held.run, {PROGRESS_TAG: progress} if progress else {})
        self._summary.released += 1

    def _handle(self, held: HeldRun, error: Exception) -> bool:
        """After a temporary error the next tick tries again; any other one is left to the run. Returns whether it waits."""
        if _is_temporary(error):
            self._summary.troubles.append(str(error))
            return True
        self.log.warning(f"Run {held.run.run_id} is released, since it cannot be held: {error}")
        self._release(held, "released: the run itself says why")
        return False

    def _settle(self, record: dg.RunRecord) -> None:
        """Cancel the jobs of a run that a user terminated while it was held."""
        run = record.dagster_run
        try:
            self.budget()
            if self.cancels and PROGRESS_TAG in run.tags:
                for kind, job_id in self.jobs.launched_for(run):
                    if self.jobs.cancel(kind, job_id):
                        self.log.info(
                            f"Cancelled {kind.kind} {job_id} of the terminated run {run.run_id}"
                        )
                        self._summary.cancelled += 1
                if self._seconds_since_launch(run) < self.client.launch_settling_time:
                    return  # there may be a job that Kumo does not show yet
            self.queue.settle(run)
        except (KumoError, BudgetExhausted) as error:
            self._summary.troubles.append(f"{error} (the jobs of terminated run {run.run_id})")

    # Launches

    def _launch(self, waiting: Sequence[HeldRun]) -> None:
        """Launch the next jobs, several at a time, those of the first runs first."""
        due: list[HeldRun] = []
        in_flight = sum(step.may_go_on for one in waiting for step in one.steps)
        for one in waiting:
            wanted = sum(step.launches_now for step in one.steps)
            limit = self.max_jobs_in_flight
            # A run with more jobs than the limit is launched alone.
            if limit is not None and in_flight + wanted > limit and (in_flight or wanted <= limit):
                break
            in_flight += wanted
            if wanted:
                due.append(one)
        if not due:
            return
        with ThreadPoolExecutor(LAUNCHES_AT_ONCE, thread_name_prefix="kumo-hold") as pool:
            errors = list(pool.map(self._launch_run, due))
        for held, error in zip(due, errors, strict=True):
            if error is not None:
                self._handle(held, error)

    def _launch_run(self, held: HeldRun) -> Exception | None:
        """Launch the next jobs of a run, or attach to them. Returns the error, for the tick's own thread."""
        try:
            if self._may_show_later(held):
                return None
            for step in held.steps:
                if not step.launches_now:
                    continue
                self.launch_budget()  # first: to ask Dagster for each of very many runs takes long too
                if self.queue.is_held(held.run.run_id):
                    self._launch_step(held, step)
        except Exception as error:  # noqa: BLE001 - as above
            return error
        return None

    def _launch_step(self, held: HeldRun, step: HeldStep) -> None:
        attempt = step.attempt(self.instance, held.run, self.log)
        launch = step.next_launch(self.client, attempt, self._model)
        # Should this process end now, the next tick knows that there may be a job.
        now = datetime.now(timezone.utc)
        self.queue.tag(held.run, {PROGRESS_TAG: f"{_LAUNCHING}{now:{_TIME}}"})
        job_id = launch.run()
        done = "Attached to" if launch.attached else "Launched"
        self.log.info(f"{done} {launch.kind} {job_id} for the held run {held.run.run_id}")
        self._summary.launched += 1

    def _may_show_later(self, held: HeldRun) -> bool:
        """Whether Kumo may not show yet what was launched for the run before."""
        seconds = self._seconds_since_launch(held.run)
        if PROGRESS_TAG not in held.run.tags and not is_first_attempt(held.run, 0):
            seconds = time.time() - held.record.create_timestamp.timestamp()
        return seconds < self.client.launch_settling_time

    def _seconds_since_launch(self, run: dg.DagsterRun) -> float:
        """How long ago a launch began whose answer is not noted."""
        progress = run.tags.get(PROGRESS_TAG, "")
        if not progress.startswith(_LAUNCHING):
            return float("inf")
        begun = datetime.strptime(progress.removeprefix(_LAUNCHING), _TIME)
        return (datetime.now(timezone.utc) - begun.replace(tzinfo=timezone.utc)).total_seconds()

    def _model(self, prediction: BatchPrediction) -> TrainingJobResource:
        """The trained model, asked for once a tick."""
        key = str(prediction.to_json())
        if key not in self._models:
            self._models[key] = trained_model(self.client, prediction)
        return self._models[key]

    # Progress

    def _show_progress(self, waiting: Sequence[HeldRun]) -> None:
        """Show on each run how its jobs get on, with estimates for as many as there are calls."""
        running = [one for one in waiting if any(_is_running(step) for step in one.live)]
        # Others each time, if there are many.
        first = int(time.time()) % len(running) if running else 0
        estimated = {id(one) for one in (running[first:] + running[:first])[:PROGRESS_CALLS]}
        with suppress(BudgetExhausted):  # the next tick shows the rest
            for held in waiting:
                if held.live:
                    self.budget()
                    self._show(held, estimate=id(held) in estimated)

    def _show(self, held: HeldRun, *, estimate: bool) -> None:
        shown = held.run.tags.get(PROGRESS_TAG, "")
        words = [self._progress_of(held, step, estimate=estimate) for step in held.live]
        more = sum(step.is_over for step in held.steps)
        tags = {PROGRESS_TAG: ", ".join([*words, *([f"{more} done"] if more else [])])}
        if _AFTER in tags[PROGRESS_TAG] and _AFTER not in shown:
            self.log.warning(
                f"The job of the held run {held.run.run_id} is late: {tags[PROGRESS_TAG]}"
            )
        report = held.live[0].report
        if report is not None and report.tracking_url:
            tags[URL_TAG] = self.client.public_url(report.tracking_url)
        self.queue.tag(held.run, tags)

    def _progress_of(self, held: HeldRun, step: HeldStep, *, estimate: bool) -> str:
        assert step.report is not None
        status, stage = step.report.status, step.report.stage
        if _is_running(step) and step.job_id is not None:
            if not estimate:
                shown = held.run.tags.get(PROGRESS_TAG, "")
                return shown if shown.startswith(RUNNING) else status
            try:
                job = step.kind.handle(step.job_id, self.client)
                if isinstance(job, ProgressingJob):
                    progress = job.progress(repeat=False)
                    begun = held.record.create_timestamp
                    deadline = step.deadline(begun)
                    return f"{RUNNING}{_said(progress, datetime.now(timezone.utc), deadline)}"
            except (KumoError, BudgetExhausted):  # progress is optional
                return status
        return f"{status}: {stage}" if stage and stage.upper() != status else status


def _is_running(step: HeldStep) -> bool:
    is_known = step.report is not None and step.report.status == RUNNING
    return is_known and step.kind is not TableLaunch


def _said(progress: Progress, now: datetime, deadline: datetime | None) -> str:
    """How far a job is, in rough steps: each change is written to the run."""
    words = ""
    if progress.fraction is not None:
        words += f", {int(progress.fraction * 100 / PER_CENT_STEP) * PER_CENT_STEP} %"
    if progress.remaining is not None:
        words += f", until about {rounded_end(now, progress.remaining):%H:%M} UTC"
        if deadline and now + timedelta(seconds=progress.remaining) > deadline:
            words += f", {_AFTER}{deadline:%H:%M} UTC"
    return words


def _is_temporary(error: Exception) -> bool:
    if isinstance(error, KumoAPIError):
        return should_retry(error.status_code)
    return isinstance(error, KumoConnectionError | BudgetExhausted)
