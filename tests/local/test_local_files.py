"""Presigned urls: range, conditions, expiry, and what they refuse."""

from __future__ import annotations

import time
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from dagster_kumo.local import LocalKumo
from tests.support import has


@pytest.fixture(scope="module")
def id(steady_api):
    return steady_api.run()["job_id"]


@pytest.fixture
def url(steady_api, id):
    return steady_api.urls(id)[0]


def get(url, **headers):
    return requests.get(
        url, headers={k.replace("_", "-"): v for k, v in headers.items()}, timeout=5
    )


def test_a_file_needs_no_key_and_takes_none(url, steady_api):
    assert get(url).content[:4] == b"PAR1"
    assert get(url, X_API_Key=steady_api.kumo.api_key).status_code == 400
    assert get(url, Authorization="Bearer x").status_code == 400


def test_urls_are_fresh_on_every_call(steady_api, id, url):
    again = steady_api.urls(id)[0]
    assert again != url
    assert get(again).content == get(url).content


def test_ranges(url):
    whole = get(url)
    body, etag = whole.content, whole.headers["ETag"]
    assert int(whole.headers["Content-Length"]) == len(body)
    assert whole.headers["Accept-Ranges"] == "bytes"
    for asked, expected in (
        ("bytes=0-99", body[:100]),
        ("bytes=100-", body[100:]),
        ("bytes=-8", body[-8:]),
        (f"bytes=10-{10 * len(body)}", body[10:]),
    ):
        part = get(url, Range=asked)
        assert (part.status_code, part.content) == (206, expected)
        assert part.headers["Content-Range"].endswith(f"/{len(body)}")
        assert part.headers["ETag"] == etag
    assert get(url, Range="bytes=0-9").headers["Content-Range"] == f"bytes 0-9/{len(body)}"
    beyond = get(url, Range=f"bytes={len(body)}-")
    unit = "bytes " if has("starlette", "1.0") else ""  # which older ones leave out
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"{unit}*/{len(body)}")
    for ignored in ("lines=1-2", "bytes=-", "bytes=0-1,3-4"):
        assert get(url, Range=ignored).status_code == 200


def test_conditions(url):
    etag = get(url).headers["ETag"]
    assert get(url, If_Match=etag).status_code == 200
    assert get(url, If_Match=f'"x", {etag}').status_code == 200
    refused = get(url, If_Match='"other"')
    assert (refused.status_code, refused.headers["ETag"]) == (412, etag)
    assert get(url, Range="bytes=5-", If_Range=etag).status_code == 206
    assert get(url, Range="bytes=5-", If_Range='"other"').status_code == 200


def test_head_is_refused(url):
    answer = requests.head(url, timeout=5)
    assert (answer.status_code, answer.content) == (403, b"")


def test_a_bad_signature_is_refused(url):
    other_file = url.replace("part-00000", "part-00001")
    longer = url.replace("X-Amz-Expires=3600", "X-Amz-Expires=36000")
    unsigned = url.partition("?")[0]
    for bad in (url[:-4] + "0000", other_file, longer, unsigned, url + "&more=1"):
        answer = get(bad)
        assert answer.status_code == 403
        assert answer.headers["Content-Type"] == "application/xml"
        assert "<Code>SignatureDoesNotMatch</Code>" in answer.text
    assert set(parse_qs(urlsplit(url).query)) >= {"X-Amz-Expires", "X-Amz-Signature"}


def test_urls_expire(make_api):
    with LocalKumo(url_lifetime=0.3) as kumo:
        api = make_api(kumo)
        id = api.run()["job_id"]
        url = api.urls(id)[0]
        assert get(url).status_code == 200
        time.sleep(0.35)
        answer = get(url)
        assert answer.status_code == 403
        assert "Request has expired" in answer.text
        assert get(api.urls(id)[0]).status_code == 200


def test_the_holdout_data(api):
    import io

    import pandas as pd

    url = api.call("GET", "/training_jobs/trainingjob-cdnow-purchase/holdout").text
    frame = pd.read_parquet(io.BytesIO(get(url).content))
    assert list(frame.columns) == ["ENTITY", "ANCHOR_TIMESTAMP", "TARGET", "TARGET_PRED"]
    assert 0.05 < frame["TARGET"].mean() < 0.1
