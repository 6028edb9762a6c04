"""What the run's log tells of a job while it is waited for."""

import datetime as dt
import re
from pathlib import Path

import dagster as dg
import pytest

from dagster_kumo import KumoResource
from dagster_kumo.local import LocalKumo
from tests.support import PREDICTIONS, day, metadata_of, purchase_assets, resources


def test_the_log_tells_how_far_the_job_is(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    with LocalKumo(queue_seconds=0.1, run_seconds=2) as kumo:
        run = dg.materialize(
            [purchase_assets()],
            instance=instance,
            resources=resources(kumo, tmp_path),
            partition_key=day(5),
        )
        asked = [r for r in kumo.requests if r.path.endswith("/progress")]
    said = [e.user_message for e in instance.all_logs(run.run_id) if not e.is_dagster_event]
    lines = [line for line in said if re.match(r"Prediction job \S+ is ", line)]
    per_cents = [int(found[1]) for line in lines if (found := re.search(r", (\d+) %$", line))]
    assert per_cents
    assert per_cents == sorted(set(per_cents))
    assert len(asked) <= 6
    assert lines[-1].endswith(" is DONE")


@pytest.mark.parametrize("ago", [1, 9])
def test_a_job_that_will_be_late_is_warned_of_while_there_is_time(
    ago: int, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """The deadline of yesterday's predictions is tomorrow; that of an older day is past, and says nothing."""
    three_days = {"elapsed_prediction_time": 0, "estimated_prediction_time": 3 * 86_400}
    assets = purchase_assets(deadline=dt.timedelta(days=2))

    with LocalKumo(queue_seconds=0.1, run_seconds=2) as kumo:
        kumo.faults.answer(200, path="/progress$", body=three_days, times=None)
        run = dg.materialize(
            [assets],
            instance=instance,
            resources=resources(kumo, tmp_path),
            partition_key=day(ago),
        )

    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    end = stored.tags["dagster/kumo_expected_end.purchase__predictions"]
    expected = dt.datetime.strptime(end, "%Y-%m-%d %H:%M UTC")
    in_three_days = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None) + dt.timedelta(days=3)
    assert abs(expected - in_three_days) < dt.timedelta(minutes=10)
    lines = [e.user_message for e in instance.all_logs(run.run_id) if not e.is_dagster_event]
    warned = [line for line in lines if "after its deadline" in line]
    assert len(warned) == (1 if ago == 1 else 0)


def test_an_end_is_expected_from_the_duration_before(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.answer(404, path="/progress$", times=None)
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            PREDICTIONS, partition=day(8), metadata={"dagster-kumo/duration_seconds": 7200.0}
        )
    )

    run = dg.materialize(
        [purchase_assets()],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(7),
    )

    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    assert "dagster/kumo_expected_end.purchase__predictions" in stored.tags


def test_a_deadline_is_after_the_partition() -> None:
    with pytest.raises(ValueError, match="no time after the end of a partition"):
        purchase_assets(deadline=dt.timedelta(0))


def test_a_job_costs_what_the_users_rate_says(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    where = resources(kumo, tmp_path)
    rates = {"cost_per_job_hour": 36.0, "cost_per_thousand_entities": 2.0}
    where["kumo"] = KumoResource(url=kumo.url, api_key=kumo.api_key, **rates)

    run = dg.materialize(
        [purchase_assets()], instance=instance, resources=where, partition_key=day(5)
    )

    made = metadata_of(run, PREDICTIONS)
    seconds, entities = (
        made[f"dagster-kumo/{name}"] for name in ("job_seconds", "num_entities_predicted")
    )
    assert 0 < seconds <= made["dagster-kumo/duration_seconds"]
    assert made["dagster-kumo/cost"] == pytest.approx(seconds / 100 + entities / 500, rel=1e-4)


def test_others_checks_bound_the_numbers(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assets = purchase_assets()
    checks = [
        *dg.build_metadata_bounds_checks(
            assets=[assets],
            severity=dg.AssetCheckSeverity.WARN,
            metadata_key="dagster-kumo/job_seconds",
            max_value=3600,
        ),
        *dg.build_metadata_bounds_checks(
            assets=[assets], metadata_key="dagster-kumo/share_yes", min_value=0.99
        ),
    ]

    run = dg.materialize(
        [assets, *checks],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(4),
    )

    found = {e.check_name: e.passed for e in run.get_asset_check_evaluations()}
    assert sorted(found.values()) == [False, True]
