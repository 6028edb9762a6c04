"""The proxies that a machine is told to use, by the environment's usual names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dagster_kumo import KumoClient, KumoConnectionError
from dagster_kumo.predictions.remote.download import RemoteFile
from dagster_kumo.predictions.remote.output_urls import OutputUrls
from tests.api.forward_proxy import ForwardProxy
from tests.api.scripted_server import Answer
from tests.predictions.outputs import fetch

KEY = "acme:s3cr3t"


@pytest.fixture
def proxy(monkeypatch) -> Iterator[ForwardProxy]:
    """A proxy that the environment names for nothing yet."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with ForwardProxy() as proxy:
        yield proxy


@pytest.fixture
def port(server) -> str:
    server.answer(Answer(b"[]"))
    return server.origin.rpartition(":")[2]


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_plain_requests_go_through_the_proxy(proxy, server, port, monkeypatch, name):
    monkeypatch.setenv(name, proxy.origin)
    KumoClient(f"http://kumo.test:{port}/api", KEY).check()
    assert f"GET http://kumo.test:{port}/api/v1/connectors" in proxy.lines
    assert server.calls[0].headers["x-api-key"] == KEY


def test_https_goes_through_a_tunnel_in_which_the_proxy_sees_no_key(
    proxy, server, port, monkeypatch, certificate
):
    server.use_tls(certificate)
    monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
    KumoClient(f"https://127.0.0.1:{port}/api", KEY, verify_ssl=str(certificate)).check()
    assert set(proxy.lines) == {f"CONNECT 127.0.0.1:{port}"}
    assert KEY.encode() not in b"".join(proxy.requests)
    assert server.calls[0].headers["x-api-key"] == KEY


def test_a_tunnel_does_not_make_up_for_a_certificate(proxy, server, port, monkeypatch, certificate):
    server.use_tls(certificate)
    monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
    with pytest.raises(KumoConnectionError, match=r"1 attempt: the TLS certificate"):
        KumoClient(f"https://127.0.0.1:{port}/api", KEY).check()
    assert server.requests == []


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_hosts_that_are_excepted_are_asked_directly(proxy, server, port, monkeypatch, name):
    monkeypatch.setenv("HTTP_PROXY", proxy.origin)
    monkeypatch.setenv(name, "example.org,127.0.0.1")
    KumoClient(f"http://127.0.0.1:{port}/api", KEY).check()
    assert proxy.requests == []
    assert len(server.calls) == 1


def test_files_go_through_the_proxy_without_the_key(proxy, port, monkeypatch, tmp_path):
    monkeypatch.setenv("HTTP_PROXY", proxy.origin)
    url = f"http://bucket.test:{port}/part-0.parquet?X-Amz-Signature=s1g"
    files = KumoClient(f"http://kumo.test:{port}/api", KEY).files
    fetch(RemoteFile(OutputUrls(lambda: [url], what="The output"), 0, files), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == b"[]"
    assert proxy.lines == [f"GET {url}"]
    assert b"s3cr3t" not in b"".join(proxy.requests)


def test_a_proxy_that_refuses_is_named_as_the_cause(server, port, monkeypatch, elsewhere):
    elsewhere.answer(Answer(b"", 407))
    monkeypatch.setenv("HTTPS_PROXY", elsewhere.origin)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(KumoConnectionError, match=r"the proxy did not answer \(HTTP_PROXY"):
        KumoClient(f"https://kumo.test:{port}/api", KEY, request_max_retries=0).check()
    assert server.requests == []
