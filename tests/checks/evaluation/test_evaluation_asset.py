"""Predictions of the stand-in, whose truth is known, held against what happened."""

import datetime as dt
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from sklearn import metrics

from dagster_kumo import KumoIOManager, build_kumo_evaluation_asset, evaluation_partitions_due
from dagster_kumo.local import LocalKumo, load_transactions
from tests.support import DAYS, PURCHASE, day, error_of, metadata_of, purchase_assets, resources

EVALUATION = dg.AssetKey(["purchase", "evaluation"])
OUTCOMES = dg.AssetKey("bought")
WINDOW = dt.timedelta(days=30)
CLOSED, OPEN = day(45), day(20)


class World:
    """One evaluated day, and what it takes to evaluate others."""

    def __init__(self, kumo: LocalKumo, folder: Any, instance: dg.DagsterInstance) -> None:
        purchases = load_transactions()
        self.customers_known = 1.0
        """The share of the customers whose outcome is known."""

        @dg.asset(partitions_def=DAYS, key=OUTCOMES)
        def bought(context: dg.AssetExecutionContext) -> pd.DataFrame:
            anchor = pd.Timestamp(context.partition_key) + pd.Timedelta(days=1)
            dates = purchases["date"]
            customers = pd.Series(purchases[dates < anchor]["customer_id"].unique())
            buyers = purchases[(dates >= anchor) & (dates < anchor + WINDOW)]["customer_id"]
            rows = pd.DataFrame({"ENTITY": customers, "TARGET": customers.isin(buyers)})
            return rows.head(int(len(rows) * self.customers_known))

        self.purchase = purchase_assets()
        self.evaluation = self.evaluated(window=WINDOW)
        self._bought = bought
        self._instance = instance
        store = resources(kumo, folder)
        self.kumo = store["kumo"]
        self.store: KumoIOManager = store["kumo_io_manager"]
        self._resources = {**store, "io_manager": self.store}
        self.predicted = self.materialize(self.purchase, CLOSED)
        self.run = self.materialize(bought, CLOSED, self.evaluation)

    def evaluated(self, **options: Any) -> dg.AssetsDefinition:
        arguments: dict[str, Any] = {
            "name": "purchase",
            "predictions": self.purchase,
            "outcomes": OUTCOMES,
            **options,
        }
        return build_kumo_evaluation_asset(**arguments)

    def materialize(
        self, selected: dg.AssetsDefinition, key: str, evaluation: dg.AssetsDefinition | None = None
    ) -> Any:
        evaluation = evaluation or self.evaluation
        known = getattr(self, "_bought", None) or dg.AssetSpec(OUTCOMES)
        selection = (
            {selected.key, evaluation.key} if selected is not self.purchase else {selected.key}
        )
        return dg.materialize(
            [self.purchase, known, evaluation],
            selection=list(selection),
            partition_key=key,
            instance=self._instance,
            resources=self._resources,
            raise_on_error=False,
        )

    def outcomes(self, key: str) -> dg.ExecuteInProcessResult:
        return self.materialize(self._bought, key)

    def rows(self) -> pd.DataFrame:
        return self.store.partition_store(EVALUATION, CLOSED).read().to_pandas()


@pytest.fixture(scope="module")
def world(_serving_kumo: LocalKumo, tmp_path_factory: Any, instance: dg.DagsterInstance) -> World:
    _serving_kumo.faults.clear()
    return World(_serving_kumo, tmp_path_factory.mktemp("evaluation"), instance)


def test_the_joined_rows_are_stored(world: World) -> None:
    assert world.run.success
    rows = world.rows()

    assert list(rows.columns) == [
        *("ENTITY", "ANCHOR_TIMESTAMP", "TARGET", "TARGET_PRED", "False_PROB", "True_PROB"),
        *("EVALUATED_AT", "PREDICTION_ID", "MODEL_ID"),
    ]
    assert len(rows) == 23_570
    predicted = metadata_of(world.predicted, dg.AssetKey(["purchase", "predictions"]))
    assert set(rows["PREDICTION_ID"]) == {predicted["dagster-kumo/job_id"]}
    assert set(rows["MODEL_ID"]) == {PURCHASE}
    assert set(rows["ANCHOR_TIMESTAMP"]) == {pd.Timestamp(day(44))}
    age = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None) - rows["EVALUATED_AT"].max()
    assert abs(age) < dt.timedelta(hours=1)


