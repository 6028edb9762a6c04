"""A model whose candidates are trained again like a training job with a tag, which a test sets."""

import os
from pathlib import Path

import dagster as dg

from dagster_kumo import (
    BatchPrediction,
    KumoIOManager,
    KumoTraining,
    LocalKumoResource,
    PromotionGate,
    build_kumo_assets_definitions,
)
from tests.support import DAYS

DATA = Path(os.environ["EXAMPLE_DATA"])
shop = build_kumo_assets_definitions(
    name="shop",
    prediction=BatchPrediction(champion_of="shop"),
    training=KumoTraining(
        like={"train": "like-this"}, gate=PromotionGate(max_loss={"auroc": 0.002})
    ),
    partitions_def=DAYS,
    deps=["shop_tables"],
)
defs = dg.Definitions(
    assets=[*shop, dg.AssetSpec("shop_tables")],
    jobs=[shop.rollback_job],
    resources={
        "kumo": LocalKumoResource(data=str(DATA / "kumo")),
        "kumo_io_manager": KumoIOManager(base_path=str(DATA / "assets")),
    },
    executor=dg.in_process_executor,
)
