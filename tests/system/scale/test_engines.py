"""Stored files in the hands of Spark and of a Dask cluster, each a real one on this machine."""

# No `from __future__ import annotations`: Dagster looks at the annotations of inputs as objects.

import datetime as dt
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from upath import UPath

from dagster_kumo import KumoDataError, Predictions
from dagster_kumo.io_manager.input_types import loader_of
from dagster_kumo.predictions.files import StoredFile
from tests.predictions.outputs import parquet_bytes, write_files
from tests.support import DAYS, PREDICTIONS, day, purchase_assets, resources

pytestmark = pytest.mark.scale

TIME = dt.datetime(2026, 11, 24, 1, 2, 3, 456789)
TABLES = [
    pa.table(
        {
            "ENTITY": pa.array(entities, pa.int64()),
            "ANCHOR_TIMESTAMP": pa.array([TIME] * len(entities), pa.timestamp("ns")),
            "zoned": pa.array([TIME] * len(entities), pa.timestamp("ns", "UTC")),
            "plain": pa.array([TIME] * len(entities), pa.timestamp("us")),
            "True `PROB`": pa.array([e / 10 for e in entities], pa.float32()),
        }
    )
    for entities in ([1, 2, 3], [4, 5])
]


@pytest.fixture(scope="module")
def dask() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.host", "127.0.0.1")
    # A zone with an hour that comes twice a year: times without a zone are not to be moved.
    with builder.config("spark.sql.session.timeZone", "America/New_York").getOrCreate() as session:
        yield session


def dask_frame() -> Any:
    import dask.dataframe

    return dask.dataframe.DataFrame


def spark_frame() -> Any:
    import pyspark.sql

    return pyspark.sql.DataFrame


@pytest.fixture(params=["plain", "a*[1]{b}?\\c/day=2026-11-24", "x%2Fy z", "a:b/%25, c:"])
def on_disk(request, tmp_path) -> Predictions:
    # Names that mean something to readers that expand patterns, or read columns off folders.
    return write_files(tmp_path / request.param, TABLES)


@pytest.mark.usefixtures("dask")
def test_dask_reads_the_files_on_its_workers(on_disk):
    frame = loader_of(dask_frame())(on_disk.select(["plain", "ENTITY"]))
    assert list(frame.columns) == ["plain", "ENTITY"]
    assert frame.npartitions == 2
    assert frame["ENTITY"].sum().compute() == 15
    whole = loader_of(dask_frame())(on_disk)
    assert list(whole.columns) == TABLES[0].column_names
    assert whole["ANCHOR_TIMESTAMP"].max().compute() == TIME


@pytest.mark.usefixtures("dask")
def test_dask_reads_from_a_bucket_with_the_options_of_the_store(s3_options):
    paths = [UPath(f"s3://kumo/day=1/{i}.parquet", **s3_options) for i in range(2)]
    for path, table in zip(paths, TABLES, strict=True):
        path.write_bytes(parquet_bytes(table))
    stored = Predictions([StoredFile(path) for path in paths])
    frame = loader_of(dask_frame())(stored.select(["ENTITY"]))
    assert list(frame.columns) == ["ENTITY"]
    assert sorted(frame.compute()["ENTITY"]) == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("spark")
def test_spark_reads_the_files_and_their_times(on_disk):
    frame = loader_of(spark_frame())(on_disk)
    assert frame.columns == TABLES[0].column_names
    types = dict(frame.dtypes)
    assert [types[name] for name in ("ANCHOR_TIMESTAMP", "zoned", "plain")] == [
        "timestamp_ntz",
        "timestamp",
        "timestamp_ntz",
    ]
    rows = frame.selectExpr("ENTITY", "ANCHOR_TIMESTAMP", "unix_micros(zoned) as zoned").collect()
    assert sorted(row.ENTITY for row in rows) == [1, 2, 3, 4, 5]
    assert {row.ANCHOR_TIMESTAMP for row in rows} == {TIME}
    micros = pc.cast(pa.scalar(TIME, pa.timestamp("us")), pa.int64()).as_py()
    assert {row.zoned for row in rows} == {micros}


