"""Whatever a server answers, a call returns something usable or raises an error of the project's own."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from dagster_kumo import KumoClient, KumoError
from dagster_kumo.api.connection import Connection
from dagster_kumo.api.records import BatchPredictionRequest
from dagster_kumo.predictions.remote.download import RemoteFile
from dagster_kumo.predictions.remote.output_urls import OutputUrls
from tests.api.raw_server import RawServer
from tests.api.scripted_server import Answer, ScriptedServer
from tests.predictions.outputs import fetch

KEY = "acme:s3cr3t"

fuzzed = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# A valid answer to each call, with all the fields that are read ##########################

NOW = "2026-11-24T04:00:00.123456+00:00"
ISSUE = {"title": "Old", "message": "Retrain."}
REPORT = {
    "status": "RUNNING",
    "tracking_url": "http://internal:8080/jobs/bp-1?tab=1#top",
    "start_time": NOW,
    "end_time": None,
    "event_log": [{"stage_name": "Predicting", "last_updated_at": NOW, "detail": "half"}],
    "validation_response": {"warnings": [ISSUE], "errors": [ISSUE]},
}
JOB = {
    "job_id": "bp-1",
    "job_status_report": REPORT,
    "created_at": NOW,
    "tags": {"model_id": "trainingjob-1"},
    "project_id": None,
    "config": {
        "job_tags": {"a": "b"},
        "model_training_job_id": "trainingjob-1",
        "predict_options": {"num_workers": 1, "binary_classification_threshold": 0.5},
        "outputs": [{"artifact_type": "PREDICTIONS"}],
        "pred_table_path": "s3://bucket/entities/",
        "prediction_time": NOW,
    },
    "result": {"num_entities_predicted": 7},
}
PROGRESS = {
    "start_time": NOW,
    "total_iterations": 10,
    "completed_iterations": 3,
    "elapsed_prediction_time": "PT3S",
    "estimated_prediction_time": "PT60S",
}
TABLE_JOB = {
    "job_id": "table-1",
    "job_status_report": REPORT,
    "created_at": NOW,
    "tags": {},
    "config": {"pquery_id": "q", "plan": {"anchor_time": 1_700_000_000_000_000_000}},
}
METRICS = [{"name": "auroc", "value": 0.7}]
MODEL = {
    "job_id": "trainingjob-1",
    "job_status_report": REPORT,
    "created_at": NOW,
    "tags": {"a": "b"},
    "config": {"pquery_id": "q"},
    "result": {
        "eval_metrics": {"test_metrics": METRICS, "validation_metrics": METRICS},
        "total_elapsed_time": "PT1H",
    },
}
TRAINING_PROGRESS = {
    "start_time": NOW,
    "total_trials": 2,
    "completed_trials": 1,
    "elapsed_training_time": 3.5,
    "estimated_training_time": 60.0,
    "trial_progress": {
        "0": {"final_validation_metrics": {"auroc": 0.7, "ap": None}},
        "1": {"final_validation_metrics": None},
    },
}
QUERY = {"query_string": "PREDICT ...", "name": "q", "graph": {"tables": {"t": {}}}}
URL = "https://bucket/part-0.parquet?X-Amz-Signature=s1g"

Call = Callable[[KumoClient], Any]
CALLS: dict[str, tuple[Call, Any]] = {
    "check": (lambda c: c.check(), []),
    "launch": (
        lambda c: c.create_prediction_job(BatchPredictionRequest()),
        ["bp-1", {"warnings": [ISSUE], "errors": []}],
    ),
    "job": (lambda c: c.get_prediction_job("1"), JOB),
    "jobs": (lambda c: c.list_prediction_jobs({"a": "b"}), [JOB]),
    "progress": (lambda c: c.get_prediction_progress("1"), PROGRESS),
    "cancel": (lambda c: c.cancel_prediction_job("1"), {"is_cancelled": True}),
    "tag": (lambda c: c.update_prediction_job_tags("1", {"a": None}), {"resource_updated": True}),
    "predictions": (lambda c: c.get_output_urls("1", "predictions"), {"prediction_partitions": [URL]}),
    "embeddings": (lambda c: c.get_output_urls("1", "embeddings"), {"embedding_partitions": [URL]}),
    "export": (lambda c: c.create_export("1", {}), {"job_id": "export-1"}),
    "export status": (lambda c: c.get_export_status("1"), "RUNNING"),
    "cancel export": (lambda c: c.cancel_export("1"), "CANCELLED"),
    "table": (lambda c: c.create_prediction_table_job("1", {}), {"id": "table-1"}),
    "table job": (lambda c: c.get_prediction_table_job("1"), TABLE_JOB),
    "table jobs": (lambda c: c.list_prediction_table_jobs(), [TABLE_JOB]),
    "anchor time": (lambda c: c.get_prediction_table_anchor_time("1"), NOW),
    "table urls": (lambda c: c.get_prediction_table_urls("1"), [URL]),
    "holdout": (lambda c: c.get_holdout_url("1"), URL),
    "tag table": (
        lambda c: c.update_prediction_table_job_tags("1", {"a": "b"}),
        {"resource_updated": True},
    ),
    "cancel table": (lambda c: c.cancel_prediction_table_job("1"), {}),
    "table errors": (
        lambda c: c.get_prediction_table_errors("1"),
        {"items": [{"title": "T", "description": "D"}]},
    ),
    "model": (lambda c: c.get_training_job("1"), MODEL),
    "models": (lambda c: c.list_training_jobs(), [MODEL]),
    "train": (lambda c: c.create_training_job({"pquery_id": "1"}), {"id": "trainingjob-1"}),
    "training progress": (lambda c: c.get_training_progress("1"), TRAINING_PROGRESS),
    "tag training": (
        lambda c: c.update_training_job_tags("1", {"a": None}),
        {"resource_updated": True},
    ),
    "cancel training": (lambda c: c.cancel_training_job("1"), {"is_cancelled": True}),
    "query": (lambda c: c.get_predictive_query("1"), QUERY),
    "plan": (lambda c: c.suggest_model_plan("PREDICT ...", "g", "fast"), {"model_plan": {"a": {}}}),
    "graph": (lambda c: c.create_graph({}), {"id": "graph-1"}),
    "snapshot": (lambda c: c.refresh_graph_snapshot("graph-1"), {"id": "graph-1@1"}),
    "groups": (lambda c: c.list_groups(), [{"group_id": "g", "display_name": "G"}]),
    "projects": (lambda c: c.list_projects("g"), [{"id": "p", "display_name": "P"}]),
}  # fmt: skip


def test_every_call_of_the_client_is_among_them():
    asked = {name for call, _ in CALLS.values() for name in call.__code__.co_names}
    members = {**vars(Connection), **vars(KumoClient)}
    public = {name for name, value in members.items() if callable(value) and name[0] != "_"}
    assert public - asked == {"public_url", "with_limits"}  # these two ask nothing


# What is made of them #####################################################################


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


ODD: list[Any] = [
    None, True, -1, 0, 2**63, 10**400, -(10**400), 1e308, -0.5,
    float("nan"), float("inf"), float("-inf"), nested(300),
    "", " ", "none", "\ud800", "\udfff\ud800", "\x00", "x" * 10_000, "9" * 5000, "\u202e\u00b2",
    "0000-01-01T00:00:00Z", "99999-01-01", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    "2026-02-30", "2026-11-24", "P999999999D", "-P999999999D", "P999999999999D", "PT1e400S", "PT", "P1Y",
    "http://[", "http://[::1", "http://h:99999/", "https://\u2100.com", "file:///etc/passwd", "//h",
    [], [[]], {}, {"\ud800": "\udfff"}, {"": None}, {"detail": {}}, [None], ["\ud800"],
]  # fmt: skip

anything = st.recursive(
    st.sampled_from(ODD) | st.text() | st.integers() | st.floats() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in a JSON value with each of its keys."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


@st.composite
def spoiled(draw: st.DrawFn, valid: Any) -> Any:
    """A valid answer, with fields dropped, replaced, added, or doubled."""
    value = [json.loads(json.dumps(valid))]
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(value))))
        kind = draw(st.sampled_from(["replace", "replace", "drop", "add", "double"]))
        if kind == "drop" and container is not value:
            del container[key]
        elif kind == "add" and isinstance(container, dict):
            container[draw(st.text() | st.just("\ud800"))] = deepcopy(draw(anything))
        elif kind == "double" and isinstance(container, list):
            container.append(deepcopy(container[key]))
        else:
            container[key] = deepcopy(draw(anything))
    return value[0]


def as_bytes(value: Any, way: str) -> bytes:
    if way == "escaped":
        return json.dumps(value).encode()
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8" if way == "raw" else way, "surrogatepass")


@pytest.fixture(scope="module")
def answering() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(answering) -> KumoClient:
    """A client that knows already what the server speaks."""
    answering.answer(Answer(b"[]"))
    client = KumoClient(answering.url, KEY, request_max_retries=0)
    client.check()
    return client


def use(answer: Any, client: KumoClient) -> None:
    """Do with an answer what is done with it: read all its fields, log them, store them."""
    if isinstance(answer, list | tuple):
        for item in answer:
            use(item, client)
    elif isinstance(answer, dict):
        use([*answer, *answer.values()], client)
    elif isinstance(answer, BaseModel):
        members = [
            getattr(answer, name) for name in [*type(answer).model_fields, *_properties(answer)]
        ]
        use(members, client)
        assert all(abs(member) < 2**64 for member in members if isinstance(member, int))
    elif isinstance(answer, str):
        answer.encode()
        client.public_url(answer).encode()


def _properties(record: BaseModel) -> list[str]:
    """The names of the properties that the project's own classes have."""
    own = [base for base in type(record).__mro__ if base.__module__.startswith("dagster_kumo")]
    return [
        name for base in own for name, value in vars(base).items() if isinstance(value, property)
    ]


