from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from dagster_kumo import BatchPredictionJobResult, KumoClient, Predictions
from dagster_kumo.local import LocalKumo
from dagster_kumo.predictions.store.store import PartitionStore
from tests.api.scripted_server import Answer, ScriptedServer
from tests.predictions.outputs import store_output


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    """Where an asset partition is stored: on each kind of storage."""
    place = request.node.nodeid.encode().hex()[-60:]
    if request.param == "disk":
        return UPath(tmp_path / "asset" / "2026-11-24")
    if request.param == "memory":
        return UPath(f"memory://{place}/asset/2026-11-24")
    options = request.getfixturevalue("s3_options")
    return UPath(f"s3://kumo/{place}/asset/2026-11-24", **options)


@pytest.fixture(scope="session")
def stored_outputs(
    _serving_kumo: LocalKumo,
    done_job_id: str,
    s3_options: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Predictions]:
    """The predictions of a job, stored on a disk and in S3."""
    client = KumoClient(_serving_kumo.url, _serving_kumo.api_key)
    live = BatchPredictionJobResult(done_job_id, client).predictions()
    places = {
        "disk": UPath(tmp_path_factory.mktemp("store")),
        "s3": UPath("s3://kumo/stored-outputs", **s3_options),
    }
    return {
        name: store_output(live, PartitionStore(place), live.provenance)[0]
        for name, place in places.items()
    }


@pytest.fixture(params=["live", "disk", "s3"])
def output(
    request: pytest.FixtureRequest,
    result: BatchPredictionJobResult,
    stored_outputs: dict[str, Predictions],
) -> Predictions:
    """The predictions of a job: still with Kumo, and stored."""
    return stored_outputs.get(request.param) or result.predictions()


@pytest.fixture
def serve_file(server: ScriptedServer) -> Callable[..., str]:
    """Serves one file as S3 would, but for what the test changes."""

    def serve(content: bytes, change: Callable[[Any, Answer], Answer] = lambda _, a: a) -> str:
        def answer(request) -> Answer:
            asked = request.headers.get("range")
            if asked is None:
                return change(request, Answer(content, headers={"ETag": '"e"'}))
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin = int(first) if first else max(0, len(content) - int(last))
            end = int(last) + 1 if first and last else len(content)
            if begin >= len(content):
                span = {"Content-Range": f"bytes */{len(content)}"}
                return change(request, Answer(b"", 416, span))
            body = content[begin:end]
            span = f"bytes {begin}-{begin + len(body) - 1}/{len(content)}"
            return change(request, Answer(body, 206, {"Content-Range": span, "ETag": '"e"'}))

        server.answer_by(answer)
        return f"{server.origin}/part-00000.parquet?X-Amz-Signature=s1g"

    return serve
