"""Two models watched by two sensors that are switched on: one records, the other delivers."""

import os

import dagster as dg

from dagster_kumo import (
    BatchPrediction,
    KumoIOManager,
    KumoResource,
    build_kumo_assets_definitions,
    build_kumo_sensor,
)
from tests.support import DAYS, PURCHASE

prediction = BatchPrediction(training_job_id=PURCHASE)
recorded = build_kumo_assets_definitions(
    name="recorded", prediction=prediction, partitions_def=DAYS
)
delivered = build_kumo_assets_definitions(
    name="delivered", prediction=prediction, partitions_def=DAYS
)

defs = dg.Definitions(
    assets=[*recorded, *delivered],
    sensors=[
        build_kumo_sensor(
            assets,
            name=name,
            deliver=deliver,
            minimum_interval_seconds=5,
            default_status=dg.DefaultSensorStatus.RUNNING,
        )
        for name, assets, deliver in (("records", recorded, False), ("delivers", delivered, True))
    ],
    resources={
        "kumo": KumoResource(),
        "kumo_io_manager": KumoIOManager(base_path=os.environ["STORE"]),
    },
    executor=dg.in_process_executor,
)
