"""The right day on every server: predictions for the anchor time that was asked, or none."""

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kumoapi.jobs import GeneratePredictionTableRequest
from kumoapi.model_plan import PredictionTableGenerationPlan
from pydantic import TypeAdapter

from dagster_kumo import BatchPrediction, KumoClient, KumoResource, build_kumo_assets_definitions
from dagster_kumo.local import LocalKumo
from tests.support import (
    DAYS,
    EMBEDDINGS,
    PREDICTIONS,
    PURCHASE,
    day,
    error_of,
    instance_in,
    interrupt_a_run,
    metadata_of,
    purchase_assets,
    resources,
)

TABLE = dg.AssetKey(["purchase", "prediction_table"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """One for each test: what was materialized before counts."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def generated(**options: Any) -> BatchPrediction:
    return BatchPrediction(
        **{"training_job_id": PURCHASE, "prediction_table": "generate", **options}
    )


@pytest.fixture
def materialize(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> Callable[..., dg.ExecuteInProcessResult]:
    """Materialize the assets of a prediction, by default of one that generates its table."""

    def materialize(
        *selection: dg.AssetKey,
        prediction: BatchPrediction | None = None,
        partition: str | None = day(5),
        partitions_def: dg.PartitionsDefinition | None = DAYS,
        retries: int = 0,
        tags: dict[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        assets = purchase_assets(
            prediction=prediction or generated(),
            partitions_def=partitions_def,
            retry_policy=dg.RetryPolicy(max_retries=retries) if retries else None,
            backfill_policy=dg.BackfillPolicy.single_run() if tags else None,
        )
        return dg.materialize(
            [assets],
            selection=list(selection) or None,
            instance=instance,
            resources=resources(kumo, tmp_path / "store", statistics=False),
            partition_key=partition,
            tags=tags,
            raise_on_error=False,
        )

    return materialize


Materialize = Callable[..., dg.ExecuteInProcessResult]


def launched_tables(kumo: LocalKumo) -> list[dict[str, Any]]:
    """The bodies of the requests that made tables."""
    return [
        request.json
        for request in kumo.requests
        if request.method == "POST" and request.path.endswith("/genpredtable_jobs")
    ]


def at_midnight(days_ago: int) -> datetime:
    return datetime.fromisoformat(day(days_ago)).replace(tzinfo=timezone.utc)


def stored_anchors(tmp_path: Path, partition: str) -> set[datetime]:
    (version,) = (tmp_path / "store/purchase/predictions" / partition).glob("*Z-*")
    column = pq.read_table(version, columns=["ANCHOR_TIMESTAMP"])["ANCHOR_TIMESTAMP"]
    return {value.replace(tzinfo=timezone.utc) for value in column.unique().to_pylist()}


# Generated ##################################################################################


def test_a_table_for_the_partitions_time_comes_first(
    kumo: LocalKumo, materialize: Materialize, tmp_path: Path
) -> None:
    options = {"forecast_length": 7, "lag_timesteps": 2}
    before = len(kumo.jobs)

    run = materialize(
        prediction=generated(prediction_table_options=options, graph_snapshot_id="snapshot-1")
    )

    assert run.success
    (body,) = launched_tables(kumo)
    (job,) = kumo.jobs[before:]
    table, predictions = metadata_of(run, TABLE), metadata_of(run, PREDICTIONS)
    table_job = table["dagster-kumo/job_id"]
    assert body["plan"] == {
        "anchor_time": int(at_midnight(4).timestamp()) * 10**9,
        "forecast_length": 7,
        "lag_timesteps": 2,
        "year_over_year": "???",
    }
    assert body["graph_snapshot_id"] == "snapshot-1"
    assert job["config"]["pred_table_job_id"] == table_job
    assert job["config"]["prediction_time"] is None
    assert table["dagster-kumo/anchor_time"] == at_midnight(4).timestamp()
    assert table["dagster/row_count"] == predictions["dagster/row_count"] == 23_570
    assert table["dagster-kumo/duration_seconds"] >= 0
    assert predictions["dagster-kumo/prediction_table_job_id"] == table_job
    assert predictions["dagster-kumo/prediction_time"] == at_midnight(4).timestamp()
    (event,) = [e for e in run.get_asset_materialization_events() if e.asset_key == TABLE]
    assert (event.materialization.tags or {})["dagster/data_version"] == table_job
    assert stored_anchors(tmp_path, day(5)) == {at_midnight(4)}


def test_the_request_is_the_one_that_the_vendors_models_know(
    kumo: LocalKumo, materialize: Materialize
) -> None:
    materialize(TABLE, prediction=generated(job_tags={"team": "growth"}))
    materialize(TABLE, prediction=generated(), partition=None, partitions_def=None)

    parse = TypeAdapter(GeneratePredictionTableRequest).validate_python
    daily, unpartitioned = map(parse, launched_tables(kumo))
    assert daily.pquery_id == unpartitioned.pquery_id == "pquery-cdnow-purchase"
    assert daily.plan == PredictionTableGenerationPlan(
        anchor_time=int(at_midnight(4).timestamp()) * 10**9
    )
    assert unpartitioned.plan == PredictionTableGenerationPlan()
    assert daily.job_tags["team"] == "growth"
    assert daily.job_tags["dagster.partition"] == day(5)


def test_an_old_server_predicts_for_the_right_day_from_a_table(
    kumo: LocalKumo, materialize: Materialize, tmp_path: Path
) -> None:
    kumo.faults.ignore_prediction_time()

    assert materialize(partition=day(20)).success
    assert stored_anchors(tmp_path, day(20)) == {at_midnight(19)}


def test_without_partitions_kumo_chooses_the_time_and_the_metadata_tells_it(
    materialize: Materialize,
) -> None:
    run = materialize(partition=None, partitions_def=None)

    anchor = metadata_of(run, TABLE)["dagster-kumo/anchor_time"]
    assert metadata_of(run, PREDICTIONS)["dagster-kumo/prediction_time"] == anchor


def test_a_range_of_partitions_makes_a_table_for_each(
    kumo: LocalKumo, materialize: Materialize, tmp_path: Path
) -> None:
    days = {
        "dagster/asset_partition_range_start": day(7),
        "dagster/asset_partition_range_end": day(5),
    }
    run = materialize(partition=None, tags=days)

    assert run.success
    assert len(launched_tables(kumo)) == 3
    for days_ago in (5, 6, 7):
        table = metadata_of(run, TABLE, day(days_ago))
        assert table["dagster-kumo/anchor_time"] == at_midnight(days_ago - 1).timestamp()
        predictions = metadata_of(run, PREDICTIONS, day(days_ago))
        assert predictions["dagster-kumo/prediction_table_job_id"] == table["dagster-kumo/job_id"]
        assert stored_anchors(tmp_path, day(days_ago)) == {at_midnight(days_ago - 1)}


def test_everything_of_a_model_has_its_table_in_the_graph() -> None:
    built = build_kumo_assets_definitions(
        name="purchase",
        prediction=generated(outputs=("predictions", "embeddings")),
        partitions_def=DAYS,
        deps=["orders"],
    )
    graph = dg.Definitions(
        assets=built,
        resources={"kumo": KumoResource(), "kumo_io_manager": dg.FilesystemIOManager()},
    ).resolve_asset_graph()

    def parents(key: dg.AssetKey) -> set[str]:
        return {parent.to_user_string() for parent in graph.get(key).parent_keys}

    assert parents(TABLE) == {"purchase/model", "orders"}
    for output in (PREDICTIONS, EMBEDDINGS):
        assert parents(output) == {"purchase/model", "orders", "purchase/prediction_table"}
    assert graph.get(TABLE).partitions_def == DAYS


# One asset without the other ################################################################


def test_predictions_alone_take_the_table_of_its_latest_materialization(
    kumo: LocalKumo, materialize: Materialize
) -> None:
    materialize(TABLE)
    table = metadata_of(materialize(TABLE), TABLE)["dagster-kumo/job_id"]
    made = len(launched_tables(kumo))

    run = materialize(PREDICTIONS)

    assert run.success
    assert len(launched_tables(kumo)) == made == 2
    assert kumo.jobs[-1]["config"]["pred_table_job_id"] == table
    assert metadata_of(run, PREDICTIONS)["dagster-kumo/prediction_table_job_id"] == table


def test_predictions_alone_need_a_table(kumo: LocalKumo, materialize: Materialize) -> None:
    materialize(TABLE, partition=day(6))
    launched = len(kumo.jobs)

    found_class, message = error_of(materialize(PREDICTIONS))

    assert found_class == "KumoError"
    assert f"purchase/prediction_table, partition {day(5)}, has not been materialized" in message
    assert "Materialize it first" in message
    assert len(kumo.jobs) == launched


REFUSED_TABLES: dict[str, tuple[Callable[..., BatchPrediction], str]] = {
    "for another time": (lambda: generated(anchor="start"), "Materialize the prediction table"),
    "for another query": (
        lambda: generated(training_job_id="trainingjob-cdnow-spend"),
        "made for the query pquery-cdnow-purchase",
    ),
}


@pytest.mark.parametrize("table", REFUSED_TABLES)
def test_a_table_that_does_not_fit_any_more_is_refused(
    table: str, kumo: LocalKumo, materialize: Materialize
) -> None:
    """The definition has changed since the table was materialized."""
    prediction, said = REFUSED_TABLES[table]
    materialize(TABLE)
    launched = len(kumo.jobs)

    found_class, message = error_of(materialize(PREDICTIONS, prediction=prediction()))

    assert found_class == "KumoDataError"
    assert said in message
    assert len(kumo.jobs) == launched


def test_a_table_that_kumo_has_no_more_is_to_be_made_again(
    kumo: LocalKumo, materialize: Materialize
) -> None:
    materialize(TABLE)
    kumo.faults.answer(404, path=r"/genpredtable_jobs/[^/]+$", times=None)

    found_class, message = error_of(materialize(PREDICTIONS))

    assert found_class == "KumoError"
    assert "no longer has" in message
    assert "Materialize it again" in message


# One launch, one job ########################################################################


def test_a_retry_attaches_to_the_table_and_to_the_prediction(
    kumo: LocalKumo, instance: dg.DagsterInstance, materialize: Materialize
) -> None:
    """The table has been materialized by then, but what is predicted from it has not."""
    launched = len(kumo.jobs)
    kumo.faults.answer(404, path="^/files/bp-job.*part-00000", times=3)  # not to be found at first

    run = materialize(retries=1)

    assert run.success
    assert [e.event_type_value for e in run.all_events].count("STEP_RESTARTED") == 1
    assert len(launched_tables(kumo)) == 1
    assert len(kumo.jobs) == launched + 1
    lines = [e.user_message for e in instance.all_logs(run.run_id)]
    for kind in ("prediction table job", "prediction job"):
        assert sum(line.startswith(f"Attached to {kind}") for line in lines) == 1
    stored_run = instance.get_run_by_id(run.run_id)
    assert stored_run is not None
    assert stored_run.tags["dagster/kumo_job.purchase__predictions"] == kumo.jobs[-1]["job_id"]
    assert (
        stored_run.tags["dagster/kumo_prediction_table_job.purchase__predictions"]
        == kumo.jobs[-1]["config"]["pred_table_job_id"]
    )


def test_a_lost_answer_costs_no_second_table(kumo: LocalKumo, materialize: Materialize) -> None:
    kumo.faults.lose_answer(method="POST", path="/genpredtable_jobs$")

    run = materialize(TABLE)

    assert run.success
    assert len(launched_tables(kumo)) == 1


def test_materializing_again_makes_a_new_table(kumo: LocalKumo, materialize: Materialize) -> None:
    materialize()
    materialize()

    assert len(launched_tables(kumo)) == 2
    tables = [job["config"]["pred_table_job_id"] for job in kumo.jobs[-2:]]
    assert len(set(tables)) == 2


def test_a_table_that_cannot_be_made_fails_with_the_servers_words(
    kumo: LocalKumo, materialize: Materialize
) -> None:
    launched = len(kumo.jobs)
    early = dg.DailyPartitionsDefinition(start_date="2001-01-01")

    found_class, message = error_of(materialize(partition="2001-02-03", partitions_def=early))

    assert found_class == "KumoJobFailedError"
    assert "FAILED: Anchor time too early" in message
    assert "2001-02-04" in message
    assert len(kumo.jobs) == launched


def test_errors_that_cannot_be_asked_for_do_not_hide_the_failure(
    kumo: LocalKumo, materialize: Materialize
) -> None:
    kumo.faults.answer(404, path="/get_errors$", times=None)
    early = dg.DailyPartitionsDefinition(start_date="2001-01-01")

    found_class, message = error_of(materialize(partition="2001-02-03", partitions_def=early))

    assert found_class == "KumoJobFailedError"
    assert "Anchor time too early" in message  # as the job's own report has it


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("2026-01-01T00:00:00", "its table is for 2026-01-01 00:00 UTC"),
        (None, "its table is for no time"),
    ],
    ids=["another", "none"],
)
def test_a_table_for_another_time_is_not_predicted_from(
    answer: str | None, said: str, kumo: LocalKumo, materialize: Materialize
) -> None:
    launched = len(kumo.jobs)
    body = b"null" if answer is None else f'"{answer}"'.encode()
    kumo.faults.answer(200, body=body, path="/get_anchor_time$")

    run = materialize()

    found_class, message = error_of(run)
    assert found_class == "KumoDataError"
    assert said in message
    assert len(kumo.jobs) == launched
    assert not run.get_asset_materialization_events()


def test_a_table_whose_rows_cannot_be_counted_is_predicted_from_all_the_same(
    kumo: LocalKumo, instance: dg.DagsterInstance, materialize: Materialize
) -> None:
    kumo.faults.answer(403, path="/table_data$", times=None)

    run = materialize()

    assert run.success
    assert "dagster/row_count" not in metadata_of(run, TABLE)
    lines = [e.user_message for e in instance.all_logs(run.run_id)]
    assert any(line.startswith("How many rows prediction table") for line in lines)


def test_a_users_termination_cancels_the_table(tmp_path: Path) -> None:
    with LocalKumo(run_seconds=60) as kumo, instance_in(tmp_path) as instance:
        client = KumoClient(kumo.url, kumo.api_key)

        def statuses() -> list[str]:
            return [j.job_status_report.status for j in client.list_prediction_table_jobs()]

        interrupt_a_run(
            partial(purchase_assets, prediction=generated()),
            instance=instance,
            kumo=kumo,
            when=lambda: statuses() == ["RUNNING"],
            by_a_user=True,
            partition_key=day(5),
        )

        assert statuses() == ["CANCELLED"]
        assert not kumo.jobs
        assert not instance.fetch_materializations(TABLE, limit=1).records


# Given ######################################################################################


def given(**table: str) -> BatchPrediction:
    return BatchPrediction(training_job_id=PURCHASE, anchor=None, **table)  # pyright: ignore[reportArgumentType]


def test_a_table_is_given_by_its_job(
    kumo: LocalKumo, materialize: Materialize, tmp_path: Path
) -> None:
    table = metadata_of(materialize(TABLE, partition=day(9)), TABLE)["dagster-kumo/job_id"]

    run = materialize(prediction=given(prediction_table_job_id=table))

    assert run.success
    assert kumo.jobs[-1]["config"]["pred_table_job_id"] == table
    assert stored_anchors(tmp_path, day(5)) == {at_midnight(8)}


def test_a_table_is_given_by_its_path(
    kumo: LocalKumo, materialize: Materialize, tmp_path: Path
) -> None:
    folder = kumo.data / "exports/s3/bucket/my_table"
    folder.mkdir(parents=True)
    mine = {"ENTITY": [1, 2, 3], "ANCHOR_TIMESTAMP": [at_midnight(12)] * 3}
    pq.write_table(pa.table(mine), folder / "part.parquet")

    run = materialize(prediction=given(prediction_table_path="s3://bucket/my_table"))

    assert run.success
    assert metadata_of(run, PREDICTIONS)["dagster/row_count"] == 3
    assert stored_anchors(tmp_path, day(5)) == {at_midnight(12)}


# Inline #####################################################################################


INLINE = BatchPrediction(training_job_id=PURCHASE)


def test_an_old_server_that_answers_for_another_day_is_refused_with_the_way_out(
    kumo: LocalKumo, materialize: Materialize, tmp_path: Path
) -> None:
    kumo.faults.ignore_prediction_time()

    found_class, message = error_of(materialize(prediction=INLINE, partition=day(20)))

    assert found_class == "KumoDataError"
    assert f"asked to predict for {day(19)} 00:00 UTC, but its data is for" in message
    assert 'prediction_table="generate"' in message
    assert not list((tmp_path / "store").rglob("*.parquet"))


def test_an_old_server_that_happens_to_have_the_right_day_is_believed(
    kumo: LocalKumo, materialize: Materialize
) -> None:
    """Of the day whose end is the latest time in the data, the data itself tells."""
    kumo.faults.ignore_prediction_time()

    assert materialize(prediction=INLINE, partition=day(1)).success


def test_what_neither_job_nor_data_say_the_time_of_is_refused(
    kumo: LocalKumo, materialize: Materialize, tmp_path: Path
) -> None:
    """Embeddings have no anchor time in them, and an old server does not echo the one asked."""
    kumo.faults.ignore_prediction_time()
    embeddings = BatchPrediction(training_job_id=PURCHASE, outputs=("embeddings",))

    found_class, message = error_of(materialize(prediction=embeddings))

    assert found_class == "KumoDataError"
    assert "neither the job nor its embeddings state the time" in message
    assert 'prediction_table="generate"' in message
    assert not list((tmp_path / "store").rglob("*.parquet"))


def test_what_the_job_says_the_time_of_is_believed(materialize: Materialize) -> None:
    embeddings = BatchPrediction(training_job_id=PURCHASE, outputs=("embeddings",))

    assert materialize(prediction=embeddings).success


def test_embeddings_from_a_table_need_no_echo(kumo: LocalKumo, materialize: Materialize) -> None:
    kumo.faults.ignore_prediction_time()

    assert materialize(prediction=generated(outputs=("predictions", "embeddings"))).success


# Definitions ################################################################################


OPTIONS = {"prediction_table_options": {"forecast_length": 7}}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another way": ({"prediction_table": "later"}, "'inline' or 'generate'"),
    "options of nothing": ({**OPTIONS, "prediction_table": "inline"}, "'generate'"),
    "an unknown option": ({"prediction_table_options": {"horizon": 7}}, "forecast_length, lag"),
    "no length": ({"prediction_table_options": {"forecast_length": 0}}, "at least 1"),
    "half a step": ({"prediction_table_options": {"lag_timesteps": 0.5}}, "whole number"),
    "a number for a yes": ({"prediction_table_options": {"year_over_year": 1}}, "True or False"),
    "a job as well": ({"prediction_table_job_id": "table-1"}, "generated or given"),
    "a path as well": ({"prediction_table_path": "s3://bucket/table"}, "generated or given"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_table_that_cannot_be_is_refused_when_defined(what: str) -> None:
    options, advice = BAD[what]
    with pytest.raises(ValueError, match=advice):
        generated(**options)


def test_what_is_defined_is_what_is_read_back_from_the_definition() -> None:
    prediction = generated(prediction_table_options={"forecast_length": 7, "year_over_year": True})
    assert BatchPrediction(**prediction.to_json()) == prediction
    assert "prediction_table_options" not in generated().to_json()
