"""The gate of a candidate as a check in a run, with the candidate and the evaluations that a test makes up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    KumoClient,
    KumoEvaluation,
    KumoTraining,
    PromotionGate,
    build_kumo_assets_definitions,
)
from dagster_kumo.jobs.promotion import Author, promote
from dagster_kumo.local import LocalKumo
from tests.support import DAYS, PURCHASE, day, resources

OLD = f"{PURCHASE}-old"  # auroc 0.7766; that of the newer one is 0.786
SPEND = "trainingjob-cdnow-spend"  # mae 5.965
EVALUATION = dg.AssetKey(["shop", "evaluation"])

pytestmark = pytest.mark.usefixtures("nothing_promoted")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


class Judge(Protocol):
    def __call__(
        self, candidate: str, *, evaluated: Sequence[dict[str, Any]] = (), **gate: Any
    ) -> tuple[bool, str]: ...


@pytest.fixture
def judge(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path_factory: pytest.TempPathFactory
) -> Judge:
    """Runs the check: whether it passed, and the first line of what it said."""
    where = resources(kumo, tmp_path_factory.getbasetemp())

    def judge(
        candidate: str, *, evaluated: Sequence[dict[str, Any]] = (), **gate: Any
    ) -> tuple[bool, str]:
        shop = build_kumo_assets_definitions(
            name="shop",
            prediction=BatchPrediction(champion_of="shop"),
            training=KumoTraining(query="cdnow_purchase", gate=PromotionGate(**gate)),
            evaluation=KumoEvaluation(outcomes=dg.AssetKey("outcomes")),
            partitions_def=DAYS,
        )
        assert shop.candidate is not None
        assert shop.gate is not None
        note(shop.candidate.key, None, candidate)
        for number, metrics in enumerate(evaluated):
            by = metrics.get("by", OLD)
            values = {k: v for k, v in metrics.items() if k != "by"}
            note(EVALUATION, day(40 - number), by, coverage=1.0, **values)
        run = dg.materialize(
            [*shop, dg.AssetSpec("outcomes", partitions_def=DAYS)],
            selection=dg.AssetSelection.checks(shop.gate),
            instance=instance,
            resources=where,
            raise_on_error=False,
        )
        (found,) = run.get_asset_check_evaluations()
        assert run.success == found.passed
        return found.passed, str(found.description).splitlines()[0]

    def note(key: dg.AssetKey, partition: str | None, training_job_id: str, **more: float) -> None:
        metadata = {"training_job_id": training_job_id, "rows": 10, **more}
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                key,
                partition=partition,
                metadata={f"dagster-kumo/{name}": value for name, value in metadata.items()},
            )
        )

    return judge


@pytest.fixture
def champion(client: KumoClient) -> None:
    promote(client, OLD, "shop", Author())


@pytest.mark.parametrize(
    ("gate", "passed", "said"),
    [
        ({"max_values": {"mae": 6}}, True, "mae is 5.965; needed: at most 6."),
        ({"max_values": {"mae": 5}}, False, "mae is 5.965; needed: at most 5."),
        (
            {"max_values": {"mae": 6, "mape": 1}},
            False,
            "the candidate has no mape, only mae, mse, rmse.",
        ),
        (
            {"max_values": {"mae": 6}, "max_loss": {"mae": 1}},
            True,
            "mae is 5.965; needed: at most 6; there is no champion of shop to compare with.",
        ),
    ],
)
def test_greatest_values_without_a_champion(
    gate: dict[str, Any], passed: bool, said: str, judge: Judge
) -> None:
    assert judge(SPEND, **gate) == (passed, said)


IS_BETTER = "auroc 0.786 is 0.009481 above the champion's 0.7766; needed: at least {} above."
IS_BETTER_BY_PERCENT = (
    "auroc 0.786 is 1.22% above the champion's 0.7766; needed: at least {} above."
)


@pytest.mark.usefixtures("champion")
@pytest.mark.parametrize(
    ("gate", "passed", "said"),
    [
        ({"min_gain": {"auroc": 0.009}}, True, IS_BETTER.format("0.009")),
        ({"min_gain": {"auroc": 0.01}}, False, IS_BETTER.format("0.01")),
        (
            {"min_gain": {"auroc": 0.01}, "relative": True},
            True,
            IS_BETTER_BY_PERCENT.format("1.00%"),
        ),
        (
            {"min_gain": {"auroc": 0.013}, "relative": True},
            False,
            IS_BETTER_BY_PERCENT.format("1.30%"),
        ),
    ],
)
def test_a_gain(gate: dict[str, Any], passed: bool, said: str, judge: Judge) -> None:
    assert judge(PURCHASE, **gate) == (passed, said)


@pytest.mark.parametrize(
    ("limit", "passed"), [(0.013, True), (0.01, False)], ids=["passes", "fails"]
)
def test_a_loss_as_a_share(limit: float, passed: bool, judge: Judge, client: KumoClient) -> None:
    promote(client, PURCHASE, "shop", Author())

    said = judge(OLD, max_loss={"auroc": limit}, relative=True)

    assert said == (
        passed,
        f"auroc 0.7766 is 1.21% below the champion's 0.786; needed: not more than {limit:.2%} below.",
    )


@pytest.mark.usefixtures("champion")
@pytest.mark.parametrize(
    ("realized", "gate", "passed", "said"),
    [
        (7.0, {"min_gain": {"mae": 1}}, True, "is 1.035 below the champion's 7{}; needed: at least 1 below."),
        (7.0, {"min_gain": {"mae": 2}}, False, "is 1.035 below the champion's 7{}; needed: at least 2 below."),
        (5.0, {"max_loss": {"mae": 1}}, True, "is 0.9653 above the champion's 5{}; needed: not more than 1 above."),
        (5.0, {"max_loss": {"mae": 0}}, False, "is 0.9653 above the champion's 5{}; needed: not above it."),
    ],
)  # fmt: skip
def test_of_an_error_less_is_better(
    realized: float, gate: dict[str, Any], passed: bool, said: str, judge: Judge
) -> None:
    """The champion's errors are those that its predictions have realized."""
    found = judge(SPEND, evaluated=[{"mae": realized}], reference=1, **gate)

    assert found == (passed, f"mae 5.965 {said.format(' in its newest evaluation')}")


