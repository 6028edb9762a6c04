"""Life of a prediction job, and what its files hold."""

from __future__ import annotations

import time
from datetime import timedelta

import numpy as np
import pytest

CUSTOMERS = 23_570


def test_a_job_queues_runs_and_ends(slow_api):
    id = slow_api.launch()
    seen, points, estimates = [], [], set()
    while not seen or seen[-1] != "DONE":
        job = slow_api.get(f"/prediction_jobs/{id}")
        status = job["job_status_report"]["status"]
        seen += [status] if status not in seen[-1:] else []
        progress = slow_api.get(f"/prediction_jobs/{id}/progress")
        if status == "RUNNING" and progress["total_iterations"]:
            points.append(progress["completed_iterations"])
            estimates.add(progress["estimated_prediction_time"])
        time.sleep(0.02)
    assert [s for s in seen if s != "NOT_STARTED"] == ["QUEUED", "RUNNING", "DONE"]
    assert points == sorted(points)
    assert "PT0.6S" in estimates
    assert any(0 < point < 47 for point in points)
    report = job["job_status_report"]
    stages = [entry["stage_name"] for entry in report["event_log"]]
    assert stages == [
        "Queued",
        "Generating prediction table",
        "Predicting",
        "Writing outputs",
        "Done",
    ]
    assert report["start_time"] < report["end_time"]
    assert job["result"] == {"num_entities_predicted": CUSTOMERS}
    assert progress["completed_iterations"] == progress["total_iterations"] == 47


def test_the_inline_table_shows_up_while_the_job_runs(slow_api):
    id = slow_api.launch()
    assert slow_api.get(f"/prediction_jobs/{id}")["config"]["pred_table_job_id"] is None
    slow_api.wait(id, "RUNNING")
    table = slow_api.wait(id)["config"]["pred_table_job_id"]
    anchor = slow_api.get(f"/genpredtable_jobs/{table}/get_anchor_time")
    assert anchor == slow_api.days_ago(0).isoformat()


@pytest.mark.parametrize("when", ["QUEUED", "RUNNING"])
def test_cancel_at_any_point(slow_api, when):
    id = slow_api.launch()
    slow_api.wait(id, when)
    assert slow_api.post(f"/prediction_jobs/{id}/cancel") == {"is_cancelled": True}
    assert slow_api.status(id) == "CANCELLED"
    time.sleep(0.8)
    assert slow_api.status(id) == "CANCELLED"
    assert slow_api.post(f"/prediction_jobs/{id}/cancel") == {"is_cancelled": False}
    assert slow_api.call("GET", f"/prediction_jobs/{id}/get_prediction_df_urls").status_code == 409


def test_binary(api, local_both):
    options = {"binary_classification_threshold": 0.2, "num_workers": 3}
    job = api.run(predict_options=options, outputs=local_both)
    assert len(api.urls(job["job_id"])) == 3
    frame = api.frame(job["job_id"])
    columns = ["ENTITY", "ANCHOR_TIMESTAMP", "TARGET_PRED", "False_PROB", "True_PROB"]
    assert list(frame.columns) == columns
    assert len(frame) == frame["ENTITY"].nunique() == CUSTOMERS
    assert frame["ANCHOR_TIMESTAMP"].dtype.kind == "M"
    assert (frame["ANCHOR_TIMESTAMP"] == api.days_ago(0).replace(tzinfo=None)).all()
    assert frame["TARGET_PRED"].dtype == bool
    assert (frame["TARGET_PRED"] == (frame["True_PROB"] >= 0.2)).all()
    assert np.allclose(frame["False_PROB"] + frame["True_PROB"], 1)

    embeddings = api.frame(job["job_id"], "embedding")
    assert list(embeddings.columns) == ["ENTITY", "EMBEDDING"]
    assert (embeddings["ENTITY"] == frame["ENTITY"]).all()
    assert {len(vector) for vector in embeddings["EMBEDDING"]} == {16}


