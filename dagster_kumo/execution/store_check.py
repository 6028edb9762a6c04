"""Checks that outputs can be stored, before a job is launched and paid for."""

from __future__ import annotations

from typing import Any

import dagster as dg

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.execution.metadata import IO_MANAGER_KEY
from dagster_kumo.execution.partitions.previous import partition_before
from dagster_kumo.execution.selection import RunDefinition

_NOT_LAUNCHED = "No prediction job was launched."


def check_stores(context: dg.AssetExecutionContext, definition: RunDefinition) -> None:
    """Check that the I/O manager can store the outputs of a run. One that cannot tell is trusted.

    Of a run over several partitions the first one is tried.

    Raises:
        KumoDataError: The output of another asset is stored in the place.
        OSError: Nothing can be written there.
    """
    partition_key, partitions_def = definition.partition_keys[0], definition.partitions_def
    before = None
    if partition_key is not None and partitions_def is not None:
        before = partition_before(partitions_def, partition_key, context.instance)
    for asset_key in definition.outputs.values():
        key = context.assets_def.metadata_by_key[asset_key].get(IO_MANAGER_KEY)
        store: Any = getattr(context.resources, key, None) if key else None
        if not hasattr(store, "check_writable"):  # another I/O manager
            continue
        try:
            store.check_writable(asset_key, partition_key, before)
        except KumoDataError as error:
            raise KumoDataError(f"{error}\n{_NOT_LAUNCHED}") from None
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}\n{_NOT_LAUNCHED}") from None
