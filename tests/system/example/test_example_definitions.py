"""The example's definitions, before anything runs."""

import os
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from example_project.definitions import defs
from example_project.defs.drift import purchase_drift
from example_project.defs.resources import kumo_resource
from example_project.partitions import daily, weekly

from dagster_kumo import KumoResource, LocalKumoResource, Predictions
from dagster_kumo.local import LocalKumo
from dagster_kumo.predictions.store.tables import as_predictions

PROJECT = Path(__file__).parents[3] / "example_project"


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return defs()


def _upstream(definitions: dg.Definitions, key: str) -> set[str]:
    graph = definitions.resolve_asset_graph()
    parents = graph.get(dg.AssetKey(key.split("/"))).parent_keys
    return {parent.to_user_string() for parent in parents}


@pytest.mark.scale
def test_dg_accepts_the_project_and_loading_it_starts_nothing(tmp_path: Path) -> None:
    check = subprocess.run(
        [Path(sys.executable).with_name("dg"), "check", "defs"],
        cwd=PROJECT,
        env={**os.environ, "EXAMPLE_DATA": str(tmp_path / "data"), "DAGSTER_HOME": str(tmp_path)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert check.returncode == 0, check.stdout
    assert not (tmp_path / "data").exists()


def test_everything_is_connected(definitions: dg.Definitions) -> None:
    tables = {"customers", "purchases", "dbt/customer_segments"}
    assert _upstream(definitions, "customers") == {"purchases"}
    assert _upstream(definitions, "purchase/candidate") == tables
    assert _upstream(definitions, "purchase/model") == {"purchase/candidate"}
    for output in ("purchase/predictions", "purchase/embeddings"):
        assert _upstream(definitions, output) == {"purchase/model", *tables}
    assert _upstream(definitions, "purchase/predictions_in_snowflake") == {"purchase/predictions"}
    assert _upstream(definitions, "call_list") == {
        "purchase/predictions",
        "spend/predictions",
        "purchases",
    }
    assert _upstream(definitions, "purchase/evaluation") == {
        "purchase/predictions",
        "purchase_outcomes",
    }
    assert _upstream(definitions, "purchase_drift") == {"purchase/predictions"}


def test_every_asset_says_what_it_is(definitions: dg.Definitions) -> None:
    for spec in definitions.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners, spec.key
        assert spec.kinds, spec.key
        assert spec.group_name in {"shop", "purchase", "spend", "sales"}, spec.key


def test_all_specs_can_be_changed_at_once(definitions: dg.Definitions) -> None:
    owned = definitions.map_asset_specs(
        func=lambda spec: spec.replace_attributes(owners=["team:shop"])
    )
    assert {tuple(spec.owners) for spec in owned.resolve_all_asset_specs()} == {("team:shop",)}


def test_the_job_makes_all_of_a_day(definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def("daily_call_list")
    made = {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
    assert made == {
        "purchases",
        "customers",
        "purchase/predictions",
        "purchase/embeddings",
        "purchase/predictions_in_snowflake",
        "spend/predictions",
        "call_list",
    }


def test_the_schedule_s_job_is_held_and_makes_all_but_the_source_tables(
    definitions: dg.Definitions,
) -> None:
    daily, held = (definitions.resolve_job_def(n) for n in ("daily_call_list", "held_call_list"))
    tables = definitions.resolve_job_def("source_tables").asset_layer.executable_asset_keys
    assert held.run_tags["dagster-kumo/hold"] == "until_done"
    left = {*daily.asset_layer.executable_asset_keys} - {*held.asset_layer.executable_asset_keys}
    assert left == {*tables} == {dg.AssetKey("purchases"), dg.AssetKey("customers")}


def test_each_week_a_candidate_is_trained_and_promoted_behind_its_gate(
    definitions: dg.Definitions,
) -> None:
    """The run is held while Kumo trains."""
    schedule = definitions.resolve_schedule_def("retrain_purchase_schedule")
    job = definitions.resolve_job_def(schedule.job_name)
    assert schedule.cron_schedule == "0 8 * * 0"
    assert job.run_tags["dagster-kumo/hold"] == "until_done"
    made = {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
    assert made == {"purchase/candidate", "purchase/model"}
    checks = job.asset_layer.asset_graph.asset_check_keys
    assert [key.name for key in checks] == ["promotion_gate"]
    rollback = definitions.resolve_job_def("purchase_rollback")
    assert {*rollback.asset_layer.executable_asset_keys} == {dg.AssetKey(["purchase", "model"])}


def test_the_days_whose_outcome_is_known_are_asked_for(definitions: dg.Definitions) -> None:
    schedule = definitions.resolve_schedule_def("evaluate_purchase_schedule")
    today = datetime.now(timezone.utc).date()
    days = {ago: (today - timedelta(days=ago)).isoformat() for ago in (40, 35, 31, 30, 2)}
    with dg.instance_for_test() as instance:
        for day in days.values():
            instance.report_runless_asset_event(
                dg.AssetMaterialization(["purchase", "predictions"], partition=day)
            )
        instance.report_runless_asset_event(
            dg.AssetMaterialization(["purchase", "evaluation"], partition=days[40])
        )
        tick = schedule.evaluate_tick(
            dg.build_schedule_context(
                instance=instance,
                scheduled_execution_time=datetime.now(timezone.utc),
                repository_def=definitions.get_repository_def(),
            )
        )
    asked = [request.partition_key for request in tick.run_requests or []]
    assert asked == [days[35], days[31]]


@pytest.mark.parametrize("days_late", [0, 3])
def test_the_schedule_asks_for_the_day_that_has_ended(
    definitions: dg.Definitions, days_late: int
) -> None:
    """The time of the tick counts: a daemon that was down makes up for each day that it missed."""
    schedule = definitions.resolve_schedule_def("held_call_list_schedule")
    ticked = datetime.now(timezone.utc).date() - timedelta(days=days_late)
    six = datetime(ticked.year, ticked.month, ticked.day, 6, tzinfo=timezone.utc)
    with dg.instance_for_test() as instance:
        tick = schedule.evaluate_tick(
            dg.build_schedule_context(
                instance=instance,
                scheduled_execution_time=six,
                repository_def=definitions.get_repository_def(),
            )
        )
    (request,) = tick.run_requests or []
    assert request.partition_key == (ticked - timedelta(days=1)).isoformat()


def test_the_partitions_fill_the_plots_of_the_ui() -> None:
    assert len(daily.get_partition_keys()) > 120


def test_weeks_begin_on_mondays_and_the_running_one_is_there() -> None:
    weeks = [date.fromisoformat(week) for week in weekly.get_partition_keys()]
    assert all(week.weekday() == 0 for week in weeks)
    today = datetime.now(timezone.utc).date()
    assert weeks[-1] <= today < weeks[-1] + timedelta(weeks=1)


def test_kumo_itself_is_used_when_there_is_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUMO_API_KEY", "customer:secret")
    assert type(kumo_resource()) is KumoResource
    monkeypatch.delenv("KUMO_API_KEY")
    assert type(kumo_resource()) is LocalKumoResource


@pytest.mark.parametrize("key", ["", "customer:secret"])
def test_it_is_said_which_kumo_is_used(key: str, tmp_path: Path) -> None:
    env = {**os.environ, "EXAMPLE_DATA": str(tmp_path), "KUMO_API_KEY": key}
    command = [sys.executable, "-m", "example_project.which_kumo"]
    said = subprocess.run(command, env=env, text=True, capture_output=True, check=True).stdout
    if key:
        assert said.startswith("Kumo: the account of KUMO_API_KEY, https://customer.")
        assert list(tmp_path.iterdir()) == []
        return
    shared = LocalKumo.shared(tmp_path / "kumo")
    assert f"a stand-in on this machine, {shared.url}" in said
    shared.stop()


def _scores(*probabilities: float) -> Predictions:
    return as_predictions(pd.DataFrame({"True_PROB": probabilities}))


def test_drift_tells_a_calm_day_from_another_one() -> None:
    calm, other = [0.01, 0.02, 0.03, 0.3] * 100, [0.01, 0.3, 0.6, 0.9] * 100
    days = {"2026-03-02": calm, "2026-03-03": calm, "2026-03-05": other}
    output = purchase_drift({day: _scores(*values) for day, values in days.items()})
    table = output.value
    assert table["day"].tolist() == list(days)
    assert table["customers"].tolist() == [400, 400, 400]
    assert table["likely"].tolist() == [0.25, 0.25, 0.75]
    assert table["mean_probability"].tolist() == pytest.approx([0.09, 0.09, 0.4525])
    assert table["drift"].iloc[:2].tolist() == [0, 0]
    assert table["drift"].iloc[2] > 0.25


def test_a_week_without_predictions_has_no_drift() -> None:
    with pytest.raises(dg.Failure, match="No day of this week"):
        purchase_drift({})
