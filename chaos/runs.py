"""The runs and backfills of a chaos run, as Dagster has recorded them."""

import time
from collections.abc import Sequence

import dagster as dg

# A backfill's status is only here.
from dagster._core.execution.backfill import (
    BULK_ACTION_TERMINAL_STATUSES,
    BulkActionStatus,
    PartitionBackfill,
)

from chaos.definitions import QUIET, defs

# Dagster stores the event of a failure before the run's record says so. A daemon that looks in between takes
# the run for one that goes on and never looks again, though the run's tags say that it will be retried.
PASSED_OVER_SECONDS = 60.0


class Runs:
    """What goes on and what has been.

    Args:
        instance: Dagster's instance.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._failed_at: dict[str, float] = {}

    def unfinished(self) -> list[dg.DagsterRun]:
        """Runs that go on, wait, or will be retried."""
        runs = self._instance.get_runs()
        return [run for run in runs if not run.is_finished or self._is_to_be_retried(run)]

    def backfills(self) -> list[PartitionBackfill]:
        """Backfills that have not ended."""
        return [
            backfill
            for backfill in self._instance.get_backfills()
            if backfill.status not in BULK_ACTION_TERMINAL_STATUSES
        ]

    def all_ended(self) -> bool:
        """Whether Dagster has nothing more to do."""
        return not self.unfinished() and all(map(self.is_stuck, self.backfills()))

    def is_stuck(self, backfill: PartitionBackfill) -> bool:
        """Whether a backfill waits for a retry that the daemon has passed over, for ever."""
        of_backfill = dg.RunsFilter(tags={"dagster/backfill": backfill.backfill_id})
        runs = self._instance.get_runs(of_backfill)
        return (
            backfill.status == BulkActionStatus.REQUESTED
            and all(run.is_finished for run in runs)
            and any(_lacks_its_retry(run) and not self._is_to_be_retried(run) for run in runs)
        )

    def attempts(self, run_id: str) -> Sequence[dg.DagsterRun]:
        """A run and what carries it on, oldest first."""
        again = self._instance.get_runs(dg.RunsFilter(tags={"dagster/root_run_id": run_id}))
        first = self._instance.get_run_by_id(run_id)
        return [run for run in (first, *reversed(again)) if run is not None]

    def _is_to_be_retried(self, run: dg.DagsterRun) -> bool:
        if run.status != dg.DagsterRunStatus.FAILURE:
            return False
        # Not by the time in its record: that is a worker's, whose clock may be wrong.
        failed_at = self._failed_at.setdefault(run.run_id, time.monotonic())
        if time.monotonic() - failed_at > PASSED_OVER_SECONDS:
            return False
        # A run that has just failed has no tag that says whether.
        return "dagster/will_retry" not in run.tags or _lacks_its_retry(run)


def _lacks_its_retry(run: dg.DagsterRun) -> bool:
    will_retry = run.tags.get("dagster/will_retry") == "true"
    return will_retry and "dagster/auto_retry_run_id" not in run.tags


def source_tables(instance: dg.DagsterInstance) -> None:
    """Make what all days share."""
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        run_config=QUIET,
        asset_selection=[dg.AssetKey("purchases"), dg.AssetKey("customers")],
    )
    assert result.success


def materialized(
    instance: dg.DagsterInstance, key: dg.AssetKey, day: str
) -> list[dg.AssetMaterialization]:
    """The materializations of a day, newest first."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[day])
    records = instance.fetch_materializations(wanted, limit=1000).records
    return [record.asset_materialization for record in records if record.asset_materialization]
