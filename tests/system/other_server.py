"""A second Kumo server for the tests, as small as can be and with no line of the stand-in in it.

What works against both works because of the API, and not because client and stand-in agree with
each other. Its jobs are done at once; each has two Parquet files made for its prediction time.
"""

from __future__ import annotations

import io
import json
import re
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

API_KEY = "acme:s3cr3t-of-acme"
SIGNATURE = "X-Amz-Signature=5ign4ture"
ROWS_PER_FILE = 50


class OtherServer:
    """Start with `with OtherServer() as server:`."""

    def __init__(self) -> None:
        self.launches: list[dict[str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.training_jobs: list[dict[str, Any]] = [training_job("trainingjob-1")]
        self.query_names: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.only_time: datetime | None = None
        """Set: the server knows no prediction_time, and its data is for this time, whatever is asked."""
        handler = type("Handler", (_Handler,), {"kumo": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.origin = f"http://127.0.0.1:{self._http.server_port}"
        self.url = f"{self.origin}/api"
        self.api_key = API_KEY

    def __enter__(self) -> OtherServer:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer no more; again is the same."""
        self._http.shutdown()
        self._http.server_close()

    def launch(self, body: dict[str, Any]) -> list[Any]:
        self.launches.append(body)
        if self.only_time is not None:
            body = {**body, "prediction_time": None}
        job_id = f"bp-job-{len(self.launches)}"
        self.jobs[job_id] = {
            "job_id": job_id,
            "created_at": "2026-11-24T00:00:00",
            "tags": {**body["job_tags"], "model_id": body["model_training_job_id"]},
            "config": body,
            "result": {"num_entities_predicted": 2 * ROWS_PER_FILE},
            "job_status_report": {
                "status": "DONE",
                "tracking_url": f"http://internal:8888/jobs/{job_id}?tab=1#top",
                "start_time": "2026-11-24T00:00:00",
                "end_time": "2026-11-24T00:01:00",
                "event_log": [],
                "a_field_of_tomorrow": 1,
            },
        }
        return [job_id, {"warnings": [{"title": "Few rows", "message": "so be it"}], "errors": []}]

    def file(self, job_id: str, kind: str, index: int) -> bytes:
        ids = list(range(index * ROWS_PER_FILE, (index + 1) * ROWS_PER_FILE))
        if kind == "embeddings":
            table = pa.table({"ENTITY": ids, "embedding": [[i / 2, 1.0] for i in ids]})
        else:
            asked = self.jobs[job_id]["config"]["prediction_time"]
            anchor = self.only_time or datetime.fromisoformat(asked.replace("Z", "+00:00"))
            score = [(i % 10) / 10 + anchor.day / 1000 for i in ids]
            table = pa.table(
                {
                    "ENTITY": ids,
                    "ANCHOR_TIMESTAMP": [int(anchor.timestamp())] * len(ids),
                    "TARGET_PRED": [s > 0.5 for s in score],
                    "False_PROB": [1 - s for s in score],
                    "True_PROB": score,
                }
            )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        return buffer.getvalue()


def training_job(job_id: str, **fields: Any) -> dict[str, Any]:
    """A training job that is done; `fields` say otherwise."""
    report = {
        "status": fields.pop("status", "DONE"),
        "tracking_url": "",
        "start_time": "2026-01-01T00:00:00",
    }
    return {
        "job_id": job_id,
        "job_status_report": report,
        "created_at": "2026-01-01T00:00:00",
        "tags": {},
        "config": {},
        **fields,
    }


class _Handler(BaseHTTPRequestHandler):
    kumo: OtherServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.kumo.requests.append(("GET", parts.path))
        if match := re.fullmatch(r"/data/(.+)/(.+)/(\d)", parts.path):
            signed = parts.query == SIGNATURE and "X-API-Key" not in self.headers
            return self._bytes(
                200 if signed else 403, self.kumo.file(match[1], match[2], int(match[3]))
            )
        if parts.path == "/api/config":
            return self._json(404, {"detail": "Not Found"})
        if self.headers.get("X-API-Key") != API_KEY:
            return self._json(401, {"detail": "no such key"})
        if match := re.fullmatch(r"/api/v1/training_jobs/(.+)", parts.path):
            found = [job for job in self.kumo.training_jobs if job["job_id"] == match[1]]
            return self._json(200, found[0]) if found else self._json(404, {"detail": "unknown"})
        if parts.path == "/api/v1/training_jobs":  # all of them, whatever was asked
            return self._json(200, self.kumo.training_jobs)
        if match := re.fullmatch(r"/api/v1/predictive_queries/(.+)", parts.path):
            name = self.kumo.query_names.get(match[1])
            graph = {"tables": {"customers": {}, "orders": {}}}
            query = {"name": name, "query_string": f"PREDICT {match[1]}", "graph": graph}
            return self._json(200, query) if name else self._json(404, {"detail": "unknown"})
        if parts.path == "/api/v1/prediction_jobs":
            wanted = {k: v[0] for k, v in parse_qs(parts.query).items() if k != "limit"}
            found = [j for j in self.kumo.jobs.values() if wanted.items() <= j["tags"].items()]
            return self._json(200, found[::-1])
        if match := re.fullmatch(r"/api/v1/prediction_jobs/([^/]+)", parts.path):
            return self._json(200, self.kumo.jobs[match[1]])
        if match := re.fullmatch(r"/api/v1/prediction_jobs/(.+)/get_(.+)_df_urls", parts.path):
            kind = {"prediction": "predictions", "embedding": "embeddings"}[match[2]]
            base = f"{self.kumo.origin}/data/{match[1]}/{kind}"
            urls = [f"{base}/{i}?{SIGNATURE}" for i in range(2)]
            return self._json(200, {f"{match[2]}_partitions": urls})
        return self._json(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        self.kumo.requests.append(("POST", path))
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert path == "/api/v1/prediction_jobs"
        return self._json(200, self.kumo.launch(body))

    def do_PATCH(self) -> None:
        parts = urlsplit(self.path)
        match = re.fullmatch(r"/api/v1/prediction_jobs/(.+)/tags", parts.path)
        assert match
        given = {key: value[0] for key, value in parse_qs(parts.query).items()}
        tags = {**self.kumo.jobs[match[1]]["tags"], **given}
        self.kumo.jobs[match[1]]["tags"] = {k: v for k, v in tags.items() if v != "none"}
        return self._json(200, {"resource_updated": True})

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
