"""Checks of evaluations, whose numbers a test makes up."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import build_kumo_evaluation_checks

pytestmark = pytest.mark.fast

EVALUATION = dg.AssetKey(["churn", "evaluation"])
DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-01-10")
GOOD = {"auroc": 0.8, "mae": 10.0, "coverage": 1.0, "calibration_error": 0.01}


@pytest.fixture
def instance() -> Any:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def check(
    instance: dg.DagsterInstance, days: Mapping[str, Mapping[str, float]], **limits: Any
) -> dict[str, dg.AssetCheckEvaluation]:
    """What the checks find on the last of some evaluated days."""
    for day, numbers in days.items():
        metadata = {f"dagster-kumo/{name}": value for name, value in numbers.items()}
        instance.report_runless_asset_event(
            dg.AssetMaterialization(EVALUATION, partition=day, metadata=metadata)
        )
    checks = build_kumo_evaluation_checks(asset=EVALUATION, partitions_def=DAYS, **limits)
    job = dg.define_asset_job("checks", selection=dg.AssetSelection.checks(*checks))
    run = (
        dg.Definitions(asset_checks=checks, jobs=[job])
        .resolve_job_def("checks")
        .execute_in_process(instance=instance)
    )
    return {found.check_name: found for found in run.get_asset_check_evaluations()}


def test_values(instance: dg.DagsterInstance) -> None:
    limits = {"min_values": {"auroc": 0.7}, "max_values": {"mae": 20}}
    assert check(instance, {"2026-01-01": GOOD}, **limits)["values"].passed
    found = check(instance, {"2026-01-02": {**GOOD, "auroc": 0.6, "mae": 25}}, **limits)["values"]
    assert not found.passed
    assert found.description is not None
    assert "auroc is 0.6, allowed is at least 0.7; mae is 25, allowed is at most 20" in (
        found.description
    )
    assert found.metadata["partition"].value == "2026-01-02"


def test_a_drop_from_the_holdout(instance: dg.DagsterInstance) -> None:
    limits = {"max_drop": {"auroc": 0.05, "mae": 2}}
    holdout = {"holdout/auroc": 0.82, "holdout/mae": 9.0}
    found = check(instance, {"2026-01-01": GOOD | holdout}, **limits)
    assert found["drop_from_holdout"].passed
    worse = {**GOOD, **holdout, "mae": 12.0}
    found = check(instance, {"2026-01-02": worse}, **limits)["drop_from_holdout"]
    assert not found.passed
    assert found.metadata["mae/drop"].value == pytest.approx(3)
    assert "mae dropped too far" in str(found.description)

    found = check(instance, {"2026-01-03": GOOD}, **limits)["drop_from_holdout"]
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert "The model has no auroc, mae on its holdout data" in str(found.description)


def test_a_drop_from_the_days_before(instance: dg.DagsterInstance) -> None:
    limits: dict[str, Any] = {"max_drop": {"auroc": 0.05}, "reference": 2}
    found = check(instance, {"2026-01-01": GOOD}, **limits)
    assert found["drop_from_last_2"].passed  # there is nothing before
    days = {
        "2026-01-01": {**GOOD, "auroc": 0.5},  # too long ago to count
        "2026-01-02": {**GOOD, "auroc": 0.8},
        "2026-01-03": {**GOOD, "auroc": 0.9},
        "2026-01-04": {**GOOD, "auroc": 0.79},
    }
    found = check(instance, days, **limits)["drop_from_last_2"]
    assert not found.passed
    assert found.metadata["auroc/reference"].value == pytest.approx(0.85)


def test_coverage_is_checked_unless_it_is_switched_off(instance: dg.DagsterInstance) -> None:
    found = check(instance, {"2026-01-01": {**GOOD, "coverage": 0.9}})
    assert not found["coverage"].passed
    assert "90.00% of the predicted entities have an outcome" in str(found["coverage"].description)
    found = check(instance, {}, min_coverage=None, max_calibration_error=0.05)
    assert found.keys() == {"calibration"}
    assert found["calibration"].passed
    found = check(instance, {}, max_calibration_error=0.001)
    assert not found["calibration"].passed


def test_a_metric_that_is_not_there_is_a_warning(instance: dg.DagsterInstance) -> None:
    found = check(instance, {"2026-01-01": {"coverage": 1.0, "mae": 3}}, min_values={"auroc": 0.7})
    assert not found["values"].passed
    assert found["values"].severity == dg.AssetCheckSeverity.WARN
    assert "There is no auroc, only mae" in str(found["values"].description)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"min_values": {"auc": 0.7}}, "'auc', which is no metric"),
        ({"max_drop": {"bias": 1}}, "neither more nor less is better"),
        ({"max_drop": {"auroc": 0.1}, "reference": 0}, "not 0"),
        ({"max_calibration_error": 5}, "max_calibration_error is a share"),
        ({"min_coverage": 95}, "min_coverage is a share"),
        ({"min_coverage": None}, "No check is left"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_kumo_evaluation_checks(asset=EVALUATION, **limits)
