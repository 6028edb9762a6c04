"""Names that others choose lead nowhere else, take nobody's place, and end no statement."""

from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from dagster_kumo import (
    ADLSConnector,
    BatchPredictionJobResult,
    DatabricksConnector,
    KumoClient,
    KumoDataError,
    KumoIOManager,
    Predictions,
    S3Connector,
    SnowflakeConnector,
)
from dagster_kumo.api.connectors import prediction_output
from dagster_kumo.api.records import BatchPredictionRequest
from tests.support import error_of, files_below
from tests.system.deployments.databricks_server import TOKEN, DatabricksServer
from tests.system.deployments.kumo_server import DeployedKumo
from tests.system.deployments.snowflake_server import STAGE, SnowflakeServer

KEYS = [
    "../../x",
    "/etc/passwd",
    "..",
    ".",
    "a/../../b",
    "a\\..\\b",
    "%2E%2E",
    "a%2Fb",
    "a/b",
    "ends.",
    "ends",
    "ends%2E",
    "NUL",
    "nul.parquet",
    "%4EUL",
    "CON",
    "é",
    "e\u0301",
    "日本" * 60,
    "日本" * 60 + "!",
    "x" * 255,
    "x" * 256,
    "x" * 255 + "y",
    "Berlin",
    "berlin",
    "s3://bucket/x",
    "x?sig=1#y",
    "x;'\"",
    "manifest.json",
    "20200101T000000.000000Z-aaaaaa",
    " ",
]


def keyed(key: dg.AssetKey, partitions: list[str]) -> dg.AssetsDefinition:
    """An asset whose value says which partition it is."""

    @dg.multi_asset(
        outs={"value": dg.AssetOut(key=key, io_manager_key="kumo_io_manager")},
        partitions_def=dg.StaticPartitionsDefinition(partitions),
    )
    def value(context: dg.AssetExecutionContext) -> pa.Table:
        return pa.table({"key": [context.partition_key]})

    return value


def test_partition_keys_neither_leave_the_store_nor_share_a_folder(tmp_path: Path) -> None:
    store = tmp_path / "above" / "store"
    manager = KumoIOManager(base_path=str(store), statistics=False)
    key = dg.AssetKey(["..", "a/b", "NUL"])
    asset = keyed(key, KEYS)
    seen: dict[str, Any] = {}

    @dg.asset(ins={"everything": dg.AssetIn(key, input_manager_key="kumo_io_manager")})
    def reader(everything: dict[str, Predictions]) -> None:
        seen.update({day: one.to_arrow()["key"].to_pylist() for day, one in everything.items()})

    with dg.DagsterInstance.ephemeral() as instance:
        for partition in KEYS:
            run = dg.materialize(
                [asset],
                instance=instance,
                partition_key=partition,
                resources={"kumo_io_manager": manager},
            )
            assert run.success
        dg.materialize(
            [asset, reader],
            instance=instance,
            selection=[reader],
            resources={"kumo_io_manager": manager},
        )
    assert seen == {key: [key] for key in KEYS}
    assert {path.name for path in tmp_path.iterdir()} == {"above"}
    assert {path.name for path in (tmp_path / "above").iterdir()} == {"store"}
    (folder,) = store.glob("*/*/*")
    names = [path.name for path in folder.iterdir()]
    assert len(names) == len(KEYS)
    assert all(len(name) <= 255 and name.isascii() for name in names)
    assert len(files_below(store)) == 2 * len(KEYS)


def test_an_asset_does_not_take_the_place_of_a_partition_of_another(tmp_path: Path) -> None:
    manager = KumoIOManager(base_path=str(tmp_path))
    partitioned = keyed(dg.AssetKey(["a"]), ["b"])

    @dg.asset(key=["a", "b"], io_manager_key="kumo_io_manager")
    def another() -> pa.Table:
        return pa.table({"key": ["another"]})

    resources = {"kumo_io_manager": manager}
    assert dg.materialize([partitioned], partition_key="b", resources=resources).success
    before = files_below(tmp_path)
    run = dg.materialize([another], resources=resources, raise_on_error=False)
    name, message = error_of(run)
    assert name.endswith("KumoDataError")
    assert "holds the output of a, partition b: that of a/b would take its place" in message
    assert files_below(tmp_path) == before