def test_regression(api):
    frame = api.frame(api.run("trainingjob-cdnow-spend")["job_id"])
    assert list(frame.columns) == ["ENTITY", "ANCHOR_TIMESTAMP", "TARGET_PRED"]
    assert frame["TARGET_PRED"].dtype.kind == "f"
    assert 1 < frame["TARGET_PRED"].mean() < 10
    assert frame["TARGET_PRED"].min() >= 0


def test_multiclass(api):
    frame = api.frame(api.run("trainingjob-cdnow-band")["job_id"])
    assert list(frame.columns) == ["ENTITY", "ANCHOR_TIMESTAMP", "CLASS", "SCORE"]
    assert len(frame) == 4 * CUSTOMERS
    assert np.allclose(frame.groupby("ENTITY")["SCORE"].sum(), 1, atol=1e-5)
    top = api.run("trainingjob-cdnow-band", predict_options={"num_classes_to_return": 2})
    assert top["result"] == {"num_entities_predicted": CUSTOMERS}
    best = api.frame(top["job_id"])
    assert len(best) == 2 * CUSTOMERS
    assert (best.groupby("ENTITY")["SCORE"].diff().dropna() <= 0).all()


def test_predictions_alone_make_no_embeddings(api):
    assert api.urls(api.run()["job_id"], "embedding") == []


def test_the_anchor_decides(api):
    early, late = api.days_ago(200), api.days_ago(10)
    by_time = {}
    for anchor in (early, late):
        job = api.run(prediction_time=anchor.isoformat())
        assert job["config"]["prediction_time"] == anchor.isoformat()
        by_time[anchor] = api.frame(job["job_id"])
        column = by_time[anchor]["ANCHOR_TIMESTAMP"]
        assert (column == anchor.replace(tzinfo=None)).all()
    assert not np.allclose(by_time[early]["True_PROB"], by_time[late]["True_PROB"])
    # A time without a zone is UTC, one with another zone is moved there.
    naive = api.run(prediction_time=early.replace(tzinfo=None).isoformat())
    assert api.frame(naive["job_id"]).equals(by_time[early])
    moved = (early + timedelta(hours=2)).replace(tzinfo=None).isoformat() + "+02:00"
    assert api.frame(api.run(prediction_time=moved)["job_id"]).equals(by_time[early])


@pytest.mark.parametrize(
    ("days_ago", "status"), [(244, "DONE"), (246, "FAILED"), (-35, "DONE"), (-36, "FAILED")]
)
def test_anchors_that_cannot_be(api, days_ago, status):
    job = api.wait(api.launch(prediction_time=api.days_ago(days_ago).isoformat()))
    report = job["job_status_report"]
    assert report["status"] == status
    if status == "FAILED":
        assert job["result"] is None
        error = report["validation_response"]["errors"][0]
        assert error["title"].startswith("Anchor time too")
        assert "Choose" in error["message"]
        # The inline table failed too, with the same words.
        items = api.get(f"/genpredtable_jobs/{job['config']['pred_table_job_id']}/get_errors")
        assert items["items"][0]["description"] == error["message"]


def test_a_generated_table(api):
    anchor = api.days_ago(50)
    nanoseconds = int(anchor.timestamp()) * 10**9
    body = {
        "job_tags": {},
        "pquery_id": "pquery-cdnow-purchase",
        "plan": {"anchor_time": nanoseconds},
        "graph_snapshot_id": None,
    }
    table = api.post("/genpredtable_jobs", body)["id"]
    resource = api.wait(table, kind="genpredtable_jobs")
    assert resource["config"]["plan"]["anchor_time"] == nanoseconds
    assert resource["config"]["plan"]["forecast_length"] == "???"
    assert api.get(f"/genpredtable_jobs/{table}/get_anchor_time") == anchor.isoformat()
    assert len(api.get(f"/genpredtable_jobs/{table}/table_data", presigned="true")) == 1
    # A table's own anchor counts, whatever prediction_time says.
    job = api.run(pred_table_job_id=table, prediction_time=api.days_ago(1).isoformat())
    assert job["config"]["pred_table_job_id"] == table
    column = api.frame(job["job_id"])["ANCHOR_TIMESTAMP"]
    assert (column == anchor.replace(tzinfo=None)).all()


