"""Logs the progress of a job: one line for each change, not for each poll."""

from __future__ import annotations

import dagster as dg

from dagster_kumo.api.records import (
    FAILED,
    RUNNING,
    JobStatusReport,
    Progress,
    TrainingProgress,
)

STEP_PER_CENT = 10


class ProgressLog:
    """Called with each poll of a job. Logs when its status, stage or progress has changed.

    A line begins with `job`, and the first one is `begun`, to which the job's page is added. If it is `brief`, only
    that line and the end are logged, for runs that wait for many jobs.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, job: str, *, begun: str, brief: bool
    ) -> None:
        self._context = context
        self._job = job
        self._begun = begun
        self._brief = brief
        self._state = ""
        self._per_cent: int | None = None
        self._per_cent_logged = -STEP_PER_CENT
        self._trials = ""

    def on_progress(self, progress: Progress) -> None:
        """Keep the job's progress for the next poll."""
        if isinstance(progress, TrainingProgress):
            self._trials = progress.said
            return
        fraction = progress.fraction
        self._per_cent = None if fraction is None else int(fraction * 100)

    def begin(self, page: str = "") -> None:
        """Log the first line, unless that is done."""
        if self._begun:
            self._context.log.info(f"{self._begun}: {page}" if page else self._begun)
            self._begun = ""

    def __call__(self, report: JobStatusReport) -> None:
        if self._brief and not report.is_terminal:
            return
        state = report.status
        stage = None if report.is_terminal else report.stage
        if stage and stage.upper() != state:  # a job that is QUEUED is in the stage "Queued"
            state = f"{state}: {stage}"
        if self._trials and report.status == RUNNING:
            state += f", {self._trials}"
        per_cent = self._per_cent if report.status == RUNNING else None
        if per_cent is not None and per_cent >= self._per_cent_logged + STEP_PER_CENT:
            self._per_cent_logged = per_cent
            line = f"{state}, {per_cent} %"
        elif state != self._state:
            line = state
        else:
            return
        self._state = state
        if report.status == FAILED:
            # In a line of its own, because a stack trace follows the error.
            self._context.log.error(
                f"{self._job} FAILED{': ' if report.reason else ''}{report.reason}"
            )
        else:
            self._context.log.info(f"{self._job} is {line}")