def hold(call: Call, client: KumoClient) -> None:
    """Call, and use what comes of it."""
    try:
        answer = call(client)
    except KumoError as error:
        said = f"{error} {vars(error)}"
        str(error).encode()
        assert len(said) < 20_000
        assert "s3cr3t" not in said
        assert "s1g" not in said
    else:
        use(answer, client)


calls = st.sampled_from(sorted(CALLS))


@fuzzed
@given(data=st.data(), name=calls, way=st.sampled_from(["escaped", "escaped", "raw"]))
def test_a_spoiled_answer(answering, client, data, name, way):
    call, valid = CALLS[name]
    answering.answer(Answer(as_bytes(data.draw(spoiled(valid)), way)))
    hold(call, client)


STATUSES = [200, 201, 202, 204, 206, 299, 300, 301, 304, 308, 400, 401, 403, 404, 407, 409, 410,
            418, 422, 429, 451, 499, 500, 501, 503, 599, 600, 999]  # fmt: skip


@fuzzed
@given(name=calls, value=anything, status=st.sampled_from(STATUSES))
def test_any_json_with_any_status(answering, client, name, value, status):
    said = {"detail": value} if status % 2 else value
    answering.answer(Answer(as_bytes(said, "escaped"), status, {"Connection": "close"}))
    hold(CALLS[name][0], client)


