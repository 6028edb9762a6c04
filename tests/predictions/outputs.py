"""Outputs for tests: files that are written, and versions of them in a store."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from dagster_kumo import Predictions
from dagster_kumo.predictions.files import PartitionFile, StoredFile
from dagster_kumo.predictions.predictions import Provenance
from dagster_kumo.predictions.store.manifest import StoredFileEntry
from dagster_kumo.predictions.store.store import NewVersion, PartitionStore
from dagster_kumo.predictions.store.transfer import Transferred, transfer
from dagster_kumo.predictions.streams import Lane, Streams, Watcher


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    """A table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def can_store(column: pa.Array) -> bool:
    """Whether the installed pyarrow reads what it writes of a type."""
    try:
        pq.read_table(io.BytesIO(parquet_bytes(pa.table({"x": column}))))
    except pa.ArrowException:
        return False
    return True


def fetch(
    file: PartitionFile,
    to: Path,
    columns: Sequence[str] | None = None,
    watcher: Watcher | None = None,
) -> Path:
    """Fetch one file, as readers do."""
    streams = Streams()
    lane = Lane(streams, 0, file.name)
    lane.watcher = watcher
    try:
        return file.fetch_to(to, lane, columns)
    finally:
        streams.close()


def write_files(folder: Path, tables: Sequence[pa.Table]) -> Predictions:
    """Tables as an output of one file each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"part-{i}.parquet" for i in range(len(tables))]
    for path, table in zip(paths, tables, strict=True):
        pq.write_table(table, path)
    return Predictions([StoredFile(UPath(path)) for path in paths])


def store_output(
    output: Predictions, store: PartitionStore, provenance: Provenance | None = None, **options: Any
) -> tuple[Predictions, Transferred]:
    """Bring an output into a store, as the I/O manager does."""
    with store.new_version() as version:
        transferred = transfer(output.files, version, max_parallel=2, **options)
        return version.commit(transferred.files, provenance), transferred


def put_files(version: NewVersion, name: str, files: int = 2) -> list[StoredFileEntry]:
    """Put small files into a version, whose only value is `name`."""
    entries: list[StoredFileEntry] = []
    for index in range(files):
        scratch = version.scratch / f"scratch-{index}"
        pq.write_table(pa.table({"ENTITY": [name]}), scratch)
        entry = StoredFileEntry(
            name=f"part-{index:05d}.parquet", num_rows=1, size_bytes=scratch.stat().st_size
        )
        version.put(scratch, entry.name)
        entries.append(entry)
    return entries


def write_version(store: PartitionStore, name: str, files: int = 2) -> Predictions:
    """Write a version of small files whose only value is `name`."""
    with store.new_version() as version:
        return version.commit(put_files(version, name, files), None)


def content(store: PartitionStore) -> set[str]:
    """What the version in force holds: one name, if it is whole."""
    return set(store.read().to_arrow()["ENTITY"].to_pylist())