@pytest.mark.usefixtures("spark")
def test_spark_reads_only_the_columns_that_are_wanted(on_disk):
    frame = loader_of(spark_frame())(on_disk.select(["True `PROB`", "ENTITY"]))
    assert frame.columns == ["True `PROB`", "ENTITY"]
    assert frame.groupBy().sum("ENTITY").collect()[0][0] == 15
    plan = frame._jdf.queryExecution().executedPlan().toString()
    assert "ANCHOR_TIMESTAMP" not in plan
    with pytest.raises(Exception, match="nothing_such"):
        loader_of(spark_frame())(on_disk.select(["nothing_such"]))


@pytest.mark.parametrize("engine", ["dask", "spark"])
def test_assets_take_frames_of_an_engine_whole_and_by_partition(
    request, kumo, instance, tmp_path, engine
):
    request.getfixturevalue(engine)
    frame = {"dask": dask_frame, "spark": spark_frame}[engine]()
    seen = {}

    def rows(frame: Any) -> int:
        return len(frame) if engine == "dask" else frame.count()

    def downstream(**scores: Any) -> None:
        (name, one), *_ = scores.items()
        seen[name] = {k: rows(f) for k, f in one.items()} if isinstance(one, dict) else rows(one)

    mapping = dg.AllPartitionMapping()
    metadata = {"columns": ["ENTITY", "ANCHOR_TIMESTAMP"], "allow_missing_partitions": True}

    @dg.asset(ins={"whole": dg.AssetIn(PREDICTIONS, partition_mapping=mapping, metadata=metadata)})
    def all_of_it(whole: frame) -> None:  # type: ignore[valid-type]
        downstream(whole=whole)

    @dg.asset(ins={"each": dg.AssetIn(PREDICTIONS, partition_mapping=mapping, metadata=metadata)})
    def by_day(each: dict[str, frame]) -> None:  # type: ignore[valid-type]
        downstream(each=each)

    given = resources(kumo, tmp_path, statistics=False)
    assets = [purchase_assets(partitions_def=DAYS)]
    for ago in (31, 30):
        dg.materialize(assets, resources=given, partition_key=day(ago), instance=instance)
    run = dg.materialize(
        [*assets, all_of_it, by_day],
        selection=["all_of_it", "by_day"],
        resources=given,
        instance=instance,
    )
    assert run.success
    assert seen == {"whole": 2 * 23_570, "each": {day(31): 23_570, day(30): 23_570}}


OLD = pa.table({"x": [1], "word": pa.nulls(1), "list": [[1.5]]})
NEW = pa.table({"y`": ["new"], "x": [0.5], "word": ["a"], "list": [[2.5]]})


@pytest.mark.parametrize("engine", ["dask", "spark"])
def test_files_that_do_not_agree_are_read_by_one_schema(request, tmp_path, engine):
    request.getfixturevalue(engine)
    frame = {"dask": dask_frame, "spark": spark_frame}[engine]()

    def rows(stored: Predictions, columns: list[str] | None) -> list[dict[str, Any]]:
        loaded = loader_of(frame)(stored.select(columns) if columns else stored)
        if engine == "spark":
            return [row.asDict() for row in loaded.collect()]
        loaded = loaded.compute()
        return loaded.astype(object).where(loaded.notna(), None).to_dict("records")

    output = write_files(tmp_path / "files", [OLD, NEW])
    expected = [
        {"x": 1.0, "word": None, "list": [1.5], "y`": None},
        {"x": 0.5, "word": "a", "list": [2.5], "y`": "new"},
    ]
    found = [{**row, "list": list(row["list"])} for row in rows(output, None)]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert {row["y`"] for row in rows(output, ["y`"])} == {None, "new"}
    with pytest.raises(KumoDataError, match="no column y; there are: x, word, list, y`"):
        rows(output, ["y"])
    with pytest.raises(KumoDataError, match="do not fit together"):
        rows(write_files(tmp_path / "other", [OLD, pa.table({"x": ["a"]})]), None)
    with pytest.raises(Exception, match=r"not in range|cannot hold"):
        rows(write_files(tmp_path / "big", [pa.table({"x": [2**53 + 1]}), NEW]), ["x"])
