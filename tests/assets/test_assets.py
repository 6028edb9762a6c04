"""What the factories make, pass on and refuse."""

import datetime as dt
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import (
    ADLSConnector,
    BatchPrediction,
    BigQueryConnector,
    DagsterKumoTranslator,
    DatabricksConnector,
    GCSConnector,
    KumoAssetProps,
    KumoExport,
    KumoResource,
    S3Connector,
    SnowflakeConnector,
    build_kumo_assets_definitions,
    build_kumo_export_asset,
    kumo_assets,
)
from tests.support import DAYS, EMBEDDINGS, PREDICTIONS, purchase_assets

pytestmark = pytest.mark.fast

MODEL = BatchPrediction(training_job_id="trainingjob-1")


@dg.failure_hook
def tell(context: dg.HookContext) -> None:
    context.log.info("It failed.")


OPTIONS: dict[str, Any] = {
    "kinds": {"python"},
    "metadata": {"tier": "gold"},
    "description": "Who will buy.",
    "freshness_policy": dg.FreshnessPolicy.time_window(fail_window=dt.timedelta(days=1)),
    "code_version": "7",
    "hooks": {tell},
    "group_name": "growth",
    "owners": ["team:growth"],
    "tags": {"domain": "sales"},
    "op_tags": {"dagster/priority": "3"},
    "retry_policy": dg.RetryPolicy(max_retries=2),
    "pool": "kumo",
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "automation_condition": dg.AutomationCondition.eager(),
}


def export_asset(**options: Any) -> dg.AssetsDefinition:
    arguments: dict[str, Any] = {
        "name": "purchase",
        "predictions": PREDICTIONS,
        "connector": SnowflakeConnector("warehouse"),
        "table_name": "PURCHASE",
        **options,
    }
    return build_kumo_export_asset(**arguments)


@pytest.mark.parametrize(
    "made",
    [
        purchase_assets(outputs=("predictions", "embeddings"), **OPTIONS),
        export_asset(partitions_def=DAYS, **OPTIONS),
    ],
    ids=["kumo_assets", "build_kumo_export_asset"],
)
def test_every_option_is_passed_on(made: dg.AssetsDefinition) -> None:
    assert made.partitions_def == DAYS
    assert made.backfill_policy == OPTIONS["backfill_policy"]
    assert made.op.tags["dagster/priority"] == "3"
    assert made.op.pool == "kumo"
    assert made.op.retry_policy == OPTIONS["retry_policy"]
    for spec in made.specs:
        assert spec.group_name == "growth"
        assert spec.kinds > {"kumo", "python"}
        assert spec.metadata["tier"] == "gold"
        assert (spec.description, spec.code_version) == ("Who will buy.", "7")
        assert spec.freshness_policy == OPTIONS["freshness_policy"]
        assert spec.owners == ["team:growth"]
        assert spec.tags["domain"] == "sales"
        assert spec.automation_condition == OPTIONS["automation_condition"]
        assert "kumo" in spec.kinds


def code_versions(*, connector: Any = None, **options: Any) -> list[str | None]:
    assets = build_kumo_assets_definitions(
        name="purchase",
        prediction=BatchPrediction(training_job_id="trainingjob-1", **options),
        exports=[
            KumoExport(connector=connector or SnowflakeConnector("warehouse"), table_name="CHURN")
        ],
    )
    return [spec.code_version for made in assets for spec in made.specs]


def test_the_code_version_is_that_of_what_is_asked() -> None:
    model, predictions, export = code_versions()
    assert model is None
    assert predictions != export
    assert code_versions() == [model, predictions, export]
    assert code_versions(num_workers=2)[1:] != [predictions, export]
    assert code_versions(num_workers=2)[2] == export
    assert code_versions(connector=SnowflakeConnector("other"))[2] != export