def test_a_password_in_base_path_is_refused_since_it_would_be_shown() -> None:
    manager = KumoIOManager(base_path="ftp://user:pa55@host/x")
    with pytest.raises(dg.DagsterResourceFunctionError) as refused:
        dg.materialize(
            [keyed(dg.AssetKey("a"), ["b"])],
            partition_key="b",
            resources={"kumo_io_manager": manager},
        )
    message = str(refused.value.__cause__)
    assert "storage_options" in message
    assert "pa55" not in message


# Exports ###################################################################################


@pytest.mark.parametrize("key", ['x"; DROP TABLE users; --', "x'", "x`y", "x\\", "x\x00", "x\ny"])
@pytest.mark.parametrize("connector", [SnowflakeConnector("w"), DatabricksConnector("w")])
def test_a_partition_in_a_table_name_can_end_no_statement(connector: Any, key: str) -> None:
    names = ("schema", f"churn_{key}") if isinstance(connector, DatabricksConnector) else key
    with pytest.raises(ValueError, match="table_name is not a name"):
        prediction_output("predictions", connector, names)


@pytest.mark.parametrize("key", ["../x", "x/../../y", "..", "x/./y", "x\x00"])
@pytest.mark.parametrize(
    "connector", [S3Connector("s3://b/x"), ADLSConnector("abfss://c@a.dfs.core.windows.net/x")]
)
def test_a_partition_in_a_folder_leads_nowhere_else(connector: Any, key: str) -> None:
    with pytest.raises(ValueError, match="table_name is not a name"):
        prediction_output("predictions", connector, f"{key}/churn")


# What a storage lists ######################################################################


def result_of(server: DeployedKumo, **credentials: Any) -> BatchPredictionJobResult:
    key = None if credentials else server.api_key
    client = KumoClient(server.url, key, request_max_retries=0, **credentials)
    request = BatchPredictionRequest(
        model_training_job_id="trainingjob-1", prediction_time="2026-11-05T00:00:00Z"
    )
    return BatchPredictionJobResult(client.create_prediction_job(request)[0], client)


@pytest.mark.parametrize(
    ("listed", "is_directory"),
    [
        ("/etc/x.parquet", False),
        ("{at}/../../x.parquet", False),
        ("{at}x/part.parquet", False),
        ("/Volumes/other/private/files", True),
        ("{at}", True),
        ("{at}/..", True),
        ("", False),
    ],
    ids=["absolute", "up", "beside", "other volume", "itself", "parent", "nameless"],
)
def test_what_a_volume_lists_elsewhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, listed: str, is_directory: bool
) -> None:
    volume = "/Volumes/main/kumo/outputs"
    with DatabricksServer() as workspace:
        monkeypatch.setenv("DATABRICKS_HOST", workspace.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
        workspace.entries = lambda path: [
            {"path": listed.format(at=path), "is_directory": is_directory}
        ]
        with (
            DeployedKumo(lambda *_: None, lambda output: [f"dbfs:{volume}/{output}"]) as server,
            pytest.raises(KumoDataError, match="where it cannot be"),
        ):
            result_of(server).predictions()
        assert not [call for call in workspace.calls if "/files" in call or "other" in call]


@pytest.mark.parametrize("address", [f"@{STAGE}/../../x", f"@{STAGE}/a/./b", f"@{STAGE}/.."])
def test_an_address_on_a_stage_leads_nowhere_else(address: str) -> None:
    with (
        SnowflakeServer() as snowflake,
        DeployedKumo(snowflake.put, lambda _: [address], snowflake.accepts) as server,
    ):
        result = result_of(server, snowflake=snowflake.credentials)
        with pytest.raises(KumoDataError, match="not a path on a Snowflake stage"):
            result.predictions()
        assert snowflake.statements == []


def test_a_name_on_a_stage_leads_nowhere_else() -> None:
    with (
        SnowflakeServer() as snowflake,
        DeployedKumo(
            snowflake.put, lambda output: [f"@{STAGE}/{output}"], snowflake.accepts
        ) as server,
    ):
        result = result_of(server, snowflake=snowflake.credentials)
        snowflake.put(f"{result.id}/predictions/../../x.parquet", b"PAR1")
        with pytest.raises(KumoDataError, match="not a name on an internal stage"):
            result.predictions()
        assert not [said for said in snowflake.statements if said.startswith("GET")]
