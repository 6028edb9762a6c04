"""A run over a range of partitions: its jobs run at once, each partition is delivered when its own
job is done, and one that fails neither loses nor repeats the others."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    KumoIOManager,
    KumoPartitionsError,
    KumoResource,
    S3Connector,
    build_kumo_export_asset,
)
from dagster_kumo.local import LocalKumo
from tests.support import (
    DAYS,
    EMBEDDINGS,
    PREDICTIONS,
    PURCHASE,
    day,
    error_of,
    metadata_of,
    purchase_assets,
    wait_until,
)

RANGE = [day(n) for n in (10, 9, 8, 7, 6)]
TAGS = {
    "dagster/asset_partition_range_start": RANGE[0],
    "dagster/asset_partition_range_end": RANGE[-1],
}
TABLE = dg.AssetKey(["purchase", "prediction_table"])


@pytest.fixture(scope="module")
def stand_in() -> Iterator[LocalKumo]:
    with LocalKumo(run_seconds=0.6) as kumo:
        yield kumo


@pytest.fixture
def kumo(stand_in: LocalKumo) -> Iterator[LocalKumo]:
    stand_in.clear_requests()
    yield stand_in
    stand_in.faults.clear()


def assets(**options: Any) -> dg.AssetsDefinition:
    return purchase_assets(backfill_policy=dg.BackfillPolicy.single_run(), **options)


def materialize(
    definitions: list[Any],
    kumo: LocalKumo,
    instance: dg.DagsterInstance,
    store: Path,
    **settings: Any,
) -> dg.ExecuteInProcessResult:
    settings = {
        "request_max_retries": 2,
        "poll_interval": 0.2,
        "launch_settling_time": 0,
        **settings,
    }
    resource = KumoResource(url=kumo.url, api_key=kumo.api_key, **settings)
    return dg.materialize(
        definitions,
        instance=instance,
        resources={"kumo": resource, "kumo_io_manager": KumoIOManager(base_path=str(store))},
        tags=TAGS,
        raise_on_error=False,
    )


def launched(kumo: LocalKumo, since: int) -> list[dict[str, Any]]:
    return kumo.jobs[since:]


def most_at_once(jobs: list[dict[str, Any]]) -> int:
    spans = [
        tuple(
            datetime.fromisoformat(job["job_status_report"][end])
            for end in ("start_time", "end_time")
        )
        for job in jobs
    ]
    return max(sum(begin <= start < end for begin, end in spans) for start, _ in spans)


def delivered(
    instance: dg.DagsterInstance, run: dg.ExecuteInProcessResult, key: dg.AssetKey = PREDICTIONS
) -> dict[str, str]:
    """The job behind each partition that the run materialized."""
    events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    found: dict[str, str] = {}
    for event in events:
        materialization = event.asset_materialization
        assert materialization
        if materialization.asset_key == key and materialization.partition:
            found[materialization.partition] = str(
                materialization.metadata["dagster-kumo/job_id"].value
            )
    return found


def test_jobs_run_at_once_up_to_the_limit_and_each_partition_tells_of_its_own(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    before = len(kumo.jobs)
    run = materialize([assets()], kumo, instance, tmp_path, max_concurrent_jobs=3)

    assert run.success
    jobs = launched(kumo, before)
    assert len(jobs) == len(RANGE)
    assert most_at_once(jobs) in (2, 3)
    anchors = {job["job_id"]: job["tags"]["dagster.partition"] for job in jobs}
    for partition in RANGE:
        metadata = metadata_of(run, PREDICTIONS, partition)
        assert anchors[metadata["dagster-kumo/job_id"]] == partition
        assert metadata["dagster/row_count"] == 23_570
        assert metadata["dagster-kumo/True_PROB/mean"] > 0
        shown = [name.removeprefix("dagster-kumo/") for name in metadata]
        assert shown[:2] == ["prediction_time", "distribution_in_brief"]
        assert shown.index("statistics") < shown.index("tracking_url")
        assert (tmp_path / "purchase/predictions" / partition / "manifest.json").exists()


def test_a_failed_partition_neither_loses_nor_repeats_the_others(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    before = len(kumo.jobs)
    kumo.faults.fail_job("The graph is stale.", after=1)

    run = materialize([assets()], kumo, instance, tmp_path)

    found_class, message = error_of(run)
    jobs = launched(kumo, before)
    (failed,) = [j for j in jobs if j["job_status_report"]["status"] == "FAILED"]
    bad_day = failed["tags"]["dagster.partition"]
    assert found_class == KumoPartitionsError.__name__
    assert "1 of 5 partitions failed" in message
    assert f"{bad_day}: Prediction job {failed['job_id']} FAILED" in message
    assert "The graph is stale." in message
    assert "re-execute the run from failure" in message
    assert set(delivered(instance, run)) == set(RANGE) - {bad_day}
    assert not (tmp_path / "purchase/predictions" / bad_day).exists()


def test_a_retry_of_a_range_launches_only_what_failed(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    before = len(kumo.jobs)
    kumo.faults.fail_job(after=1)

    run = materialize(
        [assets(retry_policy=dg.RetryPolicy(max_retries=1))], kumo, instance, tmp_path
    )

    assert run.success
    jobs = launched(kumo, before)
    done = {j["tags"]["dagster.partition"]: j["job_id"] for j in jobs if j["result"]}
    assert len(jobs) == len(RANGE) + 1
    assert delivered(instance, run) == done


def test_a_retry_delivers_what_is_stored_of_its_launch_without_fetching_it_again(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.fail_job(after=1)
    policy = dg.RetryPolicy(max_retries=1)
    both = assets(outputs=("predictions", "embeddings"), retry_policy=policy)

    run = materialize([both], kumo, instance, tmp_path)

    assert run.success
    said = [log.user_message for log in instance.all_logs(run.run_id)]
    for key in (PREDICTIONS, EMBEDDINGS):
        for partition in RANGE:
            folder = str(tmp_path.joinpath(*key.path, partition))
            lines = [line for line in said if line.endswith(folder) and " rows in " in line]
            # Nothing is transferred a second time, so no speed is told.
            assert sorted(line.split()[0] for line in lines) in (["Stored"], ["Kept", "Stored"])
            assert not any(" MB/s)" in line for line in lines if line.startswith("Kept"))
    assert any(line.startswith("Kept 23,570 rows in ") for line in said)
    fetched = [r.path for r in kumo.requests if r.path.startswith("/files/") and r.method == "GET"]
    assert len(fetched) == len(set(fetched)) > 0
    for key in (PREDICTIONS, EMBEDDINGS):
        for partition in RANGE:
            metadata = metadata_of(run, key, partition)
            assert metadata["dagster/row_count"] == 23_570
            assert "dagster-kumo/statistics" in metadata


def test_what_is_stored_and_damaged_is_fetched_again(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.fail_job(after=1)
    policy = dg.RetryPolicy(max_retries=1, delay=2)

    def damage() -> None:
        stored = tmp_path / "purchase/predictions"
        wait_until(lambda: len([*stored.glob("*/manifest.json")]) == len(RANGE) - 1)
        for file in stored.rglob("*.parquet"):
            file.write_bytes(file.read_bytes()[:1000])

    damaging = Thread(target=damage)
    damaging.start()
    run = materialize([assets(retry_policy=policy)], kumo, instance, tmp_path)
    damaging.join()

    assert run.success
    for partition in RANGE:
        assert metadata_of(run, PREDICTIONS, partition)["dagster/row_count"] == 23_570
    store = KumoIOManager(base_path=str(tmp_path))
    for partition in RANGE:
        assert store.partition_store(PREDICTIONS, partition).read().to_arrow().num_rows == 23_570


def test_a_partition_that_cannot_be_stored_does_not_hold_up_the_others(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    bad_day = RANGE[2]
    in_the_way = tmp_path / "purchase/predictions" / bad_day
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where the folder of the partition should be")

    run = materialize([assets()], kumo, instance, tmp_path)

    _, message = error_of(run)
    assert "1 of 5 partitions failed" in message
    assert bad_day in message
    assert set(delivered(instance, run)) == set(RANGE) - {bad_day}
    assert metadata_of_logged(instance, run, RANGE[0])["dagster/row_count"].value == 23_570


def metadata_of_logged(
    instance: dg.DagsterInstance, run: dg.ExecuteInProcessResult, partition: str
) -> Any:
    events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    (found,) = [
        e.asset_materialization
        for e in events
        if e.asset_materialization and e.asset_materialization.partition == partition
    ]
    return found.metadata


LISTED = r"/get_prediction_df_urls$"
TABLES = r"/genpredtable_jobs$"
EMBEDDINGS_LISTED = r"/get_embedding_df_urls$"


def fail_one(kumo: LocalKumo, how: str) -> str:
    """Let one partition of a run fail in some way, once; what the error says of it."""
    if how == "its files cannot be listed":
        kumo.faults.answer(404, body={"detail": "No such output."}, path=LISTED, after=1)
        return "No such output."
    kumo.faults.refuse_launch("Time", "There is no data for that time yet.", after=1)
    return "There is no data for that time yet."


@pytest.mark.parametrize("how", ["its files cannot be listed", "its launch is refused"])
def test_what_fails_one_partition_leaves_the_others_stored_and_a_retry_makes_that_one(
    how: str, kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    reason = fail_one(kumo, how)
    run = materialize([assets()], kumo, instance, tmp_path, max_concurrent_jobs=1)

    found_class, message = error_of(run)
    made = delivered(instance, run)
    (bad_day,) = set(RANGE) - set(made)
    assert found_class == KumoPartitionsError.__name__
    assert "1 of 5 partitions failed" in message
    assert f"{bad_day}: " in message
    assert reason in message
    assert "not begun" not in message
    assert {
        d for d in RANGE if (tmp_path / "purchase/predictions" / d / "manifest.json").exists()
    } == set(made)

    kumo.faults.clear()
    fail_one(kumo, how)
    before = len(kumo.jobs)
    run = materialize(
        [assets(retry_policy=dg.RetryPolicy(max_retries=1))],
        kumo,
        instance,
        tmp_path,
        max_concurrent_jobs=1,
    )

    assert run.success
    assert set(delivered(instance, run)) == set(RANGE)
    assert len(launched(kumo, before)) == len(RANGE)


def test_a_partition_without_embeddings_leaves_those_of_the_others(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    both = assets(outputs=("predictions", "embeddings"))
    kumo.faults.answer(200, body={"embedding_partitions": []}, path=EMBEDDINGS_LISTED, after=1)

    run = materialize([both], kumo, instance, tmp_path, max_concurrent_jobs=1)

    _, message = error_of(run)
    stored = delivered(instance, run, EMBEDDINGS)
    (bad_day,) = set(RANGE) - set(stored)
    assert f"{bad_day}, purchase/embeddings: Kumo has no files of the embeddings" in message
    assert set(delivered(instance, run)) == set(RANGE)


@pytest.mark.parametrize("how", ["its job fails", "its predictions cannot be listed"])
def test_what_fails_one_output_of_a_partition_leaves_both_outputs_of_the_others(
    how: str, kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    job_fails = how == "its job fails"
    if job_fails:
        kumo.faults.fail_job("The graph is stale.", after=1)
    else:
        kumo.faults.answer(404, body={"detail": "No such output."}, path=LISTED, after=1)

    both = assets(outputs=("predictions", "embeddings"))
    run = materialize([both], kumo, instance, tmp_path, max_concurrent_jobs=1)

    _, message = error_of(run)
    (bad_day,) = set(RANGE) - set(delivered(instance, run))
    with_embeddings = delivered(instance, run, EMBEDDINGS)
    assert set(with_embeddings) == set(RANGE) - ({bad_day} if job_fails else set())
    assert "1 of 5 partitions failed" in message
    assert (f"{bad_day}: " if job_fails else f"{bad_day}, purchase/predictions: ") in message
    for partition in with_embeddings:
        assert (tmp_path / "purchase/embeddings" / partition / "manifest.json").exists()


def test_what_would_fail_every_partition_is_not_tried_with_all_of_them(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    before = len(kumo.jobs)
    refused = kumo.faults.answer(
        401,
        body={"detail": "The key was revoked."},
        path=r"/prediction_jobs$",
        method="POST",
        times=None,
    )

    run = materialize([assets()], kumo, instance, tmp_path, max_concurrent_jobs=2)

    _, message = error_of(run)
    assert "The key was revoked." in message
    assert "were not begun" in message
    assert refused.hits <= 2
    assert launched(kumo, before) == []


def test_prediction_tables_and_exports_of_a_range_run_at_once_too(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    before, exported = len(kumo.jobs), len(kumo.exports)
    outputs = assets(
        prediction=BatchPrediction(training_job_id=PURCHASE, prediction_table="generate")
    )
    export = build_kumo_export_asset(
        name="purchase",
        predictions=outputs,
        connector=S3Connector("s3://bucket/ranges"),
        table_name="day={partition_key}/p",
        backfill_policy=dg.BackfillPolicy.single_run(),
    )

    run = materialize([outputs, export], kumo, instance, tmp_path)

    assert run.success
    jobs = launched(kumo, before)
    assert most_at_once(jobs) > 1
    assert {e["output"]["file_path"] for e in kumo.exports[exported:]} == {
        f"s3://bucket/ranges/day={partition}/p_predictions" for partition in RANGE
    }
    table_of = {job["job_id"]: job["config"]["pred_table_job_id"] for job in jobs}
    for partition in RANGE:
        predicted_by = metadata_of(run, PREDICTIONS, partition)["dagster-kumo/job_id"]
        table = metadata_of(run, TABLE, partition)["dagster-kumo/job_id"]
        assert table == table_of[predicted_by]
        assert metadata_of(run, export.key, partition)["dagster-kumo/job_id"] == predicted_by


def test_a_prediction_table_that_cannot_be_made_leaves_the_other_days_predicted(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    before = len(kumo.jobs)
    outputs = assets(
        prediction=BatchPrediction(training_job_id=PURCHASE, prediction_table="generate")
    )
    kumo.faults.answer(
        422, body={"detail": "No data for that time."}, path=TABLES, method="POST", after=1
    )

    run = materialize([outputs], kumo, instance, tmp_path, max_concurrent_jobs=1)

    found_class, message = error_of(run)
    made = delivered(instance, run)
    (bad_day,) = set(RANGE) - set(made)
    assert found_class == KumoPartitionsError.__name__
    assert f"{bad_day}: " in message
    assert "No data for that time." in message
    assert set(delivered(instance, run, TABLE)) == set(made)
    assert len(launched(kumo, before)) == len(made)


def test_an_export_that_fails_leaves_the_others_of_its_range(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    export = build_kumo_export_asset(
        name="purchase",
        predictions=PREDICTIONS,
        connector=S3Connector("s3://bucket/ranges"),
        table_name="once={partition_key}/p",
        partitions_def=DAYS,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    materialize([assets()], kumo, instance, tmp_path)
    kumo.faults.answer(200, body='"FAILED"', path=r"/artifact/[^/]+$")

    run = materialize([export], kumo, instance, tmp_path)

    found_class, message = error_of(run)
    assert found_class == KumoPartitionsError.__name__
    assert "1 of 5 partitions failed" in message
    events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    assert len(events) == len(RANGE) - 1
