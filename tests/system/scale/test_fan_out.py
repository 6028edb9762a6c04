"""Files that are each brought by a step of its own, in this process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import s3fs

from dagster_kumo import BatchPrediction, Predictions, build_kumo_assets_definitions
from dagster_kumo.local import LocalKumo
from tests.support import (
    DAYS,
    PURCHASE,
    day,
    error_of,
    files_below,
    instance_in,
    metadata_of,
    resources,
)
from tests.system.scale.definitions import fanned_out, purchase, retried
from tests.system.scale.world import World

pytestmark = pytest.mark.scale

NAMES = ("predictions", "embeddings")
FILES = "/files/.*"


def key(name: str, output: str) -> dg.AssetKey:
    return dg.AssetKey([name, output])


def materialize(assets, kumo: LocalKumo, base_path: object, **options):
    settings = options.pop("settings", {})
    return dg.materialize(
        assets,
        resources=resources(kumo, base_path, **settings),
        partition_key=options.pop("partition_key", day(30)),
        raise_on_error=False,
        **options,
    )


def stored(base_path: Path, name: str) -> dict[str, str]:
    """The files of a model's outputs by what they hold, whatever the version is called."""
    return {
        f"{path.parents[2].name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (base_path / name).rglob("*.parquet")
    }


def test_a_fan_out_stores_and_tells_what_one_step_does(kumo, instance, tmp_path):
    runs = {}
    for name, fan_out in (("one", False), ("many", True)):
        runs[name] = materialize(purchase(name, fan_out=fan_out), kumo, tmp_path, instance=instance)
        assert runs[name].success
    assert stored(tmp_path, "many") == stored(tmp_path, "one")
    assert len(stored(tmp_path, "many")) == 6
    for output in NAMES:
        one, many = (metadata_of(runs[name], key(name, output)) for name in ("one", "many"))
        assert list(many) == list(one)
        names = ("job_id", "tracking_url", "duration_seconds", "job_seconds")
        of_the_job = {f"dagster-kumo/{name}" for name in names}
        assert {k: v for k, v in many.items() if k not in of_the_job} == {
            k: v for k, v in one.items() if k not in of_the_job
        }
    steps = [e.step_key for e in runs["many"].all_events if e.event_type_value == "STEP_SUCCESS"]
    assert sorted(steps) == sorted(
        [
            "many__predictions.predict",
            *(
                f"many__predictions.transfer[{output}_0000{i}]"
                for output in NAMES
                for i in range(3)
            ),
            "many__predictions.store",
        ]
    )
    # Nothing but versions and manifests is left.
    assert {Path(file).parts[0] for file in files_below(tmp_path)} == {"one", "many"}


def test_a_fan_out_defines_the_same_assets():
    one, many = (
        purchase(
            "churn",
            fan_out=fan_out,
            group_name="scores",
            owners=["team:ml"],
            tags={"domain": "sales"},
            automation_condition=dg.AutomationCondition.eager(),
        )
        for fan_out in (False, True)
    )
    specs = [{spec.key: spec for spec in assets[1].specs} for assets in (one, many)]
    assert specs[0] == specs[1]
    assert one[1].partitions_def == many[1].partitions_def


@pytest.mark.parametrize("output", NAMES)
def test_an_output_of_a_fan_out_is_materialized_apart_and_read_downstream(
    kumo, instance, tmp_path, output
):
    read = []

    @dg.asset(partitions_def=DAYS, ins={"scores": dg.AssetIn(key("many", output))})
    def downstream(scores: Predictions) -> None:
        read.append(scores.num_rows)

    run = materialize(
        [*purchase("many", fan_out=True), downstream],
        kumo,
        tmp_path,
        instance=instance,
        selection=[key("many", output), downstream.key],
    )
    assert run.success
    assert read == [23_570]
    assert {name.partition("/")[0] for name in stored(tmp_path, "many")} == {output}


def test_a_fan_out_into_a_bucket_leaves_nothing_but_versions(kumo, instance, tmp_path, s3_options):
    store = {"storage_options": s3_options}
    # A folder of its own: the bucket is shared by all tests of this process.
    place = f"kumo/{tmp_path.name}"
    run = materialize(
        purchase("many", fan_out=True), kumo, f"s3://{place}", instance=instance, settings=store
    )
    assert run.success
    assert materialize(purchase("one", fan_out=False), kumo, tmp_path, instance=instance).success
    # One of its own, that has listed nothing: the store's may have kept a list from before the last write.
    found = s3fs.S3FileSystem(**s3_options, skip_instance_cache=True)
    bytes_ = {
        "/".join((path.split("/")[-4], path.split("/")[-1])): found.cat_file(path)
        for path in found.find(place)
    }
    assert {
        name: hashlib.sha256(content).hexdigest()
        for name, content in bytes_.items()
        if name.endswith(".parquet")
    } == stored(tmp_path, "one")
    assert {path.split("/")[2] for path in found.find(place)} == {"many"}


# Failures ###################################################################################


@pytest.fixture
def world(kumo, tmp_path) -> Iterator[World]:
    with instance_in(tmp_path / "home") as instance:
        yield World(kumo, instance, tmp_path / "store")