def test_the_numbers_are_those_of_the_rows_beside_those_of_the_holdout(world: World) -> None:
    found = metadata_of(world.run, EVALUATION)
    rows = world.rows()
    auroc = metrics.roc_auc_score(rows["TARGET"], rows["True_PROB"])
    assert found["dagster-kumo/auroc"] == pytest.approx(auroc, abs=1e-9)
    # The model has learnt something, and it was measured on data that it had not seen.
    assert 0.7 < found["dagster-kumo/auroc"] < 0.9
    assert 0.7 < found["dagster-kumo/holdout/auroc"] < 0.9
    assert found["dagster-kumo/coverage"] == 1
    assert found["dagster-kumo/training_job_id"] == PURCHASE
    closed = dt.datetime.fromtimestamp(found["dagster-kumo/window_closed_at"], dt.timezone.utc)
    assert str(closed.date()) == day(14)


def test_an_open_window_is_refused_before_anything_is_read(world: World) -> None:
    world.materialize(world.purchase, OPEN)
    run = world.outcomes(OPEN)
    assert not run.success
    error, said = error_of(run)
    assert error == "KumoWindowError"
    assert f"looks ahead until {day(-11)} 00:00 UTC" in said
    assert not [e for e in run.all_events if e.event_type_value == "LOADED_INPUT"]


def test_the_window_is_read_from_the_query(world: World) -> None:
    by_query = world.evaluated(window=None)
    run = world.materialize(by_query, CLOSED, by_query)
    found = metadata_of(run, EVALUATION)
    closed = dt.datetime.fromtimestamp(found["dagster-kumo/window_closed_at"], dt.timezone.utc)
    assert str(closed.date()) == day(14)

    world.materialize(world.purchase, OPEN)
    run = world.materialize(by_query, OPEN, by_query)
    assert error_of(run)[0] == "KumoWindowError"


def test_late_outcomes_follow_with_the_next_materialization(world: World) -> None:
    key = day(46)
    world.materialize(world.purchase, key)
    world.customers_known = 0.5
    first = metadata_of(world.outcomes(key), EVALUATION)
    world.customers_known = 1.0
    then = metadata_of(world.outcomes(key), EVALUATION)

    assert first["dagster-kumo/coverage"] == pytest.approx(0.5)
    assert first["dagster/row_count"] == 11_785
    assert then["dagster-kumo/coverage"] == 1
    assert then["dagster/row_count"] == 23_570
    assert first["dagster-kumo/auroc"] != then["dagster-kumo/auroc"]


def test_predictions_that_are_not_there_are_named(world: World) -> None:
    run = world.outcomes(day(50))
    _, said = error_of(run)
    assert f"purchase/predictions, partition {day(50)} has not been materialized" in said


def test_the_partitions_that_are_due(world: World, instance: dg.DagsterInstance) -> None:
    """Closed, predicted and not evaluated: those that were missed, the oldest first."""
    missed, late = day(48), day(31)
    for key in (missed, late, day(30), day(29)):
        world.materialize(world.purchase, key)

    due = evaluation_partitions_due(world.evaluation, instance)
    assert due == [missed, late]  # the window of 30 days ago closes tonight
    world.outcomes(missed)
    assert evaluation_partitions_due(world.evaluation, instance) == [late]

    by_query = world.evaluated(window=None)
    with pytest.raises(ValueError, match="kumo=kumo"):
        evaluation_partitions_due(by_query, instance)
    assert evaluation_partitions_due(by_query, instance, kumo=world.kumo) == [late]
