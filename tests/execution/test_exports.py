"""Exports as assets: what Kumo is asked to write, what Dagster shows of it, and how it can end."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow.parquet as pq
import pytest

from dagster_kumo import (
    ADLSConnector,
    BigQueryConnector,
    DagsterKumoTranslator,
    DatabricksConnector,
    GCSConnector,
    KumoAssetProps,
    KumoResource,
    S3Connector,
    SnowflakeConnector,
    build_kumo_export_asset,
)
from dagster_kumo.local import LocalKumo
from tests.support import (
    DAYS,
    EMBEDDINGS,
    PREDICTIONS,
    TERMINATIONS,
    day,
    error_of,
    instance_in,
    interrupt_a_run,
    metadata_of,
    predict_all,
    purchase_assets,
    resources,
)

ROWS = 23_570
UPSTREAM = {"predictions": PREDICTIONS, "embeddings": EMBEDDINGS}


def note_predictions(instance: dg.DagsterInstance, job_id: str, *partitions: str | None) -> None:
    """What a run of the predictions leaves in the event log."""
    for partition in partitions:
        for key in UPSTREAM.values():
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    key, partition=partition, metadata={"dagster-kumo/job_id": job_id}
                )
            )


@pytest.fixture
def instance(done_job_id: str) -> Iterator[dg.DagsterInstance]:
    """One in which the predictions of a job have been materialized."""
    with dg.DagsterInstance.ephemeral() as instance:
        note_predictions(instance, done_job_id, None, day(5), day(6))
        yield instance


def export_asset(connector: Any, table_name: Any = "PURCHASE", **options: Any) -> Any:
    output_type = options.get("output_type", "predictions")
    return build_kumo_export_asset(
        name="purchase",
        predictions=UPSTREAM[output_type],
        connector=connector,
        table_name=table_name,
        **options,
    )


Materialize = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def materialize(kumo: LocalKumo, instance: dg.DagsterInstance) -> Materialize:
    def materialize(export: dg.AssetsDefinition, **options: Any) -> dg.ExecuteInProcessResult:
        settings = options.pop("settings", {})
        on = options.pop("on", kumo)
        resource = KumoResource(
            url=on.url, api_key=on.api_key, request_max_retries=0, poll_interval=0.1, **settings
        )
        return dg.materialize(
            [export],
            instance=instance,
            resources={"kumo": resource},
            raise_on_error=False,
            **options,
        )

    return materialize


# What is written


TARGETS: dict[str, tuple[Any, Any, str, str]] = {
    # connector, table name, the target as a person writes it, the kind
    "snowflake": (SnowflakeConnector("wh"), "EACH", "EACH_{}", "snowflake"),
    "bigquery": (BigQueryConnector("bq"), "ml.each", "ml.each_{}", "bigquery"),
    "databricks": (DatabricksConnector("db"), ("ml", "each"), "ml.each_{}", "databricks"),
    "s3": (S3Connector("s3://bucket/kumo"), "each", "s3://bucket/kumo/each_{}", "s3"),
    "gcs": (GCSConnector("gs://bucket/kumo/"), "each", "gs://bucket/kumo/each_{}", "googlecloud"),
    "adls": (
        ADLSConnector("abfss://c@acct.dfs.core.windows.net/kumo//"),
        "each",
        "abfss://c@acct.dfs.core.windows.net/kumo/each_{}",
        "azure",
    ),
}


@pytest.mark.parametrize("output_type", ["predictions", "embeddings"])
@pytest.mark.parametrize("storage", TARGETS)
def test_every_row_is_written_and_the_target_is_named_everywhere(
    storage: str, output_type: Any, kumo: LocalKumo, done_job_id: str, materialize: Materialize
) -> None:
    connector, table, target, kind = TARGETS[storage]
    export = export_asset(
        connector, table, output_type=output_type, metadata_fields=["JOB_TIMESTAMP"]
    )
    run = materialize(export)

    entry = "dagster/uri" if storage in ("s3", "gcs", "adls") else "dagster/table_name"
    metadata = metadata_of(run, export.key)
    assert export.key == dg.AssetKey(["purchase", f"{output_type}_in_{storage}"])
    assert export.metadata_by_key[export.key][entry] == target.format(output_type)
    assert metadata[entry] == target.format(output_type)
    assert set(export.specs_by_key[export.key].kinds) == {"kumo", kind}
    assert metadata["dagster-kumo/storage"] == storage
    assert metadata["dagster-kumo/job_id"] == done_job_id
    exported = kumo.exports[-1]
    assert (exported["id"], exported["status"], exported["job_id"]) == (
        metadata["dagster-kumo/export_job_id"],
        "DONE",
        done_job_id,
    )
    rows, columns = written(kumo)
    assert rows == ROWS
    assert "JOB_TIMESTAMP" in columns
    assert ("True_PROB" in columns) == (output_type == "predictions")


def written(kumo: LocalKumo) -> tuple[int, list[str]]:
    """How many rows, and which columns, are where the last export was written."""
    where = kumo.exports[-1]["written_to"]
    if ".duckdb: " not in where:
        table = pq.read_table(where)
        return table.num_rows, table.column_names
    path, _, name = where.partition(": ")
    with duckdb.connect(path, read_only=True) as connection:
        relation = connection.sql(f"SELECT * FROM {name}")
        return relation.count("*").fetchall()[0][0], relation.columns


@pytest.mark.parametrize(
    ("mode", "rows"), [("APPEND", 2 * ROWS), ("OVERWRITE", ROWS), (None, ROWS)]
)
@pytest.mark.parametrize("connector", [SnowflakeConnector("wh"), BigQueryConnector("bq")])
def test_what_is_there_is_kept_or_replaced(
    connector: Any, mode: Any, rows: int, kumo: LocalKumo, materialize: Materialize
) -> None:
    export = export_asset(connector, f"MODE_{mode}", write_mode=mode)
    materialize(export)
    run = materialize(export)
    assert written(kumo)[0] == rows
    assert metadata_of(run, export.key)["dagster-kumo/write_mode"] == (mode or "OVERWRITE")


def test_the_placeholder_of_kumos_server_is_passed_on(
    kumo: LocalKumo, materialize: Materialize
) -> None:
    export = export_asset(
        S3Connector("s3://bucket/kumo/"), "parts/{PARTITION}", partitions_def=DAYS
    )
    assert materialize(export, partition_key=day(5)).success
    assert kumo.exports[-1]["output"]["file_path"] == (
        "s3://bucket/kumo/parts/{PARTITION}_predictions"
    )


# Partitions


@pytest.mark.parametrize(
    ("connector", "table", "target"),
    [
        (S3Connector("s3://bucket/kumo"), "day={partition_key}/p", "s3://bucket/kumo/day={}/p"),
        (DatabricksConnector("db"), ("ml", "p_{partition_key}"), "ml.p_{}"),
    ],
)
def test_each_partition_can_have_a_target_of_its_own(
    connector: Any, table: Any, target: str, kumo: LocalKumo, materialize: Materialize
) -> None:
    export = export_asset(
        connector, table, partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run()
    )
    first, last = day(6), day(5)
    run = materialize(
        export,
        tags={
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
        },
    )

    entry = "dagster/uri" if isinstance(connector, S3Connector) else "dagster/table_name"
    for partition in (first, last):
        shown = metadata_of(run, export.key, partition)[entry]
        assert shown == f"{target.format(partition)}_predictions"
    assert export.metadata_by_key[export.key][entry] == (
        f"{target.format('{partition_key}')}_predictions"
    )
    assert len({e["written_to"] for e in kumo.exports[-2:]}) == 2


def test_a_partition_in_the_name_needs_partitions() -> None:
    with pytest.raises(ValueError, match="names a partition"):
        export_asset(S3Connector("s3://bucket"), "p/{partition_key}")


# Lineage


def test_a_downstream_asset_of_the_same_table_joins_by_its_key(materialize: Materialize) -> None:
    """As dbt's sources are assets by the key of their `meta`."""
    source = dg.AssetKey(["analytics", "purchase_predictions"])
    export = export_asset(SnowflakeConnector("wh"), key=source)

    @dg.asset(deps=[source], kinds={"dbt"})
    def call_list() -> None: ...

    graph = dg.Definitions(
        assets=[export, call_list], resources={"kumo": KumoResource()}
    ).resolve_asset_graph()
    assert graph.get(call_list.key).parent_keys == {source}
    assert graph.get(source).parent_keys == {PREDICTIONS}
    assert graph.get(source).metadata["dagster/table_name"] == "PURCHASE_predictions"
    assert metadata_of(materialize(export), source)["dagster/table_name"] == "PURCHASE_predictions"


