"""What a context tells about an output or input, and what errors say about it.

A context that a test has built knows less than that of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

import dagster as dg

from dagster_kumo.execution.metadata import OUTPUT_TYPE
from dagster_kumo.io_manager.input_types import Annotation
from dagster_kumo.io_manager.partition_order import in_order

OR_NONE = "Materialize it first, or annotate the input with `... | None`, which is None until then."


def partition_keys(context: dg.InputContext | dg.OutputContext) -> Sequence[str | None]:
    """The partitions in the order of their definition; one None for what has no partitions."""
    if not (context.has_asset_key and context.has_asset_partitions):
        return [None]
    keys = context.asset_partition_keys
    if len(keys) < 2 or not has_partitions_def(context):
        return list(keys)
    return in_order(keys, context.asset_partitions_def, _instance(context))


def has_partitions_def(context: dg.InputContext | dg.OutputContext) -> bool:
    """Whether the context knows how the asset is partitioned."""
    try:
        _ = context.asset_partitions_def
    except dg.DagsterInvariantViolationError:
        return False
    return True


def _instance(context: dg.InputContext | dg.OutputContext) -> dg.DagsterInstance | None:
    try:
        return context.instance if isinstance(context, dg.InputContext) else None
    except dg.DagsterInvariantViolationError:
        return None


def annotation_of(context: dg.InputContext) -> Annotation:
    """An input's annotation; an open one if there is none."""
    try:
        annotation = context.dagster_type.typing_type
    except dg.DagsterInvariantViolationError:
        return Annotation(Any)
    if get_origin(annotation) is list and not context.has_asset_key:
        # The outputs of several ops, which Dagster loads one by one.
        (annotation,) = get_args(annotation)
    return Annotation.parse(annotation)


def columns_of(metadata: Mapping[str, Any]) -> list[str] | None:
    """The columns that an input's metadata names; None: all.

    Raises:
        TypeError: It is a string: its letters would be taken as names.
    """
    columns = metadata.get("columns")
    if isinstance(columns, str):
        raise TypeError(
            f'"columns" must be a list of names. Write AssetIn(metadata={{"columns": ["{columns}"]}}).'
        )
    return None if columns is None else list(columns)


def name_of(context: dg.InputContext | dg.OutputContext) -> str:
    """What messages call an output or input: its asset key, or its own name."""
    if context.has_asset_key:
        return context.asset_key.to_user_string()
    if isinstance(context, dg.InputContext) and not context.has_input_name:
        return "/".join(context.get_identifier())
    return context.name


def _in_asset_check() -> bool:
    try:
        dg.AssetCheckExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return False
    return True


def nothing_returned(context: dg.OutputContext) -> str:
    """The error for an asset that returned None."""
    if OUTPUT_TYPE in (context.definition_metadata or {}):
        return (
            f"The function of {name_of(context)} returned None: the prediction has not run. "
            "Write `yield from kumo.predict(context)`."
        )
    return (
        f"{name_of(context)} returned None, of which nothing can be stored. If it is meant to return nothing, "
        "add the return type annotation `-> None`. Otherwise return Predictions, a DataFrame or an Arrow table."
    )


def not_stored(context: dg.InputContext, missing: Sequence[str | None]) -> str:
    """The error for partitions that are not stored, or for an asset without partitions that is not."""
    name = name_of(context)
    if missing != [None]:
        if _in_asset_check():
            way_out = (
                "give the check the asset's partitions, @asset_check(partitions_def=...): it then reads "
                "the run's partition alone."
            )
        else:
            way_out = 'write AssetIn(metadata={"allow_missing_partitions": True}) to go on without.'
        return f"{name} is not stored for {listed(missing)}. Materialize it first, or {way_out}"
    if has_partitions_def(context):
        return (
            f"{name} has partitions, and none was asked for. Name one, as in "
            f'load_asset_value("{name}", partition_key=...).'
        )
    return f"{name} is not stored. {OR_NONE}"


def listed(keys: Sequence[object]) -> str:
    """The first few of many keys."""
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"{', '.join(map(str, keys[:5]))}{more}"
