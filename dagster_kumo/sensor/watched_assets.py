"""The assets of a sensor: which model they use, and which partition a time belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.api.records import OutputType
from dagster_kumo.execution.metadata import OUTPUT_TYPE
from dagster_kumo.execution.partitions.anchor_time import partition_at, said_time
from dagster_kumo.execution.selection import prediction_in
from dagster_kumo.jobs.prediction_spec import BatchPrediction


@dataclass(frozen=True)
class WatchedAssets:
    """The outputs of one model, from their definition."""

    prediction: BatchPrediction
    outputs: Mapping[OutputType, dg.AssetKey]
    partitions_def: dg.PartitionsDefinition | None

    @classmethod
    def of(cls, assets_def: dg.AssetsDefinition) -> WatchedAssets | None:
        """The outputs of a definition; None if `@kumo_assets` did not make it."""
        prediction = prediction_in(assets_def)
        if prediction is None:
            return None
        outputs: dict[OutputType, dg.AssetKey] = {
            metadata[OUTPUT_TYPE]: key
            for key, metadata in assets_def.metadata_by_key.items()
            if OUTPUT_TYPE in metadata
        }
        return cls(prediction, outputs, assets_def.partitions_def)

    @property
    def have_times(self) -> bool:
        """Whether a partition can be found by its anchor time."""
        has_windows = isinstance(self.partitions_def, dg.TimeWindowPartitionsDefinition)
        return has_windows and self.prediction.anchor is not None

    def partition_of(self, predicted_for: datetime | None) -> str | None:
        """The partition that predictions for a time belong to; None for assets without partitions.

        Raises:
            KumoDataError: They belong to none.
        """
        if self.partitions_def is None:
            return None
        anchor = self.prediction.anchor
        if anchor is None or not isinstance(self.partitions_def, dg.TimeWindowPartitionsDefinition):
            raise KumoDataError("its partition does not follow from a time alone")
        if predicted_for is None:
            raise KumoDataError("it does not state the time that it predicted for")
        key = partition_at(self.partitions_def, anchor, predicted_for)
        if key is None:
            raise KumoDataError(
                f"it predicted for {said_time(predicted_for)}, and no partition {anchor}s there"
            )
        return key
