"""What must hold of the predictions of a day before anybody works with them."""

from datetime import timedelta

import dagster as dg

from dagster_kumo import build_kumo_evaluation_checks, build_kumo_prediction_checks
from example_project.partitions import daily

# Nobody is to be called by scores that are wrong: where a check fails, the export and the call list of
# that day are not made.
purchase_checks = build_kumo_prediction_checks(
    asset=dg.AssetKey(["purchase", "predictions"]),
    partitions_def=daily,
    max_anchor_age=timedelta(days=2),
    blocking=True,
)

# Dollars have no range that holds for all times: this one is for what could not be an amount at all.
spend_checks = build_kumo_prediction_checks(
    asset=dg.AssetKey(["spend", "predictions"]),
    partitions_def=daily,
    columns=["TARGET_PRED"],
    scores_in_range=(0, 10_000),
)

# Is the model still good? A drop by this much is a reason to train it again.
evaluation_checks = build_kumo_evaluation_checks(
    asset=dg.AssetKey(["purchase", "evaluation"]),
    min_values={"auroc": 0.7},
    max_drop={"auroc": 0.1},
    max_calibration_error=0.05,
)
