"""The statistics of a version, in a file beside its Parquet files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.statistics.stored_statistics import StoredStatistics
from dagster_kumo.predictions.store.manifest import Manifest
from dagster_kumo.predictions.store.storage_errors import explained
from dagster_kumo.predictions.store.store import NewVersion, PartitionStore
from dagster_kumo.predictions.store.transfer import Transferred

STATISTICS = "_statistics.json"
"""The file's name. Readers of a folder of Parquet files ignore names that begin with an underscore."""


def write_statistics(
    version: NewVersion,
    transferred: Transferred,
    *,
    entities: int | None,
    warn: Callable[[str], None],
) -> None:
    """Write the statistics of an output, if there are any, into its version, which is not committed yet.

    `entities` is for how many its job says that it predicted. If statistics cannot be made, `warn`
    is called with the reason.
    """
    try:
        statistics = transferred.statistics(entities)
    except Exception as error:  # noqa: BLE001 - statistics are optional: never fail the asset over them
        warn(f"No statistics are kept beside the files: {error}")
        return
    if statistics is None:
        return
    scratch = version.scratch / f"{STATISTICS}.partial"
    with version.scratch_errors():
        scratch.write_text(statistics.model_dump_json(exclude_none=True))
    version.put(scratch, STATISTICS)


def read_statistics(
    store: PartitionStore, manifest: Manifest | None = None
) -> StoredStatistics | None:
    """The statistics of the version in force, or of the one that a manifest names.

    None if nothing is stored, or no statistics were written.

    Raises:
        KumoDataError: The file does not contain statistics.
    """
    manifest = manifest or store.manifest()
    if manifest is None:
        return None
    path = store.directory / manifest.version / STATISTICS
    with explained(f"{path} could not be read"):
        try:
            content: Any = path.fs.cat_file(path.path)
        except FileNotFoundError:
            return None
    try:
        return StoredStatistics.model_validate_json(content)
    except ValidationError:
        raise KumoDataError(
            f"{path} holds no statistics of dagster-kumo.\nMaterialize again to write them."
        ) from None
