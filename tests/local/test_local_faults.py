"""Each fault, seen from the other end of the wire."""

from __future__ import annotations

import io
import time

import pandas as pd
import pytest
import requests
from requests.exceptions import ChunkedEncodingError

BROKEN = (requests.ConnectionError, ChunkedEncodingError)


def test_answer(api, kumo):
    id = api.launch()
    fault = kumo.faults.answer(
        503, path=r"/prediction_jobs/[^/]+$", times=2, after=1, headers={"Retry-After": "7"}
    )
    path = f"/prediction_jobs/{id}"
    answers = [api.call("GET", path) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 503, 503, 200]
    assert answers[1].headers["Retry-After"] == "7"
    assert "503" in answers[1].json()["detail"]
    assert api.call("GET", path + "/progress").status_code == 200
    assert fault.hits == 2
    assert len(kumo.faults) == 0
    assert [r.status for r in kumo.requests if r.path.endswith(id)] == [200, 503, 503, 200]


def test_answer_with_a_body(api, kumo):
    kumo.faults.answer(200, body="<html>a proxy", path="connectors", method="get", times=None)
    for _ in range(3):
        assert api.call("GET", "/connectors").text == "<html>a proxy"
    kumo.faults.clear()
    assert api.get("/connectors") == []


def test_drop(api, kumo):
    kumo.faults.drop(method="POST")
    with pytest.raises(BROKEN):
        api.launch()
    assert kumo.jobs == []
    assert kumo.requests[0].status is None
    assert api.launch()


def test_lose_answer(api, kumo):
    kumo.faults.lose_answer(method="POST", path="prediction_jobs$")
    with pytest.raises(BROKEN):
        api.launch(job_tags={"key": "1"})
    (job,) = api.get("/prediction_jobs", key="1")
    assert kumo.jobs[0]["job_id"] == job["job_id"]


def test_lose_answer_to_a_proxy_that_answers_itself(api, kumo):
    kumo.faults.lose_answer(502, method="POST", path="prediction_jobs$")
    body = {"model_training_job_id": "trainingjob-cdnow-purchase", "job_tags": {"key": "2"}}
    answer = api.call("POST", "/prediction_jobs", json={**body, "predict_options": {}})
    assert answer.status_code == 502
    assert len(api.get("/prediction_jobs", key="2")) == 1
    assert kumo.requests[0].status == 502


def test_forget_tags(api, kumo):
    kumo.faults.forget_tags(times=1)
    forgotten = api.launch(job_tags={"key": "3"})
    kept = api.launch(job_tags={"key": "3"})
    assert "key" not in api.get(f"/prediction_jobs/{forgotten}")["tags"]
    assert [job["job_id"] for job in api.get("/prediction_jobs", key="3")] == [kept]


def test_list_late(api, kumo):
    fault = kumo.faults.list_late(60)
    id = api.launch(job_tags={"key": "4"})
    assert api.get("/prediction_jobs", key="4") == []
    assert api.get(f"/prediction_jobs/{id}")["job_id"] == id
    fault.options["seconds"] = 0
    assert [job["job_id"] for job in api.get("/prediction_jobs", key="4")] == [id]


def test_show_late(api, kumo):
    fault = kumo.faults.show_late(60)
    id = api.launch(job_tags={"key": "5"})
    for path in ("", "/progress", "/get_prediction_df_urls"):
        assert api.call("GET", f"/prediction_jobs/{id}{path}").status_code == 404
    assert len(api.get("/prediction_jobs", key="5")) == 1
    fault.options["seconds"] = 0
    assert api.get(f"/prediction_jobs/{id}")["job_id"] == id


def test_show_late_of_a_training(api, kumo):
    fault = kumo.faults.show_late(60, path="/training_jobs/")
    body = {"job_tags": {}, "pquery_id": "pquery-cdnow-purchase"}
    id = api.post("/training_jobs", body)["id"]
    assert api.call("GET", f"/training_jobs/{id}").status_code == 404
    fault.options["seconds"] = 0
    assert api.get(f"/training_jobs/{id}")["job_id"] == id


def test_delay(api, kumo):
    kumo.faults.delay(0.3, path="connectors")
    began = time.monotonic()
    api.get("/connectors")
    assert time.monotonic() - began >= 0.3
    kumo.faults.delay(5, path="connectors")
    with pytest.raises(requests.Timeout):
        requests.get(f"{kumo.url}/v1/connectors", timeout=0.2)