@pytest.mark.usefixtures("champion")
@pytest.mark.parametrize(
    ("reference", "limit", "passed", "said"),
    [
        # The mean of 0.74 and 0.78; on the holdout it is 0.7766.
        (2, 0.025, True, "0.02604 above the champion's 0.76 in its newest 2 evaluations"),
        (2, 0.027, False, "0.02604 above the champion's 0.76 in its newest 2 evaluations"),
        # Only those of the champion count, and there are three.
        (9, 0.1, True, "0.1127 above the champion's 0.6733 in its newest 3 evaluations"),
    ],
)
def test_what_the_champion_has_realized(
    reference: int, limit: float, passed: bool, said: str, judge: Judge
) -> None:
    realized = [0.5, 0.74, 0.78]
    evaluated = [*({"auroc": value} for value in realized), {"auroc": 0.99, "by": SPEND}]

    found = judge(PURCHASE, evaluated=evaluated, reference=reference, min_gain={"auroc": limit})

    assert found == (passed, f"auroc 0.786 is {said}; needed: at least {limit} above.")


@pytest.mark.usefixtures("champion")
def test_evaluations_are_found_under_the_prefix_of_a_module(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    outcomes = dg.AssetSpec("outcomes", partitions_def=DAYS)
    gate = PromotionGate(min_gain={"auroc": 0.02}, reference=1)
    models = ModuleType("models")
    models.shop = build_kumo_assets_definitions(  # type: ignore[attr-defined]
        name="shop",
        prediction=BatchPrediction(champion_of="shop"),
        training=KumoTraining(query="cdnow_purchase", gate=gate),
        evaluation=KumoEvaluation(outcomes=dg.AssetKey("outcomes")),
        partitions_def=DAYS,
    )
    for key, partition, model in (("candidate", None, PURCHASE), ("evaluation", day(40), OLD)):
        metadata = {"dagster-kumo/training_job_id": model, "dagster-kumo/auroc": 0.75}
        made = dg.AssetMaterialization(["ml", "shop", key], partition=partition, metadata=metadata)
        instance.report_runless_asset_event(made)

    run = (
        dg.Definitions(
            assets=[*dg.load_assets_from_modules([models], key_prefix="ml"), outcomes],
            asset_checks=dg.load_asset_checks_from_modules([models], asset_key_prefix="ml"),
            jobs=[dg.define_asset_job("gate", dg.AssetSelection.all_asset_checks())],
            resources=resources(kumo, tmp_path),
        )
        .resolve_job_def("gate")
        .execute_in_process(instance=instance, raise_on_error=False)
    )

    (found,) = run.get_asset_check_evaluations()
    assert "above the champion's 0.75 in its newest evaluation" in str(found.description)


@pytest.mark.usefixtures("champion")
def test_before_its_first_evaluation_the_champions_holdout_counts(judge: Judge) -> None:
    passed, said = judge(PURCHASE, reference=3, min_gain={"auroc": 0.0})

    assert passed
    assert said == (
        "auroc 0.786 is 0.009481 above the champion's 0.7766 on its holdout; needed: not below it."
    )


@pytest.mark.usefixtures("champion")
def test_metrics_have_kumos_names_in_evaluations_too(judge: Judge) -> None:
    """The accuracy of an evaluation is Kumo's acc."""
    evaluated = [{"accuracy": 0.95}]

    passed, said = judge(PURCHASE, evaluated=evaluated, reference=1, max_loss={"acc": 0.01})

    assert not passed
    assert "acc 0.9235 is 0.02645 below the champion's 0.95 in its newest evaluation" in said


@pytest.mark.usefixtures("champion")
def test_a_metric_that_was_not_realized_is_named_beside_those_that_were(judge: Judge) -> None:
    evaluated = [{"accuracy": 0.9, "holdout/auroc": 0.8}]

    assert judge(PURCHASE, evaluated=evaluated, reference=1, max_loss={"auroc": 0}) == (
        False,
        "the champion has no auroc in its newest evaluation, only accuracy.",
    )


def test_a_metric_whose_direction_is_not_known_is_limited_by_values_only(judge: Judge) -> None:
    with pytest.raises(ValueError, match=r"max_loss has 'happiness', of which .* Limit it by min_"):
        judge(PURCHASE, max_loss={"happiness": 0.1})
    with pytest.raises(ValueError, match="min_gain has 'happiness'"):
        judge(PURCHASE, min_gain={"happiness": 0.1})
    assert judge(PURCHASE, min_values={"happiness": 1}) == (
        False,
        "the candidate has no happiness, only acc, auprc, auroc.",
    )


def test_a_refusal_names_a_champion_only_if_there_is_one(
    judge: Judge, instance: dg.DagsterInstance, client: KumoClient
) -> None:
    def way_out() -> str:
        judge(PURCHASE, min_values={"auroc": 0.9})
        (record,) = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey(["shop", "candidate"]), "promotion_gate"), limit=1
        )
        assert record.event
        assert record.event.dagster_event
        found = record.event.dagster_event.asset_check_evaluation_data
        return str(found.description).splitlines()[1]

    assert way_out().startswith("Nothing is promoted. Train another candidate, or promote this one")
    promote(client, OLD, "shop", Author())
    assert way_out().startswith("The champion stays. Train another candidate")


def test_realized_metrics_need_an_evaluation_asset() -> None:
    gate = PromotionGate(max_loss={"auroc": 0.01}, reference=4)

    with pytest.raises(ValueError, match=r"reference=4.*Give evaluation=KumoEvaluation"):
        build_kumo_assets_definitions(
            name="shop",
            prediction=BatchPrediction(champion_of="shop"),
            training=KumoTraining(query="cdnow_purchase", gate=gate),
        )
