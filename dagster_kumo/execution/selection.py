"""Which outputs are meant: by what a user passes to a factory, and by the definition of a run's assets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

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


def find_output(
    given: Any, output_type: OutputType, *, argument: str
) -> tuple[dg.AssetKey, dg.PartitionsDefinition | None]:
    """The one output that a user means, and its partitions where they are known.

    Args:
        given: definitions, one or a list; a spec; or a key in any of the forms that Dagster has.
        output_type: which output of the definitions.
        argument: what the user calls it.

    Raises:
        ValueError: no output is meant, or several are.
    """
    # Not isinstance: Dagster's keys and specs are tuples too.
    items: list[Any] = [*given] if isinstance(given, list) or type(given) is tuple else [given]
    if isinstance(given, dg.AssetKey):
        return given, None
    if isinstance(given, str):
        return dg.AssetKey.from_user_string(given), None
    if items and all(isinstance(item, str) for item in items):
        return dg.AssetKey(items), None
    specs: list[dg.AssetSpec] = []
    for item in items:
        if not isinstance(item, dg.AssetsDefinition | dg.AssetSpec):
            raise ValueError(
                f"{argument}= takes no {type(item).__name__}.\nPass what @kumo_assets or "
                f'build_kumo_assets_definitions made, or a key: {argument}="churn/predictions".'
            )
        specs += item.specs if isinstance(item, dg.AssetsDefinition) else [item]
    found = [spec for spec in specs if spec.metadata.get(OUTPUT_TYPE) == output_type]
    if len(found) == 1:
        return found[0].key, found[0].partitions_def
    named = ", ".join(spec.key.to_user_string() for spec in found or specs) or "nothing"
    if found:
        key = found[0].key.to_user_string()
        raise ValueError(
            f"{argument}= has the {output_type} of several models: {named}.\n"
            f'Pass one, by its key: {argument}="{key}".'
        )
    raise ValueError(
        f"{argument}= has no {output_type}, only {named}.\nPass what @kumo_assets made with "
        f"BatchPrediction(outputs=(..., {output_type!r})), the key of the output, or another output_type."
    )


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
