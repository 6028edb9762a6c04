"""The whole way against a server that the vendor's models of 3.0 make: what holds here holds by the API."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import requests
from click.testing import CliRunner

from dagster_kumo import (
    BatchPrediction,
    BatchPredictionJobResult,
    GCSConnector,
    KumoClient,
    KumoError,
    KumoExport,
    KumoIOManager,
    KumoResource,
    S3Connector,
    SnowflakeConnector,
    build_kumo_assets_definitions,
    build_kumo_export_asset,
    build_kumo_sensor,
)
from dagster_kumo.cli import main
from tests.system.contract.environments import python_with_sdk

API_KEY = "acme:s3cr3t-of-acme"
DAYS = dg.DailyPartitionsDefinition(start_date="2026-11-01", end_date="2026-11-20")
PREDICTIONS = dg.AssetKey(["churn", "predictions"])
CHURN = build_kumo_assets_definitions(
    name="churn",
    prediction=BatchPrediction(
        training_job_id="trainingjob-1", outputs=("predictions", "embeddings"), num_workers=2
    ),
    partitions_def=DAYS,
    exports=[
        KumoExport(
            connector=SnowflakeConnector("warehouse"), table_name="CHURN", write_mode="APPEND"
        ),
        KumoExport(connector=S3Connector("s3://company/kumo"), table_name="churn/{partition_key}"),
        KumoExport(connector=GCSConnector("gs://anything/kumo"), table_name="churn"),
    ],
)


class Server:
    """The server, in the environment of the models."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("server_of_models3.py")
        self._process = subprocess.Popen(
            [python_with_sdk(), "-W", "ignore", str(script)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.origin = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.url = f"{self.origin}/api"

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def lose_exports(self, times: int) -> None:
        """Let the answers to so many exports get lost, after they were carried out."""
        requests.get(f"{self.origin}/lose", {"times": str(times)}, timeout=10)

    def asked(self, path: str, method: str = "POST") -> list[dict[str, Any]]:
        """What was asked for."""
        log = requests.get(f"{self.origin}/log", timeout=10).json()
        return [one for one in log if (one["method"], one["path"]) == (method, path)]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def resources(server: Server, tmp_path: Path) -> dict[str, Any]:
    kumo = KumoResource(
        url=server.url, api_key=API_KEY, project="Churn Models", request_max_retries=0
    )
    return {"kumo": kumo, "kumo_io_manager": KumoIOManager(base_path=str(tmp_path / "store"))}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@dg.asset(partitions_def=DAYS, ins={"scores": dg.AssetIn(PREDICTIONS)})
def reader(scores: pd.DataFrame) -> float:
    return float(scores["True_PROB"].mean())


def test_predictions_embeddings_and_exports_are_materialized(
    server: Server, instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    run = dg.materialize(
        [*CHURN, reader], instance=instance, resources=resources, partition_key="2026-11-10"
    )
    assert run.success
    assert run.output_for_node("reader") == pytest.approx(0.45)
    (launch,) = server.asked("/prediction_jobs")
    assert launch["body"]["prediction_time"] == "2026-11-11T00:00:00Z"
    exports = {
        one["body"]["prediction_output"]["storage_type"]: one["body"]["prediction_output"]
        for one in server.asked("/artifact")
    }
    assert exports["SNOWFLAKE"]["connector_id"] == "connector_1"
    assert exports["S3"]["file_path"] == "churn/2026-11-10_predictions"
    assert exports["GCS"]["file_path"] == "gs://anything/kumo/churn_predictions"
    event = instance.get_latest_materialization_event(PREDICTIONS)
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert metadata["dagster-kumo/num_entities_predicted"].value == 100
    assert metadata["dagster/row_count"].value == 100


def test_a_retry_sends_a_lost_export_again_and_it_is_the_same_one(
    server: Server, instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    """Also where it appends."""
    dg.materialize(
        [CHURN.predictions], instance=instance, resources=resources, partition_key="2026-11-10"
    )
    appends = build_kumo_export_asset(
        name="churn",
        predictions=CHURN.predictions,
        connector=SnowflakeConnector("warehouse"),
        table_name="CHURN",
        write_mode="APPEND",
        retry_policy=dg.RetryPolicy(max_retries=1),
    )
    server.lose_exports(1)
    run = dg.materialize(
        [appends], instance=instance, resources=resources, partition_key="2026-11-10"
    )
    assert run.success
    lost, again = (one["body"] for one in server.asked("/artifact"))
    assert lost == again

    # On purpose it is another export, for which the server must not answer with the one before.
    dg.materialize([appends], instance=instance, resources=resources, partition_key="2026-11-10")
    *_, third = (one["body"] for one in server.asked("/artifact"))
    assert third["request_id"] != again["request_id"]


def test_the_sensor_reports_a_job_from_outside(
    instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    sensor = build_kumo_sensor([CHURN.predictions], lookback=timedelta(0))

    def tick(cursor: str | None) -> Any:
        return sensor.evaluate_tick(
            dg.build_sensor_context(
                instance=instance, cursor=cursor, resources={"kumo": resources["kumo"]}
            )
        )

    cursor = tick(None).cursor
    client = resources["kumo"].get_client()
    prediction = BatchPrediction(training_job_id="trainingjob-1")
    request = prediction.request(
        training_job_id="trainingjob-1",
        outputs=["predictions"],
        prediction_time=pd.Timestamp("2026-11-12", tz="UTC").to_pydatetime(),
    )
    job_id, _ = client.create_prediction_job(request)
    (event,) = tick(cursor).asset_events
    assert event.partition == "2026-11-11"
    assert event.metadata["dagster-kumo/job_id"].value == job_id
    assert client.update_prediction_job_tags(job_id, {"a": "b"})
    assert client.get_prediction_job(job_id).tags["a"] == "b"
    assert BatchPredictionJobResult(job_id, client).predictions_df().shape == (100, 5)


def test_the_command_line_shows_the_projects(server: Server) -> None:
    said = CliRunner().invoke(
        main,
        ["check", "--url", server.url, "--project", "churn-models"],
        env={"KUMO_API_KEY": API_KEY},
    )
    assert said.exit_code == 0, said.output
    assert "SDK 3.0" in said.output
    assert "Churn models" in said.output


def test_an_unknown_connector_is_refused_before_anything_is_sent(server: Server) -> None:
    client = KumoClient(server.url, API_KEY, project="churn-models")
    with pytest.raises(KumoError, match="there are: bucket"):
        BatchPredictionJobResult("bp-job-1", client).export(
            "predictions", S3Connector("s3://other/kumo"), "churn"
        )
    assert not server.asked("/artifact")
