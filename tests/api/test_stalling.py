"""Servers that are never silent and never done."""

from __future__ import annotations

import time

import pytest

from dagster_kumo import KumoClient, KumoConnectionError
from tests.api.raw_server import RawServer, drip

KEY = "acme:s3cr3t"
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"

DRIPPING = {
    "status line": (b"", b"HTTP/1.1 200 " + b"O" * 10_000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-Padding: " + b"a" * 10_000),
    "body": (HEAD + b"Content-Length: 10000\r\n\r\n", b"[" + b" " * 10_000),
    "body without length": (HEAD + b"\r\n", b" " * 10_000),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 10_000),
    "length of a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 10_000),
}


def client_of(url: str, **options) -> KumoClient:
    return KumoClient(url, KEY, **{"request_timeout": 0.3, "request_max_retries": 1} | options)


@pytest.mark.parametrize(("at_once", "slowly"), DRIPPING.values(), ids=DRIPPING)
def test_an_answer_that_comes_byte_by_byte_counts_as_lost(at_once, slowly):
    def say(connection, _):
        connection.sendall(at_once)
        drip(connection, slowly)

    with RawServer(say) as server:
        with pytest.raises(
            KumoConnectionError, match="2 attempts: the answer did not come in time"
        ):
            client_of(server.url).check()
        assert len(server.requests) == 2


def test_an_answer_that_goes_on_and_on_counts_as_lost():
    def say(connection, _):
        connection.sendall(HEAD + b"\r\n")
        while True:
            connection.sendall(b" " * 2000)
            time.sleep(0.02)

    with RawServer(say) as server, pytest.raises(KumoConnectionError, match="not come in time"):
        client_of(server.url, request_max_retries=0).check()


def test_an_answer_that_never_gets_beyond_its_head_counts_as_lost():
    def say(connection, _):
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    with RawServer(say) as server, pytest.raises(KumoConnectionError, match="the connection broke"):
        client_of(server.url, request_max_retries=0, request_timeout=60).check()


def test_a_server_that_thinks_long_before_a_short_answer_is_waited_for():
    def say(connection, asked):
        if b"/authentication" in asked:
            connection.sendall(
                b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
            )
        elif b"/config" in asked:
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")
        else:
            time.sleep(0.8)
            connection.sendall(HEAD)
            time.sleep(0.8)
            connection.sendall(b"Content-Length: 2\r\n\r\n[]")

    with RawServer(say) as server:
        client_of(server.url, request_timeout=1.4, request_max_retries=0).check()
        assert len(server.requests) == 3


def test_a_proxys_consent_that_comes_byte_by_byte_counts_as_lost(monkeypatch):
    with RawServer(
        lambda connection, _: drip(connection, b"HTTP/1.1 200 " + b"O" * 10_000)
    ) as proxy:
        monkeypatch.setenv("https_proxy", proxy.origin)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with pytest.raises(KumoConnectionError, match="1 attempt"):
            client_of("https://kumo.invalid/api", request_max_retries=0).check()
