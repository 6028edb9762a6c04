"""A run that is held in Dagster's queue while Kumo works, as the run itself sees it.

The hold sensor launches its jobs, notes them on the run, and releases it when they have ended.
"""

from __future__ import annotations

import dagster as dg

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
