"""How far scores and classes have moved, held against the formula on all rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dagster_kumo.predictions.statistics.drift import compared_columns, drift, psi
from dagster_kumo.predictions.statistics.stored_statistics import (
    MAX_STORED_CLASSES,
    StoredStatistics,
)
from dagster_kumo.predictions.statistics.summary import OutputSummary

pytestmark = pytest.mark.fast

random = np.random.default_rng(11)


def kept(**columns: object) -> StoredStatistics:
    """What is read again of the statistics of some columns."""
    table = pa.table(columns)
    summary = OutputSummary(table.schema)
    for batch in table.to_batches(max_chunksize=10_000):
        summary.update(batch)
    written = StoredStatistics.of(summary).model_dump_json(exclude_none=True)
    return StoredStatistics.model_validate_json(written)


def moved(before: object, now: object, name: str = "SCORE") -> float | None:
    return psi(kept(**{name: before}).columns[name], kept(**{name: now}).columns[name])


def by_the_formula(before: np.ndarray, now: np.ndarray) -> float:
    edges = np.quantile(before, np.arange(1, 10) / 10, method="inverted_cdf")
    a, b = (np.bincount(np.searchsorted(edges, v), minlength=10) / len(v) for v in (before, now))
    a, b = np.maximum(a, 1e-4), np.maximum(b, 1e-4)
    return float(((b - a) * np.log(b / a)).sum())


MAX_ERROR = 0.0005
"""By so much PSI may differ from that of all rows, up to an index of one half: twice the limit of an error."""
SCORES = {
    "normal": lambda shift, rows: random.normal(shift, 1, rows),
    "rare": lambda shift, rows: random.beta(1 + shift / 2, 40, rows),
    "frequent": lambda shift, rows: 1 - random.beta(1 + shift / 2, 8, rows),
    "near 0 and 1": lambda shift, rows: random.beta(0.1 + shift / 10, 0.1, rows),
    "amounts": lambda shift, rows: random.lognormal(2 + shift, 2, rows),
}


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("rows", [2_000, 5_000, 23_570, 100_000])
def test_psi_is_that_of_all_rows(scores: str, rows: int) -> None:
    before = SCORES[scores](0.0, rows)
    for shift in (0.0, 0.1, 0.4):
        now = SCORES[scores](shift, rows)
        exact = by_the_formula(before, now)
        assert exact < 0.5
        assert moved(before, now) == pytest.approx(exact, abs=MAX_ERROR)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("rows", [(500, 50_000), (50_000, 500), (50_000, 60_000)])
def test_a_frequent_value_is_one_bin_however_many_rows_there_are(
    value: float, rows: tuple[int, int]
) -> None:
    def scores(rows: int) -> np.ndarray:
        return np.where(np.arange(rows) % 2, value, np.linspace(0.001, 0.999, rows))

    before, now = scores(rows[0]), scores(rows[1])
    assert moved(before, now) == pytest.approx(0, abs=0.005)
    assert (moved(before, np.where(now == value, value - 0.001, now)) or 0) > 1


def test_the_same_data_has_not_moved() -> None:
    for values in (random.random(50_000), np.full(500, 0.3), np.array([0.5]), np.arange(20_000)):
        assert moved(values, values) == 0


def test_scores_that_have_become_all_the_same_have_moved_and_back() -> None:
    spread, one = random.random(10_000), np.full(10_000, 0.5)
    assert (moved(spread, one) or 0) > 1
    assert (moved(one, spread) or 0) > 1
    assert (moved(one, one - 0.1) or 0) > 1
    assert (moved(one, one + 0.1) or 0) > 1


def test_most_scores_being_zero_hides_no_move_of_the_others() -> None:
    zeros = np.zeros(8000)
    before = np.concatenate([zeros, random.random(2000)])
    now = np.concatenate([zeros[:4000], random.random(6000)])
    assert (moved(before, now) or 0) > 0.25


def test_classes_are_compared_one_by_one() -> None:
    before, now = ["a"] * 50 + ["b"] * 50, ["a"] * 80 + ["b"] * 20
    expected = 0.3 * np.log(0.8 / 0.5) + -0.3 * np.log(0.2 / 0.5)
    assert moved(before, now, "CLASS") == pytest.approx(expected)
    assert (moved(before, ["c"] * 100, "CLASS") or 0) > 1


@pytest.mark.slow
def test_of_many_classes_the_common_ones_are_kept_and_the_others_together() -> None:
    many = [f"item {n}" for n in random.geometric(0.004, 50_000) % 900]
    statistics = kept(CLASS=many).columns["CLASS"]
    assert len(statistics.classes or {}) == MAX_STORED_CLASSES
    counts = Counter(many)
    assert statistics.classes == dict(counts.most_common(MAX_STORED_CLASSES))
    assert statistics.other_classes == len(many) - sum(statistics.classes.values())
    assert moved(many, many, "CLASS") == 0
    # A common class that is gone counts, one that has only become less common does not seem gone.
    gone = [name for name in many if name != counts.most_common(1)[0][0]]
    assert 0 < (moved(many, gone, "CLASS") or 0) < 0.1


def test_numbers_and_classes_cannot_be_compared() -> None:
    assert psi(kept(SCORE=[1.0, 2.0]).columns["SCORE"], kept(SCORE=["a"]).columns["SCORE"]) is None
    assert psi(kept(SCORE=[None]).columns["SCORE"], kept(SCORE=[1.0]).columns["SCORE"]) is None


def classes(*, names: str = "abc", order: str = "entities", rows: int = 3000) -> StoredStatistics:
    """Scores of the classes of `names`, of which the first is the likeliest."""
    scores = np.sort(random.dirichlet([4, 2, 1], rows), axis=1)[:, ::-1] * 0.8 + [0.15, 0.05, 0]
    columns = {
        "ENTITY": np.repeat(np.arange(rows), 3),
        "CLASS": np.tile(list(names), rows),
        "SCORE": scores.ravel(),
    }
    by = np.arange(3 * rows) if order == "entities" else np.argsort(columns["CLASS"], kind="stable")
    return kept(**{name: values[by] for name, values in columns.items()})


def test_swapping_the_scores_of_two_classes_is_a_large_drift() -> None:
    before, same, swapped = classes(), classes(), classes(names="bac")
    columns = compared_columns(before)
    assert max(drift(before, same, columns).values()) < 0.01
    found = drift(before, swapped, columns)
    assert found["SCORE"] < 0.01  # the same scores, of other classes
    assert found["CLASS"] > 0.25
    assert found["best_class"] > 1


def test_the_best_class_is_left_out_where_the_rows_of_an_entity_lie_apart() -> None:
    before, swapped = classes(order="classes"), classes(names="bac", order="classes")
    found = drift(before, swapped, compared_columns(before))
    assert found["CLASS"] > 0.25
    assert "best_class" not in found


def test_statistics_of_an_earlier_version_are_still_compared() -> None:
    values = np.sort(random.beta(1, 8, 20_000))
    earlier = {
        "num_rows": 20_000,
        "columns": {
            "True_PROB": {
                "rows": 20_000,
                "values": [float(f"{v:.6g}") for v in values[50::100]],
                "weights": [100] * 200,
                "other_classes": 0,
            },
            "CLASS": {"rows": 4, "classes": {"a": 3, "b": 1}, "other_classes": 0},
        },
    }
    before = StoredStatistics.model_validate(earlier)
    now = kept(True_PROB=values)
    assert drift(before, now, ["True_PROB"])["True_PROB"] == pytest.approx(0, abs=0.005)
    shifted = kept(True_PROB=values + 0.1)
    assert drift(before, shifted, ["True_PROB"])["True_PROB"] > 0.25
    assert drift(before, kept(CLASS=["a", "b"], SCORE=[0.5, 0.5]), ["CLASS"])["CLASS"] > 0.1


@pytest.mark.parametrize(
    ("columns", "compared"),
    [
        ({"TARGET_PRED": [True], "False_PROB": [0.1], "True_PROB": [0.9]}, ["True_PROB"]),
        ({"CLASS": ["a"], "SCORE": [0.5]}, ["SCORE", "CLASS"]),
        ({"CLASS": [7], "SCORE": [0.5]}, ["SCORE", "CLASS"]),
        ({"False_PROB": [0.1]}, ["False_PROB"]),
        ({"TARGET_PRED": [12.5]}, ["TARGET_PRED"]),
        ({"TARGET_PRED": ["gold"]}, ["TARGET_PRED"]),
        ({"embedding": [[0.1, 0.2]]}, []),
    ],
)
def test_what_says_most_of_a_task_is_compared(
    columns: dict[str, list[object]], compared: list[str]
) -> None:
    assert compared_columns(kept(ENTITY=[1], **columns)) == compared


def test_nothing_but_numbers_and_classes_is_kept_and_little_of_them() -> None:
    frame = pd.DataFrame({"ENTITY": [f"customer-{n}" for n in range(30_000)]})
    wide = {f"number {n}": random.random(3000) for n in range(200)}
    text = kept(ENTITY=frame["ENTITY"].tolist()).model_dump_json()
    assert "customer" not in text
    assert len(kept(**wide).model_dump_json(exclude_none=True)) < 200_000
    assert len(kept(SCORE=random.random(1_000_000)).model_dump_json()) < 25_000
