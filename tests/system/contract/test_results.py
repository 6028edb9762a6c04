"""What a job that is done has to give: the same from the project as from the SDK."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dagster_kumo import (
    ArtifactExportJob,
    BatchPredictionJob,
    BatchPredictionJobResult,
    KumoClient,
    KumoJobFailedError,
    PredictionTable,
    PredictionTableJob,
)
from dagster_kumo.api.records import BatchPredictionRequest
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE
from tests.system.contract.sdk import Sdk, SdkError


@pytest.fixture
def result(job_id: str, ours: KumoClient) -> BatchPredictionJobResult:
    return BatchPredictionJobResult(job_id, ours)


@pytest.fixture
def job(job_id: str, ours: KumoClient) -> BatchPredictionJob:
    return BatchPredictionJob(job_id, ours)


def unsigned(urls: list[str]) -> list[str]:
    """Urls without their signatures, which differ each time they are asked for."""
    return [url.partition("?")[0] for url in urls]


# Results


@pytest.mark.parametrize(
    "member",
    [
        "predictions_df",
        pytest.param("embeddings_df", marks=pytest.mark.younger("embeddings_df")),
    ],
)
def test_a_frame_is_the_same(
    sdk: Sdk, result: BatchPredictionJobResult, member: str, tmp_path: Path
) -> None:
    """But for the index, which the SDK begins anew with each file."""
    file = tmp_path / "theirs.parquet"
    sdk("result", result.id, member, frame_to=str(file))
    theirs, ours = pd.read_parquet(file), getattr(result, member)()
    assert theirs.index.max() < len(theirs) - 1
    assert ours.index.equals(pd.RangeIndex(len(ours)))
    assert len(ours) == 23_570
    pd.testing.assert_frame_equal(ours, theirs.reset_index(drop=True))


@pytest.mark.parametrize(
    "member",
    [
        "predictions_urls",
        pytest.param("embeddings_urls", marks=pytest.mark.younger("embeddings_urls")),
    ],
)
def test_urls_are_the_same(sdk: Sdk, result: BatchPredictionJobResult, member: str) -> None:
    ours = getattr(result, member)()
    assert len(ours) == 2
    assert unsigned(ours) == unsigned(sdk("result", result.id, member))


def test_id_and_tracking_url_are_the_same(sdk: Sdk, result: BatchPredictionJobResult) -> None:
    assert result.id == sdk("result", result.id, "id")
    assert result.tracking_url == sdk("result", result.id, "tracking_url")


def test_the_summary_is_the_same(sdk: Sdk, result: BatchPredictionJobResult) -> None:
    assert result.summary().model_dump() == sdk("result", result.id, "summary")


def test_the_prediction_table_is_the_same(
    sdk: Sdk, result: BatchPredictionJobResult, table_id: str
) -> None:
    ours = result.prediction_table
    assert isinstance(ours, PredictionTable)
    theirs = sdk("result", result.id, "prediction_table")
    assert theirs == {"kind": "PredictionTable", "id": ours.job_id}
    assert ours.job_id == table_id


# Jobs


def test_the_status_is_the_same(sdk: Sdk, job: BatchPredictionJob) -> None:
    assert same_report(job.status(), sdk("prediction_job", job.id, "status"))


def same_report(ours: Any, theirs: dict[str, Any]) -> bool:
    """Whether two reports say the same, read by our records where the notation differs."""
    return ours == type(ours).model_validate(theirs)


def test_the_progress_is_the_same(sdk: Sdk, job: BatchPredictionJob) -> None:
    ours, theirs = job.progress(), sdk("prediction_job", job.id, "progress")
    assert ours == type(ours).model_validate(theirs)
    assert ours.fraction == 1.0


def test_the_result_of_a_job_is_the_same(sdk: Sdk, job: BatchPredictionJob) -> None:
    assert job.result(poll_interval=0.05).id == sdk("prediction_job", job.id, "result")
    assert job.id == sdk("prediction_job", job.id, "id")
    assert job.tracking_url == sdk("prediction_job", job.id, "tracking_url")


def test_any_job_can_be_waited_for_in_a_thread(
    job: BatchPredictionJob, ours: KumoClient, export_id: str, table_id: str
) -> None:
    """As the SDK's `future`; whether it has ended is in its status."""
    jobs = [job, ArtifactExportJob(export_id, ours), PredictionTableJob(table_id, ours)]
    with ThreadPoolExecutor() as threads:
        result, export, table = [
            f.result() for f in [threads.submit(j.result, poll_interval=0.05) for j in jobs]
        ]
    assert (result.id, export, table.job_id) == (job.id, export_id, table_id)
    assert job.status().is_terminal
    assert jobs[2].status().is_terminal
    assert jobs[1].status() == "DONE"


def test_a_job_that_is_done_cannot_be_cancelled(sdk: Sdk, job: BatchPredictionJob) -> None:
    assert job.cancel() is sdk("prediction_job", job.id, "cancel") is False


