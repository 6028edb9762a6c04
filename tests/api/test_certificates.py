"""TLS: whose certificate is trusted, and how a refusal reads."""

from __future__ import annotations

import datetime as dt
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dagster_kumo import KumoClient, KumoConnectionError
from tests.api.scripted_server import Answer

KEY = "acme:s3cr3t"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that only those trust who are told to, with its private key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


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
    with pytest.raises(ValueError, match=r"not there: /no/such/bundle\.pem"):
        KumoClient(api_key=KEY, verify_ssl="/no/such/bundle.pem")


def test_plain_http_where_tls_is_expected_is_a_broken_connection(server):
    url = server.url.replace("http://", "https://")
    with pytest.raises(KumoConnectionError, match="2 attempts") as caught:
        KumoClient(url, KEY, request_max_retries=1).check()
    assert "certificate" not in str(caught.value)
