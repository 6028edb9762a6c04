"""Every byte that a run leaves behind is searched for secrets, also when the server repeats them."""

import json
import logging
import sqlite3
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from upath import UPath

from dagster_kumo import (
    BatchPrediction,
    BatchPredictionJobResult,
    KumoClient,
    KumoError,
    KumoIOManager,
    KumoResource,
    Predictions,
    SnowflakeConnector,
    SnowflakeCredentials,
    build_kumo_export_asset,
    kumo_assets,
)
from dagster_kumo.api.records import BatchPredictionRequest
from tests.system.deployments.databricks_server import TOKEN, DatabricksServer
from tests.system.deployments.kumo_server import DeployedKumo, _DeployedHandler
from tests.system.deployments.snowflake_server import PASSWORD, STAGE, SnowflakeServer
from tests.system.other_server import API_KEY, SIGNATURE, training_job
from tests.system.web_ui import REPOSITORY, web_ui

SIGNED = SIGNATURE.partition("=")[2]
OPTION = "0ption-s3cret"
SNOWFLAKE = {name: f"sn0wflake-{name}" for name in ("private_key", "private_key_passphrase")}
SECRETS = [API_KEY, API_KEY.partition(":")[2], SIGNED, OPTION, *SNOWFLAKE.values()]
DAY = "2026-11-05"
DAYS = dg.DailyPartitionsDefinition(start_date="2026-11-01", end_date="2026-11-20")

# A server that repeats what it should not ##################################################


class EchoingKumo(DeployedKumo):
    """Says the key and a signed url wherever it has something to say, and fails as it is told to."""

    def __init__(self) -> None:
        super().__init__(lambda _path, _content: None, self._urls)
        self._http.RequestHandlerClass = type("Handler", (_EchoingHandler,), {"kumo": self})
        self.leak = f"Did {self.origin}/data/x?{SIGNATURE}&a=b get the key {API_KEY}?"
        self.trouble = ""
        self.training_jobs = [training_job("trainingjob-1"), training_job("trainingjob-2")]
        self.training_jobs[1]["job_status_report"]["status"] = "FAILED"

    def _urls(self, output: str) -> list[str]:
        return [f"{self.origin}/data/{output}/{i}?{SIGNATURE}" for i in range(2)]

    def launch(self, body: dict[str, Any]) -> list[Any]:
        said = [{"title": self.leak, "message": self.leak}]
        if self.trouble == "refused launch":
            return [None, {"warnings": said, "errors": said}]
        job_id, _ = super().launch(body)
        report = self.jobs[job_id]["job_status_report"]
        report["tracking_url"] = f"{self.origin}/data/x?{SIGNATURE}&key={API_KEY}#{SIGNATURE}"
        report["event_log"] = [{"stage_name": self.leak, "detail": self.leak}]
        report["validation_response"] = {"warnings": said, "errors": said}
        if self.trouble == "failed job":
            report["status"] = "FAILED"
        return [job_id, {"warnings": said, "errors": []}]


