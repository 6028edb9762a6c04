"""Files as one pandas frame: the same as Arrow makes of them."""

from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.predictions.outputs import can_store, write_files

pytestmark = pytest.mark.fast

NOON = datetime(2026, 11, 24, 12)
COLUMNS = {
    "integers": pa.array([1, 2], pa.int32()),
    "unsigned": pa.array([1, 2**63], pa.uint64()),
    "floats": pa.array([1.5, float("nan")]),
    "small floats": pa.array([1.5, 2.5], pa.float32()),
    "booleans": pa.array([True, False]),
    "times": pa.array([NOON, NOON], pa.timestamp("us")),
    "nanoseconds": pa.array([NOON, NOON], pa.timestamp("ns")),
    "zoned": pa.array([NOON.replace(tzinfo=timezone.utc)] * 2, pa.timestamp("us", "UTC")),
    "dates": pa.array([date(2026, 11, 24)] * 2),
    "texts": pa.array(["a", None]),
    "labels": pa.array(["a", "b"]).dictionary_encode(),
    "lists": pa.array([[1.0], None]),
    "decimals": pa.array([Decimal("1.5"), None]),
    "nothing": pa.nulls(2),
    "structs": pa.array([{"a": 1}, None]),
    "tensors": pa.FixedShapeTensorArray.from_numpy_ndarray(np.array([[1.0, 2.0], [3.0, 4.0]])),
}


def assert_as_arrow_has_it(tmp_path, *tables: pa.Table) -> None:
    frame = write_files(tmp_path, tables).to_pandas()
    read = [pq.read_table(path) for path in sorted(tmp_path.glob("*.parquet"))]
    pd.testing.assert_frame_equal(
        frame, pa.concat_tables(read, promote_options="default").to_pandas()
    )


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_of_each_type(tmp_path, column):
    table = pa.table({"first": [1, 2], column: COLUMNS[column]})
    assert_as_arrow_has_it(tmp_path, table, table, table)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nulls_in_one_of_the_files(tmp_path, column, place):
    values = COLUMNS[column]
    tables = [pa.table({column: values, "last": [1, 2]}) for _ in range(3)]
    nulls = pa.nulls(2, values.type)
    if not can_store(nulls):
        pytest.skip(f"this pyarrow does not read what it writes: nulls of {values.type}")
    tables[place] = pa.table({column: nulls, "last": [3, 4]})
    assert_as_arrow_has_it(tmp_path, *tables)


def test_files_of_any_length(tmp_path):
    tables = [pa.table({"x": np.arange(float(n))}) for n in (3, 0, 1000, 1, 50)]
    assert_as_arrow_has_it(tmp_path, *tables)


@pytest.mark.parametrize("tables", [[0], [0, 0]])
def test_files_without_a_row(tmp_path, tables):
    assert_as_arrow_has_it(tmp_path, *[pa.table({"x": np.arange(float(n))}) for n in tables])


def test_files_of_other_columns_are_filled_up(tmp_path):
    full, short = pa.table({"x": [1, 2], "y": [True, False]}), pa.table({"x": [3]})
    assert_as_arrow_has_it(tmp_path, full, full, short, full)


def test_a_file_whose_column_names_no_type(tmp_path):
    assert_as_arrow_has_it(
        tmp_path, pa.table({"x": ["a"], "y": [1]}), pa.table({"x": pa.nulls(1), "y": [2]})
    )


@pytest.mark.parametrize("index", [None, ["b", "a"]])
def test_files_that_pandas_wrote(tmp_path, index):
    frame = pd.DataFrame({"x": [1, 2]}, index=index)
    assert_as_arrow_has_it(tmp_path, pa.Table.from_pandas(frame), pa.Table.from_pandas(frame))


def test_the_frame_can_be_written_to(tmp_path):
    frame = write_files(tmp_path, [pa.table({"x": [1, 2]}), pa.table({"x": [3]})]).to_pandas()
    frame.loc[0, "x"] = 7
    assert frame["x"].tolist() == [7, 2, 3]
