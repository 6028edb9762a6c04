"""Which outputs an argument of a factory, or a run, selects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias

import dagster as dg

from dagster_kumo.api.records import OutputType
from dagster_kumo.execution.metadata import BATCH_PREDICTION, DEADLINE, OUTPUT_TYPE, TRAINING
from dagster_kumo.execution.partitions.anchor_time import anchor_time, check_anchor, window_of
from dagster_kumo.execution.run_config import KumoRunConfig
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.jobs.training_spec import TrainingSpec

OutputReference: TypeAlias = (
    dg.AssetsDefinition
    | dg.AssetSpec
    | dg.AssetKey
    | str
    | Sequence[str]
    | Sequence[dg.AssetsDefinition | dg.AssetSpec]
)
"""What names an output: the definitions or specs that have it, or its key."""


def prediction_in(given: OutputReference) -> BatchPrediction | None:
    """The prediction of the definitions that name an output; None for a key, and for other assets."""
    for item in _items(given):
        metadata = item.metadata_by_key.values() if isinstance(item, dg.AssetsDefinition) else []
        specs = [item.metadata] if isinstance(item, dg.AssetSpec) else metadata
        for entries in specs:
            if BATCH_PREDICTION in entries:
                return BatchPrediction(**entries[BATCH_PREDICTION].data)
    return None


def training_in(assets_def: dg.AssetsDefinition) -> TrainingSpec | None:
    """What an asset trains; None for other assets."""
    for entries in assets_def.metadata_by_key.values():
        if TRAINING in entries:
            return TrainingSpec(**entries[TRAINING].data)
    return None


def check_has_run(context: dg.AssetExecutionContext) -> None:
    """Refuse a context that `dg.build_asset_context` made: a launch belongs to a run.

    Raises:
        ValueError: There is no run; says how to have one.
    """
    try:
        _ = context.run
    except dg.DagsterError:  # its subclass for this is not public
        raise ValueError(
            "The asset was called directly. A Kumo job belongs to a run, so that later attempts can "
            "attach to it.\nIn a test, write dg.materialize([...], resources={...}), with LocalKumo as the server."
        ) from None


def only_partition(
    context: dg.AssetExecutionContext,
    *,
    of: str,
    way_out: str = "Launch a run for each, as a backfill does.",
) -> str | None:
    """The partition of a run that can have only one; None for assets without partitions.

    Raises:
        ValueError: The run is for several. The message says that `of` is for one, and the way out.
    """
    if context.assets_def.partitions_def is None:
        return None
    keys = context.partition_keys
    if len(keys) != 1:
        raise ValueError(f"This run is for {len(keys)} partitions, and {of} is for one.\n{way_out}")
    return keys[0]


def find_output(
    given: OutputReference, output_type: OutputType | None, *, argument: str
) -> tuple[dg.AssetKey, dg.PartitionsDefinition | None]:
    """The output that an argument names, and its partitions if they are known.

    Without an `output_type` it is the predictions or else the only output, which may be that of an ordinary asset.

    Raises:
        ValueError: It names no output, or several.
    """
    key = given_key(given)
    if key is not None:
        return key, None
    specs = _specs(given, argument)
    wanted = output_type or "predictions"
    found = [spec for spec in specs if spec.metadata.get(OUTPUT_TYPE) == wanted]
    if not found and output_type is None:
        found = [spec for spec in specs if OUTPUT_TYPE in spec.metadata]
        if not found and isinstance(given, dg.AssetsDefinition) and given.is_materializable:
            found = specs
    if len(found) == 1:
        return found[0].key, found[0].partitions_def
    named = ", ".join(spec.key.to_user_string() for spec in found or specs) or "nothing"
    if found:
        raise ValueError(
            f"{argument}= names several outputs: {named}.\n"
            f'Pass the key of one: {argument}="{found[0].key.to_user_string()}".'
        )
    raise ValueError(
        f"{argument}= has no {wanted}, only {named}.\nPass what @kumo_assets made with "
        f'BatchPrediction(outputs=({wanted!r},)), another output_type, or a key: {argument}="churn/{wanted}".'
    )


def given_key(given: OutputReference) -> dg.AssetKey | None:
    """The key, given in any form that Dagster accepts; None for definitions and specs."""
    if isinstance(given, dg.AssetKey):
        return given
    if isinstance(given, str):
        return dg.AssetKey.from_user_string(given)
    parts = _items(given)
    return dg.AssetKey(parts) if parts and all(isinstance(part, str) for part in parts) else None


def _specs(given: OutputReference, argument: str) -> list[dg.AssetSpec]:
    specs: list[dg.AssetSpec] = []
    for item in _items(given):
        if not isinstance(item, dg.AssetsDefinition | dg.AssetSpec):
            raise ValueError(
                f"{argument}= takes no {type(item).__name__}.\nPass what @kumo_assets or "
                f'build_kumo_assets_definitions made, or a key: {argument}="churn/predictions".'
            )
        specs += item.specs if isinstance(item, dg.AssetsDefinition) else [item]
    return specs


def _items(given: Any) -> list[Any]:
    # Not isinstance: Dagster's keys and specs are tuples too.
    return [*given] if isinstance(given, list) or type(given) is tuple else [given]


class RunDefinition:
    """What to predict, and which of its assets and partitions a run makes.

    The partitions are `[None]` for assets without partitions.

    Raises:
        ValueError: The assets were not made by `@kumo_assets`, or their definition or the configuration is invalid.
    """

    def __init__(
        self,
        assets_def: dg.AssetsDefinition,
        selected: Iterable[dg.AssetKey],
        partition_keys: Sequence[str | None],
        config: KumoRunConfig,
    ) -> None:
        metadata = assets_def.metadata_by_key
        prediction = prediction_in(assets_def)
        if prediction is None:
            raise ValueError(
                f"{assets_def.node_def.name} was not made by @kumo_assets, so there is no prediction to "
                "run. Decorate the function with @kumo_assets(name=..., prediction=BatchPrediction(...))."
            )
        self.config = config
        self.prediction = config.applied_to(prediction)
        selected = sorted(selected, reverse=True)  # predictions come first
        self.outputs: dict[OutputType, dg.AssetKey] = {
            metadata[key][OUTPUT_TYPE]: key for key in selected if OUTPUT_TYPE in metadata[key]
        }
        """The outputs that the run makes."""
        seconds = [e[DEADLINE] for e in metadata.values() if DEADLINE in e]
        self._deadline = timedelta(seconds=seconds[0]) if seconds else None
        tables = [key for key, entries in metadata.items() if OUTPUT_TYPE not in entries]
        self.table: dg.AssetKey | None = tables[0] if tables else None
        """The asset of the prediction table, if one is generated."""
        self.makes_table = self.table in selected
        self.partitions_def = assets_def.partitions_def
        self.partition_keys = partition_keys
        several = [key for key in partition_keys if key is not None]
        self.several_partitions: Sequence[str] | None = several if len(several) > 1 else None
        """The partitions of a run over several; None in a run for one, or without partitions."""
        check_anchor(self.prediction, self.partitions_def, name=assets_def.node_def.name)

    @classmethod
    def of(cls, context: dg.AssetExecutionContext) -> RunDefinition:
        """What the step of a run makes."""
        assets_def = context.assets_def
        keys = context.partition_keys if assets_def.partitions_def is not None else [None]
        config = KumoRunConfig.given(context.op_execution_context.op_config)
        return cls(assets_def, context.selected_asset_keys, keys, config)

    def window(self, partition_key: str | None) -> dg.TimeWindow | None:
        """The time window of a partition; None if it has none."""
        return window_of(self.partitions_def, partition_key)

    def deadline(self, partition_key: str | None, begun: datetime) -> datetime | None:
        """When the outputs of a partition should be there; None if that was past when the run began."""
        if self._deadline is None:
            return None
        window = self.window(partition_key)
        deadline = (window.end if window else begun) + self._deadline
        return deadline.astimezone(timezone.utc) if deadline > begun else None

    def anchor_time(self, partition_key: str | None) -> datetime | None:
        """The time that predictions of a partition look ahead from; None leaves it to Kumo."""
        return anchor_time(self.window(partition_key), self.prediction.anchor)
