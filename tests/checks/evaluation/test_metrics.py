"""The numbers of evaluations equal those of scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import calibration, metrics

from tests.checks.evaluation.evaluated import evaluate, numbers_of

pytestmark = pytest.mark.fast

ROWS = 2_000
random = np.random.default_rng(7)
SAME = {"rel": 1e-9, "abs": 1e-9}


def binary(scores: Any, threshold: float = 0.2) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "ENTITY": np.arange(len(scores)),
            "ANCHOR_TIMESTAMP": pd.Timestamp("2026-01-01"),
            "TARGET_PRED": scores >= threshold,
            "False_PROB": 1 - scores,
            "True_PROB": scores,
        }
    )


def outcomes(values: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"ENTITY": np.arange(len(values)), "TARGET": values})
    return frame.sample(frac=1, random_state=1)


@pytest.mark.parametrize("decimals", [15, 2], ids=["scores of their own", "equal scores"])
def test_binary(decimals: int, tmp_path: Path) -> None:
    scores = np.round(random.beta(1, 8, ROWS), decimals)
    truth = random.random(ROWS) < scores

    found = numbers_of(evaluate(binary(scores), outcomes(truth), tmp_path))

    said_yes = scores >= 0.2
    expected = {
        "auroc": metrics.roc_auc_score(truth, scores),
        "auprc": metrics.average_precision_score(truth, scores),
        "log_loss": metrics.log_loss(truth, scores),
        "brier": metrics.brier_score_loss(truth, scores),
        "precision": metrics.precision_score(truth, said_yes),
        "recall": metrics.recall_score(truth, said_yes),
        "base_rate": truth.mean(),
        "predicted_rate": scores.mean(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, **SAME)
    assert found["coverage"] == 1


def test_binary_by_groups(tmp_path: Path) -> None:
    scores = random.permutation(np.linspace(0.001, 0.6, ROWS))
    truth = random.random(ROWS) < scores / 2

    found = numbers_of(evaluate(binary(scores), outcomes(truth), tmp_path))

    best_first = truth[np.argsort(-scores)]
    for percent in (1, 5, 10):
        top = best_first[: ROWS * percent // 100]
        assert found[f"lift_at_{percent}"] == pytest.approx(top.mean() / truth.mean(), **SAME)
        assert found[f"recall_at_{percent}"] == pytest.approx(top.sum() / truth.sum(), **SAME)
    actual, predicted = calibration.calibration_curve(truth, scores, n_bins=10, strategy="quantile")
    error = np.abs(actual - predicted).mean()  # groups of the same size
    assert found["calibration_error"] == pytest.approx(error, **SAME)
    table = found["deciles"].records
    assert [row.data["entities"] for row in table] == [200] * 10
    assert [row.data["came true"] for row in table] == [
        best_first[start : start + 200].sum() for start in range(0, ROWS, 200)
    ]
    assert table[-1].data["share so far"] == 1
    top = best_first[:200].sum()
    assert f"Of the 200 most likely, {top} came true" in found["in_brief"]
    assert list(found)[:5] == ["in_brief", "deciles", "calibration", "gains", "coverage"]
    # Those of the predictions are at the predictions.
    assert not {"distribution", "statistics", "True_PROB/mean", "share_yes"} & found.keys()


def test_probabilities_of_0_and_1_have_a_logarithm(tmp_path: Path) -> None:
    scores, truth = np.array([0.0, 1.0, 1.0, 0.5]), np.array([True, True, False, False])
    found = numbers_of(evaluate(binary(scores), outcomes(truth), tmp_path))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(truth, scores), **SAME)


def test_what_is_not_defined_is_left_out(tmp_path: Path) -> None:
    found = numbers_of(
        evaluate(binary(random.random(50) / 9), outcomes(np.zeros(50, bool)), tmp_path)
    )
    assert found["base_rate"] == 0
    assert found.keys().isdisjoint({"auroc", "auprc", "recall", "precision", "lift_at_1"})


def test_amounts(tmp_path: Path) -> None:
    predicted = random.gamma(1, 20, ROWS)
    truth = np.maximum(predicted + random.normal(0, 10, ROWS), 0)
    frame = pd.DataFrame({"ENTITY": np.arange(ROWS), "TARGET_PRED": predicted})

    found = numbers_of(evaluate(frame, outcomes(truth), tmp_path))

    expected = {
        "mae": metrics.mean_absolute_error(truth, predicted),
        "rmse": metrics.root_mean_squared_error(truth, predicted),
        "r2": metrics.r2_score(truth, predicted),
        "bias": (predicted - truth).mean(),
        "share_of_total": predicted.sum() / truth.sum(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, **SAME)
    assert sum(row.data["entities"] for row in found["deciles"].records) == ROWS


def test_the_windows_of_a_forecast(tmp_path: Path) -> None:
    """An entity has a row for each window, which its time tells apart."""
    entities, weeks = np.repeat(np.arange(50), 4), np.tile(np.arange(4), 50)
    rows = pd.DataFrame(
        {
            "ENTITY": entities,
            "TIMESTAMP": pd.Timestamp("2026-01-01") + pd.to_timedelta(7 * weeks, "D"),
            "TARGET_PRED": random.random(200),
        }
    )
    truth = rows.rename(columns={"TARGET_PRED": "TARGET"}).sample(frac=1, random_state=2)
    truth["TARGET"] += 1

    found = numbers_of(evaluate(rows, truth, tmp_path))

    assert found["mae"] == pytest.approx(1)
    assert "Entities with an outcome: 200 of 200." in found["in_brief"]


def test_classes(tmp_path: Path) -> None:
    classes = np.array(["0", "1", "2", "3+"])
    scores = random.dirichlet([4, 2, 1, 0.5], ROWS)
    truth = np.array([random.choice(classes, p=row) for row in scores])
    frame = pd.DataFrame(
        {
            "ENTITY": np.repeat(np.arange(ROWS), 4),
            "CLASS": np.tile(classes, ROWS),
            "SCORE": scores.ravel(),
        }
    )

    found = numbers_of(evaluate(frame, outcomes(truth), tmp_path))

    expected = {
        "accuracy": metrics.accuracy_score(truth, classes[scores.argmax(axis=1)]),
        "log_loss": metrics.log_loss(truth, scores, labels=classes),
        "macro_auroc": metrics.roc_auc_score(
            truth, scores, multi_class="ovr", average="macro", labels=classes
        ),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, **SAME)
    assert f"Entities with an outcome: {ROWS:,} of {ROWS:,}." in found["in_brief"]

    # Of each entity the two likeliest classes: the others lie below them.
    likeliest = frame[frame.groupby("ENTITY")["SCORE"].rank(ascending=False) <= 2]
    cut = np.where(np.argsort(np.argsort(-scores)) < 2, scores, 0)
    found = numbers_of(evaluate(likeliest, outcomes(truth), tmp_path))
    by_class = [metrics.roc_auc_score(truth == c, cut[:, i]) for i, c in enumerate(classes)]
    assert found["macro_auroc"] == pytest.approx(np.mean(by_class), **SAME)
    assert "log_loss" not in found


def test_rankings(tmp_path: Path) -> None:
    entities, items = 200, 25
    scores, relevant = (
        random.random((entities, items)),
        random.random((entities, items)) < 0.1,
    )
    frame = pd.DataFrame(
        {
            "ENTITY": np.repeat(np.arange(entities), items),
            "CLASS": np.tile(np.arange(items), entities),
            "SCORE": scores.ravel(),
        }
    )

    found = numbers_of(
        evaluate(frame, outcomes([list(np.flatnonzero(row)) for row in relevant]), tmp_path)
    )

    has_any = relevant.any(axis=1)  # of the others a recall is not defined
    truth, guess = relevant[has_any], scores[has_any]
    top = np.argsort(-guess)[:, :10]
    hits = np.take_along_axis(truth, top, axis=1).sum(axis=1)
    expected = {
        "ndcg_at_10": metrics.ndcg_score(truth, guess, k=10),
        "ndcg_at_k": metrics.ndcg_score(truth, guess),
        "map_at_k": metrics.label_ranking_average_precision_score(truth, guess),
        "recall_at_10": (hits / truth.sum(axis=1)).mean(),
        "recall_at_k": 1,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, **SAME)
