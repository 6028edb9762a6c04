"""The guide to dbt, with a real dbt on DuckDB: its blocks are the project, the assets and the model."""

import sys
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from dagster_kumo import (
    BatchPrediction,
    KumoExport,
    KumoIOManager,
    KumoResource,
    SnowflakeConnector,
    build_kumo_assets_definitions,
)
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE
from tests.system.test_docs import ROOT, blocks

pytestmark = pytest.mark.scale

DBT = str(Path(sys.executable).with_name("dbt"))
GUIDE = ROOT / "docs" / "guides" / "dbt.md"
PROJECT = """
name: shop
version: "1.0"
profile: shop
models: {+materialized: table}
"""
# What the stand-in exports to a warehouse is in a DuckDB file, by the name of the connector.
PROFILES = """
shop:
  target: local
  outputs:
    local:
      type: duckdb
      path: {path}
      attach: [{{path: {warehouses}, alias: warehouses, read_only: true}}]
"""


@pytest.fixture
def shop_project(tmp_path: Path, kumo: LocalKumo) -> Any:
    from dagster_dbt import DbtCliResource, DbtProject

    folder = tmp_path / "shop"
    (folder / "models").mkdir(parents=True)
    warehouses = kumo.data / "exports" / "warehouses.duckdb"
    warehouses.parent.mkdir(exist_ok=True)
    duckdb.connect(warehouses).close()
    (folder / "dbt_project.yml").write_text(PROJECT)
    profiles = PROFILES.format(path=tmp_path / "shop.duckdb", warehouses=warehouses)
    (folder / "profiles.yml").write_text(profiles)
    for table in ("customers", "orders"):
        (folder / "models" / f"{table}.sql").write_text("select 1 as id")
    (call_list,) = blocks(GUIDE, "sql")
    (folder / "models" / "call_list.sql").write_text(call_list)
    (sources,) = blocks(GUIDE, "yaml")
    here = "database: warehouses\n    schema: snowflake_warehouse"
    assert "schema: PREDICTIONS" in sources
    sources = "version: 2\n" + sources.replace("schema: PREDICTIONS", here)
    (folder / "models" / "sources.yml").write_text(sources)
    project = DbtProject(project_dir=folder)
    DbtCliResource(project_dir=project, dbt_executable=DBT).cli(
        ["parse"], target_path=folder / "target"
    ).wait()
    return project


def test_dbt_makes_what_kumo_reads_and_reads_what_kumo_wrote(
    shop_project: Any, kumo: LocalKumo, tmp_path: Path
) -> None:
    from dagster_dbt import DbtCliResource, dbt_assets

    names: dict[str, Any] = {
        "dg": dg,
        "dbt_assets": dbt_assets,
        "DbtCliResource": DbtCliResource,
        "DbtProject": lambda **_: shop_project,
    }
    (_, load) = blocks(GUIDE, "text")
    (model,) = blocks(GUIDE, "python")
    exec(load, names)
    exec(model.replace("trainingjob-...", PURCHASE), names)
    connection = KumoResource(url=kumo.url, api_key=kumo.api_key, poll_interval=0.05)
    definitions = dg.Definitions(
        assets=[*names["churn"], names["shop"]],
        resources={
            "kumo": connection,
            "kumo_io_manager": KumoIOManager(base_path=str(tmp_path / "store"), kumo=connection),
            "dbt": DbtCliResource(project_dir=shop_project, dbt_executable=DBT),
        },
    )

    run = definitions.resolve_implicit_global_asset_job_def().execute_in_process()

    assert run.success
    made = [event.asset_key for event in run.get_asset_materialization_events()]
    assert sorted(made[:2]) == [dg.AssetKey("customers"), dg.AssetKey("orders")]
    predictions, export = (
        dg.AssetKey(["churn", "predictions"]),
        dg.AssetKey(["kumo", "churn_predictions"]),
    )
    assert [key for key in made if key is not None][-3:] == [
        predictions,
        export,
        dg.AssetKey("call_list"),
    ]
    scores = KumoIOManager(base_path=str(tmp_path / "store")).load_input(
        dg.build_input_context(asset_key=predictions)
    )
    likely = scores.to_pandas().query("True_PROB > 0.5")
    with duckdb.connect(tmp_path / "shop.duckdb", read_only=True) as shop:
        called = shop.sql("select count(*), min(score) from call_list").fetchall()
    assert called == [(len(likely), likely["True_PROB"].min())]


def test_an_export_that_names_the_table_of_a_dbt_source_is_that_source(shop_project: Any) -> None:
    from dagster_dbt import dbt_assets

    @dbt_assets(manifest=shop_project.manifest_path)
    def shop(): ...

    def upstream_of_the_model(relation_identifier: str | None) -> set[dg.AssetKey]:
        churn = build_kumo_assets_definitions(
            name="churn",
            prediction=BatchPrediction(training_job_id=PURCHASE),
            exports=[
                KumoExport(
                    connector=SnowflakeConnector("warehouse"),
                    table_name="CHURN",
                    relation_identifier=relation_identifier,
                )
            ],
        )
        never_used = {"kumo": KumoResource(), "kumo_io_manager": dg.mem_io_manager}
        defs = dg.Definitions(assets=[*churn, shop], resources=never_used)
        return set(defs.resolve_asset_graph().get(dg.AssetKey("call_list")).parent_keys)

    of_source = "warehouses.snowflake_warehouse.churn_predictions"
    assert upstream_of_the_model(of_source) == {dg.AssetKey(["churn", "predictions_in_snowflake"])}
    assert upstream_of_the_model(None) == {dg.AssetKey(["kumo", "churn_predictions"])}
