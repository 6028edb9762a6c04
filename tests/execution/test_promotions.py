"""A candidate is judged, promoted and rolled back: what runs do, and what Dagster shows of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from dagster_kumo import (
    BatchPrediction,
    KumoClient,
    KumoModelAssets,
    KumoTraining,
    PromotionGate,
    build_kumo_assets_definitions,
    retrain_after_failed_checks,
)
from dagster_kumo.jobs.promotion import Author, promote
from dagster_kumo.local import LocalKumo
from tests.support import DAYS, PURCHASE, day, error_of, has, metadata_of, resources

OLD = f"{PURCHASE}-old"
SPEND = "trainingjob-cdnow-spend"
CANDIDATE = dg.AssetKey(["shop", "candidate"])
MODEL = dg.AssetKey(["shop", "model"])
NOT_MUCH_WORSE = PromotionGate(min_values={"auroc": 0.7}, max_loss={"auroc": 0.002})

pytestmark = pytest.mark.usefixtures("nothing_promoted")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance of each test's own: the newest candidate is looked for in its events."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


class Shop:
    """A model whose candidates are trained, with its runs."""

    def __init__(self, kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path) -> None:
        self.kumo, self.instance = kumo, instance
        self._resources = resources(kumo, tmp_path, statistics=False)

    def assets(
        self, gate: PromotionGate | None = NOT_MUCH_WORSE, **options: Any
    ) -> KumoModelAssets:
        return build_kumo_assets_definitions(
            name="shop",
            prediction=BatchPrediction(champion_of="shop"),
            training=KumoTraining(query="cdnow_purchase", gate=gate, **options),
            partitions_def=DAYS,
            deps=["purchases"],
            retry_policy=dg.RetryPolicy(max_retries=1),
        )

    def run(
        self, *keys: str, gate: PromotionGate | None = NOT_MUCH_WORSE, **options: Any
    ) -> dg.ExecuteInProcessResult:
        """Materialize some of the assets, in one run, with their checks."""
        return dg.materialize(
            self.assets(gate),
            selection=dg.AssetSelection.assets(*(dg.AssetKey(["shop", key]) for key in keys)),
            instance=self.instance,
            resources=self._resources,
            raise_on_error=False,
            **options,
        )

    def promoting(self, **config: Any) -> dg.ExecuteInProcessResult:
        return self.run("model", run_config={"ops": {"shop__model": {"config": config}}})

    def predicted_by(self) -> str:
        assert self.run("predictions", partition_key=day(5)).success
        return self.kumo.jobs[-1]["config"]["model_training_job_id"]


@pytest.fixture
def shop(kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path) -> Shop:
    return Shop(kumo, instance, tmp_path)


def verdict(run: dg.ExecuteInProcessResult) -> tuple[bool, str, dict[str, Any]]:
    (found,) = run.get_asset_check_evaluations()
    assert found.description is not None
    return found.passed, found.description, {k: v.value for k, v in found.metadata.items()}


def test_a_candidate_that_passes_is_promoted_and_predicts(shop: Shop, client: KumoClient) -> None:
    promote(client, OLD, "shop", Author())

    run = shop.run("candidate", "model")

    assert run.success
    seen = metadata_of(run, CANDIDATE)
    job_id = seen["dagster-kumo/training_job_id"]
    assert 0.7 < seen["dagster-kumo/champion/auroc"] < seen["dagster-kumo/holdout/auroc"]
    passed, said, metadata = verdict(run)
    assert passed
    assert "above the champion's 0.7766; needed: not more than 0.002 below" in said
    assert (metadata["candidate"], metadata["champion"]) == (job_id, OLD)
    promoted = metadata_of(run, MODEL)
    assert promoted["dagster-kumo/training_job_id"] == job_id
    assert promoted["dagster-kumo/champion_before"] == OLD
    assert promoted["dagster-kumo/promoted_by"] == f"the run {run.run_id}"
    version = shop.instance.get_latest_data_version_record(MODEL)
    assert version
    assert version.asset_materialization
    assert (version.asset_materialization.tags or {})["dagster/data_version"] == job_id
    assert shop.predicted_by() == job_id


def test_a_candidate_that_is_refused_changes_nothing(shop: Shop, client: KumoClient) -> None:
    promote(client, OLD, "shop", Author())
    gate = PromotionGate(min_gain={"auroc": 0.3}, max_values={"ce": 0.0})

    run = shop.run("candidate", "model", gate=gate)

    assert not run.success
    passed, said, _ = verdict(run)
    assert not passed
    assert "auroc" in said
    assert "needed: at least 0.3 above" in said
    assert "the candidate has no ce, only" in said
    assert "The champion stays." in said
    assert not run.asset_materializations_for_node("shop__model")
    assert shop.predicted_by() == OLD
    # Promotion asks the gate itself, whether or not the check ran.
    alone = shop.run("model", gate=gate)
    assert "No newer candidate passes its gate.\n" in error_of(alone)[1]
    assert shop.predicted_by() == OLD


def test_one_is_promoted_by_its_id_whatever_the_gate_says(shop: Shop) -> None:
    run = shop.promoting(training_job_id=OLD, why="the first one", by="ada")

    metadata = metadata_of(run, MODEL)
    assert metadata["dagster-kumo/training_job_id"] == OLD
    assert metadata["dagster-kumo/promoted_by"] == "ada"
    assert metadata["dagster-kumo/promoted_why"] == "the first one"


def test_a_rollback_is_a_job_and_is_not_undone_by_the_next_promotion(shop: Shop) -> None:
    shop.promoting(training_job_id=OLD)
    run = shop.run("candidate", "model")
    candidate = metadata_of(run, MODEL)["dagster-kumo/training_job_id"]

    job = dg.Definitions(
        assets=shop.assets(), jobs=[shop.assets().rollback_job], resources=shop._resources
    ).resolve_job_def("shop_rollback")
    back = job.execute_in_process(instance=shop.instance)

    assert metadata_of(back, MODEL)["dagster-kumo/training_job_id"] == OLD
    assert shop.predicted_by() == OLD
    again = shop.run("model")
    assert metadata_of(again, MODEL)["dagster-kumo/training_job_id"] == OLD
    assert metadata_of(shop.promoting(training_job_id=candidate), MODEL)
    assert shop.predicted_by() == candidate


def test_without_candidate_and_champion_it_is_said_what_to_do(shop: Shop) -> None:
    run = shop.run("model")

    name, said = error_of(run)
    assert name == "KumoModelError"
    assert "Materialize shop/candidate first" in said


def test_a_check_that_begins_to_fail_trains_once_and_promotes_in_the_same_run(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    shop = build_kumo_assets_definitions(
        name="shop",
        prediction=BatchPrediction(champion_of="shop"),
        training=KumoTraining(
            query="cdnow_purchase",
            automation_condition=retrain_after_failed_checks(dg.AssetKey(["shop", "predictions"])),
        ),
        partitions_def=DAYS,
    )
    passes = {"drift": True}

    @dg.asset_check(asset=dg.AssetKey(["shop", "predictions"]))
    def drift() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=passes["drift"])

    defs = dg.Definitions(assets=shop, asset_checks=[drift], resources=resources(kumo, tmp_path))
    cursor = dg.evaluate_automation_conditions(defs, instance).cursor

    def requested_after(days_ago: int, *, passed: bool) -> set[str]:
        nonlocal cursor
        passes["drift"] = passed
        key = dg.AssetKey(["shop", "predictions"])
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=day(days_ago)))
        dg.materialize(
            [dg.AssetSpec(key), drift], instance=instance, selection=dg.AssetSelection.checks(drift)
        )
        asked = dg.evaluate_automation_conditions(defs, instance, cursor=cursor)
        cursor = asked.cursor
        keys = (CANDIDATE, MODEL)
        return {key.path[-1] for key in keys if asked.get_num_requested(key)}

    assert requested_after(5, passed=True) == set()
    assert requested_after(4, passed=False) == {"candidate", "model"}
    assert requested_after(3, passed=False) == set()
    assert requested_after(2, passed=True) == set()
    assert requested_after(1, passed=False) == {"candidate", "model"}


EAGER = dg.AutomationCondition.eager()
THE_MODEL = dg.AssetSelection.assets(MODEL)
NEW_CHAMPION = EAGER.replace(
    "any_deps_updated",
    dg.AutomationCondition.any_deps_updated().ignore(THE_MODEL)
    | dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).allow(
        THE_MODEL
    ),
)


IGNORES_WITHOUT_HARM = pytest.mark.skipif(
    not has("dagster", "1.13.0"),
    reason="There, in a graph that was not sent to another process, `ignore` and `allow` remove dependencies for good.",
)


@pytest.mark.parametrize(
    ("condition", "is_made_again", "also_if_the_champion_stays"),
    [
        pytest.param(None, False, False, id="stale only"),
        pytest.param(EAGER, True, True, id="eager"),
        pytest.param(NEW_CHAMPION, True, False, id="new champion", marks=IGNORES_WITHOUT_HARM),
    ],
)
def test_a_promotion_makes_predictions_stale_and_they_are_made_again_as_the_user_chooses(
    condition: dg.AutomationCondition[Any] | None,
    is_made_again: bool,
    also_if_the_champion_stays: bool,
    kumo: LocalKumo,
    client: KumoClient,
    instance: dg.DagsterInstance,
    tmp_path: Path,
) -> None:
    """The data version of the model is its training job: if the champion stays, nothing is stale."""
    promote(client, OLD, "shop", Author())
    shop = build_kumo_assets_definitions(
        name="shop",
        prediction=BatchPrediction(champion_of="shop"),
        training=KumoTraining(query="cdnow_purchase"),
        partitions_def=DAYS,
        deps=["purchases"],
        automation_condition=condition,
    )
    defs = dg.Definitions(
        assets=[*shop, dg.AssetSpec("purchases")],
        resources=resources(kumo, tmp_path, statistics=False),
    )
    predictions = dg.AssetKey(["shop", "predictions"])
    newest = DAYS.get_last_partition_key()
    assert newest is not None
    cursor = dg.evaluate_automation_conditions(defs, instance).cursor

    def run(key: dg.AssetKey, partition: str | None = None, **config: Any) -> None:
        ops = {"shop__model": {"config": config}} if config else {}
        job = defs.resolve_implicit_global_asset_job_def()
        ran = job.execute_in_process(
            instance=instance,
            asset_selection=[key],
            partition_key=partition,
            run_config={"ops": ops},
        )
        assert ran.success

    def requested() -> set[str | None]:
        nonlocal cursor
        asked = dg.evaluate_automation_conditions(defs, instance, cursor=cursor)
        cursor = asked.cursor
        return asked.get_requested_partitions(predictions)

    def again(expected: bool) -> bool:
        return requested() == ({newest} if expected else set())

    def status() -> str:
        # Private: Dagster has no public call for what its UI shows as stale.
        graph = defs.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        return resolver.get_status(predictions, newest).value

    def table() -> None:
        instance.report_runless_asset_event(dg.AssetMaterialization("purchases"))

    table()
    run(MODEL)
    requested()
    run(predictions, newest)
    assert again(False)
    assert status() == "FRESH"

    run(MODEL, training_job_id=PURCHASE)
    assert status() == "STALE"
    assert again(is_made_again)
    run(predictions, newest)
    assert status() == "FRESH"
    assert again(False)
    run(MODEL)  # no newer candidate: the champion stays
    assert status() == "FRESH"
    assert again(also_if_the_champion_stays)
    run(predictions, newest)
    assert again(False)
    table()
    assert again(is_made_again)


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("fault", ["drop", "lose_answer"])
@pytest.mark.parametrize("act", ["promotion", "rollback"])
def test_a_run_that_breaks_off_at_any_call_is_taken_up_by_its_retry(
    shop: Shop, client: KumoClient, act: str, fault: str, call: int
) -> None:
    """The retry moves the mark once, and leaves one champion."""
    for job_id in (SPEND, OLD):
        promote(client, job_id, "shop", Author())
    config = {"training_job_id": PURCHASE} if act == "promotion" else {"rollback": True}
    times = 3  # of a call: what the resource repeats
    getattr(shop.kumo.faults, fault)(path="/tags$", method="PATCH", after=call, times=times)

    run = shop.promoting(**config)

    assert run.success
    assert [e.event_type_value for e in run.all_events].count("STEP_UP_FOR_RETRY") == 1
    champion = PURCHASE if act == "promotion" else SPEND
    assert metadata_of(run, MODEL)["dagster-kumo/training_job_id"] == champion
    marked = [job.job_id for job in client.list_training_jobs() if "dagster.champion" in job.tags]
    assert marked == [champion]
