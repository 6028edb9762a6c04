"""Stored outputs in the form that an annotation names, for each library by its own reader."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from upath import UPath

from dagster_kumo import Predictions
from dagster_kumo.io_manager.input_types import input_type
from dagster_kumo.predictions.files import StoredFile
from tests.predictions.outputs import parquet_bytes, write_files

TABLES = [pa.table({"x": [1, 2], "y": ["a", "b"]}), pa.table({"x": [3], "y": ["c"]})]
WHOLE = pa.concat_tables(TABLES)


@pytest.fixture(params=["disk", "memory"])
def stored(request, tmp_path) -> Predictions:
    if request.param == "disk":
        # A folder whose name means something to readers that expand patterns, or read partitions off it.
        return write_files(tmp_path / "a*[1]" / "day=2026-11-24", TABLES)
    files = [UPath(f"memory://{tmp_path.name}/{i}.parquet") for i in range(len(TABLES))]
    for path, table in zip(files, TABLES, strict=True):
        path.write_bytes(parquet_bytes(table))
    return Predictions([StoredFile(path) for path in files])


@pytest.mark.parametrize("columns", [None, ["y"], ["y", "x"]], ids=str)
def test_a_relation_is_queried_where_the_files_are(stored, columns):
    relation = input_type(duckdb.DuckDBPyRelation).load(stored, columns)
    expected = WHOLE.select(columns or WHOLE.column_names)
    assert relation.columns == expected.column_names
    assert relation.order("y").fetchall() == [tuple(row.values()) for row in expected.to_pylist()]
    # Not a stream that is used up:
    assert relation.aggregate("count(*)").fetchall() == [(3,)]


def test_relations_of_several_inputs_can_be_combined(stored, tmp_path):
    """As DuckDB's own can: by their methods, and by the names of Python's variables."""
    load = input_type(duckdb.DuckDBPyRelation).load
    names = pa.table({"y": ["a", "b", "c"], "name": ["Anna", "Bo", "Cy"]})
    scores, names = load(stored, ["x", "y"]), load(write_files(tmp_path / "names", [names]), None)
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
    frame = input_type(annotation).load(stored, columns)
    assert isinstance(frame, annotation)
    assert frame.lazy().collect().equals(pl.from_arrow(WHOLE.select(columns or ["x", "y"])))


@pytest.mark.parametrize("annotation", ["DataFrame", "LazyFrame"])
def test_polars_users_do_not_pay_for_pandas(tmp_path, annotation):
    write_files(tmp_path, TABLES)
    code = f"""
        import sys
        from pathlib import Path
        import polars as pl
        from upath import UPath
        from dagster_kumo import Predictions
        from dagster_kumo.io_manager.input_types import input_type
        from dagster_kumo.predictions.files import StoredFile

        files = [StoredFile(UPath(path)) for path in sorted(Path(sys.argv[1]).iterdir())]
        frame = input_type(pl.{annotation}).load(Predictions(files), ["x"])
        print(frame.lazy().collect()["x"].sum(), *({{"pandas", "pyarrow.dataset"}} & set(sys.modules)))
    """
    run = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout.split() == ["6"]
