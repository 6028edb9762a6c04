"""A deployment in Databricks: volumes, read by the real WorkspaceClient from a server of its Files API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from dagster_kumo import (
    KumoDataError,
    KumoError,
    KumoResource,
)
from tests.predictions.outputs import parquet_bytes
from tests.system.deployments.databricks_server import TOKEN, DatabricksServer
from tests.system.deployments.deployment import shows_the_whole_way
from tests.system.deployments.kumo_server import DeployedKumo
from tests.system.other_server import ROWS_PER_FILE

VOLUME = "/Volumes/main/kumo/outputs"


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch) -> Iterator[DatabricksServer]:
    with DatabricksServer() as workspace:
        monkeypatch.setenv("DATABRICKS_HOST", workspace.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
        yield workspace


@pytest.fixture
def server(workspace: DatabricksServer) -> Iterator[DeployedKumo]:
    def put(path: str, content: bytes) -> None:
        workspace.files[f"{VOLUME}/{path}"] = content

    with DeployedKumo(put, lambda output: [f"dbfs:{VOLUME}/{output}"]) as server:
        yield server


@pytest.mark.parametrize("presigns", [True, False])
def test_a_directory_is_read_in_order(result, workspace, presigns):
    workspace.presigns = presigns
    job = f"{VOLUME}/{result.id}"
    for name in ("predictions/_SUCCESS", "predictions/_temporary/0/x.parquet", "predictions_old/x"):
        workspace.files[f"{job}/{name}"] = b"not of this output"
    predictions = result.predictions()
    assert [file.name for file in predictions.files] == ["part-0.parquet", "part-1.parquet"]
    assert predictions.to_arrow()["ENTITY"].to_pylist() == list(range(2 * ROWS_PER_FILE))
    assert result.predictions_urls() == [f"dbfs:{job}/predictions"]
    assert result.embeddings_df().shape == (2 * ROWS_PER_FILE, 2)


def test_a_file_is_read(result, server):
    server.addresses = lambda output: [f"dbfs:{VOLUME}/{output}/part-1.parquet"]
    assert result.predictions().to_arrow()["ENTITY"][0].as_py() == ROWS_PER_FILE


def test_directories_below_are_read_too(result, workspace):
    extra = parquet_bytes(result.predictions().table(0))
    workspace.files[f"{VOLUME}/{result.id}/predictions/later/part-0.parquet"] = extra
    paths = result.predictions().paths
    assert paths[0].endswith("predictions/later/part-0.parquet")
    assert len(paths) == 3


def test_a_transfer_that_breaks_goes_on_where_it_broke(result, workspace):
    table = pa.table({"ENTITY": list(range(200_000))})
    workspace.files[f"{VOLUME}/{result.id}/predictions/part-0.parquet"] = parquet_bytes(table)
    predictions = result.predictions()
    workspace.break_after = 150_000
    assert predictions.table(0).num_rows == 200_000
    assert workspace.break_after is None


def test_a_file_of_another_length_than_listed_is_a_data_error(result, workspace):
    workspace.wrong_sizes = True
    with pytest.raises(KumoDataError, match="bytes, but"):
        result.predictions().to_arrow()


def test_what_is_not_there_or_not_allowed_is_a_data_error(result, server, workspace, monkeypatch):
    server.addresses = lambda _: [f"dbfs:{VOLUME}/nothing/here"]
    with pytest.raises(KumoDataError, match="Databricks does not give"):
        result.predictions()
    workspace.files[f"{VOLUME}/empty/_SUCCESS"] = b""
    server.addresses = lambda _: [f"dbfs:{VOLUME}/empty"]
    with pytest.raises(KumoDataError, match="no Parquet files"):
        result.predictions()
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-wr0ng")
    with pytest.raises(KumoDataError, match="Unauthorized") as caught:
        result.predictions()
    assert "dapi-wr0ng" not in str(caught.value)


def test_without_credentials_the_error_says_where_they_are_looked_for(
    result, monkeypatch, tmp_path
):
    monkeypatch.delenv("DATABRICKS_HOST")
    monkeypatch.delenv("DATABRICKS_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))  # no profile of whoever runs the tests
    with pytest.raises(KumoError, match="Set DATABRICKS_HOST"):
        result.predictions()


@pytest.mark.parametrize(
    "address",
    [
        "dbfs:/Volumes/main/kumo/outputs/../../../other/x.parquet",
        "dbfs:/Volumes/main/../outputs/x",
        "dbfs:/Volumes/main/kumo",
        "dbfs:/user/hive/warehouse/x",
        "dbfs:/Volumes/main/kumo/outputs/x\n",
        "dbfs:/Volumes//kumo/outputs/x",
    ],
)
def test_an_address_outside_a_volume_is_refused(result, server, workspace, address):
    server.addresses = lambda _: [address]
    with pytest.raises(KumoDataError, match="not a path in a volume"):
        result.predictions()
    assert workspace.calls == []


def test_a_name_is_no_other_path(result, server, workspace):
    server.addresses = lambda output: [f"dbfs:{VOLUME}/{output}/part-0.parquet?x=1#y"]
    with pytest.raises(KumoDataError):
        result.predictions()
    assert workspace.calls[-1].endswith("part-0.parquet?x=1#y")


def test_assets_are_materialized_from_a_volume_and_exported(server, tmp_path: Path):
    kumo = KumoResource(url=server.url, api_key=server.api_key)
    metadata = shows_the_whole_way(server, kumo, tmp_path)
    assert metadata["dagster/row_count"] == 2 * ROWS_PER_FILE
    assert TOKEN not in str(metadata)