def test_options_of_a_model_go_to_all_that_it_makes_but_the_model_itself_which_nothing_materializes() -> (
    None
):
    for fan_out in (False, True):
        assets = build_kumo_assets_definitions(
            name="purchase",
            prediction=MODEL,
            exports=[KumoExport(connector=SnowflakeConnector("warehouse"), table_name="CHURN")],
            fan_out=fan_out,
            **{**OPTIONS, "backfill_policy": None},
        )
        (model,), (predictions,), (export,) = (made.specs for made in assets)
        assert (model.freshness_policy, model.code_version) == (None, None)
        assert model.metadata["tier"] == predictions.metadata["tier"] == export.metadata["tier"]
        assert predictions.description == "Who will buy."
        assert export.description != model.description != "Who will buy."
        for spec in (predictions, export):
            assert (spec.freshness_policy, spec.code_version) == (OPTIONS["freshness_policy"], "7")
        assert assets.predictions.hook_defs == assets.exports[0].hook_defs == {tell}


def test_outputs_are_stored_by_the_io_manager_that_is_named() -> None:
    made = purchase_assets(io_manager_key="warehouse_io_manager", deps=["customers"])

    (spec,) = made.specs
    assert spec.metadata["dagster/io_manager_key"] == "warehouse_io_manager"
    assert [dep.asset_key for dep in spec.deps] == [dg.AssetKey("customers")]


@pytest.mark.parametrize(
    "prediction",
    [
        MODEL,
        BatchPrediction(
            training_job_tags={"use_case": "churn"},
            outputs=("predictions", "embeddings"),
            anchor=None,
            job_tags={"team": "growth"},
        ),
    ],
)
def test_the_definition_shows_what_runs(prediction: BatchPrediction) -> None:
    made = purchase_assets(prediction=prediction)
    shown = made.metadata_by_key[PREDICTIONS]["dagster-kumo/batch_prediction"]
    assert BatchPrediction(**shown.data).to_json() == prediction.to_json() == shown.data
    assert "num_workers" not in shown.data  # what is as by default needs no space


def test_the_whole_of_a_model_is_connected() -> None:
    assets = build_kumo_assets_definitions(
        name="purchase",
        prediction=BatchPrediction(
            training_job_id="trainingjob-1", outputs=("predictions", "embeddings")
        ),
        exports=[
            KumoExport(connector=SnowflakeConnector("warehouse"), table_name="PURCHASE"),
            KumoExport(
                connector=S3Connector("s3://bucket/kumo"),
                table_name="purchase",
                output_type="embeddings",
            ),
        ],
        partitions_def=DAYS,
        deps=["customers", "orders"],
        group_name="growth",
    )
    graph = dg.Definitions(
        assets=assets,
        resources={"kumo": KumoResource(), "kumo_io_manager": dg.FilesystemIOManager()},
    ).resolve_asset_graph()

    def parents(*path: str) -> set[str]:
        return {key.to_user_string() for key in graph.get(dg.AssetKey(path)).parent_keys}

    assert parents("purchase", "model") == {"customers", "orders"}
    # Kumo reads the tables anew for each prediction: a run that makes both makes them first.
    assert parents("purchase", "predictions") == {"purchase/model", "customers", "orders"}
    assert parents("purchase", "embeddings") == {"purchase/model", "customers", "orders"}
    assert parents("purchase", "predictions_in_snowflake") == {"purchase/predictions"}
    assert parents("purchase", "embeddings_in_s3") == {"purchase/embeddings"}
    assert graph.get(dg.AssetKey(["purchase", "predictions_in_snowflake"])).partitions_def == DAYS
    assert {graph.get(key).group_name for key in graph.materializable_asset_keys} == {"growth"}