@pytest.mark.younger("get_tags")
def test_tags_and_config_are_the_same(sdk: Sdk, job: BatchPredictionJob) -> None:
    ours = job.get()
    assert ours.tags == sdk("prediction_job", job.id, "get_tags")
    config = sdk("prediction_job", job.id, "load_config")
    config["outputs"] = [{k: v for k, v in o.items() if v is not None} for o in config["outputs"]]
    assert ours.config == BatchPredictionRequest.model_validate(config)


def test_a_job_that_failed_says_why_in_the_same_words(
    sdk: Sdk, ours: KumoClient, both_ask: LocalKumo
) -> None:
    both_ask.faults.fail_job("the graph snapshot is gone")
    request = BatchPredictionRequest(model_training_job_id=PURCHASE)
    job = BatchPredictionJob(ours.create_prediction_job(request)[0], ours)
    with pytest.raises(KumoJobFailedError, match="the graph snapshot is gone"):
        job.result(poll_interval=0.05)
    with pytest.raises(SdkError, match="the graph snapshot is gone"):
        sdk("prediction_job", job.id, "result")
    with pytest.raises(SdkError, match="FAILED"):
        sdk("result", job.id, "summary")
    with pytest.raises(KumoJobFailedError, match="FAILED"):
        BatchPredictionJobResult(job.id, ours).summary()


# Exports


def test_an_export_is_the_same(sdk: Sdk, ours: KumoClient, export_id: str) -> None:
    job = ArtifactExportJob(export_id, ours)
    assert job.id == sdk("export_job", export_id, "id")
    assert job.status() == sdk("export_job", export_id, "status") == "DONE"
    assert job.cancel() is sdk("export_job", export_id, "cancel") is False
    assert job.result(poll_interval=0.05) == sdk("export_job", export_id, "result")


def test_an_export_has_no_page(sdk: Sdk, export_id: str) -> None:
    """The SDK's result has a `tracking_url` that nothing stands behind."""
    with pytest.raises(SdkError, match="NotImplementedError"):
        sdk("export_page", export_id)


# Prediction tables


def test_a_table_is_the_same(sdk: Sdk, ours: KumoClient, table_id: str, tmp_path: Path) -> None:
    table = PredictionTable(table_id, ours)
    file = tmp_path / "theirs.parquet"
    sdk("table", "data_df", frame_to=str(file), job_id=table_id)
    pd.testing.assert_frame_equal(table.data_df(), pd.read_parquet(file).reset_index(drop=True))
    assert unsigned(table.data_urls()) == unsigned(sdk("table", "data_urls", job_id=table_id))
    assert table.anchor_time is not None
    theirs = sdk("table", "anchor_time", job_id=table_id)
    assert table.anchor_time.isoformat() == re.sub("Z$", "+00:00", theirs)


def test_a_table_job_is_the_same(sdk: Sdk, ours: KumoClient, table_id: str) -> None:
    job = PredictionTableJob(table_id, ours)
    assert job.id == sdk("table_job", table_id, "id")
    assert same_report(job.status(), sdk("table_job", table_id, "status"))
    theirs = sdk("table_job", table_id, "result")
    assert theirs == {"kind": "PredictionTable", "id": job.result(poll_interval=0.05).job_id}
    assert job.cancel() is sdk("table_job", table_id, "cancel") is None


@pytest.mark.younger("get_tags")
def test_tags_and_plan_of_a_table_job_are_the_same(
    sdk: Sdk, ours: KumoClient, table_id: str
) -> None:
    job = PredictionTableJob(table_id, ours).get()
    assert job.tags == sdk("table_job", table_id, "get_tags")
    config = sdk("table_job", table_id, "load_config")
    assert (job.config.pquery_id, job.config.plan) == (config["pquery_id"], config["plan"])


@pytest.mark.not_in_3("a table by its path alone")
def test_a_path_is_a_table_without_an_anchor_time(sdk: Sdk, ours: KumoClient) -> None:
    path = "s3://bucket/entities"
    table = PredictionTable(client=ours, table_data_path=path)
    assert table.data_urls() == sdk("table", "data_urls", table_data_path=path) == [path]
    assert table.anchor_time is sdk("table", "anchor_time", table_data_path=path) is None


@pytest.mark.not_in_3("a table by its path alone")
def test_a_table_is_given_in_one_way(sdk: Sdk) -> None:
    with pytest.raises(SdkError, match="ValueError"):
        sdk("table", "data_urls")
    with pytest.raises(ValueError, match="prediction table"):
        PredictionTable()


# Models


def test_the_metrics_of_a_model_are_the_same(sdk: Sdk, ours: KumoClient) -> None:
    job = ours.get_training_job(PURCHASE)
    assert job.result is not None
    theirs = sdk("training_job", PURCHASE, "metrics")
    metrics = job.result.eval_metrics
    for stage in ("test_metrics", "validation_metrics", "training_metrics"):
        said = {m["name"]: m["value"] for m in theirs[stage] or []}
        assert {m.name: m.value for m in getattr(metrics, stage)} == said
    assert metrics.test_metrics
