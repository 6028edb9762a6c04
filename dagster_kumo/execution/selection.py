"""What the definition of the assets in a run says of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import dagster as dg

from dagster_kumo.api.records import OutputType
from dagster_kumo.execution.metadata import BATCH_PREDICTION, OUTPUT_TYPE
from dagster_kumo.execution.partitions.anchor_time import anchor_time, check_anchor, window_of
from dagster_kumo.jobs.prediction_spec import BatchPrediction


def prediction_of(assets_def: dg.AssetsDefinition) -> BatchPrediction | None:
    """What `@kumo_assets` was told to run; None for assets that it did not make."""
    for metadata in assets_def.metadata_by_key.values():
        if BATCH_PREDICTION in metadata:
            return BatchPrediction(**metadata[BATCH_PREDICTION].data)
    return None


def check_has_run(context: dg.AssetExecutionContext) -> None:
    """Refuse a context that `dg.build_asset_context` made: a launch belongs to a run.

    Raises:
        ValueError: there is no run; says how to have one.
    """
    try:
        _ = context.run
    except dg.DagsterError:  # its subclass for this is not public
        raise ValueError(
            "The asset was called directly, and a Kumo job is launched by a run, which later attempts "
            "attach to.\nIn a test, write dg.materialize([...], resources={...}), with LocalKumo as the server."
        ) from None


class RunDefinition:
    """What to predict, and which of its assets and partitions the run makes.

    Raises:
        ValueError: the assets were not made by `@kumo_assets`, or their definition cannot be.
    """

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        metadata = context.assets_def.metadata_by_key
        prediction = prediction_of(context.assets_def)
        if prediction is None:
            raise ValueError(
                f"{context.assets_def.node_def.name} was not made by @kumo_assets, so there is no prediction to "
                "run. Decorate the function with @kumo_assets(name=..., prediction=BatchPrediction(...))."
            )
        self.prediction = prediction
        selected = sorted(context.selected_asset_keys, reverse=True)  # predictions come first
        self.outputs: dict[OutputType, dg.AssetKey] = {
            metadata[key][OUTPUT_TYPE]: key for key in selected if OUTPUT_TYPE in metadata[key]
        }
        """The outputs that the run makes."""
        tables = [key for key, entries in metadata.items() if OUTPUT_TYPE not in entries]
        self.table: dg.AssetKey | None = tables[0] if tables else None
        """The asset of the prediction table, if one is generated."""
        self.makes_table = self.table in context.selected_asset_keys
        self.partitions_def = context.assets_def.partitions_def
        self.partition_keys: Sequence[str | None] = (
            context.partition_keys if self.partitions_def is not None else [None]
        )
        self.several_partitions: Sequence[str] | None = (
            context.partition_keys if len(self.partition_keys) > 1 else None
        )
        """The partitions of a run over several; None in a run for one, or without partitions."""
        check_anchor(self.prediction, self.partitions_def, name=context.assets_def.node_def.name)

    def window(self, partition_key: str | None) -> dg.TimeWindow | None:
        """The time that a partition stands for; None when it stands for none."""
        return window_of(self.partitions_def, partition_key)

    def anchor_time(self, partition_key: str | None) -> datetime | None:
        """The time that predictions of a partition look ahead from; None leaves it to Kumo."""
        return anchor_time(self.window(partition_key), self.prediction.anchor)
