"""Partition keys in the order of their definition. Dagster returns some subsets in the order of a set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg


def in_order(
    keys: Sequence[str],
    partitions_def: dg.PartitionsDefinition,
    instance: dg.DagsterInstance | None,
) -> list[str]:
    """`keys` in the order of their definition. Keys that it does not contain (any more) come last.

    Dynamic partitions are kept in the instance.

    >>> in_order(["c", "a"], dg.StaticPartitionsDefinition(["a", "b", "c"]), None)
    ['a', 'c']
    """
    if isinstance(partitions_def, dg.TimeWindowPartitionsDefinition):
        return list(keys)  # these Dagster keeps as ranges of time
    if isinstance(partitions_def, dg.MultiPartitionsDefinition):
        # By dimension: a list of all combinations may be very long.
        positions = {
            dimension.name: _positions(dimension.partitions_def, instance)
            for dimension in partitions_def.partitions_defs
        }

        def position(key: str) -> list[int]:
            parts = partitions_def.get_partition_key_from_str(key).keys_by_dimension
            return [known.get(parts[name], len(known)) for name, known in positions.items()]

        return sorted(keys, key=position)
    known = _positions(partitions_def, instance)
    return sorted(keys, key=lambda key: known.get(key, len(known)))


def _positions(
    partitions_def: dg.PartitionsDefinition, instance: dg.DagsterInstance | None
) -> Mapping[str, int]:
    if isinstance(partitions_def, dg.DynamicPartitionsDefinition) and instance is None:
        return {}
    keys = partitions_def.get_partition_keys(dynamic_partitions_store=instance)
    return {key: position for position, key in enumerate(keys)}
