"""A run that is held in Dagster's queue while Kumo works, as the run itself sees it.

The hold sensor launches its jobs, notes them on the run, and releases it when they have ended.
"""

from __future__ import annotations

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoAPIError
from dagster_kumo.api.records import CANCELLED, FAILED, TrainingJobResource

HOLD_TAG = "dagster-kumo/hold"
"""Of a run that is to wait in Dagster's queue until its Kumo jobs have ended."""
UNTIL_DONE = "until_done"
RELEASED = "released"
PROGRESS_TAG = "dagster-kumo/progress"
"""Of a held run: how its jobs get on. The hold sensor sets it before it launches the first of them."""
HOLD_UNTIL_DONE = {HOLD_TAG: UNTIL_DONE}
"""The tag that a job, a schedule, a backfill or a single run carries to be held."""
CONTINUES_TAG = "dagster-kumo/continues"
"""Of a run that a sensor requested to continue a run whose worker was gone, which it names."""

NOT_HELD = f"""\
The run carries the tag {HOLD_TAG}: {UNTIL_DONE}, but Dagster does not hold it in the queue, so it waits
for Kumo with a worker. Nothing is lost. To hold such runs, add this to dagster.yaml (in Dagster+, to the
deployment's settings):

concurrency:
  runs:
    tag_concurrency_limits:
      - {{key: {HOLD_TAG}, value: {UNTIL_DONE}, limit: 0}}
"""


def warn_unless_held(context: dg.AssetExecutionContext) -> None:
    """Say what is missing if the run was to be held, and began all the same."""
    if context.run.tags.get(HOLD_TAG) == UNTIL_DONE:
        context.log.warning(NOT_HELD)


def was_held(run: dg.DagsterRun, retry_number: int) -> bool:
    """Whether the hold sensor may have launched jobs for this attempt of a run."""
    return HOLD_TAG in run.tags and PROGRESS_TAG in run.tags and retry_number == 0


def model_of_launched_job(
    run: dg.DagsterRun, job_id: str | None, client: KumoClient
) -> TrainingJobResource | None:
    """The model of the job that was launched while the run was held, or by the run that it continues.

    None if there is no such job.

    The newest model with some tags may be another one by now.
    """
    if job_id is None or run.tags.keys().isdisjoint((HOLD_TAG, CONTINUES_TAG)):
        return None
    try:
        job = client.get_prediction_job(job_id)
        is_over = job.job_status_report.status in (FAILED, CANCELLED)
        if is_over and run.parent_run_id is not None:  # a retry launches again
            return None
        return client.get_training_job(job.config.model_training_job_id)
    except KumoAPIError as error:
        if error.status_code != 404:
            raise
        return None
