"""Files that do not agree: every way of reading gives the same columns and values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from upath import UPath

from dagster_kumo import KumoDataError, Predictions
from dagster_kumo.predictions.store.store import PartitionStore
from tests.predictions.outputs import can_store, store_output, write_files

NOON = dt.datetime(2026, 11, 24, 12, 0, 0, 123000)

Read = Callable[[Predictions, Any], pa.Table]


def from_pandas(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)


READS: dict[str, Read] = {
    "to_arrow": lambda output, columns: output.to_arrow(columns),
    "to_pandas": lambda output, columns: from_pandas(output.to_pandas(columns)),
    "to_reader": lambda output, columns: output.to_reader(columns).read_all(),
    "to_dataset": lambda output, columns: output.to_dataset(columns).to_table(),
}


@pytest.fixture(params=READS)
def read(request: pytest.FixtureRequest) -> Read:
    """A way to read an output."""
    return READS[request.param]


def rows(table: pa.Table) -> list[Any]:
    """The values of the column x; a float that is no number is a null."""
    return [None if value != value else value for value in table["x"].to_pylist()]


def of_x(*columns: Any) -> list[pa.Table]:
    return [pa.table({"x": column}) for column in columns]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("one", "other", "type_"),
    [
        (pa.array([1, None]), pa.array([0.5]), pa.float64()),
        (pa.array([1], pa.int32()), pa.array([2**40]), pa.int64()),
        (pa.array([255], pa.uint8()), pa.array([-1], pa.int8()), pa.int16()),
        (pa.array([1.5], pa.float32()), pa.array([0.1]), pa.float64()),
        (pa.array(["u"]), pa.array(["v"], pa.large_string()), pa.large_string()),
        pytest.param(
            *(pa.array(["u"]), pa.array(["v"], pa.string_view()), pa.string()),
            marks=pytest.mark.skipif(
                not can_store(pa.array(["v"], pa.string_view())),
                reason="this pyarrow writes no string_view",
            ),
        ),
        (pa.array(["u"]), pa.array(["v"]).dictionary_encode(), pa.string()),
        (pa.nulls(1), pa.array(["v"]).dictionary_encode(), None),
        (pa.nulls(1), pa.array([[0.5]]), pa.list_(pa.float64())),
        (pa.array([[1.5]], pa.list_(pa.float32())), pa.array([[0.1]]), pa.list_(pa.float64())),
        (pa.array([NOON], pa.timestamp("ms")), pa.array([NOON]), pa.timestamp("us")),
        (
            pa.array([Decimal("1.25")], pa.decimal128(10, 2)),
            pa.array([Decimal("2.255")], pa.decimal128(12, 3)),
            pa.decimal128(12, 3),
        ),
    ],
)
def test_types_are_widened(tmp_path, read, one, other, type_, reverse):
    columns = [other, one] if reverse else [one, other]
    output = write_files(tmp_path, of_x(*columns))
    assert rows(read(output, None)) == [v for column in columns for v in column.to_pylist()]
    assert type_ is None or output.schema.field("x").type == type_


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1]), pa.array(["a"])),
        (pa.array([True]), pa.array([7])),
        (pa.array([NOON.date()]), pa.array([NOON])),
        (pa.array([NOON]), pa.array([NOON], pa.timestamp("us", tz="UTC"))),
        (pa.array([1]), pa.array([Decimal("2.25")])),
        (pa.array([0.5]), pa.array([Decimal("2.25")])),
        (pa.array(["a"]), pa.array([1, 2]).dictionary_encode()),
        (
            pa.array([Decimal(1)], pa.decimal128(38)),
            pa.array([Decimal("2.25")], pa.decimal128(38, 10)),
        ),
    ],
)
def test_types_that_cannot_be_one_are_a_data_error(tmp_path, read, one, other, reverse):
    tables = of_x(other, one) if reverse else of_x(one, other)
    with pytest.raises(KumoDataError, match=r"do not fit together: \S*part-1\.parquet"):
        read(write_files(tmp_path, tables), None)


@pytest.mark.parametrize("name", ["to_arrow", "to_pandas", "to_reader"])
def test_a_value_that_the_wider_type_cannot_hold_is_a_data_error(tmp_path, name):
    output = write_files(tmp_path, of_x([2**53 + 1], [0.5]))
    with pytest.raises(KumoDataError, match="a value of x does not fit into double"):
        READS[name](output, None)


OLD, NEW = pa.table({"x": [1], "z": [True]}), pa.table({"y": ["new"], "x": [2]})


@pytest.mark.parametrize("tables", [[OLD, NEW], [NEW, OLD], [OLD, OLD, NEW]])
@pytest.mark.parametrize("columns", [None, ["x", "y"], ["y"], ["z", "y"]])
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_a_column_that_some_files_lack_has_nulls_there(tmp_path, read, tables, columns, place):
    url = str(tmp_path / "store") if place == "disk" else f"memory://{tmp_path.name}"
    output, _ = store_output(write_files(tmp_path / "files", tables), PartitionStore(UPath(url)))
    expected = [{"x": None, "y": None, "z": None, **row} for t in tables for row in t.to_pylist()]
    found = read(output, columns)
    assert columns is None or found.column_names == columns
    wanted = columns or found.column_names
    assert sorted(wanted) == sorted(columns or ["x", "y", "z"])
    assert [{name: row[name] for name in wanted} for row in expected] == found.to_pylist()


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize(
    "empty", [pa.float64(), pa.null(), pa.int64(), pa.list_(pa.int64())], ids=str
)
def test_a_file_without_rows_has_no_say_in_the_types(tmp_path, read, empty, place):
    """As a frame that nothing was found for: pandas takes its columns for numbers."""
    tables = [of_x(["a", "b"])[0], pa.table({"x": pa.array([], empty)})]
    output = write_files(tmp_path, tables if place == "last" else tables[::-1])
    assert rows(read(output, None)) == ["a", "b"]
    assert rows(read(output, ["x"])) == ["a", "b"]


def test_files_without_rows_alone_have_the_columns_of_all(tmp_path, read):
    empty = [pa.table({"x": pa.array([], pa.int64())}), pa.table({"y": pa.array([], pa.string())})]
    found = read(write_files(tmp_path, empty), None)
    assert (found.num_rows, found.column_names) == (0, ["x", "y"])


def test_columns_that_do_not_fit_together_do_not_matter_where_others_are_named(tmp_path, read):
    output = write_files(
        tmp_path, [pa.table({"x": [1], "y": [1]}), pa.table({"x": [2], "y": ["a"]})]
    )
    assert rows(read(output, ["x"])) == [1, 2]
    with pytest.raises(KumoDataError, match="do not fit together"):
        read(output, ["y", "x"])


def test_while_iterating_a_named_column_that_a_file_lacks_has_nulls(tmp_path):
    output = write_files(tmp_path, [OLD, NEW])
    expected = [[{"x": 1, "y": None}], [{"x": 2, "y": "new"}]]
    assert [t.to_pylist() for t in output.iter_tables(["x", "y"])] == expected
    assert [b.to_pylist() for b in output.iter_batches(columns=["x", "y"])] == expected
    assert output.table(0, ["y"]).schema == pa.schema({"y": pa.string()})
    assert [t.column_names for t in output] == [["x", "z"], ["y", "x"]]


def test_nullable_numbers_and_a_named_index_of_pandas_survive_a_wider_type(tmp_path):
    one = pd.DataFrame({"id": [7, 9], "x": pd.array([1, None], dtype="Int64")}).set_index("id")
    other = pd.DataFrame({"id": [2], "x": [0.5]}).set_index("id")
    tables = [pa.Table.from_pandas(frame, preserve_index=True) for frame in (one, other)]
    frame = write_files(Path(tmp_path), tables).to_pandas()
    assert frame.index.tolist() == [7, 9, 2]
    assert frame.index.name == "id"
    assert [None if pd.isna(v) else v for v in frame["x"]] == [1, None, 0.5]


# Columns by their names ######################################################################


def test_columns_are_those_that_are_asked_for_in_that_order(tmp_path, read):
    output = write_files(tmp_path, [pa.table({"a": [1], "b": [2], "ab": [3], "a.b": [4]})])
    assert read(output, ["a.b", "b", "a"]).to_pylist() == [{"a.b": 4, "b": 2, "a": 1}]
    assert read(output, (name for name in ("b", "ab"))).to_pylist() == [{"b": 2, "ab": 3}]
    assert read(output, {"b": "a dictionary's keys"}).to_pylist() == [{"b": 2}]
    assert read(output, []).column_names == []


ITERATE: dict[str, Callable[[Predictions, Any], Any]] = {
    **READS,
    "iter_tables": lambda output, columns: list(output.iter_tables(columns)),
    "iter_batches": lambda output, columns: list(output.iter_batches(columns=columns)),
    "iter_pandas": lambda output, columns: list(output.iter_pandas(columns)),
    "table": lambda output, columns: output.table(0, columns),
}


@pytest.mark.parametrize("how", ITERATE)
def test_a_text_for_the_columns_is_refused_with_what_to_write(tmp_path, how):
    output = write_files(tmp_path, [pa.table({"a": [1], "b": [2], "ab": [3]})])
    with pytest.raises(TypeError, match=r"write columns=\['ab'\]"):
        ITERATE[how](output, "ab")


@pytest.mark.parametrize("how", ITERATE)
@pytest.mark.parametrize("columns", [["nope"], ["a", "nope"], ["a", "*"], [1]])
def test_a_column_that_no_file_has_is_a_data_error(tmp_path, how, columns):
    output = write_files(tmp_path, [pa.table({"a": [1]}), pa.table({"a": [2], "b": [3]})])
    with pytest.raises(KumoDataError, match=r"no column (nope|\*|1); there are: a, b"):
        ITERATE[how](output, columns)
