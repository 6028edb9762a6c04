"""One tick of the hold sensor: launch what held runs wait for, look at it, release what has ended.

Nothing is remembered between ticks but by the tags of runs and jobs. So a tick may end anywhere: the next
one goes on from there.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import dagster as dg

from dagster_kumo.api.client import LIST_LIMIT, KumoClient
from dagster_kumo.api.errors import KumoAPIError, KumoConnectionError, KumoError
from dagster_kumo.api.records import (
    DONE,
    LIVE_STATUSES,
    MISSING,
    RUNNING,
    BatchPredictionJobResource,
    JobStatusReport,
    PredictionTableJobResource,
    TrainingJobResource,
)
from dagster_kumo.api.retry import should_retry
from dagster_kumo.execution.launch.attempt import Attempt
from dagster_kumo.execution.launch.base import TaggedLaunch
from dagster_kumo.execution.launch.held_run import PROGRESS_TAG
from dagster_kumo.execution.launch.notes import job_tag
from dagster_kumo.execution.launch.prediction import PredictionLaunch, TableLaunch
from dagster_kumo.execution.launches import prediction_launch, table_launch
from dagster_kumo.execution.prediction_tables import (
    GeneratedTable,
    checked_table,
    materialized_table,
)
from dagster_kumo.hold.queue import HoldQueue
from dagster_kumo.hold.steps import HeldStep, HeldSteps
from dagster_kumo.jobs.batch_prediction import BatchPredictionJob
from dagster_kumo.jobs.prediction_spec import MAX_TAG_VALUE, BatchPrediction
from dagster_kumo.jobs.prediction_table import PredictionTableJob
from dagster_kumo.jobs.tags import CODE_LOCATION_TAG, RUN_ID_TAG
from dagster_kumo.jobs.trained_model import trained_model

LAUNCHES_AT_ONCE = 8
# Each is a call. With more jobs than this, the estimates of some are older.
PROGRESS_CALLS = 10
PER_CENT_STEP = 10
ETA_MINUTES = 5
URL_TAG = "dagster-kumo/tracking_url"
_LAUNCHING = "launching at "
_GONE = JobStatusReport(status=MISSING)

Job = BatchPredictionJobResource | PredictionTableJobResource


class TickOver(Exception):
    """The time of the tick is over. The next one goes on."""


class Deadline:
    """The time that a tick may take. Call it before each call to Kumo.

    Raises:
        TickOver: it is over.
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def __call__(self) -> None:
        if time.monotonic() > self._until:
            raise TickOver


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
    """Of the jobs that are waited for."""
    troubles: list[str] = field(default_factory=list[str])
    """What is tried again by the next tick."""

    def __str__(self) -> str:
        held = self.waiting + self.without_job
        parts: list[str] = []
        if self.waiting:
            jobs = ", ".join(f"{count} {status}" for status, count in self.statuses.most_common())
            parts.append(f"Held: {held} runs. {self.waiting} wait for Kumo jobs ({jobs}).")
        if self.without_job:
            parts.append(f"{self.without_job} have no job yet.")
        if self.launched or self.released or self.cancelled:
            parts.append(
                f"Launched {self.launched} jobs, released {self.released} runs"
                + (f", cancelled {self.cancelled} jobs." if self.cancelled else ".")
            )
        parts += [f"The next tick tries again: {trouble}" for trouble in self.troubles[:1]]
        return " ".join(parts) or "No run is held."


@dataclass
class _Step:
    """A step of a held run, and the job that it waits for."""

    step: HeldStep
    attempt: Attempt
    job_id: str | None = None
    """The newest job of the step: the prediction job, or that of its table."""
    is_table: bool = False
    """Whether that job makes the prediction table."""
    report: JobStatusReport | None = None

    @property
    def is_last(self) -> bool:
        """Whether no further job follows this one."""
        return not self.is_table or not self.step.definition.outputs

    @property
    def is_over(self) -> bool:
        """Whether nothing of the step is left to wait for."""
        report = self.report
        if report is None or not (report.is_terminal or report.status == MISSING):
            return False
        return self.is_last or report.status != DONE

    @property
    def launches(self) -> bool:
        """Whether a job is to be launched now."""
        if self.job_id is None:
            return True
        return not self.is_last and self.report is not None and self.report.status == DONE


