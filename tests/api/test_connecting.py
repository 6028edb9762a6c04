"""Where the address and the key come from, and what is refused before anything is sent."""

from __future__ import annotations

import traceback

import pytest

from dagster_kumo import KumoAuthenticationError, KumoClient
from tests.api.scripted_server import Answer

pytestmark = pytest.mark.fast

KEY = "acme:s3cr3t"
URL = "https://acme.kumoai.cloud/api"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    monkeypatch.delenv("KUMO_API_KEY", raising=False)
    monkeypatch.delenv("KUMO_API_ENDPOINT", raising=False)


def test_the_key_names_the_customer_and_so_the_address():
    assert KumoClient(api_key=KEY).url == URL


def test_the_environment_gives_what_is_not_passed(monkeypatch):
    monkeypatch.setenv("KUMO_API_KEY", "from:environment")
    assert KumoClient().url == "https://from.kumoai.cloud/api"
    monkeypatch.setenv("KUMO_API_ENDPOINT", "https://endpoint.example/api")
    assert KumoClient().url == "https://endpoint.example/api"
    assert KumoClient("https://passed.example/api").url == "https://passed.example/api"


def test_the_key_of_the_environment_is_the_one_that_is_sent(server, monkeypatch):
    monkeypatch.setenv("KUMO_API_KEY", "from:environment")
    monkeypatch.setenv("KUMO_API_ENDPOINT", server.url)
    server.answer(Answer(b"[]"))
    KumoClient().check()
    KumoClient(api_key=KEY).check()
    keys = [call.headers["x-api-key"] for call in server.calls]
    assert keys == ["from:environment", KEY]


@pytest.mark.parametrize("url", [URL + "/", URL + "/v1", f" {URL} ", URL + "/v1/"])
def test_an_address_may_be_written_in_more_ways_than_one(url):
    assert KumoClient(url, KEY).url == URL


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        (None, "KUMO_API_KEY"),
        ("", "KUMO_API_KEY"),
        ("   ", "KUMO_API_KEY"),
        ("acme:s3cr3t\n", "line break"),
        ("acme:s3 cr3t", "white space"),
        ("acme:s3cr3t\u200b", "white space or another invalid"),
        ("s3cr3t", "<customer_id>:<secret>"),
        (":s3cr3t", "<customer_id>:<secret>"),
        ("ac/me:s3cr3t", "<customer_id>:<secret>"),
        ("evil.example/?:s3cr3t", "<customer_id>:<secret>"),
    ],
)
def test_a_key_that_cannot_be_right_is_refused_without_being_shown(key, advice):
    with pytest.raises(ValueError, match=advice) as caught:
        KumoClient(api_key=key)
    assert "cr3t" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url",
    [
        "acme.kumoai.cloud",
        "ftp://acme.kumoai.cloud",
        "https://",
        "https:///api",
        "https://acme.kumoai.cloud/api?token=t0ken",
        "https://acme.kumoai.cloud/api#t0ken",
        "https://user:t0ken@acme.kumoai.cloud/api",
        "https://acme.kumoai.cloud:t0ken/api",
        "https://acme.kumoai.cloud:99999/api",
        "https://[::1/api",
        "https://ac me/api",
        "acme:t0ken",
    ],
)
def test_an_address_that_cannot_be_right_is_refused_without_its_secrets(url):
    with pytest.raises(ValueError, match="Not an address of a Kumo API") as caught:
        KumoClient(url, KEY)
    assert "t0ken" not in "".join(traceback.format_exception(caught.value))


def test_nothing_secret_is_in_the_representation(kumo):
    client = KumoClient(kumo.url, kumo.api_key)
    assert kumo.api_key not in f"{client!r} {client} {client.files!r} {vars(client)}"
    assert kumo.url in repr(client)


def test_check_tells_whether_the_server_accepts_the_key(kumo, client):
    client.check()
    with pytest.raises(KumoAuthenticationError, match="KUMO_API_KEY") as caught:
        KumoClient(kumo.url, "acme:wr0ng").check()
    assert caught.value.status_code == 401
    assert "Invalid API key" in caught.value.detail
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize(
    ("tracking_url", "shown"),
    [
        ("http://internal:8080/jobs/1?tab=2#top", "https://acme.kumoai.cloud/jobs/1?tab=2#top"),
        ("", ""),
        ("not started yet", "not started yet"),
    ],
)
def test_a_tracking_url_names_the_deployment(tracking_url, shown):
    assert KumoClient(api_key=KEY).public_url(tracking_url) == shown
