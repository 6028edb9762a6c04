"""A server of the 3.0 generation made of the vendor's own models, with no line of this project in it.

It runs in the environment of the SDK of 3.0, as a script: it prints its port. Every body is read by the
models, which refuse what they do not know, and every answer is written by them. What works here works
because of the API, and not because client and stand-in agree with each other.
"""

from __future__ import annotations

import io
import json
import re
import threading
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from kumoapi import data_source, jobs
from kumoapi.common import JobStatus, ValidationResponse
from kumoapi.json_serde import from_json, to_json_dict

API_KEY = "acme:s3cr3t-of-acme"
SIGNATURE = "X-Amz-Signature=5ign4ture"
ROWS_PER_FILE = 50
PROJECT = "project_" + "a" * 32
EARLY = datetime(2026, 11, 24, tzinfo=timezone.utc)

PROJECTS = [
    data_source.ProjectResponse("default", "default", "Default", "group_" + "0" * 32),
    data_source.ProjectResponse(PROJECT, "churn-models", "Churn models", "group_" + "1" * 32),
]
GROUPS = [
    data_source.GroupResponse("group_" + "0" * 32, "default", "Default"),
    data_source.GroupResponse("group_" + "1" * 32, "growth", "Growth"),
]


def connector(id: str, name: str, config: Any) -> data_source.ConnectorResponse:
    times = data_source.ResourceTimestamps(EARLY, EARLY)
    return data_source.ConnectorResponse(id, PROJECT, "identity_1", name, times, config)


CONNECTORS = [
    connector(
        "connector_1",
        "Warehouse",
        data_source.SnowflakeConnectorResourceConfig(
            warehouse="w", database="d", schema_name="s", role=None
        ),
    ),
    connector(
        "connector_2",
        "bucket",
        data_source.S3ConnectorResourceConfig(
            target=data_source.S3RootedConnectorTarget(bucket="company", prefix="kumo")
        ),
    ),
    connector(
        "connector_3",
        "anywhere",
        data_source.GCSConnectorResourceConfig(target=data_source.GCSAnyURIConnectorTarget()),
    ),
]


def report(job_id: str) -> jobs.JobStatusReport:
    url = f"http://internal:8888/jobs/{job_id}?tab=1#top"
    return jobs.JobStatusReport(JobStatus.DONE, url, EARLY, EARLY)


TRAINING = jobs.TrainingJobResource(
    job_id="trainingjob-1",
    job_status_report=report("trainingjob-1"),
    created_at=EARLY,
    tags={},
    project_id=PROJECT,
    config=jobs.TrainingJobRequest({}, "pquery-1"),
)