TARGETS: dict[str, tuple[Any, Any, str, dict[str, str]]] = {
    "snowflake": (
        SnowflakeConnector("wh"),
        "CHURN",
        "predictions_in_snowflake",
        {"dagster/table_name": "CHURN_predictions"},
    ),
    "bigquery": (
        BigQueryConnector("bq"),
        "ml.churn",
        "predictions_in_bigquery",
        {"dagster/table_name": "ml.churn_predictions"},
    ),
    "databricks": (
        DatabricksConnector("db"),
        ("ml", "churn"),
        "predictions_in_databricks",
        {"dagster/table_name": "ml.churn_predictions"},
    ),
    "s3": (
        S3Connector("s3://bucket/kumo/"),
        "churn",
        "predictions_in_s3",
        {"dagster/uri": "s3://bucket/kumo/churn_predictions"},
    ),
    "gcs": (
        GCSConnector("gs://bucket"),
        "churn",
        "predictions_in_gcs",
        {"dagster/uri": "gs://bucket/churn_predictions"},
    ),
    "adls": (
        ADLSConnector("abfss://box@account.dfs.core.windows.net/kumo"),
        "churn",
        "predictions_in_adls",
        {"dagster/uri": "abfss://box@account.dfs.core.windows.net/kumo/churn_predictions"},
    ),
}


@pytest.mark.parametrize("storage", TARGETS)
def test_an_export_says_on_its_definition_where_it_goes(storage: str) -> None:
    connector, table_name, key, metadata = TARGETS[storage]

    made = export_asset(connector=connector, table_name=table_name)

    assert made.key == dg.AssetKey(["purchase", key])
    assert metadata.items() <= made.metadata_by_key[made.key].items()


def test_a_translator_changes_keys_groups_and_owners() -> None:
    class Prefixed(DagsterKumoTranslator):
        def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
            spec = super().get_asset_spec(props)
            return spec.replace_attributes(
                key=spec.key.with_prefix("ml"), group_name=props.kind, owners=["team:ml"]
            )

    assets = build_kumo_assets_definitions(
        name="churn",
        prediction=MODEL,
        exports=[KumoExport(connector=S3Connector("s3://bucket"), table_name="churn")],
        translator=Prefixed(),
        group_name="growth",
        owners=["team:growth"],
    )

    specs = [spec for made in assets for spec in made.specs]
    assert [(spec.key.to_user_string(), spec.group_name) for spec in specs] == [
        ("ml/churn/model", "model"),
        ("ml/churn/predictions", "predictions"),
        ("ml/churn/predictions_in_s3", "export"),
    ]
    assert all(spec.owners == ["team:ml", "team:growth"] for spec in specs)
    assert [dep.asset_key for dep in specs[2].deps] == [specs[1].key]


def test_definitions_load_without_a_key_and_without_a_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUMO_API_KEY", raising=False)

    dg.Definitions(
        assets=[purchase_assets(), export_asset(partitions_def=DAYS)],
        resources={
            "kumo": KumoResource(url="http://127.0.0.1:1/api"),
            "kumo_io_manager": dg.FilesystemIOManager(),
        },
    ).resolve_all_job_defs()