@pytest.mark.parametrize("job", [fanned_out, retried])
def test_a_file_that_does_not_come_is_all_that_is_fetched_again(world, job):
    lost = f"{FILES}predictions/part-00002"
    world.kumo.faults.answer(404, path=lost, times=1 if job is retried else None)
    run = world.execute(job)
    if job is fanned_out:
        assert not run.success
        assert not world.materialized(run)
        assert not list(world.base_path.rglob("manifest.json"))
        assert world.steps(run, "STEP_FAILURE") == ["transfer[predictions_00002]"]
        world.kumo.faults.clear()
        world.kumo.clear_requests()
        run = world.execute(job, again=run)
        assert world.steps(run, "STEP_SUCCESS") == ["store", "transfer[predictions_00002]"]
        assert len({r.path for r in world.kumo.requests if "/files/" in r.path}) == 1
    assert run.success
    assert len(world.materialized(run)) == 2
    assert len(world.launched) == 1
    assert [len(list(path.parent.rglob("*.parquet"))) for path in world.manifests()] == [3, 3]
    assert [path.name for path in (world.base_path / ".steps").rglob("*") if path.is_file()] == []


def test_all_steps_again_take_up_the_job_and_begin_a_new_version(world):
    world.kumo.faults.answer(404, path=f"{FILES}predictions/part-00002", times=None)
    failed = world.execute(fanned_out)
    world.kumo.faults.clear()
    run = world.execute(fanned_out, again=failed, all_steps=True)
    assert run.success
    assert len(world.launched) == 1
    # What the failed run brought is not in force, and is removed by a write when it is old.
    left = {path.parent for path in world.base_path.rglob("predictions/**/*.parquet")}
    assert len(left) == 2
    (manifest,) = [m for m in world.manifests() if "predictions" in m.parts]
    in_force = json.loads(manifest.read_text())["version"]
    (abandoned,) = [folder for folder in left if folder.name != in_force]
    abandoned.rename(abandoned.with_name("20200101T000000.000000Z-aaaaaa"))
    for _ in range(2):
        assert world.execute(fanned_out).success
    names = {path.parent.name for path in world.base_path.rglob("predictions/**/*.parquet")}
    assert "20200101T000000.000000Z-aaaaaa" not in names


def test_predictions_with_too_few_rows_are_refused_and_what_was_stored_stays(
    kumo, instance, tmp_path
):
    assets = purchase("many", fan_out=True)
    assert materialize(assets, kumo, tmp_path, instance=instance).success
    manifests = {path: path.read_text() for path in tmp_path.rglob("manifest.json")}
    kumo.faults.overcount()
    name, message = error_of(materialize(assets, kumo, tmp_path, instance=instance))
    assert name == "KumoDataError"
    assert "23,571 entities" in message
    assert {path: path.read_text() for path in tmp_path.rglob("manifest.json")} == manifests


def test_predictions_for_another_time_are_refused(kumo, instance, tmp_path):
    kumo.faults.ignore_prediction_time()
    run = materialize(purchase("many", fan_out=True), kumo, tmp_path, instance=instance)
    name, message = error_of(run)
    assert name == "KumoDataError"
    assert "its data is for" in message
    assert not list(tmp_path.rglob("manifest.json"))


def test_urls_are_no_part_of_what_the_steps_hand_on(world):
    world.kumo.faults.answer(404, path=f"{FILES}predictions/part-00002", times=None)
    world.execute(fanned_out)
    handed_on = [path for path in (world.base_path / ".steps").rglob("*") if path.is_file()]
    assert len(handed_on) == 6 + 5
    assert not any(b"Signature" in path.read_bytes() for path in handed_on)


# What has no room for it ####################################################################


def test_a_run_over_several_partitions_is_refused_before_a_job_is_launched(
    kumo, instance, tmp_path
):
    jobs = len(kumo.jobs)
    run = materialize(
        purchase("many", fan_out=True),
        kumo,
        tmp_path,
        instance=instance,
        partition_key=None,
        tags={
            "dagster/asset_partition_range_start": day(31),
            "dagster/asset_partition_range_end": day(30),
        },
    )
    assert "This run is for 2 partitions, and a fan-out is for one.\nLaunch" in error_of(run)[1]
    assert len(kumo.jobs) == jobs


def test_a_store_that_is_no_kumo_io_manager_is_refused_before_a_job_is_launched(
    kumo, instance, tmp_path
):
    jobs = len(kumo.jobs)
    run = dg.materialize(
        purchase("many", fan_out=True),
        resources={**resources(kumo, tmp_path), "kumo_io_manager": dg.mem_io_manager},
        partition_key=day(30),
        instance=instance,
        raise_on_error=False,
    )
    assert "Make it a KumoIOManager" in error_of(run)[1]
    assert len(kumo.jobs) == jobs


@pytest.mark.parametrize(
    ("prediction", "options", "message"),
    [
        ({"prediction_table": "generate"}, {}, "cannot fan out and generate its prediction table"),
        ({}, {"backfill_policy": dg.BackfillPolicy.single_run()}, "one partition for each run"),
        ({}, {"backfill_policy": dg.BackfillPolicy.multi_run(5)}, "one partition for each run"),
    ],
)
def test_a_definition_that_has_no_room_for_a_fan_out_is_refused(prediction, options, message):
    with pytest.raises(ValueError, match=message):
        build_kumo_assets_definitions(
            name="many",
            prediction=BatchPrediction(training_job_id=PURCHASE, **prediction),
            partitions_def=DAYS,
            fan_out=True,
            **options,
        )
