"""What a server says that is not the answer, as errors that a person can act on."""

from __future__ import annotations

import json
import traceback
from datetime import timedelta

import pytest

from dagster_kumo import (
    KumoAPIError,
    KumoAuthenticationError,
    KumoClient,
    KumoError,
    KumoValidationError,
)
from dagster_kumo.api.records import BatchPredictionRequest
from tests.api.raw_server import RawServer
from tests.api.scripted_server import Answer

KEY = "acme:s3cr3t"
REQUEST = BatchPredictionRequest(model_training_job_id="trainingjob-1")
JOB = {"job_id": "bp-1", "job_status_report": {"status": "RUNNING"}}


@pytest.fixture
def scripted(server) -> KumoClient:
    """A client of the server that answers as told."""
    return KumoClient(server.url, KEY, request_max_retries=0)


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_without_the_right_is_an_authentication_error(client, kumo, status):
    kumo.faults.answer(status, body={"detail": "not yours"}, path="/prediction_jobs")
    with pytest.raises(KumoAuthenticationError, match="not yours") as caught:
        client.get_prediction_job("bp-1")
    assert caught.value.status_code == status
    assert "KUMO_API_KEY" in str(caught.value)


def test_an_unknown_job_is_an_api_error_in_the_servers_words(client):
    with pytest.raises(KumoAPIError) as caught:
        client.get_prediction_job("bp-unknown")
    assert caught.value.status_code == 404
    assert caught.value.detail == "Job bp-unknown was not found."
    assert caught.value.detail in str(caught.value)
    assert "GET" in str(caught.value)


def test_a_refused_launch_tells_the_servers_titles_and_messages(client, kumo):
    kumo.faults.refuse_launch("Snapshot", "The graph is stale.")
    with pytest.raises(KumoValidationError, match=r"Snapshot: The graph is stale\.") as caught:
        client.create_prediction_job(
            BatchPredictionRequest(model_training_job_id="trainingjob-cdnow-purchase")
        )
    assert [(e.title, e.message) for e in caught.value.errors] == [
        ("Snapshot", "The graph is stale.")
    ]


def test_a_launch_without_id_and_without_reason_is_refused_too(server, scripted):
    server.answer(Answer(b"[null, {}]"))
    with pytest.raises(KumoValidationError, match="neither a reason nor a job id"):
        scripted.create_prediction_job(REQUEST)


def test_the_warnings_of_a_launch_are_handed_on(server, scripted):
    server.answer(Answer(b'["bp-1", {"warnings": [{"title": "Old", "message": "Retrain."}]}]'))
    job_id, warnings = scripted.create_prediction_job(REQUEST)
    assert (job_id, [str(w) for w in warnings]) == ("bp-1", ["Old: Retrain."])


def test_a_422_is_a_validation_error_that_names_the_field(client, kumo):
    kumo.faults.answer(422, body={"detail": [{"loc": ["body", "plan"], "msg": "Field required"}]})
    with pytest.raises(KumoValidationError, match="Field required") as caught:
        client.check()
    assert caught.value.status_code == 422
    assert "plan" in caught.value.detail


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"model is busy\n", "text/plain", "model is busy"),
        (b"<html><body>" + b"x" * 5000, "text/html; charset=utf-8", "Conflict"),
        (b"", "text/plain", "Conflict"),
        (b'{"detail": {"code": 7}}', "application/json", '{"code": 7}'),
        (b'{"message": "odd"}', "application/json", '{"message": "odd"}'),
        (b"\xff\xfe", "text/plain", "\ufffd"),
        (b"[" * 100_000, "application/json", "[[["),
        (b"long " * 10_000, "text/plain", "long long"),
    ],
)
def test_whatever_the_body_of_an_error_the_message_is_short_and_readable(
    server, scripted, body, kind, said
):
    server.answer(Answer(body, 409, {"Content-Type": kind}))
    with pytest.raises(KumoAPIError) as caught:
        scripted.check()
    assert said in str(caught.value)
    assert "<html" not in str(caught.value)
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("body", [b"<html>hello", b"", b"\xff", b"[" * 100_000, b"9" * 10_000])
def test_an_answer_that_is_no_json_raises_the_question_of_the_address(server, scripted, body):
    server.answer(Answer(body))
    with pytest.raises(KumoAPIError, match=f"Is {server.origin} the address"):
        scripted.get_prediction_job("bp-1")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "text",
        {},
        {"job_id": 7},
        JOB | {"job_status_report": {}},
        JOB | {"job_status_report": {"status": None}},
        JOB | {"tags": ["a"]},
        JOB | {"created_at": "yesterday"},
        JOB | {"created_at": "0001-01-01T00:00:00+05:00"},
        JOB | {"created_at": 1e300},
        JOB | {"result": {"num_entities_predicted": "many"}},
        JOB | {"result": {"num_entities_predicted": 10**400}},
    ],
)
def test_json_of_another_shape_is_an_api_error_that_names_the_job(server, scripted, answer):
    server.answer(Answer(json.dumps(answer).encode()))
    with pytest.raises(KumoAPIError, match="Prediction job bp-1 answered with something that Kumo"):
        scripted.get_prediction_job("bp-1")


