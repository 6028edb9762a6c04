"""From which columns of the tables the columns of predictions, embeddings and exports come."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    KumoExport,
    SnowflakeConnector,
    build_kumo_assets_definitions,
)
from dagster_kumo.local import LocalKumo
from tests.support import EMBEDDINGS, PREDICTIONS, metadata_of, resources

pytest.importorskip("predictive_query")
CUSTOMERS, PURCHASES = dg.AssetKey(["shop", "customers"]), dg.AssetKey(["shop", "PURCHASES"])
EXPORT = dg.AssetKey(["purchase", "predictions_in_snowflake"])


def lineage(
    run: dg.ExecuteInProcessResult, key: dg.AssetKey
) -> dict[str, list[tuple[dg.AssetKey, str]]]:
    found = metadata_of(run, key)["dagster/column_lineage"].deps_by_column
    return {
        name: [(dep.asset_key, dep.column_name) for dep in deps] for name, deps in found.items()
    }


@pytest.mark.parametrize("fan_out", [False, True])
def test_scores_come_from_the_entity_and_the_target(
    fan_out: bool, kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assets = build_kumo_assets_definitions(
        name="purchase",
        prediction=BatchPrediction(
            training_job_id="trainingjob-cdnow-spend", outputs=("predictions", "embeddings")
        ),
        exports=[KumoExport(connector=SnowflakeConnector("wh"), table_name="LINEAGE")],
        deps=[CUSTOMERS, PURCHASES, "other"],
        fan_out=fan_out,
    )

    run = dg.materialize(assets, instance=instance, resources=resources(kumo, tmp_path))

    entity, target = (CUSTOMERS, "customer_id"), (PURCHASES, "dollar_value")
    predicted = lineage(run, PREDICTIONS)
    assert predicted["ENTITY"] == [entity]
    assert predicted["TARGET_PRED"] == [target]
    assert set(predicted["SCORE"]) == {entity, target}
    assert lineage(run, EMBEDDINGS) == {"ENTITY": [entity]}
    exported = lineage(run, EXPORT)
    assert exported["TARGET_PRED"] == [(PREDICTIONS, "TARGET_PRED")]
    assert exported["ENTITY"] == [(PREDICTIONS, "ENTITY")]


def test_a_count_of_rows_comes_from_the_columns_that_link_the_table(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    prediction = BatchPrediction(training_job_tags={"use_case": "purchase"})
    assets = build_kumo_assets_definitions(
        name="purchase", prediction=prediction, deps=["purchases"]
    )

    run = dg.materialize(assets, instance=instance, resources=resources(kumo, tmp_path))

    target = [(dg.AssetKey("purchases"), "customer_id")]
    assert lineage(run, PREDICTIONS)["TARGET_PRED"] == target
    assert "ENTITY" not in lineage(run, PREDICTIONS)  # no asset is the table of the customers


@pytest.mark.parametrize(
    ("deps", "answer"),
    [
        (["nothing_of_it"], None),
        ([dg.AssetKey(["a", "purchases"]), dg.AssetKey(["b", "purchases"])], None),
        (["purchases"], {"query_string": "PREDICT nothing", "graph": {}}),
    ],
)
def test_what_is_not_known_is_left_out(
    deps: list[Any],
    answer: Any,
    kumo: LocalKumo,
    instance: dg.DagsterInstance,
    tmp_path: Path,
) -> None:
    if answer is not None:
        kumo.faults.answer(200, path="/predictive_queries/", body=answer, times=None)
    prediction = BatchPrediction(training_job_tags={"use_case": "purchase"})
    assets = build_kumo_assets_definitions(name="purchase", prediction=prediction, deps=deps)

    run = dg.materialize(assets, instance=instance, resources=resources(kumo, tmp_path))

    assert run.success
    assert "dagster/column_lineage" not in metadata_of(run, PREDICTIONS)


def test_an_export_is_the_table_that_dbt_names() -> None:
    connector = SnowflakeConnector("warehouse")
    named = KumoExport(
        connector=connector, table_name="CHURN", relation_identifier="SHOP.ML.CHURN_predictions"
    )
    (export,) = build_kumo_assets_definitions(
        name="churn", prediction=BatchPrediction(training_job_id="t"), exports=[named]
    ).exports

    entries = export.metadata_by_key[export.key]
    assert entries["dagster/table_name"] == "SHOP.ML.CHURN_predictions"
    assert entries["dagster/storage_kind"] == "snowflake"
