"""Which model predicts, and what is shown of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    DagsterKumoTranslator,
    KumoAssetProps,
    KumoClient,
    KumoIOManager,
    KumoResource,
    build_kumo_assets_definitions,
)
from dagster_kumo.jobs.promotion import Author, promote
from dagster_kumo.local import LocalKumo
from tests.support import (
    DAYS,
    PREDICTIONS,
    PURCHASE,
    TODAY,
    day,
    error_of,
    metadata_of,
    purchase_assets,
    resources,
)
from tests.system.other_server import OtherServer, training_job

MODEL = dg.AssetKey(["purchase", "model"])


def by_tags(**tags: str) -> dg.AssetsDefinition:
    return purchase_assets(prediction=BatchPrediction(training_job_tags=tags))


# Which one #################################################################################


def test_tags_take_the_newest_model_that_is_done(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """The stand-in has an older one, a newer one that FAILED and one that is still RUNNING."""
    run = dg.materialize(
        [by_tags(use_case="purchase", dataset="cdnow")],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )

    assert run.success
    assert kumo.jobs[-1]["config"]["model_training_job_id"] == PURCHASE


@pytest.mark.usefixtures("nothing_promoted")
def test_the_champion_is_found_when_the_run_predicts(
    kumo: LocalKumo, client: KumoClient, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """A job that the champion before has predicted belongs to the assets too."""
    assets = purchase_assets(prediction=BatchPrediction(champion_of="shop"))
    where = resources(kumo, tmp_path, statistics=False)
    about = {"instance": instance, "resources": where, "partition_key": day(5)}
    run = dg.materialize([assets], **about, raise_on_error=False)
    name, message = error_of(run)
    assert name == "KumoModelError"
    assert "dagster-kumo models promote TRAINING_JOB_ID --name shop" in message

    def predicting() -> str:
        assert dg.materialize([assets], **about).success
        return kumo.jobs[-1]["config"]["model_training_job_id"]

    promote(client, f"{PURCHASE}-old", "shop", Author())
    assert predicting() == f"{PURCHASE}-old"
    by_the_old_one = kumo.jobs[-1]["job_id"]
    promote(client, PURCHASE, "shop", Author())
    assert predicting() == PURCHASE
    again = dg.materialize([assets], **about, tags={"dagster-kumo/deliver_job": by_the_old_one})
    assert metadata_of(again, PREDICTIONS)["dagster-kumo/job_id"] == by_the_old_one


@pytest.fixture
def other(tmp_path: Path) -> Iterator[tuple[OtherServer, dict[str, Any]]]:
    """A server that lists all training jobs in an order of its own, whatever is asked of it."""
    with OtherServer() as server:
        resource = KumoResource(url=server.url, api_key=server.api_key, request_max_retries=0)
        store = KumoIOManager(base_path=str(tmp_path / "store"), statistics=False)
        yield server, {"kumo": resource, "kumo_io_manager": store}


def test_neither_filters_nor_order_of_a_server_are_relied_on(
    other: tuple[OtherServer, dict[str, Any]], instance: dg.DagsterInstance
) -> None:
    server, where = other
    mine = {"use_case": "churn"}
    server.training_jobs = [
        training_job("without-a-time", tags=mine, created_at=None),
        training_job("old", tags=mine, created_at="2026-02-01T00:00:00"),
        training_job("running", tags=mine, created_at="2026-06-01T00:00:00", status="RUNNING"),
        training_job("new", tags=mine, created_at="2026-05-01T00:00:00+00:00"),
        training_job("middle", tags=mine, created_at="2026-03-01T00:00:00"),
        training_job("of-others", tags={"use_case": "fraud"}, created_at="2026-07-01T00:00:00"),
    ]

    run = dg.materialize(
        [by_tags(use_case="churn")], instance=instance, resources=where, partition_key=day(5)
    )

    assert run.success
    assert server.launches[-1]["model_training_job_id"] == "new"


NOT_DONE = [
    training_job("failed", tags={"use_case": "churn"}, status="FAILED"),
    training_job(
        "running", tags={"use_case": "churn"}, status="RUNNING", created_at="2026-06-01T00:00:00"
    ),
]


@pytest.mark.parametrize(
    ("there", "said"),
    [(NOT_DONE, "there are: running (RUNNING), failed (FAILED)."), ([], "there are: none.")],
    ids=["not done", "none"],
)
def test_without_a_model_that_is_done_it_is_said_which_there_are(
    there: list[dict[str, Any]],
    said: str,
    other: tuple[OtherServer, dict[str, Any]],
    instance: dg.DagsterInstance,
) -> None:
    server, where = other
    server.training_jobs = [*there, training_job("of-others", tags={"use_case": "fraud"})]

    run = dg.materialize(
        [by_tags(use_case="churn")],
        instance=instance,
        resources=where,
        partition_key=day(5),
        raise_on_error=False,
    )

    found_class, message = error_of(run)
    assert found_class == "KumoModelError"
    assert f"No training job with the tags use_case=churn is DONE; {said}" in message
    assert not server.launches


def test_many_newer_ones_that_failed_hide_no_model(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """A list has a limit; it is not filled with what cannot be used."""
    kumo.clear_requests()

    dg.materialize(
        [by_tags(use_case="purchase")],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )

    (asked,) = [r for r in kumo.requests if r.path.endswith("/training_jobs")]
    assert asked.query["job_status"] == "DONE"
    assert asked.query["use_case"] == "purchase"


# What is shown of it #######################################################################


def everything(**options: Any) -> list[dg.AssetsDefinition]:
    return build_kumo_assets_definitions(
        name="purchase",
        prediction=BatchPrediction(training_job_id=PURCHASE),
        partitions_def=DAYS,
        deps=["customers"],
        **options,
    )


def observations(run: dg.ExecuteInProcessResult) -> list[dg.AssetObservation]:
    """What a run has seen of assets that it does not make."""
    return [
        event.asset_observation_data.asset_observation
        for event in run.all_events
        if event.event_type_value == "ASSET_OBSERVATION"
    ]


def test_a_run_shows_on_the_models_asset_what_is_known_of_it(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = dg.materialize(
        everything(),
        instance=instance,
        resources=resources(kumo, tmp_path, statistics=False),
        partition_key=day(5),
    )

    (seen,) = observations(run)
    entries = {name: value.value for name, value in seen.metadata.items()}
    job = KumoResource(url=kumo.url, api_key=kumo.api_key).get_client().get_training_job(PURCHASE)
    assert job.result is not None
    measured = {m.name: m.value for m in job.result.eval_metrics.test_metrics}
    ended = job.job_status_report.end_time
    assert ended is not None
    assert seen.asset_key == MODEL
    assert entries["dagster-kumo/training_job_id"] == PURCHASE
    web_ui = kumo.url.removesuffix("api")
    assert entries["dagster-kumo/deployment_url"] == web_ui
    assert entries["dagster-kumo/tracking_url"] == f"{web_ui}jobs/{PURCHASE}"
    assert (
        "PREDICT COUNT(purchases.*, 0, 30, days) > 0\nFOR EACH customers.customer_id"
        in entries["dagster-kumo/query"]
    )
    assert entries["dagster-kumo/tables"] == "customers, purchases"
    assert entries["dagster-kumo/trained_at"] == ended.timestamp()
    assert entries["dagster-kumo/age_days"] == pytest.approx((TODAY - ended.date()).days, abs=1)
    assert len(measured) >= 3
    for name, value in measured.items():
        assert entries[f"dagster-kumo/holdout/{name}"] == pytest.approx(value, rel=1e-5)


def test_a_run_over_several_partitions_looks_at_the_model_once(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = dg.materialize(
        everything(backfill_policy=dg.BackfillPolicy.single_run()),
        instance=instance,
        resources=resources(kumo, tmp_path, statistics=False),
        tags={
            "dagster/asset_partition_range_start": day(6),
            "dagster/asset_partition_range_end": day(5),
        },
    )

    assert len(observations(run)) == 1
    assert len(run.get_asset_materialization_events()) == 2


def test_it_is_shown_on_the_key_that_the_translator_gives(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    class Prefixed(DagsterKumoTranslator):
        def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
            spec = super().get_asset_spec(props)
            return spec.replace_attributes(key=spec.key.with_prefix("ml"))

    run = dg.materialize(
        everything(translator=Prefixed()),
        instance=instance,
        resources=resources(kumo, tmp_path, statistics=False),
        partition_key=day(5),
    )

    assert [seen.asset_key.path for seen in observations(run)] == [["ml", "purchase", "model"]]


def test_a_query_that_cannot_be_read_fails_nothing(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.answer(404, path="/predictive_queries/", times=None)

    run = dg.materialize(
        everything(),
        instance=instance,
        resources=resources(kumo, tmp_path, statistics=False),
        partition_key=day(5),
    )

    assert run.success
    (seen,) = observations(run)
    assert "dagster-kumo/query" not in seen.metadata
    assert "dagster-kumo/holdout/auroc" in seen.metadata
    lines = [e.user_message for e in instance.all_logs(run.run_id)]
    assert any(
        line.startswith(f"The query of the model {PURCHASE} cannot be shown") for line in lines
    )


def test_what_is_shown_of_the_model_makes_nothing_out_of_date(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Neither do predictions count as stale by what their own run saw, nor do they run again."""
    where = resources(kumo, tmp_path, statistics=False)
    defs = dg.Definitions(
        assets=everything(automation_condition=dg.AutomationCondition.eager()), resources=where
    )
    job = defs.resolve_implicit_global_asset_job_def()
    # Past the first look, at which everything is new.
    cursor = dg.evaluate_automation_conditions(defs, instance).cursor

    for _ in range(2):
        job.execute_in_process(instance=instance, partition_key=day(1))
        asked = dg.evaluate_automation_conditions(defs, instance, cursor=cursor)
        assert asked.total_requested == 0
        cursor = asked.cursor

    versions = [
        event.asset_materialization.tags or {}
        for event in instance.fetch_materializations(
            dg.AssetKey(["purchase", "predictions"]), limit=2
        ).records
        if event.asset_materialization
    ]
    assert {v["dagster/input_data_version/purchase/model"] for v in versions} == {"INITIAL"}
