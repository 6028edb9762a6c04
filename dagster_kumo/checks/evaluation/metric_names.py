"""The names of the metrics, for definitions: this module loads nothing."""

import re

COVERAGE = "coverage"
CALIBRATION_ERROR = "calibration_error"
HOLDOUT = "holdout/"
"""What stands before the name of a metric of the model on its holdout data."""

_METRICS = frozenset(
    [
        "accuracy",
        "auprc",
        "auroc",
        "brier",
        "calibration_error",
        "log_loss",
        "macro_auroc",
        "mae",
        "precision",
        "r2",
        "recall",
        "rmse",
    ]
)
NEITHER = frozenset({"base_rate", "predicted_rate", "bias", "share_of_total"})
_KUMO_NAMES = {"acc": "accuracy", "ap": "auprc", "ce": "log_loss"}
_AT = re.compile(r"(lift|recall|map|ndcg)_at_(\d+|k)")


def name_here(kumo_name: str) -> str:
    """The name of one of Kumo's metrics in an evaluation.

    >>> name_here("acc"), name_here("ndcg@10"), name_here("auroc")
    ('accuracy', 'ndcg_at_10', 'auroc')
    """
    return _KUMO_NAMES.get(kumo_name, kumo_name).replace("@", "_at_")


def is_metric(name: str) -> bool:
    """Whether there is a metric of this name.

    >>> is_metric("lift_at_10"), is_metric("auc")
    (True, False)
    """
    return name in _METRICS | NEITHER or _AT.fullmatch(name) is not None
