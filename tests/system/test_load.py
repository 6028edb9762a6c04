"""Two hundred jobs at once, from several processes of one machine, keep to the configured rate."""

from __future__ import annotations

import io
import json
import multiprocessing
import re
import tempfile
import threading
import time
from bisect import bisect_left
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dagster_kumo import BatchPredictionJob, KumoClient
from dagster_kumo.api.records import BatchPredictionRequest
from tests.api.scripted_server import Answer, Request, ScriptedServer

JOBS = 200
PROCESSES = 2
RATE = 200.0  # calls a second
RUN_SECONDS = 1.0


class Kumo:
    """As much of Kumo as predictions need; its jobs are done after a while, and have a row each."""

    def __init__(self, server: ScriptedServer) -> None:
        self.launches: list[str] = []
        self._origin = server.origin
        self._done_at: list[float] = []
        self._lock = threading.Lock()
        server.answer_by(self._answer)

    def _answer(self, request: Request) -> Answer:
        path = urlsplit(request.path).path
        if request.method == "POST":
            return self._launched(json.loads(request.body)["job_tags"]["number"])
        if path == "/api/config":
            return Answer(b"{}")
        number = int(re.search(r"bp-(\d+)", path)[1])
        if path.startswith("/files/"):
            file = io.BytesIO()
            pq.write_table(pa.table({"ENTITY": [int(self.launches[number])]}), file)
            return Answer(file.getvalue())
        if path.endswith("/progress"):
            return _json({"estimated_prediction_time": f"PT{RUN_SECONDS}S"})
        if path.endswith("/get_prediction_df_urls"):
            return _json({"prediction_partitions": [f"{self._origin}/files/bp-{number}"]})
        done = time.monotonic() >= self._done_at[number]
        return _json(
            {
                "job_id": f"bp-{number}",
                "job_status_report": {"status": "DONE" if done else "RUNNING"},
                "result": {"num_entities_predicted": 1} if done else None,
            }
        )

    def _launched(self, tag: str) -> Answer:
        with self._lock:
            self.launches.append(tag)
            self._done_at.append(time.monotonic() + RUN_SECONDS)
            return _json([f"bp-{len(self.launches) - 1}", {}])


class Stalls:
    """Measures for how many seconds, at the longest, this process, the server, came to nothing."""

    BEAT = 0.005

    def __init__(self) -> None:
        self.longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Stalls:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._over.wait(self.BEAT):
            now = time.monotonic()
            self.longest = max(self.longest, now - before - self.BEAT)
            before = now


def _json(value: object) -> Answer:
    return Answer(json.dumps(value).encode())


def use_temp_folder(path: Path) -> None:
    """How a process begins."""
    tempfile.tempdir = str(path)


def predict(url: str, numbers: range) -> list[int]:
    """What a process does: all its jobs at once, and what they delivered."""

    def predict_one(number: int) -> int:
        request = BatchPredictionRequest(
            model_training_job_id="trainingjob-1", job_tags={"number": str(number)}
        )
        job_id, _ = client.create_prediction_job(request)
        return BatchPredictionJob(job_id, client).result().predictions().to_arrow()[0][0].as_py()

    client = KumoClient(url, "acme:s3cr3t", max_requests_per_second=RATE)
    with ThreadPoolExecutor(len(numbers)) as threads:
        return list(threads.map(predict_one, numbers))


@pytest.mark.timeout(300)
def test_two_hundred_jobs_keep_to_the_rate_and_are_delivered_once(server, tmp_path):
    kumo = Kumo(server)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with (
        Stalls() as stalls,
        ProcessPoolExecutor(
            PROCESSES, context, initializer=use_temp_folder, initargs=[tmp_path]
        ) as processes,
    ):
        parts = [range(i, JOBS, PROCESSES) for i in range(PROCESSES)]
        delivered = list(processes.map(predict, [server.url] * PROCESSES, parts))

    assert delivered == [list(part) for part in parts]
    assert Counter(kumo.launches) == Counter(str(number) for number in range(JOBS))
    calls = sorted(r.at for r in server.requests if r.path.startswith("/api/"))
    assert len(calls) / JOBS <= 12
    assert (len(calls) - 1) / (calls[-1] - calls[0]) <= 1.05 * RATE
    # A server that falls behind for a moment sees afterwards what came meanwhile.
    most = max(bisect_left(calls, at + 1) - i for i, at in enumerate(calls))
    assert most <= (1.5 + stalls.longest) * RATE
