"""How many rows differ, held against pandas on the same data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from dagster_kumo import Predictions
from dagster_kumo.predictions.files import StoredFile
from dagster_kumo.predictions.statistics.distinct import _hashes, distinct_rows

pytestmark = pytest.mark.fast

random = np.random.default_rng(3)
NUMBERS = random.integers(-3000, 3000, 5000)
ENTITIES = {
    "numbers": pa.array(NUMBERS),
    "texts": pa.array([f"customer-{n}" for n in NUMBERS]),
    "a dictionary": pa.array([f"customer-{n}" for n in NUMBERS]).dictionary_encode(),
    "one and the same": pa.array([7] * 5000),
    "some are missing": pa.array([None if n % 5 == 0 else n for n in NUMBERS.tolist()]),
    "all differ": pa.array(range(5000)),
}
OTHERS = {
    "CLASS": pa.array(random.choice(["a", "b", None], 5000)),
    "ANCHOR_TIMESTAMP": pa.array(random.integers(0, 2, 5000)).cast(pa.timestamp("us")),
    "SCORE": pa.array(random.random(5000)),
}


def stored(folder: Path, *tables: pa.Table) -> Predictions:
    """Tables as the files of an output."""
    files = []
    for index, table in enumerate(tables):
        pq.write_table(table, folder / f"{index}.parquet")
        files.append(StoredFile(UPath(folder / f"{index}.parquet")))
    return Predictions(files)


@pytest.mark.parametrize("entities", ENTITIES.values(), ids=ENTITIES)
@pytest.mark.parametrize("columns", [["ENTITY"], ["ENTITY", "ANCHOR_TIMESTAMP", "CLASS"]])
@pytest.mark.parametrize("rows_at_once", [700, 1_000_000])
def test_rows_are_counted_as_pandas_counts_them(
    tmp_path: Path, entities: pa.Array, columns: list[str], rows_at_once: int
) -> None:
    table = pa.table({"ENTITY": entities, **OTHERS})
    output = stored(tmp_path, table.slice(0, 2000), table.slice(2000))

    found = distinct_rows(output, columns, rows_at_once=rows_at_once)

    known = table.to_pandas(types_mapper=pd.ArrowDtype).dropna(subset="ENTITY")
    assert found.rows == 5000
    assert found.nulls == 5000 - len(known)
    assert found.distinct == len(known.drop_duplicates(columns))
    assert found.repeated == known.duplicated(columns).sum()


def test_the_same_number_in_another_width_is_the_same(tmp_path: Path) -> None:
    narrow = pa.table({"ENTITY": pa.array([-1, 2, 3], pa.int32())})
    wide = pa.table({"ENTITY": pa.array([-1, 2, 4], pa.int64())})
    assert distinct_rows(stored(tmp_path, narrow, wide), ["ENTITY"]).distinct == 4


def test_different_rows_with_the_same_hash_are_not_taken_for_the_same(tmp_path: Path) -> None:
    # What the entities differ by is made up for by the classes: x ^ a == y ^ (x ^ y ^ a).
    entities, ten = hashes_of([1, 2], "ENTITY"), pd.util.hash_array(np.array([10]))
    other = _number_with_hash(int(entities[0] ^ entities[1] ^ ten[0]))
    table = pa.table({"ENTITY": pa.array([1, 2, 3]), "CLASS": pa.array([10, other, 10])})
    hashes = _hashes(table.to_batches()[0], ["ENTITY", "CLASS"])
    assert hashes[0] == hashes[1] != hashes[2]

    found = distinct_rows(stored(tmp_path, table), ["ENTITY", "CLASS"])

    assert (found.distinct, found.repeated) == (3, 0)


M = 2**64 - 1


def hashes_of(numbers: list[int], name: str) -> np.ndarray:
    (batch,) = pa.table({name: pa.array(numbers)}).to_batches()
    return _hashes(batch, [name])


def _number_with_hash(wanted: int) -> int:
    """The int64 that pandas hashes to `wanted`: its steps backwards."""
    value = _unshift(wanted, 31) * pow(0x94D049BB133111EB, -1, 2**64) & M
    value = _unshift(value, 27) * pow(0xBF58476D1CE4E5B9, -1, 2**64) & M
    value = _unshift(value, 30)
    assert int(pd.util.hash_array(np.array([value], np.uint64))[0]) == wanted
    return value - 2**64 if value >= 2**63 else value


def _unshift(value: int, by: int) -> int:
    """The number that was `value` before `x ^= x >> by`."""
    found = value
    for _ in range(64 // by):
        found = value ^ (found >> by)
    return found
