"""The jobs that held runs wait for, as Kumo shows them: one list call a tick, whatever their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import dagster as dg

from dagster_kumo.api.client import LIST_LIMIT, KumoClient
from dagster_kumo.api.errors import KumoNotFoundError
from dagster_kumo.api.records import MISSING, JobStatusReport
from dagster_kumo.execution.launch.base import TaggedLaunch
from dagster_kumo.execution.launch.notes import jobs_on_run
from dagster_kumo.execution.launch.prediction import PredictionLaunch, TableLaunch
from dagster_kumo.execution.launch.training import TrainingLaunch
from dagster_kumo.jobs.prediction_spec import MAX_TAG_VALUE
from dagster_kumo.jobs.tags import CODE_LOCATION_TAG, RUN_ID_TAG

Kind: TypeAlias = type[TaggedLaunch]
KINDS: tuple[Kind, ...] = (PredictionLaunch, TableLaunch, TrainingLaunch)
# A server may list fewer. A job that is not listed is asked for by its id.
LISTED = 20 * LIST_LIMIT


class HeldJobs:
    """The jobs of one code location, whose name they carry as a tag."""

    def __init__(self, client: KumoClient, code_location: str | None) -> None:
        self._client = client
        self._code_location = code_location
        self._listed: dict[Kind, Mapping[str, JobStatusReport]] = {}

    def report(self, kind: Kind, job_id: str) -> JobStatusReport:
        """Where a job stands; MISSING if Kumo does not have it."""
        if kind not in self._listed:
            tags = {CODE_LOCATION_TAG: self._code_location} if self._code_location else {}
            tags = {key: value[:MAX_TAG_VALUE] for key, value in tags.items()}
            found = kind.listed(self._client, tags, limit=LISTED)
            self._listed[kind] = {job.job_id: job.job_status_report for job in found}
        return self._listed[kind].get(job_id) or self._get(kind, job_id)

    def launched_for(self, run: dg.DagsterRun) -> Iterator[tuple[Kind, str]]:
        """The jobs of a run: those that are noted on it, and those that name it."""
        for kind in KINDS:
            found = [
                job.job_id
                for job in kind.listed(self._client, {RUN_ID_TAG: run.run_id})
                if job.tags.get(RUN_ID_TAG) == run.run_id
            ]
            for job_id in dict.fromkeys([*jobs_on_run(run, kind.run_tag), *found]):
                yield kind, job_id

    def cancel(self, kind: Kind, job_id: str) -> bool:
        """Cancel a job, unless it has ended: whether that was done."""
        report = self._get(kind, job_id)
        if report.is_terminal or report.status == MISSING:
            return False
        kind.handle(job_id, self._client).cancel()
        return True

    def _get(self, kind: Kind, job_id: str) -> JobStatusReport:
        try:
            return kind.handle(job_id, self._client).status()
        except KumoNotFoundError:
            return JobStatusReport(status=MISSING)
