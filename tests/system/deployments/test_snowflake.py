"""A deployment in Snowpark Container Services, with the real connector against a server of its protocol."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from dagster_kumo import (
    BatchPredictionJobResult,
    KumoAuthenticationError,
    KumoClient,
    KumoConnectionError,
    KumoDataError,
    KumoError,
    KumoResource,
    Predictions,
    SnowflakeCredentials,
)
from dagster_kumo.api.records import BatchPredictionRequest
from tests.predictions.outputs import parquet_bytes
from tests.system.deployments.deployment import shows_the_whole_way
from tests.system.deployments.kumo_server import DeployedKumo
from tests.system.deployments.snowflake_server import (
    ACCOUNT,
    PASSWORD,
    STAGE,
    USER,
    SnowflakeServer,
)
from tests.system.other_server import ROWS_PER_FILE, SIGNATURE

DAY = "2026-11-05T00:00:00Z"


@pytest.fixture
def snowflake() -> Iterator[SnowflakeServer]:
    with SnowflakeServer() as server:
        yield server


@pytest.fixture
def server(snowflake: SnowflakeServer) -> Iterator[DeployedKumo]:
    """Kumo's service: its outputs are directories on a stage of the account."""
    with DeployedKumo(
        snowflake.put, lambda output: [f"@{STAGE}/{output}"], snowflake.accepts
    ) as server:
        yield server


@pytest.fixture
def client(server: DeployedKumo, snowflake: SnowflakeServer) -> KumoClient:
    return KumoClient(server.url, snowflake=snowflake.credentials, request_max_retries=0)


# Credentials


PEM = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(passphrase: str | None = None) -> str:
    encryption: Any = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    return PEM.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    ).decode()


@pytest.mark.parametrize(
    "key",
    [
        {"private_key": pem()},
        {"private_key": pem("open-sesame"), "private_key_passphrase": "open-sesame"},
        {"private_key": pem().replace("\n", "\\n")},  # as an environment variable may hold it
    ],
    ids=["plain", "encrypted", "on one line"],
)
def test_a_key_pair_logs_in(server, snowflake, key):
    snowflake.public_key = PEM.public_key()
    credentials = {"user": USER, "account": ACCOUNT, "host": snowflake.origin, **key}
    KumoClient(server.url, snowflake=credentials).check()
    assert snowflake.logins == 1


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ({"private_key": "s3cret, but no key"}, "BEGIN PRIVATE KEY"),
        ({"private_key": pem("s3cret")}, "give private_key_passphrase"),
        ({"private_key": pem("s3cret"), "private_key_passphrase": "wr0ng"}, "right one"),
        (
            {"private_key": pem(), "private_key_passphrase": "s3cret"},
            "leave private_key_passphrase",
        ),
    ],
)
def test_a_key_that_cannot_be_read_says_why(server, key, said):
    client = KumoClient(server.url, snowflake={"user": USER, "account": ACCOUNT, **key})
    with pytest.raises(ValueError, match=said) as caught:
        client.check()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("credentials", "said"),
    [
        ({}, "lack user and account"),
        ({"user": "u", "password": "s3cret"}, "lack account"),
        ({"user": "u", "account": "a"}, "neither"),
        ({"user": "u", "account": "a", "password": ""}, "neither"),
        ({"user": "u", "account": "a", "password": "s3cret", "private_key": "s3cret"}, "both"),
        (
            {"user": "u", "account": "a", "password": "s3cret", "private_key_passphrase": "s3cret"},
            "needs a private_key",
        ),
        ({"user": "u", "account": "a", "password": "s3cret", "token": "s3cret"}, "have no token"),
    ],
)
def test_credentials_that_do_not_fit_together_are_refused(credentials, said):
    with pytest.raises(ValueError, match=said) as caught:
        KumoClient("https://kumo.example/api", snowflake=credentials)
    assert "s3cret" not in str(caught.value)


def test_a_key_and_credentials_are_too_much_and_an_address_is_needed(snowflake, monkeypatch):
    with pytest.raises(ValueError, match="and not both"):
        KumoClient("https://k.example/api", "acme:s3cr3t", snowflake=snowflake.credentials)
    with pytest.raises(ValueError, match="SHOW ENDPOINTS"):
        KumoClient(snowflake=snowflake.credentials)
    # A key in the environment is not one that was given.
    monkeypatch.setenv("KUMO_API_KEY", "acme:s3cr3t")
    KumoClient("https://k.example/api", snowflake=snowflake.credentials)