def test_a_translator_completes_the_tables_name(materialize: Materialize) -> None:
    """The connector in Kumo knows database and schema; Dagster and dbt name them."""

    class Qualified(DagsterKumoTranslator):
        def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
            spec = super().get_asset_spec(props)
            name = f"ANALYTICS.PUBLIC.{spec.metadata['dagster/table_name']}"
            return spec.merge_attributes(metadata={"dagster/table_name": name})

    export = export_asset(SnowflakeConnector("wh"), translator=Qualified())
    name = "ANALYTICS.PUBLIC.PURCHASE_predictions"
    assert export.metadata_by_key[export.key]["dagster/table_name"] == name
    assert metadata_of(materialize(export), export.key)["dagster/table_name"] == name


# Refused


@pytest.mark.parametrize(
    ("connector", "table", "options", "said"),
    [
        (S3Connector("s3://b"), "T", {"write_mode": "APPEND"}, "S3Connector has no write mode"),
        (GCSConnector("gs://b"), "T", {"write_mode": "OVERWRITE"}, "GCSConnector has no write"),
        (ADLSConnector("abfss://c@a/o"), "T", {"write_mode": "APPEND"}, "ADLSConnector has no"),
        (DatabricksConnector("d"), "t", {}, "as a pair"),
        (SnowflakeConnector("wh"), ("s", "t"), {}, "is for DatabricksConnector"),
        (SnowflakeConnector("wh"), "T", {"metadata_fields": ["ENTITY"]}, "not ENTITY"),
        (S3Connector("s3://b/out"), "/T", {}, "begins with a slash"),
    ],
)
def test_what_a_connector_has_no_room_for_is_refused_before_anything_is_sent(
    connector: Any,
    table: Any,
    options: dict[str, Any],
    said: str,
    kumo: LocalKumo,
    materialize: Materialize,
) -> None:
    with pytest.raises(ValueError, match=said):
        export_asset(connector, table, **options)

    @dg.asset(deps=[PREDICTIONS])
    def by_hand(context: dg.AssetExecutionContext, kumo: KumoResource) -> Any:
        yield from kumo.export(
            context, predictions=PREDICTIONS, connector=connector, table_name=table, **options
        )

    assert error_of(materialize(by_hand))[0] == "ValueError"
    assert [r for r in kumo.requests if r.method == "POST"] == []


