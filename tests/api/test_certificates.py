"""TLS: whose certificate is trusted, and how a refusal reads."""

from __future__ import annotations

import pytest

from dagster_kumo import KumoAPIError, KumoClient, KumoConnectionError
from tests.api.scripted_server import Answer

KEY = "acme:s3cr3t"


@pytest.fixture
def secure_url(server, certificate) -> str:
    server.answer(Answer(b"[]"))
    server.use_tls(certificate)
    return f"https://{server.origin.removeprefix('http://')}/api"


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(secure_url, server):
    with pytest.raises(KumoConnectionError, match=r"1 attempt: the TLS certificate .*verify_ssl"):
        KumoClient(secure_url, KEY, request_max_retries=8).check()
    assert server.requests == []


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("trusted", [True, False])
def test_a_bundle_of_ones_own_is_trusted_and_so_is_everybody_if_asked(
    secure_url, server, certificate, trusted
):
    KumoClient(secure_url, KEY, verify_ssl=str(certificate) if trusted else False).check()
    assert [call.headers["x-api-key"] for call in server.calls] == [KEY]


def test_a_bundle_of_the_environment_is_trusted(secure_url, server, certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    KumoClient(secure_url, KEY).check()
    assert len(server.calls) == 1


def test_a_bundle_that_is_not_there_is_refused_at_once():
    with pytest.raises(ValueError, match=r"does not exist: /no/such/bundle\.pem"):
        KumoClient(api_key=KEY, verify_ssl="/no/such/bundle.pem")


def test_plain_http_where_tls_is_expected_is_a_broken_connection(server):
    url = server.url.replace("http://", "https://")
    with pytest.raises(KumoConnectionError, match="2 attempts") as caught:
        KumoClient(url, KEY, request_max_retries=1).check()
    assert "certificate" not in str(caught.value)


def test_a_redirect_to_plain_http_is_not_followed(secure_url, server, elsewhere, certificate):
    server.answer(Answer(b"", 302, {"Location": f"{elsewhere.origin}/api/v1/connectors"}))
    with pytest.raises(KumoAPIError, match="redirected to http://"):
        KumoClient(secure_url, KEY, verify_ssl=str(certificate)).check()
    assert elsewhere.requests == []
