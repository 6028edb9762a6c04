"""The whole way, against a server that is not the stand-in: what holds here holds by the API."""

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from dagster_kumo import (
    BatchPrediction,
    BatchPredictionJobResult,
    KumoIOManager,
    KumoResource,
    Predictions,
    kumo_assets,
)
from tests.system.other_server import API_KEY, ROWS_PER_FILE, SIGNATURE, OtherServer

DAYS = dg.DailyPartitionsDefinition(start_date="2026-11-01", end_date="2026-11-20")
PREDICTIONS = dg.AssetKey(["churn", "predictions"])
EMBEDDINGS = dg.AssetKey(["churn", "embeddings"])


@kumo_assets(
    name="churn",
    prediction=BatchPrediction(
        training_job_id="trainingjob-1",
        outputs=("predictions", "embeddings"),
        num_workers=2,
        binary_classification_threshold=0.5,
    ),
    partitions_def=DAYS,
)
def churn(context: dg.AssetExecutionContext, kumo: KumoResource):
    yield from kumo.predict(context)


@pytest.fixture
def server() -> Iterator[OtherServer]:
    with OtherServer() as server:
        yield server


@pytest.fixture
def resources(server: OtherServer, tmp_path: Path) -> dict[str, Any]:
    kumo = KumoResource(url=server.url, api_key=server.api_key)
    store = KumoIOManager(base_path=str(tmp_path / "store"), kumo=kumo, preview_rows=3)
    return {"kumo": kumo, "kumo_io_manager": store}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """One for each test, since each server counts its jobs anew."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def materialize(
    instance: dg.DagsterInstance, resources: dict[str, Any], day: str, *assets: Any
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [churn, *assets], instance=instance, resources=resources, partition_key=day
    )


def test_each_partition_is_one_launch_with_the_end_of_its_window(
    server: OtherServer, instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    run = materialize(instance, resources, "2026-11-10")
    materialize(instance, resources, "2026-11-11")

    assert [launch["prediction_time"] for launch in server.launches] == [
        "2026-11-11T00:00:00Z",
        "2026-11-12T00:00:00Z",
    ]
    first = server.launches[0]
    assert first["model_training_job_id"] == "trainingjob-1"
    assert first["predict_options"] == {
        "binary_classification_threshold": 0.5,
        "num_workers": 2,
    }
    assert [output["artifact_type"] for output in first["outputs"]] == ["PREDICTIONS", "EMBEDDINGS"]
    assert first["job_tags"]["dagster.run_id"] == run.run_id
    assert first["job_tags"]["dagster.partition"] == "2026-11-10"
    stored_run = instance.get_run_by_id(run.run_id)
    assert stored_run is not None
    assert stored_run.tags["dagster/kumo_job.churn__predictions"] == "bp-job-1"


def test_a_materialization_carries_all_metadata(
    server: OtherServer, instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    materialize(instance, resources, "2026-11-10")

    event = instance.get_latest_materialization_event(PREDICTIONS)
    assert event is not None
    materialization = event.asset_materialization
    assert materialization is not None
    assert materialization.partition == "2026-11-10"
    assert (materialization.tags or {})["dagster/data_version"] == "bp-job-1"
    entries = {key: value.value for key, value in materialization.metadata.items()}
    anchor = datetime(2026, 11, 11, tzinfo=timezone.utc)
    mean = sum((i % 10) / 10 + 0.011 for i in range(100)) / 100
    exact = {
        "dagster/row_count": 2 * ROWS_PER_FILE,
        "dagster-kumo/job_id": "bp-job-1",
        "dagster-kumo/tracking_url": f"{server.origin}/jobs/bp-job-1?tab=1#top",
        "dagster-kumo/training_job_id": "trainingjob-1",
        "dagster-kumo/prediction_time": anchor.timestamp(),
        "dagster-kumo/num_entities_predicted": 2 * ROWS_PER_FILE,
        "dagster-kumo/num_files": 2,
        "dagster-kumo/True_PROB/mean": pytest.approx(mean, rel=1e-5),
    }
    assert {key: entries[key] for key in exact} == exact
    assert entries["dagster/size_bytes"] > 0
    assert entries["dagster-kumo/duration_seconds"] >= 0
    schema = entries["dagster/column_schema"]
    assert [(c.name, c.type) for c in schema.columns] == [
        ("ENTITY", "int64"),
        ("ANCHOR_TIMESTAMP", "int64"),
        ("TARGET_PRED", "bool"),
        ("False_PROB", "double"),
        ("True_PROB", "double"),
    ]
    statistics = {r.data["column"]: r.data for r in entries["dagster-kumo/statistics"].records}
    assert list(statistics) == ["True_PROB"]
    assert [c.name for c in entries["dagster-kumo/statistics"].schema.columns] == [
        *("column", "mean", "5 %", "median", "95 %", "min", "max"),
    ]
    assert statistics["True_PROB"]["min"] == pytest.approx(0.011)
    assert not [name for name in entries if "null_fraction" in name or "False_PROB" in name]
    assert 0 < entries["dagster-kumo/share_yes"] < 1
    assert len(str(entries["dagster-kumo/share_yes"])) <= 8
    assert "data:image/png;base64," in entries["dagster-kumo/distribution"]
    assert len(entries["dagster-kumo/preview"].records) == 3
    # In the order in which a person asks, and as the Dagster UI shows them.
    assert [name.removeprefix("dagster-kumo/") for name in entries] == [
        *("prediction_time", "distribution_in_brief", "distribution", "share_yes"),
        *("True_PROB/mean", "statistics", "preview", "num_files"),
        *("dagster/column_schema", "dagster/row_count", "dagster/size_bytes"),
        *("tracking_url", "training_job_id", "num_entities_predicted", "duration_seconds"),
        *("job_seconds", "job_id"),
    ]


def test_embeddings_have_their_own_materialization_of_the_same_job(
    instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    materialize(instance, resources, "2026-11-10")

    event = instance.get_latest_materialization_event(EMBEDDINGS)
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert metadata["dagster-kumo/job_id"].value == "bp-job-1"
    assert metadata["dagster/row_count"].value == 2 * ROWS_PER_FILE
    assert metadata["dagster-kumo/dimension"].value == 2
    norm = sum(((i / 2) ** 2 + 1) ** 0.5 for i in range(100)) / 100
    assert metadata["dagster-kumo/mean_norm"].value == pytest.approx(norm, rel=1e-5)


WAYS: dict[str, tuple[Any, Any]] = {
    "Predictions": (Predictions, lambda p: p.to_pandas()),
    "partition by partition": (Predictions, lambda p: pd.concat(t.to_pandas() for t in p)),
    "result": (BatchPredictionJobResult, lambda r: r.predictions_df()),
    "pandas": (pd.DataFrame, lambda frame: frame),
    "table": (pa.Table, lambda table: table.to_pandas()),
    "dataset": (ds.Dataset, lambda dataset: dataset.to_table().to_pandas()),
    "reader": (pa.RecordBatchReader, lambda reader: reader.read_all().to_pandas()),
    "polars": (pl.DataFrame, lambda frame: frame.to_arrow().to_pandas()),
    "lazy polars": (pl.LazyFrame, lambda frame: frame.collect().to_arrow().to_pandas()),
    "by partition": (dict[str, pd.DataFrame], lambda frames: frames["2026-11-10"]),
    "optional": (pd.DataFrame | None, lambda frame: frame),
}


def reader_asset(way: str, seen: dict[str, pd.DataFrame]) -> dg.AssetsDefinition:
    """An asset that reads the predictions in one way and keeps what it saw."""
    annotation, to_frame = WAYS[way]

    def read(given: Any) -> None:
        seen[way] = to_frame(given)

    read.__annotations__["given"] = annotation
    return dg.asset(
        name=f"by_{way.replace(' ', '_')}",
        partitions_def=DAYS,
        ins={"given": dg.AssetIn(PREDICTIONS, input_manager_key="kumo_io_manager")},
    )(read)


def test_every_way_of_loading_gives_the_same_rows(
    instance: dg.DagsterInstance, resources: dict[str, Any]
) -> None:
    seen: dict[str, pd.DataFrame] = {}
    materialize(instance, resources, "2026-11-10", *(reader_asset(way, seen) for way in WAYS))

    scores = [(i % 10) / 10 + 0.011 for i in range(100)]
    columns = ["ENTITY", "ANCHOR_TIMESTAMP", "TARGET_PRED", "False_PROB", "True_PROB"]
    assert set(seen) == set(WAYS)
    for way, frame in seen.items():
        assert list(frame.columns) == columns, way
        assert frame["ENTITY"].tolist() == list(range(100)), way
        assert frame["True_PROB"].tolist() == pytest.approx(scores), way


def test_no_secret_reaches_logs_events_or_files(
    instance: dg.DagsterInstance,
    resources: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("DEBUG"):
        run = materialize(instance, resources, "2026-11-10")

    events = "\n".join(str(record) for record in instance.all_logs(run.run_id))
    stored = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    for secret in (API_KEY, API_KEY.split(":")[1], SIGNATURE, SIGNATURE.split("=")[1]):
        assert secret not in events
        assert secret not in caplog.text
        assert secret.encode() not in stored
        assert secret not in repr(resources)