# How it goes and ends


def test_an_export_of_an_asset_of_ones_own(materialize: Materialize) -> None:
    @dg.asset(deps=[PREDICTIONS])
    def by_hand(context: dg.AssetExecutionContext, kumo: KumoResource) -> Any:
        yield from kumo.export(
            context,
            predictions=PREDICTIONS,
            connector=SnowflakeConnector("wh"),
            table_name="BY_HAND",
        )

    metadata = metadata_of(materialize(by_hand), by_hand.key)
    assert metadata["dagster/table_name"] == "BY_HAND_predictions"


@pytest.fixture
def slow_kumo(tmp_path: Path) -> Iterator[tuple[LocalKumo, str]]:
    """A stand-in whose exports take a second, and a prediction job that is done there."""
    with LocalKumo(tmp_path / "kumo") as kumo:
        job_id = predict_all(kumo)
    with LocalKumo(tmp_path / "kumo", run_seconds=1.0) as kumo:
        yield kumo, job_id


def test_the_log_tells_how_it_goes(
    slow_kumo: tuple[LocalKumo, str], instance: dg.DagsterInstance, materialize: Materialize
) -> None:
    kumo, job_id = slow_kumo
    note_predictions(instance, job_id, None)
    run = materialize(export_asset(SnowflakeConnector("wh")), on=kumo)
    ours = [e for e in instance.all_logs(run.run_id) if not e.is_dagster_event]
    export_id = kumo.exports[-1]["id"]
    assert [e.user_message for e in ours if e.level == 20] == [
        f"Launched export job {export_id}: the predictions of {job_id} to PURCHASE_predictions",
        f"Export job {export_id} is RUNNING",
        f"Export job {export_id} is DONE",
    ]


@pytest.mark.parametrize(
    ("status", "said"), [("FAILED", "Check that the connector exists"), ("CANCELLED", "in Kumo")]
)
def test_an_export_that_ends_badly_fails_the_asset_with_a_way_out(
    status: str, said: str, kumo: LocalKumo, materialize: Materialize
) -> None:
    kumo.faults.answer(200, body=f'"{status}"', path=r"/artifact/[^/]+$", times=None)
    run = materialize(export_asset(SnowflakeConnector("wh")))
    found, message = error_of(run)
    assert found == "KumoJobFailedError"
    assert kumo.exports[-1]["id"] in message
    assert said in message
    assert run.get_asset_materialization_events() == []


def test_a_retry_after_a_failed_export_exports_again(
    kumo: LocalKumo, materialize: Materialize
) -> None:
    before = len(kumo.exports)
    kumo.faults.answer(200, body='"FAILED"', path=r"/artifact/[^/]+$", times=2)
    retries = dg.RetryPolicy(max_retries=1)
    assert materialize(export_asset(SnowflakeConnector("wh"), retry_policy=retries)).success
    assert len(kumo.exports) == before + 2