class _EchoingHandler(_DeployedHandler):
    kumo: EchoingKumo

    def _opened(self) -> bool:
        return self.kumo.trouble != "wrong key"

    def _bytes(self, status: int, content: bytes, kind: str = "binary/octet-stream") -> None:
        trouble = self.kumo.trouble
        is_file = self.path.startswith("/data/")
        said = json.dumps({"detail": f"{self.kumo.leak} {dict(self.headers)}"}).encode()
        if trouble == "server in pieces" and not is_file:
            status, content = 503, said
        elif trouble == "expired urls" and is_file:
            status, content = 403, said
        elif trouble == "corrupt files" and is_file:
            content = content[: len(content) // 2]
        elif trouble == "no json" and not is_file:
            content = said[:-1]
        elif trouble == "redirect" and is_file:
            self.send_response(302)
            self.send_header("Location", f"{self.kumo.origin}/elsewhere?{SIGNATURE}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        elif trouble == "cut files" and is_file:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return None
        elif status >= 400:
            content = said
        return super()._bytes(status, content, kind)


@pytest.fixture(scope="module")
def server() -> Iterator[EchoingKumo]:
    with EchoingKumo() as server:
        yield server


# What is searched ##########################################################################


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """All that any library logs at its lowest level: messages, arguments and tracebacks."""
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    before = [logger.level for logger in loggers]
    caplog.set_level(logging.DEBUG)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    yield (
        lambda: (
            "\n".join(
                f"{record.getMessage()} {record.msg} {record.args} {record.exc_info}"
                for record in caplog.records
            )
            + caplog.text
        )
    )
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """An instance on disk that also stores what the libraries in use log."""
    # Not all of them: the storage's own logs would be stored by the storage, which waits for itself.
    managed = ["urllib3", "dagster_kumo", "fsspec", "somebody"]
    logs = {"managed_python_loggers": managed, "python_log_level": "DEBUG"}
    folder = str(tmp_path_factory.mktemp("dagster"))
    with dg.DagsterInstance.local_temp(folder, overrides={"python_logs": logs}) as instance:
        yield instance


def texts_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """The bytes of every file; of databases each value too, unpacked where it is packed."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        yield path, path.read_bytes()
        if path.suffix == ".db":
            yield from ((path, value) for value in values_of(path))


def values_of(database: Path) -> Iterator[bytes]:
    connection = sqlite3.connect(database)
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        for row in connection.execute(f'SELECT * FROM "{table}"'):
            for value in row:
                if isinstance(value, bytes):
                    try:
                        yield zlib.decompress(value)
                    except zlib.error:
                        yield value
                elif isinstance(value, str):
                    yield value.encode()
    connection.close()


def assert_no_secret(text: str | bytes, where: object, secrets: list[str] = SECRETS) -> None:
    found = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    for secret in secrets:
        at = found.find(secret.encode())
        assert at < 0, f"{where}: ...{found[max(0, at - 300) : at + 100]!r}"


def formatted(error: BaseException) -> str:
    """An error as anybody may show it: its traceback, its causes, and what its attributes hold."""
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and one not in seen:
            seen.append(one)
            left += [one.__cause__, None if one.__suppress_context__ else one.__context__]
    said = "".join(f"{one!r} {one} {one.args} {vars(one)}" for one in seen)
    return "".join(traceback.format_exception(error)) + said


# Runs ######################################################################################


@kumo_assets(
    name="churn",
    prediction=BatchPrediction(
        training_job_id="trainingjob-1", outputs=("predictions", "embeddings")
    ),
    partitions_def=DAYS,
)
def churn(context: dg.AssetExecutionContext, kumo: KumoResource):
    yield from kumo.predict(context)


@kumo_assets(
    name="untrained",
    prediction=BatchPrediction(training_job_id="trainingjob-3"),
    partitions_def=DAYS,
)
def untrained(context: dg.AssetExecutionContext, kumo: KumoResource):
    yield from kumo.predict(context)


@dg.asset(
    partitions_def=DAYS,
    ins={"predictions": dg.AssetIn(["churn", "predictions"], input_manager_key="kumo_io_manager")},
    io_manager_key="kumo_io_manager",
    required_resource_keys={"kumo", "kumo_io_manager"},
)
def said(context: dg.AssetExecutionContext, predictions: Predictions):
    """Shows whatever it was given, as people do when they look for a mistake."""
    print(predictions, predictions.paths, predictions.provenance, vars(predictions))
    print(context.resources.kumo, repr(context.resources.kumo_io_manager), file=sys.stderr)
    logging.getLogger("somebody").warning("%r %s", context.resources.kumo, predictions.files)
    return predictions.to_arrow(["ENTITY"])


export = build_kumo_export_asset(
    name="churn", predictions=churn, connector=SnowflakeConnector("w"), table_name="CHURN"
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KUMO_KEY", API_KEY)
    monkeypatch.setenv("TEST_STORE_OPTION", OPTION)


def resources(server: EchoingKumo, store: Path) -> dict[str, Any]:
    kumo = KumoResource(
        url=server.url,
        api_key=dg.EnvVar("TEST_KUMO_KEY"),
        request_max_retries=1,
        poll_interval=0.05,
    )
    options = {"auto_mkdir": True, "secret": dg.EnvVar("TEST_STORE_OPTION")}
    return {
        "kumo": kumo,
        "kumo_io_manager": KumoIOManager(
            base_path=str(store), storage_options=options, preview_rows=3, kumo=kumo
        ),
    }


TROUBLES = [
    "",
    "wrong key",
    "expired urls",
    "cut files",
    "corrupt files",
    "redirect",
    "failed job",
    "refused launch",
    "no such model",
    "server in pieces",
    "no json",
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=[t or "no trouble" for t in TROUBLES])
def test_no_secret_is_in_what_a_run_leaves_behind(
    server: EchoingKumo,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    everything_logged: Callable[[], str],
    capfd: pytest.CaptureFixture[str],
    trouble: str,
) -> None:
    server.trouble = trouble
    run = dg.materialize(
        [untrained] if trouble == "no such model" else [churn, said, export],
        instance=instance,
        partition_key=DAY,
        resources=resources(server, tmp_path / "store"),
        raise_on_error=False,
    )
    assert run.success == (trouble == "")
    out, err = capfd.readouterr()
    assert_no_secret(out + err, "printed")
    assert_no_secret(everything_logged(), "logged")
    assert "GET /" in everything_logged()
    for event in run.all_events:
        assert_no_secret(repr(event), event.event_type_value)
    for path, content in texts_below(tmp_path):
        assert_no_secret(content, path)
    for path, content in texts_below(Path(instance.root_directory)):
        assert_no_secret(content, path)


@pytest.mark.parametrize("trouble", [t for t in TROUBLES if t and t != "no such model"])
def test_no_secret_is_in_an_error_or_its_causes(server: EchoingKumo, trouble: str) -> None:
    server.trouble = trouble
    client = KumoClient(server.url, API_KEY, request_max_retries=0)
    request = BatchPredictionRequest(
        model_training_job_id="trainingjob-1", prediction_time=f"{DAY}T00:00:00Z"
    )

    def use() -> None:
        job_id, _ = client.create_prediction_job(request)
        BatchPredictionJobResult(job_id, client).predictions().to_arrow()

    with pytest.raises(KumoError) as caught:
        use()
    assert_no_secret(formatted(caught.value), "error")


def test_no_secret_is_logged_or_told_where_outputs_are_read_with_other_clients(
    everything_logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snowflake's connector and databricks-sdk log at DEBUG what they do; it holds no secret of theirs."""
    request = BatchPredictionRequest(
        model_training_job_id="trainingjob-1", prediction_time=f"{DAY}T00:00:00Z"
    )

    def read(client: KumoClient) -> None:
        job_id, _ = client.create_prediction_job(request)
        BatchPredictionJobResult(job_id, client).predictions().to_arrow()

    secrets = [API_KEY, PASSWORD, TOKEN]
    with SnowflakeServer() as snowflake:
        with DeployedKumo(
            snowflake.put, lambda output: [f"@{STAGE}/{output}"], snowflake.accepts
        ) as kumo:
            client = KumoClient(kumo.url, snowflake=snowflake.credentials, request_max_retries=0)
            read(client)
            snowflake.revoke()
            client.check()
        secrets += snowflake.tokens
    volume = "/Volumes/main/kumo/outputs"
    with DatabricksServer() as workspace:
        monkeypatch.setenv("DATABRICKS_HOST", workspace.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
        with DeployedKumo(
            lambda path, content: workspace.files.update({f"{volume}/{path}": content}),
            lambda output: [f"dbfs:{volume}/{output}"],
        ) as kumo:
            read(KumoClient(kumo.url, kumo.api_key, request_max_retries=0))
        secrets.append(workspace.signature)
    logged = everything_logged()
    assert "snowflake.connector" in logged
    assert "create-download-url" in logged
    assert_no_secret(logged, "logged", secrets)


def test_a_secret_of_the_storage_comes_from_the_environment(
    server: EchoingKumo, monkeypatch: pytest.MonkeyPatch, s3_options: dict[str, Any]
) -> None:
    server.trouble = ""
    endpoint = s3_options["endpoint_url"]
    options = {"key": "k", "secret": OPTION, "client_kwargs": {"endpoint_url": endpoint}}
    UPath("s3://secret-store", **options).mkdir()
    monkeypatch.setenv("TEST_ENDPOINT", endpoint)
    given = {
        "key": "k",
        "secret": dg.EnvVar("TEST_STORE_OPTION"),
        "client_kwargs": {"endpoint_url": dg.EnvVar("TEST_ENDPOINT")},
    }
    kumo = resources(server, Path("/"))["kumo"]
    run = dg.materialize(
        [churn],
        partition_key=DAY,
        resources={
            "kumo": kumo,
            "kumo_io_manager": KumoIOManager(
                base_path="s3://secret-store/x", storage_options=given
            ),
        },
    )
    assert run.success
    assert UPath(f"s3://secret-store/x/churn/predictions/{DAY}/manifest.json", **options).exists()


# The UI ####################################################################################

LITERALS = KumoResource(
    url="https://kumo.example/api",
    api_key=API_KEY,
    snowflake=SnowflakeCredentials(user="u", account="a", **SNOWFLAKE),
)
defs = dg.Definitions(
    assets=[churn, said, export],
    resources={
        "kumo": LITERALS,
        "kumo_io_manager": KumoIOManager(
            base_path="/store", storage_options={"secret": OPTION}, kumo=LITERALS
        ),
    },
)
"""With secrets written out, as nobody should do it."""

RESOURCE_PAGE = """
query ($selector: ResourceSelector!) {
  topLevelResourceDetailsOrError(resourceSelector: $selector) {
    __typename
    ... on ResourceDetails {
      name description resourceType
      configFields { name description isRequired defaultValueAsJson
        configType { key description ... on CompositeConfigType { fields { name defaultValueAsJson } } } }
      configuredValues { key value type }
      nestedResources { name type resource { name configuredValues { key value } } }
    }
  }
}
"""
RUN_PAGE = """
query ($runId: ID!) {
  runOrError(runId: $runId) { ... on Run { runConfigYaml tags { key value } } }
  logsForRun(runId: $runId, limit: 1000) {
    ... on EventConnection {
      events {
        __typename
        ... on MessageEvent { message }
        ... on ExecutionStepFailureEvent { error { message stack causes { message } } }
        ... on MaterializationEvent { metadataEntries {
          label description
          ... on TextMetadataEntry { text }
          ... on UrlMetadataEntry { url }
          ... on MarkdownMetadataEntry { mdStr }
          ... on TableMetadataEntry { table { records } }
        } }
      }
    }
  }
}
"""


def test_no_secret_is_in_what_the_ui_asks_for(
    server: EchoingKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    runs = []
    for server.trouble in ("", "failed job"):
        run = dg.materialize(
            [churn],
            instance=instance,
            partition_key="2026-11-06",
            resources=resources(server, tmp_path / "store"),
            raise_on_error=False,
        )
        runs.append(run.run_id)
    with web_ui(instance, __name__) as ask:
        for name in ("kumo", "kumo_io_manager"):
            page = ask(RESOURCE_PAGE, selector={**REPOSITORY, "resourceName": name})
            details = page["topLevelResourceDetailsOrError"]
            assert details["name"] == name, page
            assert_no_secret(json.dumps(page), name)
            values = {field["key"]: field["value"] for field in details["configuredValues"]}
            hidden = ["api_key", "snowflake"] if name == "kumo" else ["storage_options"]
            assert all("****" in values[key] for key in hidden), values
        for run_id in runs:
            page = ask(RUN_PAGE, runId=run_id)
            assert len(page["logsForRun"]["events"]) > 10
            assert_no_secret(json.dumps(page), run_id)
    shown = [*defs.resources.values()] if defs.resources else []
    assert_no_secret(f"{shown!r} {[str(one) for one in shown]} {defs!r}", "repr")
