"""Stored outputs in the form that an annotation names, for each library by its own reader."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import textwrap
from decimal import Decimal

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from upath import UPath

from dagster_kumo import KumoDataError, Predictions
from dagster_kumo.io_manager.input_types import loader_of
from dagster_kumo.predictions.files import StoredFile
from tests.predictions.outputs import parquet_bytes, write_files

TABLES = [pa.table({"x": [1, 2], "y": ["a", "b"]}), pa.table({"x": [3], "y": ["c"]})]
noon = dt.datetime(2026, 11, 24, 12)
noon_utc = noon.replace(tzinfo=dt.timezone.utc)
day = noon.date()
WHOLE = pa.concat_tables(TABLES)


def load(annotation, stored, columns=None):
    """What an input with this annotation, and these columns in its metadata, gets."""
    return loader_of(annotation)(stored if columns is None else stored.select(columns))


@pytest.fixture(params=["disk", "memory"])
def keep(request, tmp_path):
    """Keeps tables in files, one each."""

    def keep(*tables):
        if request.param == "disk":
            # A folder whose name means something to readers that expand patterns, or read partitions off it.
            return write_files(tmp_path / "a*[1]" / "day=2026-11-24", tables)
        files = [UPath(f"memory://{tmp_path.name}/{i}.parquet") for i in range(len(tables))]
        for path, table in zip(files, tables, strict=True):
            path.write_bytes(parquet_bytes(table))
        return Predictions([StoredFile(path) for path in files])

    return keep


@pytest.fixture
def stored(keep) -> Predictions:
    return keep(*TABLES)


@pytest.mark.parametrize("columns", [None, ["y"], ["y", "x"]], ids=str)
def test_a_relation_is_queried_where_the_files_are(stored, columns):
    relation = load(duckdb.DuckDBPyRelation, stored, columns)
    expected = WHOLE.select(columns or WHOLE.column_names)
    assert relation.columns == expected.column_names
    assert relation.order("y").fetchall() == [tuple(row.values()) for row in expected.to_pylist()]
    # Not a stream that is used up:
    assert relation.aggregate("count(*)").fetchall() == [(3,)]


def test_relations_of_several_inputs_can_be_combined(stored, tmp_path):
    """As DuckDB's own can: by their methods, and by the names of Python's variables."""
    relation = duckdb.DuckDBPyRelation
    names = pa.table({"y": ["a", "b", "c"], "name": ["Anna", "Bo", "Cy"]})
    scores = load(relation, stored, ["x", "y"])
    names = load(relation, write_files(tmp_path / "names", [names]), None)
    expected = [(1, "Anna"), (2, "Bo"), (3, "Cy")]
    found = [
        scores.join(names, "y").select("x, name"),
        duckdb.sql("select x, name from scores join names using (y)"),
        scores.query("s", "select x, name from s join names using (y)"),
    ]
    assert [sorted(relation.fetchall()) for relation in found] == [expected] * 3


@pytest.mark.parametrize("annotation", [pl.DataFrame, pl.LazyFrame])
@pytest.mark.parametrize("columns", [None, ["y"], ["y", "x"]], ids=str)
def test_polars_frames(stored, annotation, columns):
    frame = load(annotation, stored, columns)
    assert isinstance(frame, annotation)
    assert frame.lazy().collect().equals(pl.from_arrow(WHOLE.select(columns or ["x", "y"])))


# Files that do not agree, and names that are patterns elsewhere. What is read here as a table is read
# in the same way with and without `columns`, on a disk and elsewhere.

ENGINES = {
    "polars.DataFrame": (pl.DataFrame, lambda frame: frame.to_arrow()),
    "polars.LazyFrame": (pl.LazyFrame, lambda frame: frame.collect().to_arrow()),
    "duckdb": (duckdb.DuckDBPyRelation, lambda relation: relation.to_arrow_table()),
    "dataset": (ds.Dataset, lambda dataset: dataset.to_table()),
}


@pytest.fixture(params=ENGINES)
def read(request):
    """Loads an input of one kind and reads it as rows."""
    annotation, as_table = ENGINES[request.param]
    return lambda stored, columns: as_table(load(annotation, stored, columns)).to_pylist()


OLD, NEW = pa.table({"x": [1], "z": pa.nulls(1)}), pa.table({"y": ["new"], "x": [0.5], "z": ["z"]})


@pytest.mark.parametrize("columns", [None, ["x", "y"], ["y"], ["z", "y"]], ids=str)
@pytest.mark.parametrize("tables", [[OLD, NEW], [NEW, OLD]], ids=["later", "gone"])
def test_files_that_do_not_agree_are_read_by_one_schema(keep, read, tables, columns):
    found = read(keep(*tables), columns)
    expected = [{"x": None, "y": None, "z": None, **row} for t in tables for row in t.to_pylist()]
    assert found == [{name: row[name] for name in columns or row} for row in expected]


@pytest.mark.parametrize(
    "values",
    [
        ([1], ["a"]),
        ([True], [7]),
        ([0.5], [Decimal("2.25")]),
        ([day], [noon]),
        ([noon], [noon_utc]),
    ],
    ids=["text", "bool", "decimal", "date", "zone"],
)
def test_files_that_cannot_be_one_are_a_data_error(keep, read, values):
    with pytest.raises(KumoDataError, match="do not fit together"):
        read(keep(*(pa.table({"x": value}) for value in values)), None)


@pytest.mark.parametrize("types", [("64",), ("32", "64"), ("64", "32")], ids=str)
@pytest.mark.parametrize("columns", [None, ["x"]], ids=str)
def test_dates_are_dates_whatever_width_they_had(keep, read, types, columns):
    widths = {"32": pa.date32(), "64": pa.date64()}
    tables = [pa.table({"y": [1], "x": pa.array([day], widths[name])}) for name in types]
    rows = read(keep(*tables), columns)
    assert [row["x"] for row in rows] == [day] * len(types)
    assert all(type(row["x"]) is dt.date for row in rows)


def test_an_integer_that_no_float_holds_is_not_rounded(keep, read):
    with pytest.raises(Exception, match="9007199254740993"):
        read(keep(pa.table({"x": [2**53 + 1]}), pa.table({"x": [0.5]})), None)


NAMES = [
    "*",
    "^x.*$",
    "xx",
    "a.b",
    "a b",
    'q"x',
    "q'x",
    "b`c",
    "select",
    "ü",
    "x,y",
    "COLUMNS('x')",
]


@pytest.mark.parametrize("disagree", [False, True])
def test_a_name_is_taken_literally(keep, read, disagree):
    tables = [pa.table({name: [f"{name}/{n}"] for name in NAMES}) for n in range(2)]
    tables[1] = tables[1].append_column("later", pa.nulls(1)) if disagree else tables[1]
    stored = keep(*tables)
    for names in ([name] for name in NAMES):
        assert read(stored, names) == [{names[0]: f"{names[0]}/{n}"} for n in range(2)]
    assert list(read(stored, NAMES[::-1])[0]) == NAMES[::-1]


def test_names_that_differ_in_case_alone_are_not_mixed_up(keep):
    stored = keep(pa.table({"A": [1], "a": [2], "b": [3]}))
    for annotation, as_table in ENGINES.values():
        for name, value in {"A": 1, "a": 2}.items():
            found = as_table(load(annotation, stored, [name, "b"])).to_pylist()
            assert found == [{name: value, "b": 3}]
    with pytest.raises(KumoDataError, match="DuckDB takes the columns A and a for the same"):
        load(duckdb.DuckDBPyRelation, stored)


def test_data_without_columns_is_empty_or_refused_by_what_cannot_be_empty(keep):
    stored = keep(pa.table({}))
    for annotation, as_table in ENGINES.values():
        if annotation is not duckdb.DuckDBPyRelation:
            assert as_table(load(annotation, stored)).shape == (0, 0)
    with pytest.raises(KumoDataError, match="has no columns"):
        load(duckdb.DuckDBPyRelation, stored)


@pytest.mark.parametrize("columns", [["nope"], ["x", "nope"], ["x", "*"]], ids=str)
def test_a_column_that_no_file_has_is_a_data_error_at_once(keep, columns):
    for annotation, _ in ENGINES.values():
        with pytest.raises(KumoDataError, match=r"no column (nope|\*); there are: x"):
            load(annotation, keep(pa.table({"x": [1]})), columns)


class Special(pl.DataFrame):
    """As libraries over frames have them."""


@pytest.mark.parametrize("annotation", [Special, pl.Series, pa.RecordBatch, list[pl.DataFrame]])
def test_a_class_of_ones_own_is_refused_with_what_to_write(annotation):
    with pytest.raises(
        TypeError, match=r"annotated with \S+\. Annotate it with one of Predictions"
    ):
        loader_of(annotation)


@pytest.mark.parametrize("annotation", ["DataFrame", "LazyFrame"])
def test_polars_users_do_not_pay_for_pandas(tmp_path, annotation):
    write_files(tmp_path, TABLES)
    code = f"""
        import sys
        from pathlib import Path
        import polars as pl
        from upath import UPath
        from dagster_kumo import Predictions
        from dagster_kumo.io_manager.input_types import loader_of
        from dagster_kumo.predictions.files import StoredFile

        files = [StoredFile(UPath(path)) for path in sorted(Path(sys.argv[1]).iterdir())]
        frame = loader_of(pl.{annotation})(Predictions(files).select(["x"]))
        print(frame.lazy().collect()["x"].sum(), *({{"pandas", "pyarrow.dataset"}} & set(sys.modules)))
    """
    run = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout.split() == ["6"]