def test_a_retry_attaches_to_the_export_that_still_runs(
    slow_kumo: tuple[LocalKumo, str], instance: dg.DagsterInstance, materialize: Materialize
) -> None:
    """Else the rows would be appended twice."""
    kumo, job_id = slow_kumo
    note_predictions(instance, job_id, None)
    export = export_asset(
        SnowflakeConnector("wh"),
        write_mode="APPEND",
        retry_policy=dg.RetryPolicy(max_retries=20, delay=0.2),
    )
    run = materialize(export, on=kumo, settings={"poll_timeout": 0.1})

    assert run.success
    assert [e.event_type_value for e in run.all_events].count("STEP_RESTARTED") >= 1
    assert len(kumo.exports) == 1
    assert written(kumo)[0] == ROWS
    lines = [e.user_message for e in instance.all_logs(run.run_id)]
    assert any(line.startswith("Attached to export job") for line in lines)


def test_materializing_again_exports_again(kumo: LocalKumo, materialize: Materialize) -> None:
    before = len(kumo.exports)
    export = export_asset(S3Connector("s3://bucket"))
    assert materialize(export).success
    assert materialize(export).success
    assert len(kumo.exports) == before + 2


@pytest.mark.parametrize(("mode", "exports"), [("APPEND", 1), ("OVERWRITE", 2)])
def test_rows_are_not_appended_twice_when_the_answer_is_lost(
    mode: Any, exports: int, kumo: LocalKumo, materialize: Materialize
) -> None:
    """Kumo keeps no list of exports: a retry cannot know, and so only replaces."""
    before = len(kumo.exports)
    kumo.faults.lose_answer(method="POST", path="/artifact$")
    retries = dg.RetryPolicy(max_retries=2)
    export = export_asset(
        SnowflakeConnector("wh"), f"LOST_{mode}", write_mode=mode, retry_policy=retries
    )
    run = materialize(export)
    assert run.success == (mode == "OVERWRITE")
    assert len(kumo.exports) == before + exports
    assert written(kumo)[0] == ROWS
    if mode == "APPEND":
        (failure,) = [e for e in run.all_events if e.event_type_value == "STEP_FAILURE"]
        assert "Check whether the rows are in LOST_APPEND_predictions" in str(
            failure.step_failure_data.error
        )


def test_an_answer_lost_on_the_way_says_what_to_do(
    kumo: LocalKumo, materialize: Materialize
) -> None:
    kumo.faults.lose_answer(method="POST", path="/artifact$")
    found, message = error_of(materialize(export_asset(S3Connector("s3://bucket"), "LOST")))
    assert found == "KumoConnectionError"
    assert "got no answer" in message


@pytest.mark.parametrize(("policy", "by_a_user", "status"), TERMINATIONS)
def test_a_terminated_run_cancels_its_export_by_the_policy(
    policy: str, by_a_user: bool, status: str, tmp_path: Path
) -> None:
    with LocalKumo(tmp_path / "kumo") as kumo:
        job_id = predict_all(kumo)
    with (
        LocalKumo(tmp_path / "kumo", run_seconds=60) as kumo,
        instance_in(tmp_path / "dagster") as instance,
    ):
        note_predictions(instance, job_id, None)
        interrupt_a_run(
            partial(
                build_kumo_export_asset,
                name="purchase",
                predictions=PREDICTIONS,
                connector=SnowflakeConnector("wh"),
                table_name="PURCHASE",
            ),
            instance=instance,
            kumo=kumo,
            when=lambda: is_followed(kumo),
            by_a_user=by_a_user,
            cancel_on_termination=policy,
        )

        assert [export["status"] for export in kumo.exports] == [status]
        key = dg.AssetKey(["purchase", "predictions_in_snowflake"])
        assert instance.fetch_materializations(key, limit=1).records == []


def is_followed(kumo: LocalKumo) -> bool:
    """Whether an export runs, and its run has asked how it goes."""
    running = [e["id"] for e in kumo.exports if e["status"] == "RUNNING"]
    return any(r.path.endswith(id) for id in running for r in kumo.requests)


def test_an_export_follows_its_predictions_in_one_run(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    outputs = purchase_assets(partitions_def=None)
    export = build_kumo_export_asset(
        name="purchase",
        predictions=outputs,
        connector=S3Connector("s3://bucket/kumo"),
        table_name="one_run",
    )
    run = dg.materialize(
        [outputs, export], instance=instance, resources=resources(kumo, tmp_path / "store")
    )
    predicted_by = metadata_of(run, PREDICTIONS)["dagster-kumo/job_id"]
    assert metadata_of(run, export.key)["dagster-kumo/job_id"] == predicted_by
