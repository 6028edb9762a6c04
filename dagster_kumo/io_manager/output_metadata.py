"""What the metadata of a materialization tells of an output that has been stored.

The data stands, whatever becomes of the telling: what fails is left out, with a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_kumo.execution.metadata import (
    NAMESPACE,
    column_schema,
    drift_metadata,
    preview_table,
    statistics_metadata,
)
from dagster_kumo.execution.partitions.previous import partition_before

if TYPE_CHECKING:
    from dagster_kumo.predictions.predictions import Predictions, Provenance
    from dagster_kumo.predictions.statistics.summary import OutputSummary
    from dagster_kumo.predictions.store.store import PartitionStore
    from dagster_kumo.predictions.store.transfer import Transferred


def stored_metadata(
    context: dg.OutputContext,
    stored: Predictions,
    transferred: Transferred,
    *,
    partition_key: str | None,
    provenance: Provenance | None,
    preview_rows: int,
    store_of: Callable[[str], PartitionStore],
) -> dict[str, Any]:
    """The entries of an output that is in force.

    Args:
        context: of the output.
        stored: the output as it can be read now.
        transferred: what came over, and its statistics where they were wanted.
        partition_key: its partition; None for an asset without.
        provenance: what is known of its job.
        preview_rows: how many rows are shown.
        store_of: where a partition of the same asset is kept.
    """
    metadata: dict[str, Any] = {
        "dagster/row_count": transferred.num_rows,
        "dagster/size_bytes": transferred.size_bytes,
        "dagster/column_schema": column_schema(transferred.schema),
        f"{NAMESPACE}num_files": len(transferred.files),
    }
    tellers: dict[str, Callable[[], Mapping[str, Any]]] = {}
    summary = transferred.summary
    if summary is not None:
        for name, why in summary.failed.items():
            context.log.warning(f"There are no statistics of the column {name}: {why}")
        threshold = provenance.binary_classification_threshold if provenance else None
        tellers["statistics"] = lambda: statistics_metadata(summary)
        tellers["distribution"] = lambda: _distribution(summary, threshold)
        if partition_key is not None:
            tellers["drift"] = lambda: _drift(context, summary, partition_key, store_of)
    if preview_rows:
        tellers["preview"] = lambda: _preview(stored, preview_rows)
    for what, tell in tellers.items():
        try:
            metadata |= tell()
        except Exception as error:  # noqa: BLE001 - whatever it is, the data stands
            context.log.warning(f"There is no {what} in the metadata, the data is stored: {error}")
    return metadata


def _distribution(summary: OutputSummary, threshold: float | None) -> dict[str, Any]:
    """The picture, and beside it a text that Dagit shows in place; without a picture the text alone."""
    from dagster_kumo.io_manager.distribution import distribution_as_picture, distribution_as_text

    text = distribution_as_text(summary, threshold=threshold)
    if text is None:
        return {}
    entries = {"distribution": text}
    picture = distribution_as_picture(summary, threshold=threshold)
    if picture is not None:
        entries = {"distribution": picture, "distribution_in_brief": text}
    return {f"{NAMESPACE}{name}": dg.MetadataValue.md(value) for name, value in entries.items()}


def _drift(
    context: dg.OutputContext,
    summary: OutputSummary,
    partition_key: str,
    store_of: Callable[[str], PartitionStore],
) -> dict[str, Any]:
    """How far the scores have moved from the partition before, where that is stored with statistics."""
    from dagster_kumo.predictions.statistics.stored_statistics import (
        StoredStatistics,
        kept_statistics,
    )

    before = partition_before(context.asset_partitions_def, partition_key, _instance())
    earlier = kept_statistics(store_of(before)) if before is not None else None
    if earlier is None:
        return {}
    return drift_metadata(earlier, StoredStatistics.of(summary))


def _instance() -> dg.DagsterInstance | None:
    """Where dynamic partitions are kept; None outside of a run."""
    try:
        running: Any = dg.AssetExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return None
    return running.instance


def _preview(stored: Predictions, rows: int) -> dict[str, Any]:
    import pyarrow as pa

    first = next(stored.iter_batches(rows))
    return {f"{NAMESPACE}preview": preview_table(pa.Table.from_batches([first]).slice(0, rows))}
