"""Asset checks of stored predictions: what they find, in which partition, and what they stop."""

import inspect
import json
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from dagster_kumo import (
    BatchPrediction,
    KumoIOManager,
    build_kumo_assets_definitions,
    build_kumo_prediction_checks,
)
from dagster_kumo.local import LocalKumo
from tests.support import (
    DAYS,
    EMBEDDINGS,
    PREDICTIONS,
    PURCHASE,
    TODAY,
    day,
    error_of,
    purchase_assets,
    resources,
)

SCORES = dg.AssetKey("scores")
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def frame(rows: int = 2000, *, shift: float = 0.0, **columns: Any) -> pd.DataFrame:
    """Predictions of customers, whose probabilities are `shift` higher than they would be."""
    score = np.random.default_rng(1).beta(2, 8, rows) * (1 - shift) + shift
    return pd.DataFrame({"ENTITY": range(rows), "True_PROB": score, **columns})


class Frames:
    """An asset of predictions that no Kumo job made, and one downstream of it, with checks."""

    def __init__(
        self,
        path: Path,
        frames: pd.DataFrame | dict[str, pd.DataFrame],
        *,
        manager: dict[str, Any] | None = None,
        **checks: Any,
    ) -> None:
        self.frames = frames
        partitions_def = DAYS if isinstance(frames, dict) else None

        @dg.asset(partitions_def=partitions_def, io_manager_key="kumo_io_manager")
        def scores(context: dg.AssetExecutionContext) -> Any:
            if not isinstance(self.frames, dict):
                return self.frames
            found = {key: self.frames[key] for key in context.partition_keys}
            return found if len(found) > 1 else next(iter(found.values()))

        @dg.asset(partitions_def=partitions_def, deps=[scores])
        def letters() -> None:
            """What is made of the predictions."""

        self.instance = dg.DagsterInstance.ephemeral()
        options = {"asset": scores, "entities_match_summary": False, **checks}
        self.definitions = dg.Definitions(
            assets=[scores, letters],
            asset_checks=build_kumo_prediction_checks(**options),
            resources={"kumo_io_manager": KumoIOManager(base_path=str(path), **(manager or {}))},
        )

    def make(
        self, key: str | None = None, *, until: str | None = None, only_checks: bool = False
    ) -> dg.ExecuteInProcessResult:
        """A run of the assets with their checks, or of the checks alone."""
        partition: dict[str, Any] = {"partition_key": key}
        if until is not None:
            partition = {
                "tags": {
                    "dagster/asset_partition_range_start": key,
                    "dagster/asset_partition_range_end": until,
                }
            }
        selection = dg.AssetSelection.all()
        if only_checks:
            selection = dg.AssetSelection.all_asset_checks()
            if (
                key is not None
            ):  # as the UI does, since a job of checks alone has no partitions for Dagster
                partition = {"tags": {"dagster/partition": key}}
        job = dg.define_asset_job("job", selection)
        definitions = dg.Definitions.merge(self.definitions, dg.Definitions(jobs=[job]))
        return definitions.resolve_job_def("job").execute_in_process(
            instance=self.instance, raise_on_error=False, **partition
        )


