"""Count the distinct rows of an output by some columns: exactly, in bounded memory.

Each row becomes a hash of 64 bits. The hashes go to files on disk by their first bits, and one file at a time
is sorted in memory. Equal rows have equal hashes, so no repeated row is missed. If hashes repeat, the rows
themselves are compared, because two different rows may have the same hash.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dagster_kumo.predictions.predictions import Predictions

ROWS_AT_ONCE = 4_000_000  # hashes that are sorted in memory at a time: 32 MB
LOOKED_AT = 10_000  # repeated hashes whose rows are compared
_NULL = np.uint64(0x9E3779B97F4A7C15)
_ODD = np.uint64(0xFF51AFD7ED558CCD)

HashArray = np.ndarray[Any, np.dtype[np.uint64]]


@dataclass
class DistinctRows:
    """The result of the count."""

    rows: int
    distinct: int
    nulls: int = 0
    """Rows whose first column is empty. They are not counted otherwise."""

    @property
    def repeated(self) -> int:
        """How many rows repeat another one."""
        return self.rows - self.nulls - self.distinct


def distinct_rows(
    output: Predictions, columns: Sequence[str], *, rows_at_once: int = ROWS_AT_ONCE
) -> DistinctRows:
    """Count the distinct rows of an output by `columns`, of which the first is an identifier.

    Reads only these columns. Memory is bounded by `rows_at_once`, at about 80 bytes each. The temporary
    folder needs 8 bytes for each row.

    Raises:
        KumoDataError: A file cannot be read, or has no such column.
    """
    buckets = 1 + output.num_rows // rows_at_once
    found = DistinctRows(rows=0, distinct=0)
    suspects: list[HashArray] = []
    with tempfile.TemporaryDirectory(prefix="dagster-kumo-") as folder:
        paths = [Path(folder) / str(index) for index in range(buckets)]
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("wb")) for path in paths]
            for batch in output.iter_batches(columns=columns):
                found.rows += batch.num_rows
                present = batch.filter(batch.column(columns[0]).is_valid())
                found.nulls += batch.num_rows - present.num_rows
                _spread(_hashes(present, columns), files)
        for path in paths:
            distinct, repeating = _counted(path, rows_at_once)
            found.distinct += distinct
            suspects.append(repeating[:LOOKED_AT])
            path.unlink()
    looked_at = np.concatenate(suspects)[:LOOKED_AT]
    if len(looked_at):
        _look_again(output, columns, looked_at, found)
    return found


def _counted(path: Path, rows_at_once: int) -> tuple[int, HashArray]:
    """The number of distinct hashes in a file, and the hashes that occur more than once."""
    seen = np.empty(0, np.uint64)
    repeating = seen
    with path.open("rb") as file:
        # In pieces, because a row that occurs a billion times makes one file long.
        while len(piece := np.fromfile(file, np.uint64, rows_at_once)):
            values, times = np.unique(piece, return_counts=True)
            again = (times > 1) | np.isin(values, seen, assume_unique=True)
            repeating = np.union1d(repeating, values[again])
            seen = np.union1d(seen, values) if len(seen) else values
    return len(seen), repeating


def _look_again(
    output: Predictions, columns: Sequence[str], looked_at: HashArray, found: DistinctRows
) -> None:
    """Tell repeated rows from different rows with the same hash."""
    of_hash: defaultdict[int, set[tuple[Any, ...]]] = defaultdict(set)
    for batch in output.iter_batches(columns=columns):
        present = batch.filter(batch.column(columns[0]).is_valid())
        hashes = _hashes(present, columns)
        chosen = np.isin(hashes, looked_at)
        if chosen.any():
            rows = present.filter(pa.array(chosen)).select(list(columns)).to_pylist()
            for row, hash_ in zip(rows, hashes[chosen].tolist(), strict=True):
                of_hash[hash_].add(tuple(row.values()))
    # Of n different rows with the same hash, n - 1 were taken for repeated ones.
    found.distinct += sum(len(rows) - 1 for rows in of_hash.values())


def _spread(hashes: HashArray, files: Sequence[IO[bytes]]) -> None:
    """Append each hash to the file that it belongs to."""
    if len(files) == 1:
        hashes.tofile(files[0])
        return
    bucket = (hashes >> np.uint64(32)) % np.uint64(len(files))
    for index, file in enumerate(files):
        hashes[bucket == index].tofile(file)


def _hashes(rows: pa.RecordBatch, columns: Sequence[str]) -> HashArray:
    """One hash for each row."""
    combined = np.zeros(rows.num_rows, np.uint64)
    for column in columns:
        combined = (combined ^ _column_hashes(rows.column(column))) * _ODD
        combined ^= combined >> np.uint64(33)
    return combined


def _column_hashes(column: pa.Array[Any]) -> HashArray:
    """One hash for each value. It is the same in every file, whatever the width of the value there."""
    encoded: Any = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
    values: Any = encoded.dictionary
    if pa.types.is_integer(values.type):
        values = values.cast(pa.int64(), safe=False)
    elif not pa.types.is_floating(values.type):
        values = values.cast(pa.string())
    of_values = pd.util.hash_array(values.to_numpy(zero_copy_only=False), categorize=False)
    of_values = np.append(of_values, _NULL)
    return of_values[encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)]