class HoldTick:
    """One tick.

    Args:
        instance: Dagster's instance.
        queue: the held runs.
        steps: finds the steps of a run.
        client: the connection, with the limits of a tick.
        log: the sensor's log.
        max_jobs_in_flight: how many jobs of held runs may go on at the same time.
        cancels: whether the jobs of a run end with it if a user terminates it.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        queue: HoldQueue,
        steps: HeldSteps,
        client: KumoClient,
        log: logging.Logger,
        *,
        code_location: str | None,
        max_jobs_in_flight: int | None,
        cancels: bool,
    ) -> None:
        self._instance = instance
        self._queue = queue
        self._steps = steps
        self._client = client
        self._log = log
        self._code_location = code_location
        self._max_jobs_in_flight = max_jobs_in_flight
        self._cancels = cancels
        self._listed: dict[type[TaggedLaunch], dict[str, Job]] = {}
        self._models: dict[str, TrainingJobResource] = {}
        self._summary = TickSummary()

    def run(self) -> TickSummary:
        """Launch, look and release."""
        try:
            self._settle_terminated()
            held = {record.dagster_run.run_id: record for record in self._queue.held()}
            steps = {run_id: self._plan(record) for run_id, record in held.items()}
            to_launch: list[tuple[dg.RunRecord, _Step]] = []
            for run_id, record in held.items():
                to_launch += [(record, step) for step in self._look(record, steps[run_id])]
            self._launch(to_launch)
            self._show_estimates(held, steps)
        except TickOver:
            self._summary.troubles.append("its time was over")
        return self._summary

    # Runs

    def _plan(self, record: dg.RunRecord) -> list[_Step]:
        run = record.dagster_run
        return [self._step(record, step) for step in self._steps.of(run)]

    def _step(self, record: dg.RunRecord, step: HeldStep) -> _Step:
        run = record.dagster_run
        attempt = Attempt(
            self._instance,
            run,
            step.assets_def,
            _step_key(step.assets_def),
            self._log,
            # Whether Kumo shows what was launched before is known by the time of the last attempt. If
            # that is not over, the next tick launches.
            settling_time=0.0,
        )
        planned = _Step(step, attempt)
        if PROGRESS_TAG in run.tags:
            for launch_type in (PredictionLaunch, TableLaunch):
                job_id = attempt.notes.shown_on_run(launch_type.run_tag)
                if job_id is not None and planned.job_id is None:
                    planned.job_id = job_id
                    planned.is_table = launch_type is TableLaunch
        return planned

    def _look(self, record: dg.RunRecord, steps: Sequence[_Step]) -> list[_Step]:
        """Look at the jobs of a run, and release it if there is nothing to wait for: the steps to launch."""
        run = record.dagster_run
        try:
            for step in steps:
                if step.job_id is not None:
                    step.report = self._report(step.job_id, is_table=step.is_table)
        except Exception as error:
            if isinstance(error, TickOver):
                raise
            self._meet(run, error)
            return []
        if all(step.is_over for step in steps):
            self._release(run, "all jobs have ended" if steps else "nothing to wait for")
            return []
        for step in steps:
            if step.report is not None and not step.is_over:
                self._summary.statuses[step.report.status] += 1
        if any(step.job_id for step in steps):
            self._summary.waiting += 1
        else:
            self._summary.without_job += 1
        return [step for step in steps if step.launches]

    def _release(self, run: dg.DagsterRun, why: str) -> None:
        self._queue.release(run, {PROGRESS_TAG: why} if PROGRESS_TAG in run.tags else {})
        self._summary.released += 1

    def _meet(self, run: dg.DagsterRun, error: Exception) -> None:
        """Leave to the next tick what may pass, and let the run itself meet any other error."""
        if _may_pass(error):
            self._summary.troubles.append(str(error))
            return
        self._log.warning(
            f"Run {run.run_id} is no longer held, since its job cannot be launched: {error}"
        )
        self._release(run, "not held: see the run's own error")

    def _settle_terminated(self) -> None:
        for record in self._queue.terminated():
            run = record.dagster_run
            if not self._cancels or PROGRESS_TAG not in run.tags:
                self._queue.settle(run)
                continue
            jobs = {job_id: False for job_id in _shown_jobs(run, PredictionLaunch)}
            jobs |= {job_id: True for job_id in _shown_jobs(run, TableLaunch)}
            # A launch whose answer was lost is not noted.
            mine = {RUN_ID_TAG: run.run_id}
            jobs |= {
                job.job_id: False
                for job in self._client.list_prediction_jobs(mine)
                if job.tags.get(RUN_ID_TAG) == run.run_id
            }
            jobs |= {
                job.job_id: True
                for job in self._client.list_prediction_table_jobs(mine)
                if job.tags.get(RUN_ID_TAG) == run.run_id
            }
            try:
                for job_id, is_table in jobs.items():
                    self._cancel(job_id, is_table=is_table)
            except KumoError as error:
                self._summary.troubles.append(f"cancelling the jobs of {run.run_id}: {error}")
                continue
            if not self._may_show_later(record):
                self._queue.settle(run)

    def _cancel(self, job_id: str, *, is_table: bool) -> None:
        if self._report(job_id, is_table=is_table).status not in LIVE_STATUSES:
            return
        if is_table:
            PredictionTableJob(job_id, self._client).cancel()
        else:
            BatchPredictionJob(job_id, self._client).cancel()
        self._log.info(f"Cancelled job {job_id}: its run was terminated while it was held")
        self._summary.cancelled += 1

    # Jobs

    def _report(self, job_id: str, *, is_table: bool) -> JobStatusReport:
        kind = TableLaunch if is_table else PredictionLaunch
        if kind not in self._listed:
            self._listed[kind] = {job.job_id: job for job in self._list(is_table=is_table)}
        job = self._listed[kind].get(job_id)
        if job is not None:
            return job.job_status_report
        try:
            get = (
                self._client.get_prediction_table_job
                if is_table
                else self._client.get_prediction_job
            )
            return get(job_id).job_status_report
        except KumoAPIError as error:
            if error.status_code != 404:
                raise
            return _GONE

    def _list(self, *, is_table: bool) -> Sequence[Job]:
        """The newest jobs of this code location, by one call."""
        location = (self._code_location or "")[:MAX_TAG_VALUE]
        tags = {CODE_LOCATION_TAG: location} if location else None
        if is_table:
            return self._client.list_prediction_table_jobs(tags, limit=10 * LIST_LIMIT)
        return self._client.list_prediction_jobs(tags, limit=10 * LIST_LIMIT)

    def _launch(self, to_launch: Sequence[tuple[dg.RunRecord, _Step]]) -> None:
        free = len(to_launch)
        if self._max_jobs_in_flight is not None:
            free = max(0, self._max_jobs_in_flight - self._summary.statuses.total())
        with ThreadPoolExecutor(LAUNCHES_AT_ONCE, thread_name_prefix="kumo-hold") as pool:
            done = list(pool.map(self._launched, *zip(*to_launch[:free], strict=True))) if to_launch[:free] else []
        for (record, _), error in zip(to_launch, done, strict=False):
            if error is None:
                self._summary.launched += 1
            elif not isinstance(error, TickOver):
                self._meet(record.dagster_run, error)
        if any(isinstance(error, TickOver) for error in done):
            raise TickOver

    def _launched(self, record: dg.RunRecord, step: _Step) -> Exception | None:
        """Launch the next job of a step, or attach to it: why it was not done."""
        try:
            self._launch_step(record, step)
        except Exception as error:  # noqa: BLE001 - met by the tick, on its own thread
            return error
        return None

    def _launch_step(self, record: dg.RunRecord, step: _Step) -> None:
        run = record.dagster_run
        if self._may_show_later(record) or not self._queue.is_held(run.run_id):
            return
        launch = self._launch_of(step)
        # Should this process end now, the next tick knows that there may be a job.
        self._queue.tag(run, {PROGRESS_TAG: f"{_LAUNCHING}{_now():%Y-%m-%d %H:%M:%S} UTC"})
        job_id = launch.run()
        self._queue.tag(run, self._progress([job_id], launch.job(job_id).tracking_url))

    def _launch_of(self, step: _Step) -> TaggedLaunch:
        client, definition, attempt = self._client, step.step.definition, step.attempt
        partition_key = step.step.partition_key
        model = self._model(definition.prediction)
        if definition.makes_table and step.job_id is None:
            assert definition.table is not None
            return table_launch(client, definition, model, attempt, definition.table, partition_key)
        anchor_time = definition.anchor_time(partition_key)
        table: GeneratedTable | None = None
        if step.job_id is not None:
            table = checked_table(client, step.job_id, anchor_time)
        elif definition.table is not None:
            table = materialized_table(
                client,
                self._instance,
                definition.table,
                partition_key,
                model=model,
                anchor_time=anchor_time,
            )
        return prediction_launch(client, definition, model, attempt, table, partition_key)

    def _model(self, prediction: BatchPrediction) -> TrainingJobResource:
        key = str(prediction.to_json())
        if key not in self._models:
            self._models[key] = trained_model(self._client, prediction)
        return self._models[key]