def test_a_job_waits_for_its_table(slow_api):
    body = {"job_tags": {}, "pquery_id": "pquery-cdnow-purchase", "plan": {}}
    table = slow_api.post("/genpredtable_jobs", body)["id"]
    id = slow_api.launch(pred_table_job_id=table)
    assert slow_api.status(id) == "NOT_STARTED"
    assert slow_api.get(f"/genpredtable_jobs/{table}/get_anchor_time") is None
    slow_api.post(f"/genpredtable_jobs/{table}/cancel")
    report = slow_api.wait(id)["job_status_report"]
    assert report["status"] == "FAILED"
    assert "CANCELLED" in report["validation_response"]["errors"][0]["message"]


def test_a_custom_table(api):
    import pandas as pd

    folder = api.kumo.data / "exports/s3/bucket/table"
    folder.mkdir(parents=True)
    anchor = api.days_ago(20).replace(tzinfo=None)
    rows = pd.DataFrame({"ENTITY": [7, 11], "ANCHOR_TIMESTAMP": [anchor, anchor]})
    rows.to_parquet(folder / "part-00000.parquet")
    job = api.run(pred_table_path="s3://bucket/table")
    frame = api.frame(job["job_id"])
    assert frame["ENTITY"].tolist() == [7, 11]
    assert set(frame["ANCHOR_TIMESTAMP"]) == {anchor}
    assert job["result"] == {"num_entities_predicted": 2}


REFUSED = [
    ({"training_job": "trainingjob-none"}, "Training job not found"),
    ({"training_job": "trainingjob-cdnow-purchase-running"}, "Training job not done"),
    ({"predict_options": {"num_workers": 5}}, "Invalid number of workers"),
    ({"predict_options": {"binary_classification_threshold": 2}}, "Invalid threshold"),
    ({"predict_options": {"num_classes_to_return": 0}}, "Invalid number of classes"),
    ({"job_tags": {"a b": "c"}}, "Invalid job tag"),
    ({"job_tags": {"a": "c" * 257}}, "Invalid job tag"),
    ({"pred_table_job_id": "gen-predtable-job-none"}, "Prediction table not found"),
    ({"pred_table_path": "s3://nowhere/at/all"}, "Prediction table not found"),
    (
        {
            "outputs": [
                {"artifact_type": "PREDICTIONS", "storage_type": "S3", "file_path": "s3://a/../b"}
            ]
        },
        "Invalid output",
    ),
]


@pytest.mark.parametrize(("fields", "title"), REFUSED)
def test_refused_launches(steady_api, fields, title):
    id, response = steady_api.try_launch(**fields)
    assert id is None
    assert [error["title"] for error in response["errors"]] == [title]
    assert steady_api.kumo.jobs == []


@pytest.mark.parametrize(
    "fields",
    [
        {"pred_table_job_id": "a", "pred_table_path": "s3://b/c"},
        {"prediction_time": "tomorrow"},
        {"predict_options": {"num_workers": "two"}},
        {"job_tags": {"a": 1}},
        {"outputs": ["S3"]},
        {"model_training_job_id": None},
    ],
)
def test_malformed_launches(steady_api, fields):
    body = {"job_tags": {}, "model_training_job_id": "x", "predict_options": {}} | fields
    answer = steady_api.call("POST", "/prediction_jobs", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"


def test_warnings_do_not_refuse(api):
    options = {"binary_classification_threshold": 0.4}
    id, response = api.try_launch("trainingjob-cdnow-spend", predict_options=options)
    assert id is not None
    assert [warning["title"] for warning in response["warnings"]] == ["Option ignored"]


def test_files_per_output(make_api):
    from dagster_kumo.local import LocalKumo

    with LocalKumo(files_per_output=7) as kumo:
        api = make_api(kumo)
        id = api.run()["job_id"]
        assert len(api.urls(id)) == 7
        assert len(api.frame(id)) == CUSTOMERS