def test_cut_and_resume(api, kumo):
    url = api.urls(api.run()["job_id"])[0]
    whole = requests.get(url, timeout=5).content
    kumo.faults.cut(1000)
    got = b""
    with requests.get(url, stream=True, timeout=5) as answer:
        assert answer.headers["Content-Length"] == str(len(whole))
        chunks = answer.iter_content(100)
        try:
            while True:
                got += next(chunks)
        except BROKEN:
            pass
    assert got == whole[:1000]
    rest = requests.get(url, headers={"Range": "bytes=1000-"}, timeout=5).content
    assert got + rest == whole


def test_corrupt(api, kumo):
    url = api.urls(api.run()["job_id"])[0]
    kumo.faults.corrupt()
    bad, good = (requests.get(url, timeout=5).content for _ in range(2))
    assert len(bad) == len(good)
    with pytest.raises(Exception, match=r"[Pp]arquet"):
        pd.read_parquet(io.BytesIO(bad))


def test_change_file(api, kumo):
    url = api.urls(api.run()["job_id"])[0]
    kumo.faults.change_file()
    first = requests.get(url, headers={"Range": "bytes=0-9"}, timeout=5)
    etag = first.headers["ETag"]
    resumed = requests.get(url, headers={"Range": "bytes=10-", "If-Range": etag}, timeout=5)
    assert resumed.status_code == 200
    assert resumed.headers["ETag"] != etag
    assert requests.get(url, headers={"If-Match": etag}, timeout=5).status_code == 412


def test_expire_urls(api, kumo):
    id = api.run()["job_id"]
    url = api.urls(id)[0]
    kumo.faults.expire_urls()
    assert requests.get(url, timeout=5).status_code == 403
    assert requests.get(api.urls(id)[0], timeout=5).status_code == 200


def test_refuse_launch(api, kumo):
    kumo.faults.refuse_launch("No credit", "Buy some.")
    id, response = api.try_launch()
    assert (id, response["errors"]) == (None, [{"title": "No credit", "message": "Buy some."}])
    assert api.launch()


def test_fail_job(api, kumo):
    kumo.faults.fail_job("the disk is full")
    report = api.wait(api.launch())["job_status_report"]
    assert report["status"] == "FAILED"
    assert report["validation_response"]["errors"][0]["message"] == "the disk is full"
    assert api.run()


def test_overcount(api, kumo):
    kumo.faults.overcount(5)
    job = api.run()
    assert job["result"]["num_entities_predicted"] == len(api.frame(job["job_id"])) + 5


def test_ignore_prediction_time(api, kumo):
    kumo.faults.ignore_prediction_time()
    for _ in range(2):
        job = api.run(prediction_time=api.days_ago(99).isoformat())
        assert "prediction_time" not in job["config"]
        anchors = api.frame(job["job_id"])["ANCHOR_TIMESTAMP"]
        assert (anchors == api.days_ago(0).replace(tzinfo=None)).all()


def test_ignore_tag_filters(api, kumo):
    id = api.launch(job_tags={"key": "1"})
    kumo.faults.ignore_tag_filters()
    assert [job["job_id"] for job in api.get("/prediction_jobs", key="other")] == [id]


def test_unknown_status(api, kumo):
    id = api.run()["job_id"]
    kumo.faults.unknown_status("PAUSED", times=2)
    assert [api.status(id) for _ in range(3)] == ["PAUSED", "PAUSED", "DONE"]


def test_a_bad_expression_is_refused_where_it_is_written(kumo):
    with pytest.raises(Exception, match="unterminated"):
        kumo.faults.answer(503, path="[")


def test_stopping_with_open_connections_is_quick(kumo, api):
    kumo.faults.delay(30, path="connectors")
    with requests.Session() as session:
        url = api.urls(api.run()["job_id"])[0]
        session.get(url, stream=True, timeout=5)  # left open, half read
        with pytest.raises(requests.Timeout):
            session.get(f"{kumo.url}/v1/connectors", timeout=0.1)
        began = time.monotonic()
        kumo.stop()
        assert time.monotonic() - began < 30  # it has not waited for the answer that is delayed