@pytest.mark.parametrize("status", [300, 302, 304, 600, 999])
def test_a_status_that_is_no_success_is_an_error_whatever_is_said_with_it(server, scripted, status):
    server.answer(Answer(json.dumps(JOB).encode(), status, {"Connection": "close"}))
    with pytest.raises(KumoAPIError, match=f"answered {status}") as caught:
        scripted.get_prediction_job("bp-1")
    assert caught.value.status_code == status


def test_what_is_no_text_becomes_text(server, scripted):
    """Half a pair of surrogates can be in JSON, and neither be logged nor stored."""
    report = {"status": "\ud83d\ude00 \ud83d", "tracking_url": ""}
    server.answer(
        Answer(json.dumps(JOB | {"job_status_report": report}).encode()),
        Answer(b'{"detail": "\\ud83d"}', 409),
    )
    assert scripted.get_prediction_job("bp-1").job_status_report.status == "\U0001f600 ?"
    with pytest.raises(KumoAPIError, match=r"409: \?"):
        scripted.get_prediction_job("bp-1")


@pytest.mark.parametrize("url", ["http://[", "http://[::1", "https://\u2100.com/x", "no url", ""])
def test_a_tracking_url_that_is_none_is_left_alone(scripted, url):
    assert scripted.public_url(url) == url


