from __future__ import annotations

import io
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pytest
import requests

from dagster_kumo.local import LocalKumo
from dagster_kumo.local.folder import DataFolder
from dagster_kumo.local.model.data import Calendar
from tests.support import PURCHASE

LOCAL_BOTH = [
    {"artifact_type": kind, "storage_type": "LOCAL"} for kind in ("PREDICTIONS", "EMBEDDINGS")
]


class Api:
    """A plain client: it knows urls, and nothing of the project's own client."""

    def __init__(self, kumo: LocalKumo) -> None:
        self.kumo = kumo
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["X-API-Key"] = kumo.api_key

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, f"{self.kumo.url}/v1{path}", timeout=30, **options)

    def get(self, path: str, **params: Any) -> Any:
        answer = self.call("GET", path, params=params)
        assert answer.ok, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.call("POST", path, json=body)
        assert answer.ok, answer.text
        return answer.json()

    def launch(self, training_job: str = PURCHASE, **fields: Any) -> str:
        id, response = self.try_launch(training_job, **fields)
        assert id is not None, response
        return id

    def try_launch(self, training_job: str = PURCHASE, **fields: Any) -> Any:
        body = {"job_tags": {}, "model_training_job_id": training_job, "predict_options": {}}
        return self.post("/prediction_jobs", body | fields)

    def status(self, id: str) -> str:
        return self.get(f"/prediction_jobs/{id}")["job_status_report"]["status"]

    def wait(self, id: str, *statuses: str, kind: str = "prediction_jobs") -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            job = self.get(f"/{kind}/{id}")
            if job["job_status_report"]["status"] in (statuses or ("DONE", "FAILED", "CANCELLED")):
                return job
            time.sleep(0.02)
        raise AssertionError(job["job_status_report"])

    def run(self, training_job: str = PURCHASE, **fields: Any) -> dict[str, Any]:
        job = self.wait(self.launch(training_job, **fields))
        assert job["job_status_report"]["status"] == "DONE", job["job_status_report"]
        return job

    def urls(self, id: str, kind: str = "prediction") -> list[str]:
        return self.get(f"/prediction_jobs/{id}/get_{kind}_df_urls")[f"{kind}_partitions"]

    def frame(self, id: str, kind: str = "prediction") -> pd.DataFrame:
        frames = [
            pd.read_parquet(io.BytesIO(requests.get(url, timeout=30).content))
            for url in self.urls(id, kind)
        ]
        return pd.concat(frames, ignore_index=True)

    def days_ago(self, days: int) -> datetime:
        """The midnight so many days before the last day of the data."""
        return Calendar(DataFolder(self.kumo.data).last_day).latest - timedelta(days=days)


@pytest.fixture
def kumo() -> Iterator[LocalKumo]:
    with LocalKumo() as kumo:
        yield kumo


@pytest.fixture
def slow_kumo() -> Iterator[LocalKumo]:
    with LocalKumo(queue_seconds=0.3, run_seconds=0.6) as kumo:
        yield kumo


@pytest.fixture
def api(kumo: LocalKumo) -> Api:
    return Api(kumo)


@pytest.fixture
def slow_api(slow_kumo: LocalKumo) -> Api:
    return Api(slow_kumo)


@pytest.fixture(scope="module")
def steady_api() -> Iterator[Api]:
    """One stand-in for all tests of a module that leave no trace on it."""
    with LocalKumo() as kumo:
        yield Api(kumo)


@pytest.fixture
def make_api() -> type[Api]:
    return Api


@pytest.fixture
def local_both() -> list[dict[str, str]]:
    """The outputs that ask for predictions and embeddings without a connector."""
    return [dict(output) for output in LOCAL_BOTH]
