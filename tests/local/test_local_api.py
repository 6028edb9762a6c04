"""Keys, lists, tags, groups, training jobs, pages."""

from __future__ import annotations

import re

import pytest
import requests

from dagster_kumo.local import LocalKumo


def test_a_wrong_key_is_refused(kumo):
    url = f"{kumo.url}/v1/connectors"
    assert kumo.api_key.count(":") == 1
    assert requests.get(url, headers={"X-API-Key": kumo.api_key}, timeout=5).json() == []
    for headers in ({}, {"X-API-Key": "local-kumo:other"}):
        answer = requests.get(url, headers=headers, timeout=5)
        assert answer.status_code == 401
        assert "Invalid API key" in answer.json()["detail"]
    assert requests.get(f"{kumo.url}/config", timeout=5).json() == {}


@pytest.mark.parametrize(
    "path",
    [
        "/prediction_jobs/bp-job-none",
        "/prediction_jobs/bp-job-none/progress",
        "/prediction_jobs/trainingjob-cdnow-spend",
        "/training_jobs/none",
        "/genpredtable_jobs/none",
        "/artifact/none",
        "/predictive_queries/none",
        "/nothing",
    ],
)
def test_what_is_not_there_is_404(api, path):
    answer = api.call("GET", path)
    assert answer.status_code == 404
    assert answer.json()["detail"]


def test_a_body_that_is_no_json_is_422(api):
    for data in (b"{", b"[]", b""):
        assert api.call("POST", "/prediction_jobs", data=data).status_code == 422


def test_lists_are_filtered_newest_first(api):
    first = api.launch(job_tags={"team": "a", "key": "1"})
    second = api.launch(job_tags={"team": "a", "key": "2"})
    other = api.launch("trainingjob-cdnow-spend", job_tags={"team": "b"})

    def ids(**filters):
        return [job["job_id"] for job in api.get("/prediction_jobs", **filters)]

    for id in (first, second, other):
        api.wait(id)
    assert ids() == [other, second, first]
    assert ids(limit=2) == [other, second]
    assert ids(team="a") == [second, first]
    assert ids(team="a", key="1") == [first]
    assert ids(team="c") == []
    assert ids(model_id="trainingjob-cdnow-spend") == [other]
    assert ids(pquery_name="cdnow_purchase", limit=1) == [second]
    assert ids(pquery_id="pquery-cdnow-spend") == [other]
    assert ids(job_status="DONE", team="b") == [other]
    assert ids(job_status="RUNNING") == []


def test_tags_are_set_and_removed(api):
    id = api.launch(job_tags={"keep": "1", "go": "2"})
    path = f"/prediction_jobs/{id}/tags"
    for params, updated in (({"go": "none", "new": "3"}, True), ({"new": "3"}, False)):
        answer = api.call("PATCH", path, params=params)
        assert answer.json() == {"resource_updated": updated}
    tags = api.get(f"/prediction_jobs/{id}")["tags"]
    assert (tags["keep"], tags["new"], "go" in tags) == ("1", "3", False)
    assert api.call("PATCH", path, params={"a b": "c"}).status_code == 400


def test_training_jobs_to_step_around(api):
    jobs = api.get("/training_jobs", use_case="purchase")
    assert [(job["job_id"], job["job_status_report"]["status"]) for job in jobs] == [
        ("trainingjob-cdnow-purchase-running", "RUNNING"),
        ("trainingjob-cdnow-purchase-failed", "FAILED"),
        ("trainingjob-cdnow-purchase", "DONE"),
        ("trainingjob-cdnow-purchase-old", "DONE"),
    ]
    measured = [job["result"] and job["result"]["eval_metrics"]["test_metrics"] for job in jobs]
    assert measured[:2] == [None, None]
    assert measured[2] != measured[3]
    assert jobs[1]["job_status_report"]["validation_response"]["errors"]
    running = "/training_jobs/trainingjob-cdnow-purchase-running"
    assert api.get(running + "/progress")["completed_trials"] == 0
    assert api.post(running + "/cancel") == {"is_cancelled": True}
    assert api.get(running)["job_status_report"]["status"] == "CANCELLED"


def test_train_again(api):
    body = {"job_tags": {"use_case": "again"}, "pquery_id": "pquery-cdnow-purchase"}
    id = api.post("/training_jobs", body)["id"]
    assert api.wait(id, kind="training_jobs")["result"]["eval_metrics"]["test_metrics"]
    assert api.run(id)["result"]
    assert [job["job_id"] for job in api.get("/training_jobs", use_case="again")] == [id]


