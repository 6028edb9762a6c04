"""Neither the key nor a presigned url's signature is in any error, cause or log."""

from __future__ import annotations

import logging
import socket
import traceback

import pytest

from dagster_kumo import BatchPredictionJobResult, KumoClient, KumoError
from dagster_kumo.predictions.predictions import Predictions
from dagster_kumo.predictions.remote.download import RemoteFile
from dagster_kumo.predictions.remote.output_urls import OutputUrls
from tests.api.scripted_server import Answer

FILES = r"^/files/"
LISTING = "get_prediction_df_urls"


@pytest.fixture
def everything_logged(caplog):
    """All that is logged by anybody, at the lowest level."""
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "requests", "dagster_kumo", "fsspec"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


def assert_secrets_kept(kumo, error: BaseException, log: str) -> None:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    shown = "".join(traceback.format_exception(seen[0]))
    shown += "".join(f"{one!r} {one} {vars(one)}" for one in seen)
    for text in (shown, log):
        assert "X-Amz" not in text
        assert kumo.api_key not in text


FAULTS = {
    "refused": lambda faults: faults.answer(403, body="<Error/>", path=FILES, times=None),
    "gone": lambda faults: faults.answer(404, path=FILES, times=None),
    "broken server": lambda faults: faults.answer(500, path=FILES, times=None),
    "moved": lambda faults: faults.answer(
        302, path=FILES, times=None, headers={"Location": "https://h/x?X-Amz-Signature=1"}
    ),
    "dropped": lambda faults: faults.drop(path=FILES, times=None),
    "no answer": lambda faults: faults.delay(30, path=FILES, times=None),
    "cut": lambda faults: faults.cut(0, times=None),
    "corrupt": lambda faults: faults.corrupt(times=None),
    "no renewal": lambda faults: (
        faults.answer(403, path=FILES, times=None),
        faults.answer(
            400, body="?X-Amz-Signature=1 of https://h/p?X-Amz-Signature=1", path=LISTING, after=1
        ),
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize(
    "read",
    [lambda output: output.to_arrow(), lambda output: output.to_arrow(["ENTITY"])],
    ids=["whole", "in parts"],
)
def test_reading_a_live_output_in_trouble(kumo, done_job_id, everything_logged, fault, read):
    client = KumoClient(kumo.url, kumo.api_key, request_max_retries=1, request_timeout=0.3)
    output = BatchPredictionJobResult(done_job_id, client).predictions()
    fault(kumo.faults)
    with pytest.raises(KumoError) as caught:
        read(output)
    assert_secrets_kept(kumo, caught.value, everything_logged.text)


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:{closed}", "http://files.invalid", "https://127.0.0.1:{closed}"]
)
def test_a_host_of_files_that_cannot_be_reached(kumo, client, everything_logged, origin):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"{origin.format(closed=closed.getsockname()[1])}/part?X-Amz-Signature=1"
        remote = RemoteFile(OutputUrls(lambda: [url], what="The output"), 0, client.files)
        with pytest.raises(KumoError) as caught:
            Predictions([remote]).to_arrow()
    assert_secrets_kept(kumo, caught.value, everything_logged.text)


def test_reading_a_live_output_without_trouble(result, kumo, everything_logged):
    output = result.predictions()
    output.to_arrow(["ENTITY"])
    assert "X-Amz" not in f"{output!r} {output.provenance} {result!r} {everything_logged.text}"
    assert kumo.api_key not in everything_logged.text
    assert "GET /files/" in everything_logged.text


def test_calls_of_the_api_in_trouble(kumo, everything_logged):
    client = KumoClient(kumo.url, kumo.api_key, request_max_retries=1)
    for inject in (
        lambda: kumo.faults.answer(503, times=2, path="/connectors"),
        lambda: kumo.faults.drop(times=2, path="/connectors"),
        lambda: kumo.faults.answer(400, body={"detail": kumo.api_key}, path="/connectors"),
        lambda: kumo.faults.answer(200, body=f"<html>{kumo.api_key}", path="/connectors"),
    ):
        inject()
        with pytest.raises(KumoError) as caught:
            client.check()
        assert_secrets_kept(kumo, caught.value, everything_logged.text)


def test_the_netrc_file_is_not_used(kumo, result, tmp_path, monkeypatch):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password pa55\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    result.predictions().to_arrow()
    assert [r.path for r in kumo.requests if r.path.startswith("/files/")]
    assert not [r for r in kumo.requests if "authorization" in r.headers]
    keys = {r.path.startswith("/files/"): r.headers.get("x-api-key") for r in kumo.requests}
    assert keys == {True: None, False: kumo.api_key}


def test_a_proxy_of_the_environment_is_used(server, monkeypatch):
    """The key goes to the deployment through the proxy that the machine is told to use."""
    monkeypatch.setenv("HTTP_PROXY", server.origin)
    monkeypatch.setenv("http_proxy", server.origin)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    server.answer_by(lambda _: Answer(b"[]"))
    KumoClient("http://kumo.invalid/api", "acme:s3cr3t").check()
    assert server.requests[-1].path == "http://kumo.invalid/api/v1/connectors"
