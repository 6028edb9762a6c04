"""A job's story in a few log lines: one for each change, not for each look."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from dagster_kumo.api.errors import KumoError
from dagster_kumo.api.records import JobProgress, JobStatusReport

STEP_PER_CENT = 10


class ProgressLog:
    """Called with each look at a job; logs when its status, stage or per cent have changed."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        job: str,
        progress: Callable[[], JobProgress] | None = None,
    ) -> None:
        self._context = context
        self._job = job
        self._progress = progress
        self._last = ""
        self._per_cent = -STEP_PER_CENT

    def __call__(self, report: JobStatusReport) -> None:
        state = report.status
        if not report.is_terminal and report.stage:
            state = f"{report.status}: {report.stage}"
        changed = state != self._last
        per_cent = self._asked(report)
        if per_cent is not None and per_cent >= self._per_cent + STEP_PER_CENT:
            self._per_cent = per_cent
            state_line = f"{state}, {per_cent} %"
        elif changed:
            state_line = state
        else:
            return
        self._last = state
        self._context.log.info(f"{self._job} is {state_line}")

    def _asked(self, report: JobStatusReport) -> int | None:
        if self._progress is None or report.status != "RUNNING":
            return None
        try:
            fraction = self._progress().fraction
        except KumoError as error:  # nice to have: the status is what counts
            self._context.log.debug(f"The progress of {self._job} is not known: {error}")
            return None
        return None if fraction is None else int(fraction * 100)