class Kumo:
    """What the server keeps."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.jobs: dict[str, jobs.BatchPredictionJobResource] = {}
        self.exports: dict[str, tuple[str, Any]] = {}  # by request_id: the id, the request
        self.log: list[dict[str, Any]] = []
        self.lose = 0
        """How many answers to exports get lost."""

    def launch(self, request: jobs.BatchPredictionRequest) -> Any:
        assert request.outputs, "it is not known what an empty list means"
        with self.lock:
            job_id = f"bp-job-{len(self.jobs) + 1}"
            self.jobs[job_id] = jobs.BatchPredictionJobResource(
                job_id=job_id,
                job_status_report=report(job_id),
                created_at=datetime.now(timezone.utc),
                tags={**request.job_tags, "model_id": request.model_training_job_id},
                project_id=PROJECT,
                config=request,
                result=jobs.BatchPredictionJobSummary(2 * ROWS_PER_FILE),
            )
        return [job_id, to_json_dict(ValidationResponse())]

    def export(self, request: jobs.ArtifactExportRequest) -> tuple[int, Any]:
        with self.lock:
            known = self.exports.get(request.request_id)
            if known is not None and known[1] != request:
                return 409, {"detail": "request_id was used for another export"}
            if known is None:
                known = (f"export-{len(self.exports) + 1}", request)
                self.exports[request.request_id] = known
        return 200, to_json_dict(jobs.ArtifactExportResponse(known[0]))

    def file(self, job_id: str, kind: str, index: int) -> bytes:
        ids = list(range(index * ROWS_PER_FILE, (index + 1) * ROWS_PER_FILE))
        if kind == "embeddings":
            table = pa.table({"ENTITY": ids, "embedding": [[i / 2, 1.0] for i in ids]})
        else:
            time = self.jobs[job_id].config.prediction_time
            assert time is not None
            score = [(i % 10) / 10 for i in ids]
            table = pa.table(
                {
                    "ENTITY": ids,
                    "ANCHOR_TIMESTAMP": [int(time.timestamp())] * len(ids),
                    "TARGET_PRED": [s > 0.5 for s in score],
                    "False_PROB": [1 - s for s in score],
                    "True_PROB": score,
                }
            )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        return buffer.getvalue()


KUMO = Kumo()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        query = {key: value[0] for key, value in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path = parts.path.removeprefix("/api/v1")
        if parts.path == "/log":  # for the tests
            return self._json(200, KUMO.log)
        if parts.path == "/lose":
            KUMO.lose = int(query["times"])
            return self._json(200, None)
        if match := re.fullmatch(r"/data/(.+)/(.+)/(\d)", parts.path):
            signed = parts.query == SIGNATURE and "X-API-Key" not in self.headers
            content = KUMO.file(match[1], match[2], int(match[3]))
            return self._bytes(200 if signed else 403, content)
        KUMO.log.append({"method": self.command, "path": path, "query": query, "body": body})
        if self.headers.get("X-API-Key") != API_KEY:
            return self._json(401, {"detail": "no such key"})
        if path == "/authentication":
            return self._bytes(204, b"")
        if path.startswith(("/projects", "/groups")):
            return self._json(*self._about_projects(path, query))
        if "group_id" in query or query.get("project_id") != PROJECT:
            return self._json(404, {"detail": "no such resource in this project"})
        del query["project_id"]
        try:
            status, answer = self._about_jobs(f"{self.command} {path}", query, body)
        except (TypeError, ValueError) as error:  # pydantic's is a ValueError
            return self._json(422, {"detail": {"message": str(error)}})
        if self.command == "POST" and path == "/artifact" and KUMO.lose > 0:
            KUMO.lose -= 1
            self.close_connection = True
            return None
        return self._json(status, answer)

    do_GET = do_POST = do_PATCH = _handle  # noqa: N815

    def _about_projects(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path == "/groups":
            return 200, [to_json_dict(group) for group in GROUPS]
        if path == "/projects":
            group = query.get("group_id")
            there = [one for one in PROJECTS if group in (None, one.group_id)]
            return 200, [to_json_dict(one) for one in there]
        if path == f"/projects/{PROJECT}/connectors":
            return 200, [to_json_dict(one) for one in CONNECTORS]
        for one in PROJECTS:
            if path in (f"/projects/{one.id}", f"/projects/by-slug/{one.slug}"):
                return 200, to_json_dict(one)
        return 404, {"detail": "no such path or resource"}

    def _about_jobs(self, call: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if call == "POST /prediction_jobs":
            return 200, KUMO.launch(from_json(body, jobs.BatchPredictionRequest))
        if call == "POST /artifact":
            return KUMO.export(from_json(body, jobs.ArtifactExportRequest))
        if call == "GET /training_jobs/trainingjob-1":
            return 200, to_json_dict(TRAINING)
        if call == "GET /training_jobs":
            return 200, [to_json_dict(TRAINING)]
        if call == "GET /prediction_jobs":
            query.pop("limit", None)
            found = [job for job in KUMO.jobs.values() if query.items() <= job.tags.items()]
            return 200, [to_json_dict(job) for job in found[::-1]]
        if re.fullmatch(r"GET /artifact/export-\d+", call):
            return 200, "DONE"
        match = re.fullmatch(r"(\w+) /prediction_jobs/([^/]+)(?:/(\w+))?", call)
        job = KUMO.jobs.get(match[2]) if match else None
        if match is None or job is None:
            return 404, {"detail": "no such path or resource"}
        if match[1] == "PATCH":
            tags = {**job.tags, **query}
            job.tags = {key: value for key, value in tags.items() if value != "none"}
            return 200, {"resource_updated": True}
        if match[3] is None:
            return 200, to_json_dict(job)
        if kind := re.fullmatch(r"get_(prediction|embedding)_df_urls", match[3]):
            named = {output.artifact_type.value for output in job.config.outputs}
            what = f"{kind[1]}s"
            base = f"http://{self.headers['Host']}/data/{job.job_id}/{what}"
            urls = [f"{base}/{i}?{SIGNATURE}" for i in range(2)] if what.upper() in named else []
            return 200, {f"{kind[1]}_partitions": urls}
        return 404, {"detail": "no such path or resource"}

    def _json(self, status: int, value: object) -> None:
        self._bytes(status, json.dumps(value).encode(), "application/json")

    def _bytes(self, status: int, content: bytes, kind: str = "binary/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