def test_a_wrong_password_and_an_account_that_does_not_answer(server, snowflake):
    wrong = {**snowflake.credentials, "password": "wr0ng-s3cret"}
    with pytest.raises(KumoAuthenticationError, match="Incorrect username or password") as caught:
        KumoClient(server.url, snowflake=wrong).check()
    assert "wr0ng-s3cret" not in str(caught.value)
    snowflake.down = True
    with pytest.raises(KumoConnectionError, match="could not be reached"):
        KumoClient(server.url, snowflake=snowflake.credentials).check()


# The token


def test_the_token_opens_the_service_and_is_issued_once(client, snowflake, server):
    for _ in range(3):
        client.check()
    assert len(snowflake.tokens) == snowflake.logins == 1
    assert server.refused == 0


def test_a_refused_token_is_renewed_once_and_the_launch_goes_through(client, snowflake, server):
    client.check()
    snowflake.revoke()
    request = BatchPredictionRequest(model_training_job_id="trainingjob-1", prediction_time=DAY)
    client.create_prediction_job(request)
    assert (len(snowflake.tokens), server.refused, len(server.launches)) == (2, 1, 1)


def test_a_second_refusal_stands_and_shows_no_token(client, snowflake, server, caplog):
    caplog.set_level(logging.DEBUG)
    server.accepts = lambda _: False
    with pytest.raises(KumoAuthenticationError, match="Check the Snowflake credentials") as caught:
        client.check()
    assert caught.value.status_code == 401
    assert (len(snowflake.tokens), server.refused) == (2, 2)
    shown = f"{caught.value} {caught.value.detail} {client!r} {client.snowflake!r} {caplog.text}"
    for secret in (*snowflake.tokens, PASSWORD):
        assert secret not in shown


def test_a_token_is_renewed_before_it_expires(client, snowflake, server):
    snowflake.token_lifetime = 2
    client.check()
    time.sleep(1.9)
    client.check()
    assert (len(snowflake.tokens), server.refused) == (2, 0)


def test_many_threads_renew_once(client, snowflake, server):
    client.check()
    snowflake.revoke()
    together = threading.Barrier(8)

    def check(_: int) -> None:
        together.wait()
        client.check()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, range(8)))
    assert len(snowflake.tokens) == 2
    assert 1 <= server.refused <= 8


def test_presigned_urls_get_no_token(server, snowflake, client):
    server.addresses = lambda output: [
        f"{server.origin}/data/{output}/{i}?{SIGNATURE}" for i in range(2)
    ]
    seen: list[str] = []
    server.accepts = lambda header: seen.append(header) or snowflake.accepts(header)
    request = BatchPredictionRequest(model_training_job_id="trainingjob-1", prediction_time=DAY)
    result = BatchPredictionJobResult(client.create_prediction_job(request)[0], client)
    assert all(seen)
    seen.clear()
    with pytest.raises(KumoDataError, match="401"):
        result.predictions().to_arrow()  # this server asks for a token there too
    assert "" in seen


# Files on a stage


def test_a_directory_on_a_stage_is_read_in_order(result, snowflake):
    # Listed too, since the names begin alike; and what is no data.
    job = result.id
    for name in (f"{job}/predictions_old/part-0.parquet", f"{job}/predictions/_SUCCESS"):
        snowflake.put(name, b"not of this output")
    predictions = result.predictions()
    assert [file.name for file in predictions.files] == ["part-0.parquet", "part-1.parquet"]
    assert predictions.to_arrow()["ENTITY"].to_pylist() == list(range(2 * ROWS_PER_FILE))
    assert predictions.num_rows == 2 * ROWS_PER_FILE
    assert result.predictions_urls() == [f"@{STAGE}/{job}/predictions"]
    assert result.embeddings_df().shape == (2 * ROWS_PER_FILE, 2)


def test_a_file_on_a_stage_is_read(result, server, snowflake):
    server.addresses = lambda output: [f"@{STAGE}/{output}/part-1.parquet"]
    snowflake.put(f"{result.id}/predictions/part-1.parquet.bak", b"its name begins alike")
    assert result.predictions().to_arrow()["ENTITY"][0].as_py() == ROWS_PER_FILE


