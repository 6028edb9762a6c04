"""Frames and tables that other assets return, as outputs: all that any input can load, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from upath import UPath

from dagster_kumo import KumoDataError
from dagster_kumo.predictions.store.store import PartitionStore
from dagster_kumo.predictions.store.tables import as_predictions
from tests.predictions.outputs import store_output, write_files


@pytest.fixture
def store(tmp_path) -> PartitionStore:
    return PartitionStore(UPath(tmp_path / "store"))


@pytest.mark.parametrize(
    "given",
    [
        pd.DataFrame({"x": [1, 2], "y": ["a", "b"]}),
        pl.DataFrame({"x": [1, 2], "y": ["a", "b"]}),
        pl.LazyFrame({"x": [1, 2], "y": ["a", "b"]}),
        pa.table({"x": [1, 2], "y": ["a", "b"]}),
        pa.record_batch({"x": [1, 2], "y": ["a", "b"]}),
        ds.dataset(pa.table({"x": [1, 2], "y": ["a", "b"]})),
        duckdb.sql("select * from (values (1, 'a'), (2, 'b')) t(x, y)"),
    ],
    ids=lambda given: f"{type(given).__module__.partition('.')[0]} {type(given).__name__}",
)
def test_frames_and_tables_are_stored_too(store, given):
    stored, came = store_output(as_predictions(given), store)
    assert stored.to_arrow().to_pydict() == {"x": [1, 2], "y": ["a", "b"]}
    assert (stored.job_id, came.num_rows) == (None, 2)
    assert came.summary.columns["x"].mean == 1.5


def test_a_reader_is_stored_too(store):
    table = pa.table({"x": range(10)})
    stored, _ = store_output(as_predictions(table.to_reader(max_chunksize=3)), store)
    assert stored.to_arrow() == table


@pytest.mark.parametrize(
    "given",
    [
        *(None, 7, "text", {"x": [1]}, [1], pd.Series([1]), pl.Series([1]), pa.array([1])),
        pl.DataFrame({"x": [1]}).group_by("x"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_is_no_table_is_refused_with_what_is(given):
    with pytest.raises(TypeError, match="pandas and polars DataFrames"):
        as_predictions(given)


def stored_columns(store: PartitionStore, obj: object) -> dict[str, list[object]]:
    return store_output(as_predictions(obj), store)[0].to_arrow().to_pydict()


FRAME = pd.DataFrame({"x": [1, 2, 3, 4], "key": ["a", "b", "c", "d"]})


@pytest.mark.parametrize(
    "frame",
    [FRAME[FRAME.x.isin([1, 2, 4])], FRAME.sample(frac=1, random_state=3), FRAME[FRAME.x > 9]],
    ids=["filtered", "shuffled", "empty"],
)
def test_an_index_without_a_name_is_no_data(store, frame):
    expected = {"x": frame.x.tolist(), "key": frame.key.tolist()}
    assert stored_columns(store, frame) == expected
    assert store.read().to_pandas().index.tolist() == list(range(len(frame)))


def test_an_index_with_a_name_is_a_column_and_comes_back_as_the_index(store):
    frame = FRAME.set_index("key")
    assert stored_columns(store, frame) == {"x": [1, 2, 3, 4], "key": ["a", "b", "c", "d"]}
    assert store.read().to_pandas().equals(frame)
    ranged = FRAME[["x"]].rename_axis("row")
    assert stored_columns(store, ranged) == {"x": [1, 2, 3, 4], "row": [0, 1, 2, 3]}


def test_of_several_levels_those_with_a_name_are_kept(store):
    frame = FRAME.set_index(["key", pd.Index([5, 6, 7, 8])])
    assert stored_columns(store, frame) == {"x": [1, 2, 3, 4], "key": ["a", "b", "c", "d"]}


def test_an_index_that_repeats_a_column_is_stored_once_and_one_that_differs_is_refused(store):
    frame = FRAME.set_index("key", drop=False)
    assert stored_columns(store, frame) == {"x": [1, 2, 3, 4], "key": ["a", "b", "c", "d"]}
    frame.index = pd.Index([1, 2, 3, 4], name="key")
    with pytest.raises(KumoDataError, match="both called key, and differ"):
        as_predictions(frame)


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_an_error_of_the_users_own_stream_is_not_taken_for_one_of_the_store(tmp_path, place):
    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"x": [1]})
        raise PermissionError(13, "Permission denied", "/data/source-42.csv")

    url = str(tmp_path / "store") if place == "disk" else f"memory://{tmp_path.name}"
    stream = pa.RecordBatchReader.from_batches(pa.schema({"x": pa.int64()}), batches())
    with pytest.raises(OSError, match="source-42") as caught:
        store_output(as_predictions(stream), PartitionStore(UPath(url)))
    assert "could not be written" not in str(caught.value)


def test_a_type_that_parquet_does_not_know_is_a_data_error(store):
    table = pa.table({"x": pa.array([Decimal(100)], pa.decimal128(5, -2))})
    with pytest.raises(KumoDataError, match="cannot be a Parquet file"):
        store_output(as_predictions(table), store)


UNSTORABLE = {
    "values of two types": (pd.DataFrame({"x": [1, "a"]}), "column x"),
    "complex numbers": (pd.DataFrame({"x": [1j]}), "column x"),
    "sparse": (pd.DataFrame({"x": pd.arrays.SparseArray([0, 1])}), "column x"),
    "intervals": (pd.DataFrame({"x": pd.cut([1, 2], 2)}), "interval"),
    "Python objects": (pl.DataFrame({"x": [object()]}, schema={"x": pl.Object}), "Python objects"),
    "128 bits": (pl.DataFrame({"x": [1]}, schema={"x": pl.Int128}), "cannot be a table"),
    "a list view in a struct": (
        pa.table({"x": pa.array([{"y": [1]}], pa.struct([("y", pa.list_view(pa.int64()))]))}),
        "Make it a list",
    ),
    "a decimal of 60 digits": (pa.table({"x": pa.array([1], pa.decimal256(60))}), "at most 38"),
    "an integer beyond all types": (pd.DataFrame({"x": [2**70]}), "cannot be a table"),
    "structs without fields": (pd.DataFrame({"x": [{}]}), "cannot be a Parquet file"),
    "the same name twice": (pd.DataFrame([[1, 2]], columns=["v", "v"]), "duplicate columns: v"),
    "a number and its text": (pd.DataFrame([[1, 2]], columns=[1, "1"]), "duplicate columns: 1"),
    "twice in Arrow": (pa.table([[1], [2]], names=["v", "v"]), "duplicate columns: v"),
    "twice in a stream": (pa.table([[1], [2]], names=["v", "v"]).to_reader(), "columns: v"),
    "no name": (pa.table({"": [1]}), "without a name"),
    "levels of the same name": (
        pd.DataFrame({"x": [1]}, index=pd.MultiIndex.from_tuples([(1, 2)], names=["k", "k"])),
        "duplicate index levels: k",
    ),
}


@pytest.mark.parametrize("case", UNSTORABLE)
def test_what_no_input_could_load_is_refused_before_it_is_in_force(store, case):
    given, said = UNSTORABLE[case]
    with pytest.raises(KumoDataError, match=said):
        store_output(as_predictions(given), store)
    assert store.manifest() is None


def test_of_selected_predictions_the_selected_columns_are_stored(tmp_path, store):
    output = write_files(tmp_path / "files", [pa.table({"x": [1], "y": ["a"], "z": [0.5]})] * 2)
    assert stored_columns(store, output.select(["z", "x"])) == {"z": [0.5, 0.5], "x": [1, 1]}
