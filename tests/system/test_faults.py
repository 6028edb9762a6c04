"""Bad input and faults: each ends the step with its own error class, the server's words and the way
out, and what was stored before stays in force."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import BatchPrediction, KumoResource
from dagster_kumo.local import LocalKumo
from tests.support import (
    PURCHASE,
    day,
    error_of,
    purchase_assets,
    resources,
)

Arrange = Callable[[LocalKumo], object]

IN_THE_SERVICE: dict[str, tuple[Arrange, str, list[str]]] = {
    "a refused launch": (
        lambda kumo: kumo.faults.refuse_launch("Snapshot", "The graph is stale."),
        "KumoValidationError",
        ["refused", "Snapshot: The graph is stale."],
    ),
    "a failed job": (
        lambda kumo: kumo.faults.fail_job("Column price is missing.", title="Schema"),
        "KumoJobFailedError",
        ["FAILED", "Schema: Column price is missing.", "/jobs/bp-job-"],
    ),
    "fewer rows than entities": (
        lambda kumo: kumo.faults.overcount(extra=7),
        "KumoDataError",
        ["23,577 entities", "23,570 rows", "row_count_check='warn'"],
    ),
    "a file that is not Parquet": (
        lambda kumo: kumo.faults.corrupt(path="part-00000", times=None),
        "KumoDataError",
        ["part-00000.parquet", "not a readable Parquet file"],
    ),
    "a file that is gone": (
        lambda kumo: kumo.faults.answer(404, path="^/files/", times=None),
        "KumoDataError",
        ["answered 404", "limited time"],
    ),
    "a prediction for another day": (
        lambda kumo: kumo.faults.ignore_prediction_time(),
        "KumoDataError",
        ["asked to predict for", "but its data is for"],
    ),
}


@pytest.mark.parametrize("fault", IN_THE_SERVICE)
def test_a_fault_in_the_service(
    fault: str, kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    arrange, error_class, words = IN_THE_SERVICE[fault]
    where = resources(kumo, tmp_path)
    before = dg.materialize(
        [purchase_assets()], instance=instance, resources=where, partition_key=day(9)
    )
    in_force = sorted(tmp_path.rglob("*.parquet"))
    manifest = next(tmp_path.rglob("manifest.json")).read_text()

    arrange(kumo)
    run = dg.materialize(
        [purchase_assets()],
        instance=instance,
        resources=where,
        partition_key=day(9),
        raise_on_error=False,
    )

    assert before.success
    assert not run.success
    assert not run.get_asset_materialization_events()
    found_class, message = error_of(run)
    assert found_class == error_class
    for word in words:
        assert word in message
    assert "Signature" not in message
    assert sorted(tmp_path.rglob("*.parquet")) == in_force
    assert next(tmp_path.rglob("manifest.json")).read_text() == manifest


def materialize_with(
    instance: dg.DagsterInstance, where: dict[str, Any], prediction: BatchPrediction
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [purchase_assets(prediction=prediction)],
        instance=instance,
        resources=where,
        partition_key=day(9),
        raise_on_error=False,
    )


MODELS: dict[str, tuple[BatchPrediction, list[str]]] = {
    "unknown": (
        BatchPrediction(training_job_id="trainingjob-nobody"),
        ["no training job trainingjob-nobody", "training_job_tags"],
    ),
    "failed": (
        BatchPrediction(training_job_id="trainingjob-cdnow-purchase-failed"),
        ["trainingjob-cdnow-purchase-failed is FAILED (", "split"],
    ),
    "no such tags": (
        BatchPrediction(training_job_tags={"use_case": "fraud"}),
        ["use_case=fraud", "there are: none"],
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_a_missing_model_is_found_out_before_anything_is_launched(
    model: str, kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    prediction, words = MODELS[model]
    launched = len(kumo.jobs)

    run = materialize_with(instance, resources(kumo, tmp_path), prediction)

    found_class, message = error_of(run)
    assert found_class == "KumoModelError"
    for word in words:
        assert word in message
    assert len(kumo.jobs) == launched


def test_tags_pick_the_newest_model_that_is_done(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.ignore_tag_filters()
    prediction = BatchPrediction(training_job_tags={"use_case": "purchase"})

    run = materialize_with(instance, resources(kumo, tmp_path), prediction)

    assert run.success
    assert kumo.jobs[-1]["config"]["model_training_job_id"] == PURCHASE


def test_a_wrong_key(kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    where = {**resources(kumo, tmp_path), "kumo": KumoResource(url=kumo.url, api_key="acme:wr0ng")}

    run = dg.materialize(
        [purchase_assets()],
        instance=instance,
        resources=where,
        partition_key=day(9),
        raise_on_error=False,
    )

    found_class, message = error_of(run)
    assert found_class == "KumoAuthenticationError"
    assert "answered 401" in message
    assert "KUMO_API_KEY" in message
    assert "wr0ng" not in message


def test_an_unknown_job(kumo: LocalKumo, instance: dg.DagsterInstance) -> None:
    @dg.asset
    def summary(kumo: KumoResource) -> int:
        return kumo.batch_prediction_job_result("bp-job-nobody").summary().num_entities_predicted

    where = {"kumo": KumoResource(url=kumo.url, api_key=kumo.api_key)}
    run = dg.materialize([summary], instance=instance, resources=where, raise_on_error=False)

    found_class, message = error_of(run)
    assert found_class == "KumoNotFoundError"
    assert "answered 404" in message
    assert "bp-job-nobody" in message


def test_an_anchor_that_the_model_cannot_predict_for(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """The stand-in refuses to predict for a time before its model was trained, in its own words."""
    early = dg.DailyPartitionsDefinition(start_date="2001-01-01")

    run = dg.materialize(
        [purchase_assets(partitions_def=early)],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key="2001-02-03",
        raise_on_error=False,
    )

    found_class, message = error_of(run)
    assert found_class == "KumoJobFailedError"
    assert "2001-02-04" in message


def test_fewer_rows_are_stored_with_a_warning_when_asked(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.overcount(extra=7)
    where = resources(kumo, tmp_path, row_count_check="warn")

    run = dg.materialize(
        [purchase_assets()], instance=instance, resources=where, partition_key=day(9)
    )

    assert run.success
    logs = [e.user_message for e in instance.all_logs(run.run_id)]
    assert any("23,577 entities" in line and "23,570 rows" in line for line in logs)


def test_a_server_that_refuses_to_keep_embeddings_gets_the_way_round_it(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.refuse_launch("Outputs", "LOCAL is not a storage type.")

    run = dg.materialize(
        [purchase_assets(outputs=("predictions", "embeddings"))],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(9),
        raise_on_error=False,
    )

    found_class, message = error_of(run)
    assert found_class == "KumoValidationError"
    assert "LOCAL is not a storage type." in message
    assert 'build_kumo_export_asset(output_type="embeddings"' in message
