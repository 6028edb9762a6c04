"""What Dagster has recorded of predictions and evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from dagster_kumo.execution.launch.deliveries import read_events


def latest_metadata(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partition_key: str | None
) -> Mapping[str, Any] | None:
    """The metadata of the latest materialization of an asset's partition; None if there is none."""
    partitions = None if partition_key is None else [partition_key]
    wanted = dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=partitions)
    for record in read_events(lambda: instance.fetch_materializations(wanted, limit=1)):
        if record.asset_materialization is not None:
            return {n: v.value for n, v in record.asset_materialization.metadata.items()}
    return None
