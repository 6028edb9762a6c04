"""What checks read: the stored output of each partition of the run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg

from dagster_kumo.api.errors import KumoError
from dagster_kumo.checks.asset_check import NothingToCheck
from dagster_kumo.execution.partitions.anchor_time import length_of, window_of
from dagster_kumo.execution.partitions.previous import partition_before
from dagster_kumo.io_manager.io_manager import KumoIOManager
from dagster_kumo.resource import KumoResource

if TYPE_CHECKING:
    from dagster_kumo.predictions.predictions import Predictions
    from dagster_kumo.predictions.statistics.stored_statistics import StoredColumn, StoredStatistics
    from dagster_kumo.predictions.store.manifest import Manifest
    from dagster_kumo.predictions.store.store import PartitionStore


def partitions_to_check(
    context: dg.AssetCheckExecutionContext, asset_key: dg.AssetKey
) -> tuple[Sequence[str | None], bool]:
    """The partitions of the run, or else the one that was materialized last; and whether they are the run's."""
    event = context.instance.get_latest_materialization_event(asset_key)
    latest = event.asset_materialization if event is not None else None
    # Dagster 1.12 gives the run's partitions to the op's context, not to the check's.
    run = context.op_execution_context
    is_partitioned = latest is None or latest.partition is not None
    if is_partitioned and (run.has_partition_key or run.has_partition_key_range):
        return list(run.partition_keys), True
    return [latest.partition if latest is not None else None], False


class StoredOutput:
    """The current version of one asset partition.

    Raises:
        NothingToCheck: Nothing is stored.
    """

    def __init__(self, store: PartitionStore, partition_key: str | None) -> None:
        manifest = store.manifest()
        if manifest is None:
            raise NothingToCheck(
                f"Nothing is stored in {store.directory}.\nMaterialize the asset with the same KumoIOManager.",
                dg.AssetCheckSeverity.ERROR,
            )
        self.manifest: Manifest = manifest
        self.partition_key = partition_key
        self._store = store

    @cached_property
    def rows(self) -> Predictions:
        """The stored files. No row is read yet."""
        return self._store.predictions(self.manifest)

    @cached_property
    def statistics(self) -> StoredStatistics:
        """The statistics beside the files.

        Raises:
            NothingToCheck: There are none.
        """
        from dagster_kumo.predictions.store.statistics_file import read_statistics

        found = read_statistics(self._store, self.manifest)
        if found is None:
            raise NothingToCheck(
                "There are no statistics beside the files: KumoIOManager(statistics=False) and earlier "
                "versions write none.\nMaterialize again with statistics."
            )
        return found

    def columns(self, names: Sequence[str]) -> dict[str, StoredColumn]:
        """The statistics of these columns.

        Raises:
            NothingToCheck: One of them has none.
        """
        known = self.statistics.columns
        missing = [name for name in names if name not in known]
        if missing:
            raise NothingToCheck(
                f"There are no statistics of {', '.join(missing)}, only of {', '.join(known) or 'no column'}.\n"
                "Give the check other columns=, or the KumoIOManager other statistics_columns=."
            )
        return {name: known[name] for name in names}

    @property
    def latest_anchor(self) -> datetime | None:
        """The latest anchor time of the rows, or else the one that the job states."""
        try:
            anchors = self.statistics.anchors
        except NothingToCheck:
            anchors = None
        return anchors[1] if anchors else self.manifest.prediction_time


class StoredOutputs:
    """The stored outputs that one run of the checks reads.

    Raises:
        ValueError: The asset's I/O manager is not a `KumoIOManager`.
    """

    def __init__(
        self,
        context: dg.AssetCheckExecutionContext,
        asset_key: dg.AssetKey,
        partitions_def: dg.PartitionsDefinition | None,
        io_manager_key: str,
        resource_key: str,
    ) -> None:
        self._context, self._resource_key = context, resource_key
        manager = getattr(context.resources, io_manager_key)
        if not isinstance(manager, KumoIOManager):
            raise ValueError(
                f"{io_manager_key!r} is a {type(manager).__name__}, whose files these checks cannot read.\n"
                "Name the KumoIOManager of the asset by io_manager_key=."
            )
        self._manager = manager
        self._asset_key = asset_key
        self._partitions_def = partitions_def
        self._instance = context.instance
        self._outputs: dict[str | None, StoredOutput] = {}
        self._holdouts: dict[str, StoredStatistics] = {}
        self.partition_keys, self._has_run_partitions = partitions_to_check(context, asset_key)
        """The partitions of the run, or else the one that was materialized last."""

    def output(self, partition_key: str | None) -> StoredOutput:
        """The stored output of a partition.

        Raises:
            NothingToCheck: Nothing is stored.
        """
        if partition_key not in self._outputs:
            store = self._manager.partition_store(self._asset_key, partition_key)
            self._outputs[partition_key] = StoredOutput(store, partition_key)
        return self._outputs[partition_key]

    def output_before(self, partition_key: str | None) -> StoredOutput | None:
        """The stored output of the previous partition; None if there is none, or it has no statistics."""
        if self._partitions_def is None or partition_key is None:
            return None
        before = partition_before(self._partitions_def, partition_key, self._instance)
        if before is None:
            return None
        try:
            output = self.output(before)
            _ = output.statistics
        except NothingToCheck:
            return None
        return output

    def holdout(self, training_job_id: str, output: StoredStatistics) -> StoredStatistics:
        """The statistics of a model's holdout data, for an output to be compared with.

        Raises:
            NothingToCheck: It cannot be read.
        """
        from dagster_kumo.checks.holdout import holdout_statistics

        kumo: KumoResource = getattr(self._context.resources, self._resource_key)
        if training_job_id not in self._holdouts:
            try:
                client = kumo.get_client()
                self._holdouts[training_job_id] = holdout_statistics(
                    client, training_job_id, output
                )
            except KumoError as error:
                raise NothingToCheck(
                    f"The holdout of training job {training_job_id} cannot be read: {error}\n"
                    "Run the check again, or leave out holdout_drift."
                ) from None
        return self._holdouts[training_job_id]

    def newest_partition_keys(self) -> Sequence[str | None]:
        """The partitions of the run, or else the newest one that is materialized."""
        if self._has_run_partitions or self._partitions_def is None:
            return self.partition_keys
        ends = {
            key: window.end
            for key in self._instance.get_materialized_partitions(self._asset_key)
            if (window := window_of(self._partitions_def, key)) is not None
        }
        return [max(ends, key=lambda key: ends[key])] if ends else self.partition_keys

    def is_backfill(self, partition_key: str | None) -> bool:
        """Whether the run is for a past partition: the window of the next one has ended as well."""
        window = window_of(self._partitions_def, partition_key)
        if not self._has_run_partitions or window is None:
            return False
        # In UTC, since a sum of wall-clock times is wrong across a change of the clocks.
        next_end = window.end.astimezone(timezone.utc) + length_of(window)
        return datetime.now(timezone.utc) >= next_end