MISSHAPEN = {
    "items": 7,
    "is_cancelled": {},
    "resource_updated": [],
    "elapsed_prediction_time": "a while",
}
CALLS = {
    "check": lambda c: c.list_prediction_jobs(),
    "launch": lambda c: c.create_prediction_job(REQUEST),
    "progress": lambda c: c.get_prediction_progress("1"),
    "cancel": lambda c: c.cancel_prediction_job("1"),
    "tag": lambda c: c.update_prediction_job_tags("1", {"a": "b"}),
    "predictions": lambda c: c.get_output_urls("1", "predictions"),
    "embeddings": lambda c: c.get_output_urls("1", "embeddings"),
    "export": lambda c: c.create_export("1", {}),
    "export status": lambda c: c.get_export_status("1"),
    "cancel export": lambda c: c.cancel_export("1"),
    "table": lambda c: c.create_prediction_table_job("1", {}),
    "table job": lambda c: c.get_prediction_table_job("1"),
    "table jobs": lambda c: c.list_prediction_table_jobs(),
    "anchor time": lambda c: c.get_prediction_table_anchor_time("1"),
    "table urls": lambda c: c.get_prediction_table_urls("1"),
    "table errors": lambda c: c.get_prediction_table_errors("1"),
    "training job": lambda c: c.get_training_job("1"),
    "training jobs": lambda c: c.list_training_jobs(),
    "query": lambda c: c.get_predictive_query("1"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("answer", [[[1]], MISSHAPEN], ids=["list", "object"])
def test_no_call_ends_in_another_error_than_the_projects_own(server, scripted, call, answer):
    server.answer(Answer(json.dumps(answer).encode()))
    with pytest.raises(KumoError):
        call(scripted)


def test_a_huge_answer_is_given_up_early(server, scripted):
    server.answer(Answer(b" " * 70 * 1024**2))
    with pytest.raises(KumoAPIError, match="more than 64 MB"):
        scripted.check()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["{elsewhere}/login?ticket=t1cket", "/login?ticket=t1cket"])
def test_a_redirect_is_told_and_not_followed(server, elsewhere, scripted, status, target):
    location = target.format(elsewhere=elsewhere.origin)
    server.answer(Answer(b"", status, {"Location": location}))
    with pytest.raises(KumoAPIError, match=r"redirected to .*/login") as caught:
        scripted.create_prediction_job(REQUEST)
    assert len(server.calls) == 1
    assert elsewhere.requests == []
    assert "t1cket" not in f"{caught.value} {caught.value.detail}"


@pytest.mark.parametrize("target", ["http://[", "//[/?ticket=t1cket", "\xff", ""])
def test_a_redirect_to_nowhere_is_told_too(server, scripted, target):
    server.answer(Answer(b"", 302, {"Location": target}))
    with pytest.raises(KumoAPIError, match="redirected to") as caught:
        scripted.check()
    assert caught.value.status_code == 302
    assert "t1cket" not in str(caught.value)


def test_a_redirect_with_a_huge_body_is_given_up_early(server, scripted):
    server.answer(Answer(b" " * 70 * 1024**2, 302, {"Location": "/"}))
    with pytest.raises(KumoAPIError, match="more than 64 MB"):
        scripted.check()


def test_a_reason_phrase_is_shown_as_carefully_as_a_body():
    said = (
        b"HTTP/1.1 409 No " + KEY.encode() + b" " + b"x" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n"
    )
    expected = pytest.raises(KumoAPIError, match=r"409: No \*\*\*")
    with RawServer(lambda connection, _: connection.sendall(said)) as raw, expected as caught:
        KumoClient(raw.url, KEY, request_max_retries=0).check()
    assert "s3cr3t" not in str(caught.value)
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_key_that_the_server_echoes_is_not_shown(server, scripted, status):
    server.answer(Answer(f"bad key {KEY} in https://h/p?sig=s1g".encode(), status))
    with pytest.raises(KumoAPIError) as caught:
        scripted.check()
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.detail
    assert "s3cr3t" not in shown
    assert "s1g" not in shown


@pytest.mark.parametrize("job_id", ["", " ", ".", ".."])
def test_an_id_that_is_none_is_refused_before_anything_is_sent(server, scripted, job_id):
    with pytest.raises(ValueError, match="prediction job"):
        scripted.get_prediction_job(job_id)
    assert server.requests == []


def test_an_id_cannot_name_another_resource(server, scripted):
    server.answer(Answer(json.dumps(JOB).encode()))
    scripted.get_prediction_job("../connectors?x=1#y")
    assert server.calls[0].path == "/api/v1/prediction_jobs/..%2Fconnectors%3Fx%3D1%23y"


def test_what_a_newer_server_adds_does_no_harm(server, scripted):
    report = {"status": "PAUSED", "tracking_url": "", "new": {"field": 1}, "event_log": []}
    new = {"job_id": "bp-1", "job_status_report": report, "priority": "high", "config": {"x": 1}}
    server.answer(
        Answer(json.dumps(new).encode()),
        Answer(b'{"is_cancelled": true, "note": "queued for it"}'),
        Answer(b'{"resource_updated": true, "tags": {"a": "b"}}'),
        Answer(b'{"items": [{"title": "T", "description": "D", "cta": null}], "next": null}'),
        Answer(b'{"elapsed_prediction_time": "PT1H2M", "phase": "warm-up"}'),
    )
    job = scripted.get_prediction_job("bp-1")
    assert job.job_status_report.status == "PAUSED"
    assert not job.job_status_report.is_terminal
    assert scripted.cancel_prediction_job("bp-1") is True
    assert scripted.update_prediction_job_tags("bp-1", {"a": "b"}) is True
    assert scripted.get_prediction_table_errors("table-1") == ["T: D"]
    progress = scripted.get_prediction_progress("bp-1")
    assert progress.elapsed_prediction_time == timedelta(hours=1, minutes=2)
    assert progress.fraction is None
