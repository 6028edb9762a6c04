"""Materializing through `KumoResource`: which jobs are launched, which are taken up again, what
becomes of them when a run ends early, and exports."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pytest

from dagster_kumo import (
    BigQueryConnector,
    DatabricksConnector,
    GCSConnector,
    KumoClient,
    KumoJobFailedError,
    KumoResource,
    S3Connector,
    SnowflakeConnector,
    build_kumo_export_asset,
)
from dagster_kumo.local import LocalKumo
from tests.support import (
    EMBEDDINGS,
    PREDICTIONS,
    TERMINATIONS,
    day,
    error_of,
    instance_in,
    interrupt_a_run,
    metadata_of,
    purchase_assets,
    resources,
    wait_until,
)
from tests.system.runs.gate import gate_before


def test_an_output_can_be_materialized_alone(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assets = purchase_assets(outputs=("predictions", "embeddings"))
    run = dg.materialize(
        [assets],
        selection=[EMBEDDINGS],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )

    assert {e.asset_key for e in run.get_asset_materialization_events()} == {EMBEDDINGS}
    assert (tmp_path / "purchase/embeddings").exists()
    assert not (tmp_path / "purchase/predictions").exists()


def test_a_retry_attaches_to_the_job_of_the_attempt_before(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    launched = len(kumo.jobs)
    kumo.faults.answer(404, path="^/files/.*part-00000", times=3)  # not to be found at first

    run = dg.materialize(
        [purchase_assets(retry_policy=dg.RetryPolicy(max_retries=1))],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )

    assert run.success
    assert [e.event_type_value for e in run.all_events].count("STEP_RESTARTED") == 1
    assert len(kumo.jobs) == launched + 1
    lines = [e.user_message for e in instance.all_logs(run.run_id)]
    assert any(line.startswith("Attached to prediction job") for line in lines)


def test_the_failure_of_a_job_links_to_its_page(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.fail_job()
    run = dg.materialize(
        [purchase_assets()],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
        raise_on_error=False,
    )
    (failure,) = [e for e in run.all_events if e.event_type_value == "STEP_FAILURE"]
    said = failure.step_failure_data.user_failure_data
    assert said is not None
    page = said.metadata["dagster-kumo/tracking_url"]
    assert isinstance(page, dg.UrlMetadataValue)
    assert str(page.url).endswith(f"/jobs/{kumo.jobs[-1]['job_id']}")
    assert said.description is not None
    assert "a new job is launched" in said.description


def test_the_failure_of_several_partitions_links_to_each_job(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.fail_job(times=2)
    days = [day(6), day(5)]
    run = dg.materialize(
        [purchase_assets(backfill_policy=dg.BackfillPolicy.single_run())],
        instance=instance,
        resources=resources(kumo, tmp_path),
        tags={
            "dagster/asset_partition_range_start": days[0],
            "dagster/asset_partition_range_end": days[1],
        },
        raise_on_error=False,
    )
    (failure,) = [e for e in run.all_events if e.event_type_value == "STEP_FAILURE"]
    said = failure.step_failure_data.user_failure_data
    assert said is not None
    assert sorted(said.metadata) == days


def test_an_error_of_a_run_is_caught_by_its_public_name(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.fail_job()
    with pytest.raises(KumoJobFailedError) as failed:
        dg.materialize(
            [purchase_assets()],
            instance=instance,
            resources=resources(kumo, tmp_path),
            partition_key=day(5),
        )
    assert failed.value.status == "FAILED"
    assert failed.value.tracking_url.endswith(failed.value.job_id)


def test_a_failed_job_is_not_attached_to(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    launched = len(kumo.jobs)
    kumo.faults.fail_job()

    run = dg.materialize(
        [purchase_assets(retry_policy=dg.RetryPolicy(max_retries=1))],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )

    assert run.success
    statuses = [job["job_status_report"]["status"] for job in kumo.jobs[launched:]]
    assert statuses == ["FAILED", "DONE"]
    # The reason stands in a line of its own, outside of any stack trace.
    errors = [e.user_message for e in instance.all_logs(run.run_id) if e.level == 40]
    failed = kumo.jobs[launched]["job_id"]
    assert errors == [
        f"Prediction job {failed} FAILED: Job failed: The stand-in was told to let this job fail."
    ]


def test_a_cancelled_job_is_not_attached_to(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    with LocalKumo(run_seconds=1) as kumo, ThreadPoolExecutor(1) as elsewhere:

        def cancel() -> None:
            wait_until(lambda: "RUNNING" in statuses(kumo))
            client = KumoClient(kumo.url, kumo.api_key)
            assert client.cancel_prediction_job(kumo.jobs[0]["job_id"])

        cancelled = elsewhere.submit(cancel)
        run = dg.materialize(
            [purchase_assets(retry_policy=dg.RetryPolicy(max_retries=1))],
            instance=instance,
            resources=resources(kumo, tmp_path),
            partition_key=day(5),
        )
        cancelled.result()

        assert run.success
        assert statuses(kumo) == ["CANCELLED", "DONE"]


def test_a_lost_answer_to_the_launch_costs_no_second_job(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    launched = len(kumo.jobs)
    kumo.faults.lose_answer(method="POST", path="/prediction_jobs$")

    run = dg.materialize(
        [purchase_assets()],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )

    assert run.success
    assert len(kumo.jobs) == launched + 1


def test_a_launch_that_timed_out_but_was_accepted_costs_no_second_job(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    launched = len(kumo.jobs)
    with gate_before(kumo) as gate:
        answer = gate.hold("POST", "/prediction_jobs$", way="back")
        hasty = KumoResource(url=gate.url, api_key=kumo.api_key, request_timeout=2)
        run = dg.materialize(
            [purchase_assets()],
            instance=instance,
            resources={**resources(kumo, tmp_path), "kumo": hasty},
            partition_key=day(5),
        )
        answer.wait()

    assert run.success
    assert len(kumo.jobs) == launched + 1


def test_a_server_that_lists_whatever_the_tags_mixes_up_no_partitions(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    launched = len(kumo.jobs)
    kumo.faults.ignore_tag_filters()
    for days_ago in (5, 6):
        kumo.faults.lose_answer(method="POST", path="/prediction_jobs$")
        assert dg.materialize(
            [purchase_assets()],
            instance=instance,
            resources=resources(kumo, tmp_path),
            partition_key=day(days_ago),
        ).success

    made = [job["tags"]["dagster.partition"] for job in kumo.jobs[launched:]]
    assert made == [day(5), day(6)]


def test_the_log_tells_the_story_in_a_few_lines(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    with LocalKumo(queue_seconds=0.6, run_seconds=1.5) as kumo:
        run = dg.materialize(
            [purchase_assets()],
            instance=instance,
            resources=resources(kumo, tmp_path),
            partition_key=day(5),
        )
        job_id = kumo.jobs[-1]["job_id"]

    ours = [e for e in instance.all_logs(run.run_id) if not e.is_dagster_event]
    story = [e.user_message for e in ours if e.level == 20]
    assert re.fullmatch(
        rf"Launched prediction job {job_id} for {day(4)} 00:00 UTC, model \S+: http\S+/jobs/{job_id}",
        story[0],
    )
    assert f"Prediction job {job_id} is QUEUED" in story
    assert any("Predicting" in line and "%" in line for line in story)
    assert story[-3] == f"Prediction job {job_id} is DONE"
    assert re.fullmatch(rf"Predicted for 23,570 entities: http\S+/jobs/{job_id}", story[-2])
    assert story[-1].startswith("Stored 23,570 rows in 1 file (")
    assert len(story) <= 10


EXPORTS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "snowflake": (SnowflakeConnector("wh"), "PURCHASE", {"write_mode": "OVERWRITE"}),
    "bigquery": (BigQueryConnector("bq"), "ml.purchase", {"metadata_fields": ["JOB_TIMESTAMP"]}),
    "databricks": (DatabricksConnector("db"), ("ml", "purchase"), {}),
    "s3": (S3Connector("s3://bucket/kumo"), "purchase", {}),
    "gcs": (GCSConnector("gs://bucket/kumo/"), "purchase", {"output_type": "embeddings"}),
}


@pytest.mark.parametrize("storage", EXPORTS)
def test_an_export_writes_the_job_behind_the_predictions(
    storage: str, kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    connector, table_name, options = EXPORTS[storage]
    outputs = purchase_assets(outputs=("predictions", "embeddings"))
    export = build_kumo_export_asset(
        name="purchase", predictions=outputs, connector=connector, table_name=table_name, **options
    )
    run = dg.materialize(
        [outputs, export],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )

    metadata = metadata_of(run, export.key)
    job_id = metadata_of(run, PREDICTIONS)["dagster-kumo/job_id"]
    (event,) = [e for e in run.get_asset_materialization_events() if e.asset_key == export.key]
    exported = kumo.exports[-1]
    assert metadata["dagster-kumo/job_id"] == job_id == exported["job_id"]
    assert metadata["dagster-kumo/export_job_id"] == exported["id"]
    assert metadata["dagster-kumo/storage"] == storage
    assert metadata["dagster-kumo/tracking_url"].endswith(f"/jobs/{job_id}")
    assert metadata["dagster/row_count"] == 23_570
    target = "dagster/uri" if "dagster/uri" in metadata else "dagster/table_name"
    assert next(iter(metadata)) == target
    assert metadata["dagster-kumo/duration_seconds"] >= 0
    target = metadata.get("dagster/table_name") or metadata["dagster/uri"]
    assert target == export.metadata_by_key[export.key].get("dagster/table_name", target)
    assert event.materialization.tags["dagster/data_version"] == job_id
    assert exported["status"] == "DONE"


def test_what_an_export_wrote_are_the_predictions(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    outputs = purchase_assets()
    export = build_kumo_export_asset(
        name="purchase",
        predictions=outputs,
        connector=SnowflakeConnector("warehouse"),
        table_name="SAME",
    )
    dg.materialize(
        [outputs, export],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )

    (database,) = kumo.data.rglob("*.duckdb")
    with duckdb.connect(str(database), read_only=True) as connection:
        ((schema,),) = connection.sql(
            "SELECT table_schema FROM information_schema.tables WHERE table_name = 'SAME_predictions'"
        ).fetchall()
        written = connection.sql(f'SELECT * FROM "{schema}"."SAME_predictions"').df()
    stored = pd.read_parquet(next((tmp_path / "purchase/predictions" / day(5)).glob("*Z-*")))
    by_entity = [frame.sort_values("ENTITY")["True_PROB"].tolist() for frame in (written, stored)]
    assert by_entity[0] == by_entity[1]


def test_an_export_without_predictions_says_so_before_it_is_sent(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    outputs = purchase_assets()
    export = build_kumo_export_asset(
        name="purchase", predictions=outputs, connector=SnowflakeConnector("wh"), table_name="T"
    )
    exported = len(kumo.exports)

    run = dg.materialize(
        [outputs, export],
        selection=[export],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(40),
        raise_on_error=False,
    )

    found_class, message = error_of(run)
    assert found_class == "KumoError"
    assert f"purchase/predictions, partition {day(40)}" in message
    assert len(kumo.exports) == exported


@pytest.mark.parametrize(("policy", "by_a_user", "status"), TERMINATIONS)
def test_a_terminated_run_cancels_its_job_by_the_policy(
    policy: str, by_a_user: bool, status: str, tmp_path: Path
) -> None:
    with LocalKumo(run_seconds=60) as kumo, instance_in(tmp_path) as instance:
        interrupt_a_run(
            purchase_assets,
            instance=instance,
            kumo=kumo,
            when=lambda: "RUNNING" in statuses(kumo),
            by_a_user=by_a_user,
            partition_key=day(5),
            cancel_on_termination=policy,
        )

        assert statuses(kumo) == [status]
        assert instance.fetch_materializations(PREDICTIONS, limit=1).records == []
    assert not list((tmp_path / "store").rglob("*.parquet"))


def statuses(kumo: LocalKumo) -> list[str]:
    return [job["job_status_report"]["status"] for job in kumo.jobs]