def test_a_key_is_hidden_from_repr() -> None:
    assert "s3cr3t" not in repr(KumoResource(api_key="acme:s3cr3t"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({}, "training_job_id='trainingjob-...'"),
    "two models": ({"training_job_id": "a", "training_job_tags": {"b": "c"}}, "not both"),
    "unknown output": (
        {"training_job_id": "a", "outputs": ("scores",)},
        "'predictions' or 'embeddings'",
    ),
    "no output": ({"training_job_id": "a", "outputs": ()}, "'predictions' or 'embeddings'"),
    "an output twice": ({"training_job_id": "a", "outputs": ("predictions",) * 2}, "twice"),
    "a string of outputs": (
        {"training_job_id": "a", "outputs": "predictions"},
        r"\('predictions',\)",
    ),
    "threshold": ({"training_job_id": "a", "binary_classification_threshold": 1.5}, "0 to 1"),
    "too many workers": ({"training_job_id": "a", "num_workers": 5}, "1 to 4"),
    "no worker": ({"training_job_id": "a", "num_workers": 0}, "1 to 4"),
    "no class": ({"training_job_id": "a", "num_classes_to_return": 0}, "at least 1"),
    "anchor": ({"training_job_id": "a", "anchor": "middle"}, "'end', 'start' or None"),
    "two tables": (
        {"training_job_id": "a", "prediction_table_job_id": "b", "prediction_table_path": "c"},
        "not both",
    ),
    "a tag of ours": ({"training_job_id": "a", "job_tags": {"dagster.run_id": "x"}}, "dagster."),
    "a tag with a space": ({"training_job_id": "a", "job_tags": {"a b": "x"}}, "letters"),
    "a long tag": ({"training_job_id": "a", "job_tags": {"a": "x" * 257}}, "256"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_prediction_that_cannot_be_is_refused(what: str) -> None:
    arguments, advice = REFUSED[what]
    with pytest.raises(ValueError, match=advice):
        BatchPrediction(**arguments)


class SameKey(DagsterKumoTranslator):
    def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
        return super().get_asset_spec(props).replace_attributes(key=[props.name, "output"])


both = BatchPrediction(training_job_id="a", outputs=("predictions", "embeddings"))
own_table = BatchPrediction(training_job_id="a", prediction_table_path="s3://bucket/table")
two_exports = [KumoExport(connector=SnowflakeConnector("wh"), table_name=t) for t in ("A", "B")]

BAD_DEFINITIONS: dict[str, tuple[Any, str]] = {
    "an anchor on a static partition": (
        lambda: purchase_assets(partitions_def=dg.StaticPartitionsDefinition(["eu"])),
        "anchor=None",
    ),
    "an anchor for a table of one's own": (
        lambda: purchase_assets(prediction=own_table),
        "anchor=None",
    ),
    "one key for two outputs": (
        lambda: purchase_assets(prediction=both, translator=SameKey()),
        "depend on props.kind",
    ),
    "two exports to one storage": (
        lambda: build_kumo_assets_definitions(name="a", prediction=MODEL, exports=two_exports),
        "key=dg.AssetKey",
    ),
    "a name that is no name": (
        lambda: kumo_assets(name="my model", prediction=MODEL),
        "letters, digits and underscores",
    ),
    "an export of what is not there": (
        lambda: export_asset(predictions=purchase_assets(), output_type="embeddings"),
        "'embeddings'",
    ),
    "a write mode for a bucket": (
        lambda: export_asset(connector=S3Connector("s3://bucket"), write_mode="APPEND"),
        "no write mode",
    ),
    "a Databricks table without its schema": (
        lambda: export_asset(connector=DatabricksConnector("db")),
        "pair",
    ),
    "an unknown metadata field": (
        lambda: export_asset(metadata_fields=["CUSTOMER"]),
        "ANCHOR_TIMESTAMP, JOB_TIMESTAMP",
    ),
    "a bucket of another cloud": (lambda: S3Connector("gs://bucket"), "s3://"),
    "a warehouse without a name": (lambda: SnowflakeConnector(""), "name of a connector"),
}


@pytest.mark.parametrize("what", BAD_DEFINITIONS)
def test_a_definition_that_cannot_be_is_refused(what: str) -> None:
    define, advice = BAD_DEFINITIONS[what]
    with pytest.raises(ValueError, match=advice):
        define()


def test_two_exports_to_one_storage_work_with_keys_of_their_own() -> None:
    exports = [
        KumoExport(connector=SnowflakeConnector("wh"), table_name=t, key=dg.AssetKey(["out", t]))
        for t in ("A", "B")
    ]
    built = build_kumo_assets_definitions(name="a", prediction=MODEL, exports=exports)

    keys = {key for made in built[1:] for key in made.keys}
    assert keys == {
        dg.AssetKey(["a", "predictions"]),
        dg.AssetKey(["out", "A"]),
        dg.AssetKey(["out", "B"]),
    }


def test_a_static_partition_without_an_anchor_is_fine() -> None:
    no_anchor = BatchPrediction(training_job_id="a", anchor=None)
    regions = dg.StaticPartitionsDefinition(["eu", "us"])

    assert purchase_assets(prediction=no_anchor, partitions_def=regions).keys == {PREDICTIONS}
    assert purchase_assets(prediction=both, partitions_def=None).keys == {PREDICTIONS, EMBEDDINGS}
