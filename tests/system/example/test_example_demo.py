"""The example, run: what the demo says, and what its assets and checks hold."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import duckdb
import pandas as pd
import pytest
from running_the_demo import Demo, run_demo

from dagster_kumo.local import LocalKumo, load_transactions
from dagster_kumo.local.folder import DataFolder

# The first test waits for a whole demo.
pytestmark = [pytest.mark.scale, pytest.mark.timeout(400)]

CUSTOMERS = 23_570
TODAY = datetime.now(timezone.utc).date()
PREDICTIONS = dg.AssetKey(["purchase", "predictions"])
EVALUATION = dg.AssetKey(["purchase", "evaluation"])
SPEND = dg.AssetKey(["spend", "predictions"])


@pytest.fixture
def instance(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> dg.DagsterInstance:
    monkeypatch.setenv("DAGSTER_HOME", str(demo.dagster_home))
    return dg.DagsterInstance.get()


def _days(demo: Demo) -> list[str]:
    return sorted(path.stem for path in (demo.data / "call_lists").glob("*.csv"))


def _materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey
) -> dict[str | None, dg.AssetMaterialization]:
    records = instance.fetch_materializations(key, limit=100).records
    return {r.partition_key: r.asset_materialization for r in records if r.asset_materialization}


def test_it_makes_the_last_complete_days(demo: Demo) -> None:
    days = _days(demo)
    assert len(days) == 2
    assert TODAY.isoformat() not in days
    assert days[-1] >= (TODAY - timedelta(days=2)).isoformat()  # midnight may have passed meanwhile
    assert days[0] == (pd.Timestamp(days[1]) - pd.Timedelta(days=1)).date().isoformat()


def test_it_tells_what_it_made(demo: Demo, instance: dg.DagsterInstance) -> None:
    made_of = _materializations(instance, PREDICTIONS)
    for made in (made_of[day] for day in _days(demo)):
        assert made.metadata["dagster-kumo/job_id"].value in demo.output
    for told in (
        "It is not Kumo's",
        f"{CUSTOMERS:,}",
        "make dagit",
        "warehouses.duckdb",
        *_days(demo),
    ):
        assert told in demo.output
    assert "DEBUG" not in demo.output


def test_each_day_is_predicted_for_its_own_end(demo: Demo, instance: dg.DagsterInstance) -> None:
    made = _materializations(instance, PREDICTIONS)
    assert sorted(made) == [*_materializations(instance, EVALUATION), *_days(demo)]
    for day, materialization in made.items():
        end = pd.Timestamp(day, tz="UTC") + pd.Timedelta(days=1)
        assert materialization.metadata["dagster-kumo/prediction_time"].value == end.timestamp()
        assert materialization.metadata["dagster/row_count"].value == CUSTOMERS


def test_the_source_tables_are_loaded_before_the_predictions(instance: dg.DagsterInstance) -> None:
    """The model between them is not run by Dagster, and would not hold the predictions back."""
    for run in instance.get_runs(dg.RunsFilter(job_name="daily_call_list")):
        stored = {
            entry.dagster_event.asset_key.to_user_string(): entry.timestamp
            for entry in instance.all_logs(
                run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
            )
        }
        assert stored["purchases"] < stored["customers"] < stored["purchase/predictions"]


def test_the_call_list_ranks_the_likely_buyers(demo: Demo) -> None:
    transactions = load_transactions(demo.data / "kumo")
    for day in _days(demo):
        calls = pd.read_csv(demo.data / "call_lists" / f"{day}.csv")
        assert len(calls) == 100
        assert calls["customer_id"].is_unique
        assert calls["rank"].tolist() == list(range(1, 101))
        assert calls["probability"].between(0.2, 1).all()
        assert calls["expected_spend"].is_monotonic_decreasing
        assert calls["expected_spend"].min() > transactions["dollar_value"].median()
        known = transactions[transactions["date"] <= day].groupby("customer_id")["date"].max()
        told = pd.to_datetime(calls.set_index("customer_id")["last_purchase"])
        assert (told == known[told.index]).all()


def test_the_days_are_not_the_same(demo: Demo) -> None:
    first, second = (pd.read_csv(demo.data / "call_lists" / f"{day}.csv") for day in _days(demo))
    assert not first["probability"].equals(second["probability"])


def test_the_drift_table_has_the_days_of_its_week(demo: Demo, instance: dg.DagsterInstance) -> None:
    ((week, made),) = _materializations(instance, dg.AssetKey("purchase_drift")).items()
    assert week is not None
    (stored,) = (demo.data / "assets" / "purchase_drift" / week).glob("*/*.parquet")
    table = pd.read_parquet(stored)
    assert table["day"].tolist() == [day for day in _days(demo) if day >= week]
    assert (table["customers"] == CUSTOMERS).all()
    assert table["mean_probability"].between(0.01, 0.2).all()
    assert table["likely"].between(0.01, 0.2).all()
    assert table["drift"].iloc[0] == 0
    assert table["drift"].between(0, 0.1).all()
    assert made.metadata["days"].value == len(table)


def test_the_export_holds_the_day_that_came_last(demo: Demo) -> None:
    path = demo.data / "kumo" / "exports" / "warehouses.duckdb"
    with duckdb.connect(str(path), read_only=True) as warehouse:
        found = warehouse.execute(
            "SELECT count(*), min(ANCHOR_TIMESTAMP), max(ANCHOR_TIMESTAMP) "
            "FROM snowflake_warehouse.PURCHASE_predictions"
        ).fetchone()
    end = pd.Timestamp(_days(demo)[-1]) + pd.Timedelta(days=1)
    assert found == (CUSTOMERS, end, end)


def test_every_check_passes_in_the_demo(instance: dg.DagsterInstance) -> None:
    names = {
        "entities_match_summary",
        "unique_entities",
        "scores_in_range",
        "null_fraction",
        "drift",
    }
    for asset, expected in {PREDICTIONS: {*names, "anchor_age"}, SPEND: names}.items():
        found = [
            entry.dagster_event.asset_check_evaluation_data
            for run in instance.get_runs(dg.RunsFilter(job_name="daily_call_list"))
            for entry in instance.all_logs(
                run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
            )
            if entry.dagster_event is not None
        ]
        evaluations = [e for e in found if e.asset_key == asset]
        assert {e.check_name for e in evaluations} == expected
        assert [e.description for e in evaluations if not e.passed] == []


def test_a_day_whose_month_has_passed_is_evaluated(
    demo: Demo, instance: dg.DagsterInstance
) -> None:
    ((day, made),) = _materializations(instance, EVALUATION).items()
    assert day is not None
    anchor = pd.Timestamp(day) + pd.Timedelta(days=1)
    dates = load_transactions(demo.data / "kumo").groupby("customer_id")["date"]
    buyers = dates.apply(lambda d: d.between(anchor, anchor + pd.Timedelta(days=29)).any())
    assert made.metadata["dagster-kumo/base_rate"].value == pytest.approx(buyers.mean(), abs=1e-9)
    assert made.metadata["dagster-kumo/coverage"].value == 1
    assert 0.7 < made.metadata["dagster-kumo/auroc"].value < 0.9
    assert f"Was it right? The predictions of {day}" in demo.output


def test_a_failure_is_told_in_two_lines(tmp_path: Path) -> None:
    # A stand-in's folder from long ago: its data end too early for yesterday.
    folder = DataFolder(tmp_path / "data" / "kumo").path
    state = json.loads((folder / "state.json").read_text())
    state["last_day"] = (TODAY - timedelta(days=100)).isoformat()
    (folder / "state.json").write_text(json.dumps(state))
    try:
        run = run_demo(tmp_path, "--days", "1", environment={})
    finally:
        LocalKumo.shared(folder).stop()
    assert run.returncode == 1
    told = run.stdout.partition("The demo failed.")[2]
    assert "begin with a new data folder" in told
    assert "Traceback" not in run.stdout
    assert (tmp_path / "data" / "demo.log").read_text()


def test_it_runs_on_the_newer_generation_of_the_api(tmp_path: Path) -> None:
    with LocalKumo(tmp_path / "data" / "kumo", api="3") as kumo:
        run = run_demo(tmp_path, "--days", "1", environment={})
        assert run.returncode == 0, run.stdout
        assert [export["status"] for export in kumo.exports] == ["DONE"]
