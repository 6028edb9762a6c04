"""What the stand-in answers is what the vendor's models take, whatever state a job is in.

The calls are those of the job API. The SDK's own set-up calls (connectors, graphs, source tables)
are held against the models in `tests/local/test_local_models_parse.py`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from packaging.version import Version

from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE
from tests.system.contract.conftest import IN_3
from tests.system.contract.differences import COMPLETE_SINCE
from tests.system.contract.sdk import Sdk

QUERY = "pquery-cdnow-purchase"
S3 = {
    "artifact_type": "PREDICTIONS",
    "storage_type": "S3",
    "file_path": "s3://bucket/out",
    "extra_fields": [],
}


class Api:
    """Asks one stand-in in plain HTTP and has the SDK's models read what it says.

    The newest models know every field that the stand-in gives; older ones ignore the younger ones.
    """

    def __init__(self, kumo: LocalKumo, sdk: Sdk, sdk_version: Version) -> None:
        self.kumo = kumo
        self._sdk = sdk
        self._is_3 = sdk_version >= IN_3
        self._knows_all = sdk_version >= COMPLETE_SINCE

    def __call__(self, model: str, method: str, path: str, body: Any = None, **query: str) -> Any:
        """The answer as it came; the model has read it."""
        response = requests.request(
            method,
            f"{self.kumo.url}/v1{path}",
            json=body,
            params=query,
            headers={"X-API-Key": self.kumo.api_key},
            timeout=30,
        )
        assert response.ok, response.text
        answer = response.json()
        for value in answer if model.startswith("list[") else [answer]:
            one = model.removeprefix("list[").removesuffix("]")
            read = self._sdk("parse", one, json.dumps(value))
            if isinstance(value, dict) and self._knows_all:
                assert not {k for k in value if value[k] is not None and read.get(k) is None}
        return answer

    def to_s3(self) -> dict[str, Any]:
        """An output that goes to S3, where 3.0 needs a connector."""
        if not self._is_3:
            return S3
        there = requests.get(
            f"{self.kumo.url}/v1/projects/default/connectors",
            headers={"X-API-Key": self.kumo.api_key},
            timeout=30,
        ).json()
        ids = [c["id"] for c in there if c["config"].get("target") == {"mode": "any_uri"}]
        return {**S3, "connector_id": ids[0]}

    def launch(self, **fields: Any) -> str:
        body = {"job_tags": {"a": "b"}, "model_training_job_id": PURCHASE, "predict_options": {}}
        job_id, said = self._launched({**body, **fields})
        assert job_id is not None, said
        return job_id

    def _launched(self, body: dict[str, Any]) -> Any:
        job_id, said = requests.post(
            f"{self.kumo.url}/v1/prediction_jobs",
            json=body,
            headers={"X-API-Key": self.kumo.api_key},
            timeout=30,
        ).json()
        self._sdk("parse", "common.ValidationResponse", json.dumps(said))
        return job_id, said

    def refused_launch(self, **fields: Any) -> Any:
        body = {"job_tags": {}, "model_training_job_id": PURCHASE, "predict_options": {}}
        job_id, said = self._launched({**body, **fields})
        assert job_id is None
        return said

    def wait(self, path: str, *statuses: str) -> None:
        deadline = time.monotonic() + 20
        while True:
            job = requests.get(
                f"{self.kumo.url}/v1{path}",
                headers={"X-API-Key": self.kumo.api_key},
                timeout=30,
            ).json()
            if job["job_status_report"]["status"] in statuses:
                return
            assert time.monotonic() < deadline, job
            time.sleep(0.02)


@pytest.fixture
def api(both_ask: LocalKumo, sdk: Sdk, sdk_version: Version) -> Iterator[Api]:
    both_ask.faults.clear()
    yield Api(both_ask, sdk, sdk_version)
    both_ask.faults.clear()


@pytest.fixture(params=[(60.0, 0.0), (0.0, 60.0)], ids=["queued", "running"])
def busy_api(
    request: pytest.FixtureRequest, sdk: Sdk, sdk_version: Version, served: Any
) -> Iterator[Api]:
    queue, run = request.param
    with LocalKumo(queue_seconds=queue, run_seconds=run, api=served) as kumo:
        yield Api(kumo, sdk, sdk_version)


JOB = "jobs.BatchPredictionJobResource"
TABLE = "jobs.GeneratePredictionTableJobResource"
TRAINING = "jobs.TrainingJobResource"


def test_a_prediction_job_that_is_done(api: Api) -> None:
    job = f"/prediction_jobs/{api.launch(outputs=[api.to_s3()])}"
    api.wait(job, "DONE")
    assert api(JOB, "GET", job)["result"]
    assert api(f"list[{JOB}]", "GET", "/prediction_jobs", a="b", limit="3")
    api("jobs.PredictionProgress", "GET", f"{job}/progress")
    api("jobs.GetPredictionsDfUrlResponse", "GET", f"{job}/get_prediction_df_urls")
    api("jobs.CancelBatchPredictionJobResponse", "POST", f"{job}/cancel")
    assert api("dict", "PATCH", f"{job}/tags", c="d") == {"resource_updated": True}


@pytest.mark.younger("outputs that stay with Kumo")
def test_a_prediction_job_whose_outputs_stay_with_kumo(api: Api) -> None:
    kinds = ("PREDICTIONS", "EMBEDDINGS")
    local = [{"artifact_type": k, "storage_type": "LOCAL", "extra_fields": []} for k in kinds]
    job = f"/prediction_jobs/{api.launch(outputs=local)}"
    api.wait(job, "DONE")
    api(JOB, "GET", job)
    urls = api("jobs.GetEmbeddingsDfUrlResponse", "GET", f"{job}/get_embedding_df_urls")
    assert len(urls["embedding_partitions"]) == 2


def test_a_prediction_job_under_way(busy_api: Api) -> None:
    job = f"/prediction_jobs/{busy_api.launch()}"
    busy_api.wait(job, "QUEUED", "RUNNING", "NOT_STARTED")
    assert busy_api(JOB, "GET", job)["result"] is None
    busy_api("jobs.PredictionProgress", "GET", f"{job}/progress")
    cancelled = busy_api("jobs.CancelBatchPredictionJobResponse", "POST", f"{job}/cancel")
    assert cancelled["is_cancelled"]
    busy_api.wait(job, "CANCELLED")
    busy_api(JOB, "GET", job)


def test_a_prediction_job_that_failed(api: Api) -> None:
    api.kumo.faults.fail_job()
    job = f"/prediction_jobs/{api.launch()}"
    api.wait(job, "FAILED")
    assert api(JOB, "GET", job)["job_status_report"]["validation_response"]
    api("jobs.PredictionProgress", "GET", f"{job}/progress")


def test_a_launch_that_is_refused(api: Api) -> None:
    assert api.refused_launch(model_training_job_id="none")["errors"]
    assert api.refused_launch(predict_options={"num_workers": 9})["errors"]
    api.kumo.faults.refuse_launch()
    assert api.refused_launch()["errors"]


def test_a_launch_with_a_warning(api: Api) -> None:
    options = {"binary_classification_threshold": 0.5}
    fields = {"model_training_job_id": "trainingjob-cdnow-spend", "predict_options": options}
    assert api.launch(**fields)


def test_prediction_tables(api: Api, busy_api: Api) -> None:
    for asked, anchor, status in (
        (api, "inferred", "DONE"),
        (api, 10**17, "FAILED"),
        (busy_api, "inferred", "CANCELLED"),
    ):
        body = {
            "job_tags": {},
            "pquery_id": QUERY,
            "plan": {"anchor_time": anchor},
            "graph_snapshot_id": None,
        }
        table = f"/genpredtable_jobs/{asked('dict', 'POST', '/genpredtable_jobs', body)['id']}"
        asked(TABLE, "GET", table)
        if status == "CANCELLED":
            asked("dict", "POST", f"{table}/cancel")
        asked.wait(table, status)
        asked(TABLE, "GET", table)
        asked(f"list[{TABLE}]", "GET", "/genpredtable_jobs", limit="3")
        errors = asked("jobs.ErrorDetails", "GET", f"{table}/get_errors")
        assert bool(errors["items"]) == (status == "FAILED")
        if status == "DONE":
            asked("datetime", "GET", f"{table}/get_anchor_time")
            assert asked("list[str]", "GET", f"{table}/table_data", presigned="True")


def test_exports(api: Api) -> None:
    job_id = api.launch()
    api.wait(f"/prediction_jobs/{job_id}", "DONE")
    export = f"/artifact/{_export(api, job_id)}"
    assert api("common.JobStatus", "GET", export) == "DONE"
    assert api("common.JobStatus", "POST", f"{export}/cancel") == "DONE"


def test_an_export_under_way(sdk: Sdk, sdk_version: Version, served: Any) -> None:
    with LocalKumo(run_seconds=0.5, api=served) as kumo:
        api = Api(kumo, sdk, sdk_version)
        job_id = api.launch()
        api.wait(f"/prediction_jobs/{job_id}", "DONE")
        export = f"/artifact/{_export(api, job_id)}"
        assert api("common.JobStatus", "GET", export) not in ("DONE", "FAILED", "CANCELLED")
        assert api("common.JobStatus", "POST", f"{export}/cancel") == "CANCELLED"
        assert api("common.JobStatus", "GET", export) == "CANCELLED"


def _export(api: Api, job_id: str) -> str:
    body = {
        "request_id": str(uuid.uuid4()),
        "job_id": job_id,
        "prediction_output": api.to_s3(),
    }
    return api("jobs.ArtifactExportResponse", "POST", "/artifact", body)["job_id"]


def test_training_jobs(api: Api) -> None:
    listed = api(f"list[{TRAINING}]", "GET", "/training_jobs")
    assert {job["job_status_report"]["status"] for job in listed} >= {"DONE", "FAILED"}
    for job in listed:
        path = f"/training_jobs/{job['job_id']}"
        api(TRAINING, "GET", path)
        api("jobs.AutoTrainerProgress", "GET", f"{path}/progress")
        api("jobs.CancelTrainingJobResponse", "POST", f"{path}/cancel")
    query = api("pquery.PQueryResource", "GET", f"/predictive_queries/{QUERY}")
    assert query["query_string"].startswith("PREDICT ")


@pytest.mark.younger("a model plan by its sections")
def test_a_training_that_is_launched(api: Api) -> None:
    query = api("pquery.PQueryResource", "GET", f"/predictive_queries/{QUERY}")
    about = {"query_string": query["query_string"], "graph_id": "graph-1", "run_mode": "normal"}
    suggested = api("model_plan.ModelPlanInfo", "POST", "/predictive_queries/model_plan", about)
    body = {"job_tags": {}, "pquery_id": QUERY, "model_plan": suggested["model_plan"]}
    job_id = api("dict", "POST", "/training_jobs", body)["id"]
    api.wait(f"/training_jobs/{job_id}", "DONE")
    job = api(TRAINING, "GET", f"/training_jobs/{job_id}")
    assert job["result"]["automl_experiments_completed"] == 2
    progress = api("jobs.AutoTrainerProgress", "GET", f"/training_jobs/{job_id}/progress")
    assert progress["completed_trials"] == len(progress["trial_progress"]) == 2