@fuzzed
@given(
    name=calls,
    body=st.binary() | st.sampled_from([b"[" * 50_000, b'{"a":' * 3000, b"9" * 5000, b"NaN", b"null"]),
    status=st.sampled_from(STATUSES),
    kind=st.sampled_from(["application/json", "text/html", "text/plain; charset=nope", "\u00b2", ""]),
    encoding=st.sampled_from(["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity", "\u00b2"]),
)  # fmt: skip
def test_any_bytes(answering, client, name, body, status, kind, encoding):
    headers = {"Content-Type": kind, "Content-Encoding": encoding, "Connection": "close"}
    answering.answer(Answer(body, status, headers))
    hold(CALLS[name][0], client)


@pytest.mark.parametrize("coding", ["utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-7", "cp037"])
def test_text_in_another_encoding(answering, client, coding):
    job = {**JOB, "tags": {"name": "Müller"}}
    answering.answer(Answer(json.dumps(job, ensure_ascii=False).encode(coding)))
    hold(CALLS["job"][0], client)


def test_an_answer_that_unpacks_to_far_more_is_given_up(answering, client):
    packed = gzip.compress(b" " * 70 * 1024**2, compresslevel=1)
    answering.answer(Answer(packed, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(KumoError, match="more than 64 MB"):
        client.check()


# What is hardly HTTP ######################################################################

LINES = [b"HTTP/1.1 200 OK", b"HTTP/1.1 206 Partial", b"HTTP/1.0 200", b"HTTP/1.1 503 Busy", b"HTTP/9.9 200 x",
         b"HTTP/1.1 abc OK", b"HTTP/1.1 99999 x", b"HTTP/1.1 -1 x", b"ICY 200 OK", b"", b"HTTP/1.1 302 Go",
         b"HTTP/1.1 101 Switch", b"HTTP/1.1 100 Go on", b"\xff\xfe", b"HTTP/1.1 200 " + b"O" * 70_000]  # fmt: skip
HEADERS = [b"Content-Length: 2", b"Content-Length: abc", b"Content-Length: -5", b"Content-Length: 5, 6",
           b"Content-Length: \xb2", b"Content-Length: " + b"9" * 5000, b"Transfer-Encoding: chunked",
           b"Content-Encoding: gzip", b"Content-Encoding: br, zstd, gzip", b"Set-Cookie: \xff=\xfe; Domain=.",
           b"Set-Cookie: a=b; expires=Wed, 99 Foo 99999", b"Location: http://[", b"Location: //\xff/?sig=s1g",
           b": nothing", b"no colon", b" folded", b"X: " + b"a" * 70_000, b"Retry-After: 9", b"ETag: \xff",
           b"Content-Range: bytes 0-1/2", b"Content-Range: bytes 0-1/*", b"Content-Range: bytes 9-1/\xb2",
           b"Content-Range: bytes 0-1/" + b"9" * 5000, b"Content-MD5: \xff", b"x-goog-hash: md5==,=",
           b"\r\n".join([b"A: b"] * 200), b"\x00: \x00", b"Connection: \xff", b"Content-Type: \xff"]  # fmt: skip
BODIES = [b"", b"[]", b"{}", b"PAR1", b"zz\r\n", b"ffffffffffffffffff\r\n[]", b"-1\r\n[]\r\n", b"2\r\n[]\r\n0\r\n\r\n",
          gzip.compress(b"[]"), b"\xff" * 100]  # fmt: skip


@pytest.fixture(scope="module")
def hardly_http() -> Iterator[tuple[RawServer, dict[str, bytes]]]:
    says = {"all": b""}
    with RawServer(lambda connection, _: connection.sendall(says["all"])) as server:
        yield server, says


heads = st.tuples(
    st.sampled_from(LINES) | st.binary(max_size=40),
    st.lists(st.sampled_from(HEADERS) | st.binary(max_size=40), max_size=4),
    st.sampled_from(BODIES) | st.binary(max_size=40),
)


def said_by(head: tuple[bytes, list[bytes], bytes]) -> bytes:
    line, headers, body = head
    return b"\r\n".join([line, *headers, b"", body])


@fuzzed
@given(head=heads)
def test_what_is_hardly_http_for_a_call(hardly_http, monkeypatch, head):
    server, says = hardly_http
    says["all"] = said_by(head)
    monkeypatch.setenv("RBAC_ENABLED", "false")  # else there would be more calls
    hold(lambda c: c.check(), KumoClient(server.url, KEY, request_max_retries=0))


@fuzzed
@given(head=heads)
def test_what_is_hardly_http_for_a_file(hardly_http, tmp_path, head):
    server, says = hardly_http
    says["all"] = said_by(head)
    client = KumoClient(server.url, KEY, request_max_retries=0)
    url = f"{server.origin}/part-0.parquet?X-Amz-Signature=s1g"
    remote = RemoteFile(OutputUrls(lambda: [url], what="The output"), 0, client.files)
    hold(lambda _: fetch(remote, tmp_path / "part"), client)
    hold(lambda _: fetch(remote, tmp_path / "part", ["x"]), client)


def test_headers_that_cannot_be_read_put_no_signature_into_the_log(hardly_http, tmp_path, caplog):
    caplog.set_level("WARNING", "urllib3")
    server, says = hardly_http
    says["all"] = said_by((LINES[0], [b"no colon", b"Content-Length: 2"], b"ab"))
    url = f"{server.origin}/part-0.parquet?X-Amz-Signature=s1g"
    remote = RemoteFile(OutputUrls(lambda: [url], what="x"), 0, KumoClient(server.url, KEY).files)
    hold(lambda _: fetch(remote, tmp_path / "part"), KumoClient(server.url, KEY))
    assert "part-0.parquet" in caplog.text
    assert "s1g" not in caplog.text