def test_many_threads_read_through_one_connection(result, snowflake):
    files = result.predictions().files * 8
    logins = snowflake.logins
    with ThreadPoolExecutor(4) as pool:
        rows = [table.num_rows for table in pool.map(lambda f: Predictions([f]).to_arrow(), files)]
    assert rows == [ROWS_PER_FILE] * 16
    assert snowflake.logins == logins


@pytest.mark.parametrize(
    "address",
    [
        f"@{STAGE}/out' ; DROP TABLE users; --",
        f"@{STAGE}/out\\' x",
        f"@{STAGE}/out\n'",
        "@db.schema.sta'ge/out",
        "@db.schema.stage; select 1/out",
        '@"db\'".schema.stage/out',
        "@~/out",
        "@a.b.c.d/out",
        "@",
    ],
)
def test_an_address_that_could_end_a_statement_never_becomes_one(
    result, server, snowflake, address
):
    server.addresses = lambda _: [address]
    with pytest.raises(KumoDataError, match="not a path on a Snowflake stage"):
        result.predictions()
    assert snowflake.statements == []


def test_names_that_the_stage_lists_are_not_trusted_either(result, snowflake):
    snowflake.put(f"{result.id}/predictions/x' 'file:///etc/.parquet", b"")
    with pytest.raises(KumoDataError, match="not a name on an internal stage"):
        result.predictions()
    assert not any(statement.startswith("GET") for statement in snowflake.statements)


def test_a_stage_that_may_not_be_read_and_one_that_is_empty(result, server):
    server.addresses = lambda _: ["@other.schema.stage/out"]
    with pytest.raises(KumoDataError, match="does not exist or not authorized"):
        result.predictions()
    server.addresses = lambda _: [f"@{STAGE}/nothing/here"]
    with pytest.raises(KumoDataError, match="no Parquet files"):
        result.predictions()


def test_a_file_that_is_gone_or_has_another_length_is_a_data_error(result, snowflake):
    predictions = result.predictions()
    name = f"{result.id}/predictions/part-0.parquet"
    snowflake.put(name, parquet_bytes(pa.table({"ENTITY": list(range(100_000))})))
    snowflake.forget(name)
    with pytest.raises(KumoDataError, match="bytes, but"):
        predictions.to_arrow()
    del snowflake.files[name]
    with pytest.raises(KumoDataError, match="part-0"):
        predictions.to_arrow()


def test_a_stage_without_credentials_says_what_is_missing(snowflake):
    with DeployedKumo(snowflake.put, lambda output: [f"@{STAGE}/{output}"]) as server:
        client = KumoClient(server.url, server.api_key)
        request = BatchPredictionRequest(model_training_job_id="trainingjob-1", prediction_time=DAY)
        job_id, _ = client.create_prediction_job(request)
        with pytest.raises(KumoError, match="KumoResource\\(snowflake="):
            BatchPredictionJobResult(job_id, client).predictions()


# In Dagster


def test_assets_are_materialized_from_a_stage_and_exported(
    server, snowflake, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("SNOWFLAKE_PASSWORD", PASSWORD)
    kumo = KumoResource(
        url=server.url,
        snowflake=SnowflakeCredentials(
            user=USER,
            account=ACCOUNT,
            password=dg.EnvVar("SNOWFLAKE_PASSWORD"),
            host=snowflake.origin,
        ),
    )
    metadata = shows_the_whole_way(server, kumo, tmp_path)
    assert metadata["dagster/row_count"] == 2 * ROWS_PER_FILE
    assert not any(secret in str(metadata) for secret in (*snowflake.tokens, PASSWORD))


def test_secrets_are_hidden_from_repr_and_from_the_ui():
    secrets = {
        "password": "s3cret-1",
        "private_key": "s3cret-2",
        "private_key_passphrase": "s3cret-3",
    }
    credentials = SnowflakeCredentials(user="u", account="a", **secrets)
    kumo = KumoResource(url="https://kumo.example/api", snowflake=credentials)
    assert "s3cret" not in f"{credentials!r} {credentials} {kumo!r} {kumo}"
    fields = KumoResource.to_config_schema().as_field().config_type.fields
    assert fields["snowflake"].is_secret
    assert fields["api_key"].is_secret
