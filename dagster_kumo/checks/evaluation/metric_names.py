"""The names of the metrics, for definitions: this module loads nothing."""

import re

COVERAGE = "coverage"
CALIBRATION_ERROR = "calibration_error"
HOLDOUT = "holdout/"
"""What stands before the name of a metric of the model on its holdout data."""

HIGHER_IS_BETTER = frozenset(
    {"auroc", "auprc", "precision", "recall", "accuracy", "macro_auroc", "r2"}
)
LOWER_IS_BETTER = frozenset({"log_loss", "brier", CALIBRATION_ERROR, "mae", "rmse"})
"""Metrics that are errors."""
NEITHER = frozenset({"base_rate", "predicted_rate", "bias", "share_of_total"})
_AT = re.compile(r"(lift|recall|map|ndcg)_at_(\d+|k)")


def is_metric(name: str) -> bool:
    """Whether there is a metric of this name.

    >>> is_metric("lift_at_10"), is_metric("auc")
    (True, False)
    """
    known = HIGHER_IS_BETTER | LOWER_IS_BETTER | NEITHER
    return name in known or _AT.fullmatch(name) is not None
