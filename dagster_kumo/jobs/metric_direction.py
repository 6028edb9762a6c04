"""Whether more or less of a metric is better, by its name in Kumo or in an evaluation. This module loads nothing."""

from __future__ import annotations

import re

_ERRORS = frozenset(
    [
        "brier",
        "calibration_error",
        "ce",
        "log_loss",
        "loss",
        "lognormal",
        "mae",
        "mape",
        "mse",
        "neg_binomial",
        "normal",
        "rmse",
        "smape",
    ]
)
_SCORES = frozenset(
    [
        "acc",
        "accuracy",
        "ap",
        "auprc",
        "auroc",
        "f1",
        "hit_ratio",
        "lift",
        "macro_auroc",
        "map",
        "mrr",
        "ndcg",
        "precision",
        "r2",
        "recall",
    ]
)
_DETAIL = re.compile(r"(@\w+|_at_\w+|_(macro|micro|per_label))$")


def is_error(name: str) -> bool | None:
    """Whether a metric is an error, of which less is better. None if neither is better, or the name is not known.

    >>> is_error("rmse"), is_error("ndcg@10"), is_error("lift_at_5"), is_error("base_rate")
    (True, False, False, None)
    """
    plain = _DETAIL.sub("", name)
    return True if plain in _ERRORS else False if plain in _SCORES else None
