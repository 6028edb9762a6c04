"""Outputs stored on a disk, in memory and in S3, and every way of reading them again."""

import json
from datetime import timezone
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from dagster_kumo import BatchPredictionJobResult, KumoIOManager, Predictions
from dagster_kumo.local import LocalKumo
from tests.support import (
    DAYS,
    EMBEDDINGS,
    PREDICTIONS,
    day,
    error_of,
    files_below,
    metadata_of,
    purchase_assets,
    resources,
)


@pytest.fixture(params=["disk", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Where a KumoIOManager stores: its base_path and storage_options."""
    name = request.node.callspec.id
    if request.param == "disk":
        return {"base_path": str(tmp_path / "store"), "storage_options": {}}
    if request.param == "memory":
        return {"base_path": f"memory://{tmp_path.name}/{name}", "storage_options": {}}
    options = request.getfixturevalue("s3_options")
    return {"base_path": f"s3://kumo/{tmp_path.name}", "storage_options": options}


def where(kumo: LocalKumo, store: dict[str, Any]) -> dict[str, Any]:
    return resources(kumo, **store)


def reading(name: str, annotation: Any, read: Any, **options: Any) -> dg.AssetsDefinition:
    """An asset that reads the predictions as `annotation`, whose metadata is what `read` returns."""

    def body(given: Any) -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"read": read(given)})

    body.__annotations__["given"] = annotation
    metadata = options.pop("metadata", None)
    ins = {
        "given": dg.AssetIn(
            options.pop("key", PREDICTIONS),
            metadata=metadata,
            input_manager_key="kumo_io_manager",
            partition_mapping=options.pop("partition_mapping", None),
        )
    }
    return dg.asset(name=name, ins=ins, partitions_def=options.pop("partitions_def", DAYS))(body)


def test_predictions_and_embeddings_are_stored_as_kumo_wrote_them(
    kumo: LocalKumo, instance: dg.DagsterInstance, store: dict[str, Any]
) -> None:
    run = dg.materialize(
        [
            purchase_assets(outputs=("predictions", "embeddings")),
            reading("rows", pd.DataFrame, len),
            reading("files", Predictions, lambda p: [t.num_rows for t in p]),
        ],
        instance=instance,
        resources=where(kumo, store),
        partition_key=day(5),
    )

    for key in (PREDICTIONS, EMBEDDINGS):
        folder = UPath(store["base_path"], **store["storage_options"]).joinpath(*key.path, day(5))
        manifest = json.loads((folder / "manifest.json").read_text())
        served = sorted(
            Path(kumo.data).rglob(f"*{manifest['job_id']}*/{key.path[1]}/*.parquet"),
        )
        stored = [folder / manifest["version"] / entry["name"] for entry in manifest["files"]]
        assert [f.name for f in stored] == [f"part-0000{i}.parquet" for i in range(3)]
        assert [f.read_bytes() for f in stored] == [f.read_bytes() for f in served]
        assert manifest["job_id"] == metadata_of(run, key)["dagster-kumo/job_id"]
        assert sum(entry["num_rows"] for entry in manifest["files"]) == 23_570
        assert sorted(p.name for p in folder.iterdir()) == sorted(
            ["manifest.json", manifest["version"]]
        )
    assert metadata_of(run, dg.AssetKey("rows"))["read"] == 23_570
    assert sum(metadata_of(run, dg.AssetKey("files"))["read"]) == 23_570


def test_materializing_again_replaces_the_version_in_force(
    kumo: LocalKumo, instance: dg.DagsterInstance, store: dict[str, Any]
) -> None:
    assets = [purchase_assets()]
    options = {"instance": instance, "resources": where(kumo, store), "partition_key": day(5)}

    first = dg.materialize(assets, **options)
    second = dg.materialize(assets, **options)

    folder = UPath(store["base_path"], **store["storage_options"]).joinpath(
        *PREDICTIONS.path, day(5)
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    jobs = [metadata_of(run, PREDICTIONS)["dagster-kumo/job_id"] for run in (first, second)]
    assert jobs[0] != jobs[1]
    assert manifest["job_id"] == jobs[1]
    assert len(manifest["superseded"]) == 1  # kept for those who still read it


def test_old_versions_go_when_their_grace_period_is_over(
    kumo: LocalKumo, instance: dg.DagsterInstance, store: dict[str, Any]
) -> None:
    assets = [purchase_assets()]
    manager = KumoIOManager(**store, grace_period=0)
    options = {"instance": instance, "partition_key": day(5)}
    for _ in range(3):
        dg.materialize(
            assets, resources={**where(kumo, store), "kumo_io_manager": manager}, **options
        )

    folder = UPath(store["base_path"], **store["storage_options"]).joinpath(
        *PREDICTIONS.path, day(5)
    )
    versions = [p.name for p in folder.iterdir() if p.name != "manifest.json"]
    assert json.loads((folder / "manifest.json").read_text())["version"] in versions
    assert len(versions) <= 2


@pytest.fixture(scope="module")
def week(
    _serving_kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Resources of a store that has the days 6, 5 and 3 days ago, but not the one 4 days ago."""
    found = resources(_serving_kumo, tmp_path_factory.mktemp("week"))
    for ago in (6, 5, 3):
        dg.materialize(
            [purchase_assets()], instance=instance, resources=found, partition_key=day(ago)
        )
    return found


LAST_FOUR = dg.TimeWindowPartitionMapping(start_offset=-3, end_offset=0)


def read_week(
    instance: dg.DagsterInstance, week: dict[str, Any], asset: dg.AssetsDefinition
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [purchase_assets(), asset],
        selection=[asset],
        instance=instance,
        resources=week,
        partition_key=day(3),
        raise_on_error=False,
    )


def test_several_partitions_are_a_dictionary_by_partition(
    instance: dg.DagsterInstance, week: dict[str, Any]
) -> None:
    asset = reading(
        "by_day",
        dict[str, Predictions],
        lambda given: {key: one.num_rows for key, one in given.items()},
        partition_mapping=LAST_FOUR,
        metadata={"allow_missing_partitions": True},
    )
    run = read_week(instance, week, asset)

    rows = metadata_of(run, asset.key)["read"]
    assert rows == {day(6): 23_570, day(5): 23_570, day(3): 23_570}


def test_one_partition_is_a_dictionary_too_when_the_annotation_says_so(
    instance: dg.DagsterInstance, week: dict[str, Any]
) -> None:
    asset = reading("one", dict[str, pd.DataFrame], lambda given: sorted(given))
    assert metadata_of(read_week(instance, week, asset), asset.key)["read"] == [day(3)]


def test_several_partitions_are_joined_in_order_for_a_flat_annotation(
    instance: dg.DagsterInstance, week: dict[str, Any]
) -> None:
    asset = reading(
        "joined",
        pa.Table,
        lambda table: [str(d.date()) for d in table["ANCHOR_TIMESTAMP"].unique().to_pylist()],
        partition_mapping=LAST_FOUR,
        metadata={"allow_missing_partitions": True},
    )
    # The anchor is the end of the day.
    assert metadata_of(read_week(instance, week, asset), asset.key)["read"] == [
        day(5),
        day(4),
        day(2),
    ]


def test_a_missing_partition_is_named(instance: dg.DagsterInstance, week: dict[str, Any]) -> None:
    asset = reading("all_four", pd.DataFrame, len, partition_mapping=LAST_FOUR)

    found_class, message = error_of(read_week(instance, week, asset))

    assert found_class == "FileNotFoundError"
    assert day(4) in message
    assert day(5) not in message
    assert "allow_missing_partitions" in message


def test_an_optional_input_is_none_when_nothing_is_stored(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    asset = reading("maybe", pd.DataFrame | None, lambda given: given is None)
    run = read_week(instance, resources(kumo, tmp_path), asset)
    assert metadata_of(run, asset.key)["read"] is True


COLUMNS: dict[str, tuple[Any, Any]] = {
    "pandas": (pd.DataFrame, lambda frame: list(frame.columns)),
    "table": (pa.Table, lambda table: table.column_names),
    "reader": (pa.RecordBatchReader, lambda reader: reader.read_all().column_names),
    "polars": (pl.DataFrame, lambda frame: frame.columns),
    "lazy": (pl.LazyFrame, lambda frame: frame.collect().columns),
    "relation": (duckdb.DuckDBPyRelation, lambda relation: relation.columns),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_only_the_columns_that_are_asked_for_are_read(
    kind: str, instance: dg.DagsterInstance, week: dict[str, Any]
) -> None:
    annotation, names = COLUMNS[kind]
    wanted = {"columns": ["True_PROB", "ENTITY"]}
    asset = reading("some", annotation, names, metadata=wanted)
    assert metadata_of(read_week(instance, week, asset), asset.key)["read"] == [
        "True_PROB",
        "ENTITY",
    ]


def test_a_column_that_is_not_there_is_named(
    instance: dg.DagsterInstance, week: dict[str, Any]
) -> None:
    asset = reading("typo", pd.DataFrame, len, metadata={"columns": ["ENTITY", "True_PORB"]})
    found_class, message = error_of(read_week(instance, week, asset))
    assert found_class == "KumoDataError"
    assert "True_PORB" in message
    assert "True_PROB" in message


def test_the_result_of_the_job_can_be_loaded(
    instance: dg.DagsterInstance, week: dict[str, Any]
) -> None:
    asset = reading(
        "result", BatchPredictionJobResult, lambda result: result.summary().num_entities_predicted
    )
    assert metadata_of(read_week(instance, week, asset), asset.key)["read"] == 23_570


def test_results_of_several_jobs_come_by_partition(
    instance: dg.DagsterInstance, week: dict[str, Any]
) -> None:
    options: dict[str, Any] = {
        "partition_mapping": LAST_FOUR,
        "metadata": {"allow_missing_partitions": True},
    }
    asset = reading(
        "results",
        dict[str, BatchPredictionJobResult],
        lambda given: {key: result.id for key, result in given.items()},
        **options,
    )
    flat = reading("flat", BatchPredictionJobResult, lambda result: result.id, **options)

    ids = metadata_of(read_week(instance, week, asset), asset.key)["read"]
    assert sorted(ids) == [day(6), day(5), day(3)]
    assert len(set(ids.values())) == 3
    assert "dict[str, BatchPredictionJobResult]" in error_of(read_week(instance, week, flat))[1]


def test_an_annotation_that_is_not_known_is_refused(
    instance: dg.DagsterInstance, week: dict[str, Any]
) -> None:
    found_class, message = error_of(read_week(instance, week, reading("odd", bytes, len)))
    assert found_class == "TypeError"
    assert "bytes" in message
    assert "Predictions, pandas.DataFrame" in message


FRAMES: dict[str, Any] = {
    "pandas": lambda: pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
    "arrow": lambda: pa.table({"a": [1, 2], "b": ["x", None]}),
    "polars": lambda: pl.DataFrame({"a": [1, 2], "b": ["x", None]}),
    "lazy polars": lambda: pl.LazyFrame({"a": [1, 2], "b": ["x", None]}),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_frames_of_other_assets_are_stored_too(
    frame: str, instance: dg.DagsterInstance, store: dict[str, Any]
) -> None:
    @dg.asset(io_manager_key="kumo_io_manager")
    def table() -> Any:
        return FRAMES[frame]()

    run = dg.materialize(
        [table, reading("rows", pd.DataFrame, list, key=table.key, partitions_def=None)],
        instance=instance,
        resources={"kumo_io_manager": KumoIOManager(**store)},
    )

    metadata = metadata_of(run, table.key)
    assert metadata["dagster/row_count"] == 2
    assert [c.name for c in metadata["dagster/column_schema"].columns] == ["a", "b"]
    assert metadata["dagster-kumo/a/mean"] == 1.5
    assert metadata["dagster-kumo/null_fraction"] == 0.5
    assert "dagster-kumo/job_id" not in metadata
    assert metadata_of(run, dg.AssetKey("rows"))["read"] == ["a", "b"]


def test_without_partitions_kumo_chooses_the_time_and_the_metadata_tell_it(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = dg.materialize(
        [purchase_assets(partitions_def=None)],
        instance=instance,
        resources=resources(kumo, tmp_path),
    )

    metadata = metadata_of(run, PREDICTIONS)
    anchors = (
        KumoIOManager(base_path=str(tmp_path))
        .load_input(dg.build_input_context(asset_key=PREDICTIONS))
        .to_arrow(["ANCHOR_TIMESTAMP"])
    )
    (anchor,) = set(anchors["ANCHOR_TIMESTAMP"].to_pylist())
    assert (
        metadata["dagster-kumo/prediction_time"] == anchor.replace(tzinfo=timezone.utc).timestamp()
    )


def test_what_is_no_table_is_refused(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    @dg.asset(io_manager_key="kumo_io_manager")
    def number() -> int:
        return 3

    run = dg.materialize(
        [number],
        instance=instance,
        resources={"kumo_io_manager": KumoIOManager(base_path=str(tmp_path / "store"))},
        raise_on_error=False,
    )
    found_class, message = error_of(run)
    assert found_class == "TypeError"
    assert "another io_manager_key" in message
    assert files_below(tmp_path) == []


def test_a_run_over_several_partitions_stores_each(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assets = purchase_assets(backfill_policy=dg.BackfillPolicy.single_run())
    run = dg.materialize(
        [assets],
        instance=instance,
        resources=resources(kumo, tmp_path),
        tags={
            "dagster/asset_partition_range_start": day(8),
            "dagster/asset_partition_range_end": day(6),
        },
    )

    assert run.success
    for ago in (8, 7, 6):
        manifest = json.loads(
            (tmp_path / "purchase/predictions" / day(ago) / "manifest.json").read_text()
        )
        metadata = metadata_of(run, PREDICTIONS, day(ago))
        assert manifest["prediction_time"].startswith(day(ago - 1))
        assert metadata["dagster-kumo/job_id"] == manifest["job_id"]


KEYS = ["../../outside", "..", ".", "a/b", "a\\b", "C:", "%2e%2e", "ä ö", "x|y"]


def test_partition_keys_cannot_lead_out_of_the_store(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    odd = dg.StaticPartitionsDefinition(KEYS)

    @dg.asset(
        io_manager_key="kumo_io_manager",
        partitions_def=odd,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def table(context: dg.AssetExecutionContext) -> dict[str, pd.DataFrame]:
        return {key: pd.DataFrame({"key": [key]}) for key in context.partition_keys}

    dg.materialize(
        [table],
        instance=instance,
        resources={"kumo_io_manager": KumoIOManager(base_path=str(tmp_path / "store"))},
        tags={
            "dagster/asset_partition_range_start": KEYS[0],
            "dagster/asset_partition_range_end": KEYS[-1],
        },
    )

    assert {p.split("/")[0] for p in files_below(tmp_path)} == {"store"}
    folders = list((tmp_path / "store/table").iterdir())
    assert len(folders) == len(KEYS)
    stored = [pq.read_table(f)["key"][0].as_py() for f in tmp_path.rglob("part-*.parquet")]
    assert sorted(stored) == sorted(KEYS)


def test_without_statistics_the_rest_of_the_metadata_is_there(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = dg.materialize(
        [purchase_assets()],
        instance=instance,
        resources=resources(kumo, tmp_path, statistics=False, preview_rows=2),
        partition_key=day(5),
    )
    metadata = metadata_of(run, PREDICTIONS)
    assert metadata["dagster/row_count"] == 23_570
    assert len(metadata["dagster-kumo/preview"].records) == 2
    assert "dagster-kumo/statistics" not in metadata


def test_another_io_manager_does_not_pickle_what_gives_access(
    kumo: LocalKumo, instance: dg.DagsterInstance, s3_options: dict[str, Any], tmp_path: Path
) -> None:
    """Dagster's own would write the API key, or the keys of a bucket, to its disk."""
    pickling = dg.FilesystemIOManager(base_dir=str(tmp_path))
    store = KumoIOManager(base_path=f"s3://kumo/{tmp_path.name}", storage_options=s3_options)

    @dg.asset(io_manager_key="kumo_io_manager")
    def table() -> pa.Table:
        return pa.table({"a": [1]})

    @dg.asset(ins={"table": dg.AssetIn(input_manager_key="kumo_io_manager")})
    def handed_on(table: Predictions) -> Predictions:
        return table

    runs = [
        (
            [purchase_assets()],
            {**resources(kumo, tmp_path), "kumo_io_manager": pickling},
            {"partition_key": day(5)},
        ),
        ([table, handed_on], {"io_manager": pickling, "kumo_io_manager": store}, {}),
    ]
    for assets, given, options in runs:
        run = dg.materialize(
            assets, instance=instance, resources=given, raise_on_error=False, **options
        )
        assert "Let KumoIOManager store it" in error_of(run)[1]
    written = b"".join((tmp_path / name).read_bytes() for name in files_below(tmp_path))
    assert kumo.api_key.encode() not in written
    assert b"endpoint_url" not in written
