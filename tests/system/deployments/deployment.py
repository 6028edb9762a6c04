"""What a deployment is asked to show: assets materialized from where it keeps outputs, and an export."""

from pathlib import Path
from typing import Any

import dagster as dg

from dagster_kumo import (
    BatchPrediction,
    KumoIOManager,
    KumoResource,
    Predictions,
    SnowflakeConnector,
    build_kumo_export_asset,
    kumo_assets,
)
from tests.system.deployments.kumo_server import DeployedKumo
from tests.system.other_server import ROWS_PER_FILE

DAYS = dg.DailyPartitionsDefinition(start_date="2026-11-01", end_date="2026-11-20")


@kumo_assets(
    name="churn",
    prediction=BatchPrediction(
        training_job_id="trainingjob-1", outputs=("predictions", "embeddings")
    ),
    partitions_def=DAYS,
)
def churn(context: dg.AssetExecutionContext, kumo: KumoResource):
    yield from kumo.predict(context)


@dg.asset(
    partitions_def=DAYS,
    ins={"predictions": dg.AssetIn(["churn", "predictions"], input_manager_key="kumo_io_manager")},
)
def entities(predictions: Predictions) -> list[int]:
    return predictions.to_arrow(["ENTITY"])["ENTITY"].to_pylist()


export = build_kumo_export_asset(
    name="churn",
    predictions=churn,
    connector=SnowflakeConnector("warehouse"),
    table_name="CHURN",
)


def shows_the_whole_way(
    server: DeployedKumo, kumo: KumoResource, tmp_path: Path, **options: Any
) -> dict[str, Any]:
    """Materialize predictions, embeddings, a reader and an export: the metadata of the predictions."""
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.materialize(
            [churn, entities, export],
            instance=instance,
            partition_key="2026-11-05",
            resources={
                "kumo": kumo,
                "kumo_io_manager": KumoIOManager(base_path=str(tmp_path / "store")),
                "io_manager": dg.mem_io_manager,
            },
            **options,
        )
        assert run.success
        assert run.output_for_node("entities") == list(range(2 * ROWS_PER_FILE))
        assert server.exports[0]["prediction_output"]["table_name"] == "CHURN_predictions"
        left = {p.name for p in (tmp_path / "store" / "churn").rglob("*") if p.is_file()}
        files = {"part-00000.parquet", "part-00001.parquet"}
        assert left == {*files, "_statistics.json", "manifest.json"}
        (event,) = (
            e
            for e in run.get_asset_materialization_events()
            if e.asset_key == dg.AssetKey(["churn", "predictions"])
        )
        return {name: value.value for name, value in event.materialization.metadata.items()}