def evaluations(run: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """What the checks of a run found, by their names."""
    return {found.check_name: found for found in run.get_asset_check_evaluations()}


def failed(run: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The severity of each check that failed."""
    return {name: e.severity for name, e in evaluations(run).items() if not e.passed}


def values(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return {name: value.value for name, value in evaluation.metadata.items()}


def two_days(**second: Any) -> dict[str, pd.DataFrame]:
    return {day(4): frame(), day(3): frame(**second)}


# Kumo's own predictions


def test_good_predictions_pass_every_check_and_say_what_was_found(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assets = purchase_assets()
    checks = build_kumo_prediction_checks(asset=assets, max_anchor_age=timedelta(days=30))
    where = resources(kumo, tmp_path)
    for ago in (6, 5):
        run = dg.materialize(
            [assets, *checks], instance=instance, resources=where, partition_key=day(ago)
        )

    found = evaluations(run)
    assert sorted(found) == [
        "anchor_age",
        "drift",
        "entities_match_summary",
        "null_fraction",
        "scores_in_range",
        "unique_entities",
    ]
    assert failed(run) == {}
    assert {values(e)["partition"] for e in found.values()} == {day(5)}
    assert values(found["entities_match_summary"])["entities"] == 23_570
    assert values(found["unique_entities"])["rows"] == 23_570
    drift = values(found["drift"])
    assert drift["reference"] == day(6)
    assert 0 <= drift["True_PROB/psi"] < 0.1
    assert drift["allowed"] == "a warning from 0.1 on, an error from 0.25 on"
    assert 24 <= values(found["anchor_age"])["age_hours"] < 7 * 24


def test_entities_that_the_summary_has_and_the_files_lack_are_told_with_a_way_out(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    kumo.faults.overcount(7)
    assets = purchase_assets()
    run = dg.materialize(
        [assets, *build_kumo_prediction_checks(asset=assets)],
        instance=instance,
        resources=resources(kumo, tmp_path, row_count_check="off"),
        partition_key=day(5),
    )

    assert failed(run) == {"entities_match_summary": ERROR}
    found = evaluations(run)["entities_match_summary"]
    assert "23,577 entities, and 23,570 are stored" in (found.description or "")
    assert "Materialize again" in (found.description or "")
    assert values(found)["expected_entities"] == 23_577


def test_entities_with_several_classes_are_counted_once(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assets = purchase_assets(
        prediction=BatchPrediction(training_job_id="trainingjob-cdnow-band", num_workers=2)
    )
    run = dg.materialize(
        [assets, *build_kumo_prediction_checks(asset=assets)],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )

    assert failed(run) == {}
    found = evaluations(run)
    assert values(found["entities_match_summary"])["entities"] == 23_570
    assert values(found["unique_entities"])["rows"] == 4 * 23_570
    assert values(found["unique_entities"])["columns"] == "ENTITY, ANCHOR_TIMESTAMP, CLASS"


# What is wrong with the rows


def test_a_row_that_repeats_fails_and_the_way_to_find_it_is_told(tmp_path: Path) -> None:
    rows = pd.concat([frame(), frame(3)])
    run = Frames(tmp_path, rows).make()

    assert failed(run) == {"unique_entities": ERROR}
    found = evaluations(run)["unique_entities"]
    assert values(found)["repeated_rows"] == 3
    assert "df[df.duplicated(['ENTITY'])]" in (found.description or "")


def test_the_same_entity_may_have_a_row_for_each_class_and_anchor_time(tmp_path: Path) -> None:
    classes = pd.concat([frame(50, CLASS=name, ANCHOR_TIMESTAMP=TODAY) for name in "abc"])
    yesterday = frame(50, CLASS="a", ANCHOR_TIMESTAMP=TODAY - timedelta(days=1))
    assert failed(Frames(tmp_path / "good", pd.concat([classes, yesterday])).make()) == {}
    again = Frames(tmp_path / "bad", pd.concat([classes, classes.head(1)])).make()
    assert values(evaluations(again)["unique_entities"])["repeated_rows"] == 1


def test_rows_for_nobody_fail(tmp_path: Path) -> None:
    rows = frame(4).assign(ENTITY=["a", None, "c", None])
    run = Frames(tmp_path, rows, max_null_fraction=None).make()
    assert failed(run) == {"unique_entities": ERROR}
    assert values(evaluations(run)["unique_entities"])["rows_without_entity"] == 2


def test_a_score_out_of_range_fails_with_the_range_that_was_found(tmp_path: Path) -> None:
    rows = frame()
    rows.loc[3, "True_PROB"] = 1.5
    run = Frames(tmp_path, rows).make()
    assert failed(run) == {"scores_in_range": ERROR}
    found = evaluations(run)["scores_in_range"]
    assert values(found)["True_PROB/max"] == 1.5
    assert values(found)["allowed"] == "0 to 1"


@pytest.mark.parametrize("column", ["SCORE", "True_PROB", "False_PROB"])
def test_scores_are_checked_whatever_kumo_calls_them(tmp_path: Path, column: str) -> None:
    days = {key: rows.rename(columns={"True_PROB": column}) for key, rows in two_days().items()}
    days[day(3)][column] *= 3
    frames = Frames(tmp_path, days)
    assert failed(frames.make(day(4))) == {}
    assert failed(frames.make(day(3))) == {"scores_in_range": ERROR, "drift": ERROR}


def test_a_probability_that_32_bits_round_up_is_no_failure(tmp_path: Path) -> None:
    rows = frame().astype({"True_PROB": "float32"})
    rows.loc[3, "True_PROB"] = np.nextafter(np.float32(1), np.float32(2))
    assert failed(Frames(tmp_path, rows).make()) == {}


def test_amounts_have_no_range_unless_the_column_is_named(tmp_path: Path) -> None:
    rows = pd.DataFrame({"ENTITY": range(100), "TARGET_PRED": np.arange(100.0)})
    assert failed(Frames(tmp_path / "a", rows).make()) == {}
    named = Frames(tmp_path / "b", rows, columns=["TARGET_PRED"], scores_in_range=(0, 50)).make()
    assert failed(named) == {"scores_in_range": ERROR}


@pytest.mark.parametrize(("limit", "passes"), [(0.0, False), (0.01, False), (0.02, True)])
def test_missing_values_are_held_against_the_limit(
    tmp_path: Path, limit: float, passes: bool
) -> None:
    rows = frame(1000)
    rows.loc[:14, "True_PROB"] = np.nan
    run = Frames(tmp_path, rows, max_null_fraction=limit).make()
    assert (failed(run) == {}) is passes
    found = evaluations(run)["null_fraction"]
    assert values(found)["null_fraction"] == 0.015
    assert values(found)["column"] == "True_PROB"


# Drift


@pytest.mark.parametrize(("shift", "severity"), [(0.0, None), (0.035, WARN), (0.3, ERROR)])
def test_drift_from_the_day_before_is_a_warning_and_then_an_error(
    tmp_path: Path, shift: float, severity: Any
) -> None:
    frames = Frames(tmp_path, two_days(shift=shift))
    first = frames.make(day(4))
    assert failed(first) == {}
    assert "no earlier partition" in (evaluations(first)["drift"].description or "")

    run = frames.make(day(3))

    assert failed(run) == ({} if severity is None else {"drift": severity})
    found = values(evaluations(run)["drift"])
    assert found["reference"] == day(4)
    assert (found["True_PROB/psi"] >= 0.1) is (severity is not None)


def test_a_partition_can_be_named_to_compare_with(tmp_path: Path) -> None:
    frames = Frames(
        tmp_path,
        {day(5): frame(shift=0.3), day(4): frame(), day(3): frame()},
        reference=day(5),
    )
    missing = frames.make(day(4))
    assert failed(missing) == {"drift": ERROR}
    assert "Nothing is stored" in (evaluations(missing)["drift"].description or "")
    frames.make(day(5))
    run = frames.make(day(3))
    assert failed(run) == {"drift": ERROR}
    assert values(evaluations(run)["drift"])["reference"] == day(5)


def test_a_store_of_before_statistics_were_kept_is_compared_with_nothing(tmp_path: Path) -> None:
    frames = Frames(tmp_path, two_days(shift=0.3))
    frames.make(day(4))
    (kept,) = tmp_path.rglob("_statistics.json")
    kept.unlink()
    assert failed(frames.make(day(3))) == {}


def test_scores_that_another_model_has_moved_are_no_drift(kumo: LocalKumo, tmp_path: Path) -> None:
    """A promotion would otherwise block what comes after it, and train again."""
    found: dict[str, dg.AssetCheckEvaluation] = {}
    with dg.DagsterInstance.ephemeral() as instance:
        for days_ago, model in ((4, f"{PURCHASE}-old"), (3, PURCHASE), (2, PURCHASE)):
            made = purchase_assets(training_job_id=model)
            checks = build_kumo_prediction_checks(
                asset=made, max_psi_warn=None, max_psi_error=1e-9, blocking=True
            )
            run = dg.materialize(
                [made, *checks],
                partition_key=day(days_ago),
                instance=instance,
                resources=resources(kumo, tmp_path),
                raise_on_error=False,
            )
            evaluations = run.get_asset_check_evaluations()
            (found[day(days_ago)],) = (e for e in evaluations if e.check_name == "drift")

    assert [found[day(days_ago)].passed for days_ago in (4, 3, 2)] == [True, True, False]
    said = f"{day(4)} was predicted by another model, {PURCHASE}-old, so the limit does not count."
    assert (found[day(3)].description or "").endswith(said)


def test_swapping_the_scores_of_two_classes_fails_drift(tmp_path: Path) -> None:
    scores = np.random.default_rng(2).dirichlet([6, 2, 1], 1000)

    def of_classes(names: str) -> pd.DataFrame:
        columns = {"CLASS": np.tile(list(names), 1000), "SCORE": scores.ravel()}
        return pd.DataFrame({"ENTITY": np.repeat(np.arange(1000), 3), **columns})

    frames = Frames(tmp_path, {day(4): of_classes("abc"), day(3): of_classes("bac")})
    assert failed(frames.make(day(4))) == {}
    run = frames.make(day(3))
    assert failed(run) == {"drift": ERROR}
    found = values(evaluations(run)["drift"])
    assert found["SCORE/psi"] == 0
    assert found["CLASS/psi"] > 0.25
    assert found["best_class/psi"] > 0.25


MODELS = {
    PURCHASE: "True_PROB/psi",
    "trainingjob-cdnow-spend": "TARGET_PRED/psi",
    "trainingjob-cdnow-band": "best_class/psi",
}


@pytest.mark.parametrize("model", MODELS)
def test_each_output_is_compared_with_the_holdout_of_its_own_model(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path, model: str
) -> None:
    assets = purchase_assets(training_job_id=model)
    checks = build_kumo_prediction_checks(asset=assets, max_psi_error=None, holdout_drift=True)
    run = dg.materialize(
        [assets, *checks],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
        raise_on_error=False,
    )
    found = evaluations(run)["holdout_drift"]
    assert values(found)["reference"] == f"holdout of {model}"
    assert values(found)[MODELS[model]] > 0
    assert f"against holdout of {model}" in (found.description or "")


def test_predictions_that_no_model_made_have_no_holdout(kumo: LocalKumo, tmp_path: Path) -> None:
    frames = Frames(tmp_path, two_days(), holdout_drift=True)
    with_kumo = dg.Definitions(resources={"kumo": resources(kumo, tmp_path)["kumo"]})
    frames.definitions = dg.Definitions.merge(frames.definitions, with_kumo)
    run = frames.make(day(4))
    assert failed(run) == {}
    assert "no holdout to compare with" in (evaluations(run)["holdout_drift"].description or "")


def test_a_holdout_without_scores_passes_and_says_so(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assets = purchase_assets(outputs=("embeddings",))
    checks = build_kumo_prediction_checks(
        asset=assets, output_type="embeddings", holdout_drift=True, scores_in_range=None
    )
    run = dg.materialize(
        [assets, *checks],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )
    found = evaluations(run)["holdout_drift"]
    assert found.passed
    assert "has no scores to compare" in (found.description or "")


# Freshness


def anchored(days_ago: int) -> pd.DataFrame:
    return frame(ANCHOR_TIMESTAMP=pd.Timestamp(TODAY - timedelta(days=days_ago)))


def test_predictions_for_long_ago_are_not_fresh(tmp_path: Path) -> None:
    limit = timedelta(days=2)
    assert failed(Frames(tmp_path / "a", anchored(1), max_anchor_age=limit).make()) == {}
    run = Frames(tmp_path / "b", anchored(3), max_anchor_age=limit).make()
    assert failed(run) == {"anchor_age": ERROR}
    found = values(evaluations(run)["anchor_age"])
    assert 72 <= found["age_hours"] <= 97
    assert found["allowed"] == "at most 2 days"


def test_a_backfill_is_not_stale_but_a_check_by_itself_looks_at_the_newest_day(
    tmp_path: Path,
) -> None:
    days = {day(ago): anchored(ago) for ago in (9, 5)}
    frames = Frames(tmp_path, days, max_anchor_age=timedelta(days=7))
    assert failed(frames.make(day(5))) == {}
    assert failed(frames.make(day(9))) == {}  # was materialized last
    run = frames.make(only_checks=True)
    assert values(evaluations(run)["anchor_age"])["partition"] == day(5)
    assert values(evaluations(run)["scores_in_range"])["partition"] == day(9)

    stale = Frames(tmp_path, days, max_anchor_age=timedelta(days=3))
    stale.make(day(5))
    assert failed(stale.make(only_checks=True)) == {"anchor_age": ERROR}


# Runs


def test_a_blocking_check_keeps_what_is_downstream_from_being_made(tmp_path: Path) -> None:
    run = Frames(tmp_path, frame(), scores_in_range=(0, 0.1), blocking=True).make()
    assert not run.success
    assert "scores_in_range" in error_of(run)[1]
    made = {event.asset_key for event in run.get_asset_materialization_events()}
    assert made == {SCORES}


def test_without_blocking_and_with_a_warning_the_run_goes_on(tmp_path: Path) -> None:
    loose = Frames(tmp_path / "a", frame(), scores_in_range=(0, 0.1)).make()
    frames = Frames(tmp_path / "b", two_days(shift=0.035), blocking=True)
    frames.make(day(4))
    warned = frames.make(day(3))
    assert failed(loose) == {"scores_in_range": ERROR}
    assert failed(warned) == {"drift": WARN}
    assert loose.success
    assert warned.success


def test_a_run_over_several_partitions_checks_each_of_them(tmp_path: Path) -> None:
    frames = Frames(tmp_path, {day(5): frame(), **two_days(shift=0.3)})
    run = frames.make(day(5), until=day(3))
    assert failed(run) == {"drift": ERROR}
    found = values(evaluations(run)["drift"])
    assert (found["partitions"], found["failed_partitions"], found["partition"]) == (3, 1, day(3))


def test_one_check_can_run_by_itself_without_reading_rows(tmp_path: Path) -> None:
    frames = Frames(tmp_path, two_days())
    frames.make(day(4))
    for part in tmp_path.rglob("*.parquet"):
        part.unlink()
    drift = dg.AssetSelection.checks(dg.AssetCheckKey(SCORES, "null_fraction"))
    job = dg.define_asset_job("one", drift)
    definitions = dg.Definitions.merge(frames.definitions, dg.Definitions(jobs=[job]))
    run = definitions.resolve_job_def("one").execute_in_process(instance=frames.instance)
    assert list(evaluations(run)) == ["null_fraction"]
    assert failed(run) == {}


def test_checks_that_have_nothing_to_look_at_say_so_and_block_nothing(tmp_path: Path) -> None:
    run = Frames(tmp_path, frame(), manager={"statistics": False}, blocking=True).make()
    assert run.success
    assert failed(run) == {"scores_in_range": WARN, "null_fraction": WARN}
    for name in failed(run):
        assert "statistics=False" in (evaluations(run)[name].description or "")


@pytest.mark.parametrize("statistics_columns", [["nothing"], []])
def test_without_statistics_of_the_columns_each_check_still_has_a_result(
    tmp_path: Path, statistics_columns: list[str]
) -> None:
    frames = Frames(tmp_path, two_days(), manager={"statistics_columns": statistics_columns})
    frames.make(day(4))
    run = frames.make(day(3))

    assert run.success
    assert sorted(evaluations(run)) == [
        "drift",
        "null_fraction",
        "scores_in_range",
        "unique_entities",
    ]
    assert {"null_fraction", "scores_in_range"} <= set(failed(run))
    assert set(failed(run).values()) == {WARN}
    for name in failed(run):
        assert "There are no statistics" in (evaluations(run)[name].description or "")


def test_data_without_any_column_is_told(tmp_path: Path) -> None:
    run = Frames(tmp_path, pd.DataFrame()).make()
    assert run.success
    assert failed(run) == {"unique_entities": WARN, "null_fraction": WARN}


def test_a_file_that_is_damaged_fails_the_check_that_reads_it(tmp_path: Path) -> None:
    frames = Frames(tmp_path, frame())
    frames.make()
    (part,) = tmp_path.rglob("*.parquet")
    part.write_bytes(b"PAR1 not really PAR1")
    run = frames.make(only_checks=True)
    assert failed(run) == {"unique_entities": ERROR}
    assert "Materialize again" in (evaluations(run)["unique_entities"].description or "")


def test_another_io_manager_is_refused_by_name(tmp_path: Path) -> None:
    frames = Frames(tmp_path, frame())
    other = dg.Definitions(
        assets=frames.definitions.assets,
        asset_checks=frames.definitions.asset_checks,
        resources={"kumo_io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path))},
    )
    run = other.resolve_implicit_global_asset_job_def().execute_in_process(raise_on_error=False)
    assert "io_manager_key=" in error_of(run)[1]


# Definitions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores_in_range": (1, 0)}, "least and the greatest"),
        ({"max_null_fraction": 2}, "0 to 1"),
        ({"max_psi_warn": 0}, "more than 0"),
        ({"max_psi_warn": 0.5}, "A warning comes before an error"),
        ({"max_anchor_age": timedelta(0)}, "span of time"),
    ],
)
def test_limits_that_cannot_be_are_refused_when_defined(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_kumo_prediction_checks(asset=PREDICTIONS, **options)


def test_a_definition_without_any_check_is_refused() -> None:
    switched_off: dict[str, Any] = {
        "entities_match_summary": False,
        "unique_entities": False,
        "scores_in_range": None,
        "max_null_fraction": None,
        "max_psi_warn": None,
        "max_psi_error": None,
    }
    with pytest.raises(ValueError, match="No check is left"):
        build_kumo_prediction_checks(asset=PREDICTIONS, **switched_off)


def names_of(checks: Sequence[dg.AssetChecksDefinition]) -> set[str]:
    return {key.name for check in checks for key in check.check_keys}


def test_the_predictions_are_checked_where_there_are_embeddings_too() -> None:
    assets = purchase_assets(outputs=("predictions", "embeddings"))
    checks = build_kumo_prediction_checks(asset=assets)
    assert {key.asset_key for check in checks for key in check.check_keys} == {PREDICTIONS}
    assert "drift" in names_of(checks)
    assert "drift" not in names_of(build_kumo_prediction_checks(asset=PREDICTIONS))


def test_the_embeddings_are_checked_where_they_are_asked_for(
    kumo: LocalKumo, tmp_path: Path
) -> None:
    """An entity's embedding has no score: what is about scores says so and passes."""
    assets = purchase_assets(outputs=("predictions", "embeddings"))
    checks = build_kumo_prediction_checks(asset=assets, output_type="embeddings")
    assert {key.asset_key for check in checks for key in check.check_keys} == {EMBEDDINGS}
    run = dg.materialize(
        [assets, *checks], resources=resources(kumo, tmp_path), partition_key=day(3)
    )
    found = {e.check_name: e.passed for e in run.get_asset_check_evaluations()}
    assert found == dict.fromkeys(names_of(checks), True)


def test_one_output_is_found_in_whatever_names_it() -> None:
    churn = build_kumo_assets_definitions(
        name="churn",
        prediction=BatchPrediction(training_job_id="trainingjob-1"),
        partitions_def=DAYS,
    )
    (predictions,) = [a for a in churn if a.key == dg.AssetKey(["churn", "predictions"])]
    assert isinstance(predictions, dg.AssetsDefinition)
    with_partitions: list[Any] = [churn, tuple(churn), predictions, next(iter(predictions.specs))]
    keys: list[Any] = ["churn/predictions", ["churn", "predictions"], ("churn", "predictions")]
    for given in (*with_partitions, *keys, predictions.key):
        checks = build_kumo_prediction_checks(asset=given)
        assert {k.asset_key for c in checks for k in c.check_keys} == {predictions.key}
        assert ("drift" in names_of(checks)) is (given in with_partitions)
    embeddings = purchase_assets(outputs=("embeddings",))
    (checks,) = build_kumo_prediction_checks(asset=[embeddings])
    assert {key.asset_key for key in checks.check_keys} == {EMBEDDINGS}


def test_what_names_no_output_or_several_is_refused_with_what_to_write() -> None:
    prediction = BatchPrediction(training_job_id="trainingjob-1")
    churn = build_kumo_assets_definitions(name="churn", prediction=prediction)
    two = [*churn, *build_kumo_assets_definitions(name="spend", prediction=prediction)]
    refused: dict[str, Any] = {
        'asset="churn/predictions"': [two, dg.Definitions(assets=two), None, 1, [], [None]],
        "has no predictions, only churn/model": [churn.model, [churn.model], *churn.model.specs],
    }
    for words, inputs in refused.items():
        for given in inputs:
            with pytest.raises(ValueError, match=words):
                build_kumo_prediction_checks(asset=given)


def test_outputs_that_are_not_there_are_not_checked() -> None:
    with pytest.raises(ValueError, match="has no embeddings, only purchase/predictions"):
        build_kumo_prediction_checks(asset=purchase_assets(), output_type="embeddings")
    with pytest.raises(ValueError, match="the key says which asset"):
        build_kumo_prediction_checks(asset=PREDICTIONS, output_type="embeddings")


def test_options_of_the_op_are_passed_on_and_two_sets_of_checks_live_side_by_side() -> None:
    only: dict[str, Any] = {"unique_entities": False, "entities_match_summary": False}
    (one,) = build_kumo_prediction_checks(
        asset=PREDICTIONS, blocking=True, pool="slow", op_tags={"a": "b"}, scores_in_range=None
    )
    two = build_kumo_prediction_checks(asset=PREDICTIONS, max_null_fraction=None, **only)
    (three,) = build_kumo_prediction_checks(
        asset=PREDICTIONS, scores_in_range=None, name="nulls", **only
    )
    dg.Definitions(
        asset_checks=[one, *two], resources={"kumo_io_manager": object()}
    ).resolve_all_job_defs()
    assert {c.op.name for c in (one, *two, three)} == {
        "purchase__predictions__blocking_checks",
        "purchase__predictions__checks",
        "nulls",
    }
    assert one.node_def.tags["a"] == "b"
    assert one.op.pool == "slow"
    assert all(spec.blocking for spec in one.check_specs)
    assert names_of(two) == {"scores_in_range"}


def test_what_is_kept_is_small_and_holds_no_rows(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    dg.materialize(
        [purchase_assets(outputs=("predictions", "embeddings"))],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )
    kept = list(tmp_path.rglob("_statistics.json"))
    assert len(kept) == 2
    for path in kept:
        assert path.stat().st_size < 20_000
        assert "values" not in json.loads(path.read_text())["columns"]["ENTITY"]


def test_the_code_of_the_guide_loads() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "checks.md").read_text()
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)[0], names)
    told = set(re.findall(r"^\| `(\w+)` \|", guide, flags=re.MULTILINE))
    assert names_of(names["defs"].asset_checks) == told


# Results of partitions


PARTITIONED = "partitions_def" in inspect.signature(dg.AssetCheckSpec).parameters


@pytest.mark.skipif(not PARTITIONED, reason="needs Dagster 1.13")
def test_results_of_partitions_are_kept_apart(tmp_path: Path) -> None:
    frames = Frames(tmp_path, two_days(shift=0.5), by_partition=True, max_psi_error=0.2)

    good, bad = frames.make(day(4)), frames.make(day(3))
    again = frames.make(day(4), only_checks=True)

    assert {e.partition for e in evaluations(good).values()} == {day(4)}
    assert {e.partition for e in evaluations(bad).values()} == {day(3)}
    assert failed(bad) == {"drift": ERROR}
    assert {e.partition for e in evaluations(again).values()} == {day(4)}
    assert sorted(evaluations(again)) == sorted(evaluations(good))


@pytest.mark.skipif(PARTITIONED, reason="Dagster 1.13 has it")
def test_an_older_dagster_does_not_keep_them_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs Dagster 1\.13"):
        Frames(tmp_path, two_days(), by_partition=True)
