"""Two models of the same customers: will they buy in the next 30 days, and for how much?"""

import os
from datetime import timedelta

import dagster as dg

from dagster_kumo import (
    BatchPrediction,
    DagsterKumoTranslator,
    KumoAssetProps,
    KumoEvaluation,
    KumoExport,
    KumoTraining,
    PromotionGate,
    SnowflakeConnector,
    build_kumo_assets_definitions,
    retrain_after_failed_checks,
)
from example_project.automation import newest_day
from example_project.partitions import daily

# The tables that both models learn and predict from.
SOURCE_TABLES = ["customers", "purchases", "dbt/customer_segments"]

# How far both models look ahead.
WINDOW = timedelta(days=30)

QUESTIONS = {
    "purchase": "Will the customer buy in the next 30 days?",
    "spend": "How many dollars will the customer spend in the next 30 days?",
}


class ShopTranslator(DagsterKumoTranslator):
    """The specs as they come, with the question that the predictions answer."""

    def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
        spec = super().get_asset_spec(props)
        # The catalog shows the first line, so each asset has one of its own.
        question = f"{QUESTIONS[props.name]}\n\n" if props.kind == "predictions" else ""
        return spec.replace_attributes(description=f"{question}{spec.description}")


purchase = build_kumo_assets_definitions(
    name="purchase",
    prediction=BatchPrediction(
        # The trained model that was promoted last. The README says how the first one is.
        champion_of="purchase",
        outputs=("predictions", "embeddings"),
        # A call costs little: a chance of one in five is worth it.
        binary_classification_threshold=0.2,
        num_workers=2,
    ),
    # Each export replaces the table, so it holds the day that was exported last; ANCHOR_TIMESTAMP
    # says which. To gather all days, write write_mode="APPEND".
    exports=[
        KumoExport(
            connector=SnowflakeConnector("warehouse"),
            table_name="PURCHASE",
            write_mode="OVERWRITE",
            metadata_fields=("ANCHOR_TIMESTAMP", "JOB_TIMESTAMP"),
            automation_condition=newest_day,
        )
    ],
    # Trained again, by the query and the plan of this training job: each week (see `jobs.py`), and once when a
    # check of the evaluation begins to fail. A candidate that is worse is not promoted.
    training=KumoTraining(
        like=os.getenv("PURCHASE_TRAINING_JOB", "trainingjob-cdnow-purchase"),
        max_per_week=2,
        automation_condition=retrain_after_failed_checks(dg.AssetKey(["purchase", "evaluation"])),
        gate=PromotionGate(min_values={"auroc": 0.7}, max_loss={"auroc": 0.002}),
    ),
    # Held against what happened, as soon as the 30 days have passed.
    evaluation=KumoEvaluation(outcomes="purchase_outcomes", window=WINDOW),
    partitions_def=daily,
    deps=SOURCE_TABLES,
    translator=ShopTranslator(),
    # The schedule is at six. A day that is not there at nine is overdue.
    freshness_policy=dg.FreshnessPolicy.cron("0 9 * * *", timedelta(hours=3)),
    group_name="purchase",
    owners=["team:data-science"],
)

spend = build_kumo_assets_definitions(
    name="spend",
    prediction=BatchPrediction(
        # By its id; `training_job_tags={"use_case": "spend"}` would take the newest model instead.
        training_job_id=os.getenv("SPEND_TRAINING_JOB", "trainingjob-cdnow-spend"),
    ),
    partitions_def=daily,
    deps=SOURCE_TABLES,
    translator=ShopTranslator(),
    group_name="spend",
    owners=["team:data-science"],
)