def test_the_best_trial_of_a_plan_is_kept_and_all_are_shown(api):
    plan = {
        "training_job": {"num_experiments": 5},
        "optimization": {"max_epochs": 2, "base_lr": [0.00001, 0.005, 0.00002]},
        "model_architecture": {"channels": [4]},
    }
    body = {"job_tags": {}, "pquery_id": "cdnow_purchase", "model_plan": plan}
    id = api.post("/training_jobs", body)["id"]
    result = api.wait(id, kind="training_jobs")["result"]

    progress = api.get(f"/training_jobs/{id}/progress")
    trials = progress["trial_progress"].values()
    measured = [trial["final_validation_metrics"]["auroc"] for trial in trials]
    assert result["automl_experiments_completed"] == progress["total_trials"] == 3
    assert max(measured) == measured[1] > measured[0]
    (kept,) = [m for m in result["eval_metrics"]["validation_metrics"] if m["name"] == "auroc"]
    assert kept["value"] == measured[1]
    assert [trial["num_epochs_completed"] for trial in trials] == [2, 2, 2]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"pquery_id": "pquery-none"}, 422),
        ({"warm_start_job_id": "trainingjob-cdnow-spend"}, 422),  # of another query
        ({"warm_start_job_id": "trainingjob-cdnow-purchase-failed"}, 422),
        ({"model_plan": {"optimization": {"max_epochs": "many"}}}, 422),
        ({"model_plan": {"training_job": {"num_experiments": 0}}}, 422),
        ({"model_plan": []}, 422),
        ({"job_tags": {"not a tag": "x"}}, 422),
        ({"train_table_job_id": "gen-traintable-job-1"}, 501),
    ],
)
def test_trainings_that_cannot_be_are_refused(api, fields, status):
    before = api.get("/training_jobs")
    body = {"job_tags": {}, "pquery_id": "pquery-cdnow-purchase", **fields}
    answer = api.call("POST", "/training_jobs", json=body)
    assert (answer.status_code, bool(answer.json()["detail"])) == (status, True)
    assert len(api.get("/training_jobs")) == len(before)


def test_a_training_that_fails_says_why(api, kumo):
    kumo.faults.fail_job("no rows left", path="/training_jobs")
    body = {"job_tags": {}, "pquery_id": "pquery-cdnow-purchase"}
    report = api.wait(api.post("/training_jobs", body)["id"], kind="training_jobs")[
        "job_status_report"
    ]
    assert report["status"] == "FAILED"
    assert report["validation_response"]["errors"][0]["message"] == "no rows left"


def test_rbac(make_api):
    with LocalKumo(rbac=True) as kumo:
        api = make_api(kumo)
        assert requests.get(f"{kumo.url}/config", timeout=5).json() == {"rbac": True}
        groups = api.get("/groups")
        group = groups[0]["group_id"]
        project = api.get("/projects", group_id=group)[0]["id"]
        assert api.get("/connectors") == []
        for params in ({}, {"group_id": "group-none"}, {"group_id": group, "project_id": "none"}):
            answer = api.call("GET", "/prediction_jobs", params=params)
            assert answer.status_code == 403
            assert answer.json()["detail"]
        body = {
            "job_tags": {},
            "model_training_job_id": "trainingjob-cdnow-purchase",
            "predict_options": {},
        }
        params = {"group_id": group, "project_id": project}
        id = api.call("POST", "/prediction_jobs", params=params, json=body).json()[0]
        (job,) = api.get("/prediction_jobs", **params)
        assert (job["job_id"], job["project_id"]) == (id, project)
        elsewhere = api.get("/projects", group_id=group)[1]["id"]
        assert api.get("/prediction_jobs", group_id=group, project_id=elsewhere) == []


def test_the_tracking_url_leads_to_a_page(api):
    job = api.run(job_tags={"a": "<script>"})
    tracking = job["job_status_report"]["tracking_url"]
    assert tracking == f"http://kumo-internal:8080/jobs/{job['job_id']}"
    here = api.kumo.url.removesuffix("/api")
    page = requests.get(tracking.replace("http://kumo-internal:8080", here), timeout=5)
    assert page.status_code == 200
    assert "not Kumo" in page.text
    assert "&lt;script&gt;" in page.text
    assert "<script>" not in page.text
    home = requests.get(here + "/", timeout=5).text
    assert "not Kumo" in home
    assert job["job_id"] in home
    assert requests.get(here + "/jobs/none", timeout=5).status_code == 404


def test_requests_are_recorded(kumo, api):
    api.launch(job_tags={"a": "b"})
    api.get("/prediction_jobs", a="b c", limit=1)
    post, get = kumo.requests
    assert (post.method, post.path, post.status) == ("POST", "/api/v1/prediction_jobs", 200)
    assert post.json["job_tags"] == {"a": "b"}
    assert post.headers["x-api-key"] == kumo.api_key
    assert (get.query, get.json) == ({"a": "b c", "limit": "1"}, None)
    kumo.clear_requests()
    assert kumo.requests == []


def test_use_before_start_says_so():
    with pytest.raises(RuntimeError, match=re.escape("call start()")):
        _ = LocalKumo().url
