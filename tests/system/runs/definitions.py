"""What the runs of these tests make: a code location, connected by its environment.

`KUMO_API_ENDPOINT` and `KUMO_API_KEY` say where the stand-in is, `STORE` where outputs are kept.
"""

import dagster as dg

from dagster_kumo import (
    BatchPrediction,
    KumoIOManager,
    KumoResource,
    KumoTraining,
    SnowflakeConnector,
    build_kumo_assets_definitions,
    build_kumo_export_asset,
    kumo_assets,
)
from tests.support import DAYS, PURCHASE

EXPORTED = dg.AssetKey(["exported", "predictions"])
MOMENTS = ("launching", "accepted", "polling", "asking", "writing")


def predictions(name: str, *, daily: bool = False, retries: int = 0, **prediction: object):
    if "training_job_tags" not in prediction:
        prediction["training_job_id"] = PURCHASE

    @kumo_assets(
        name=name,
        prediction=BatchPrediction(anchor="end" if daily else None, **prediction),
        partitions_def=DAYS if daily else None,
        backfill_policy=dg.BackfillPolicy.single_run() if daily else None,
        retry_policy=dg.RetryPolicy(max_retries=retries) if retries else None,
    )
    def assets(context: dg.AssetExecutionContext, kumo: KumoResource):
        yield from kumo.predict(context)

    return assets


def export(name: str, write_mode: str, *, daily: bool = False, retries: int = 0):
    return build_kumo_export_asset(
        name=name,
        predictions=EXPORTED,
        connector=SnowflakeConnector("wh"),
        table_name=f"{name}_{{partition_key}}" if daily else name,
        write_mode=write_mode,
        partitions_def=DAYS if daily else None,
        backfill_policy=dg.BackfillPolicy.single_run() if daily else None,
        retry_policy=dg.RetryPolicy(max_retries=retries) if retries else None,
    )


def candidate(name: str, query: str = "pquery-cdnow-purchase"):
    assets = build_kumo_assets_definitions(
        name=name,
        prediction=BatchPrediction(training_job_id=PURCHASE),
        training=KumoTraining(query=query, run_mode="debug"),
    )
    assert assets.candidate is not None
    return assets.candidate


TRAININGS = [
    candidate("refreshing", "pquery-cdnow-band"),  # whose graph is another one
    *map(candidate, ("launching", "accepted", "polling")),
]

PROMOTED = build_kumo_assets_definitions(
    name="shop",
    prediction=BatchPrediction(champion_of="shop"),
    training=KumoTraining(query="pquery-cdnow-purchase"),
)

JOBS = {
    "daily": [predictions("daily", daily=True)],
    "tagged": [predictions("tagged", training_job_tags={"use": "tagged"})],
    "both": [predictions("both", outputs=("predictions", "embeddings"))],
    "daily_tables": [predictions("daily_tables", daily=True, prediction_table="generate")],
    "daily_appended": [export("daily_appended", "APPEND", daily=True)],
    "daily_replaced": [export("daily_replaced", "OVERWRITE", daily=True)],
    # Each asset is a step; in a run on several processes, each has its own.
    "steps": [
        *(predictions(moment, retries=1) for moment in MOMENTS),
        predictions("table", prediction_table="generate", retries=1),
        export("appended", "APPEND", retries=1),
    ],
    "trainings": TRAININGS,
    "training": TRAININGS[-1:],
    "promotion": [PROMOTED.model],
}
ASSETS = [asset for name, assets in JOBS.items() if name != "training" for asset in assets]

kumo = KumoResource(poll_interval=0.2, request_max_retries=2, launch_settling_time=1)

defs = dg.Definitions(
    assets=ASSETS,
    jobs=[dg.define_asset_job(f"make_{name}", selection=assets) for name, assets in JOBS.items()],
    resources={
        "kumo": kumo,
        "kumo_io_manager": KumoIOManager(base_path=dg.EnvVar("STORE"), statistics=False, kumo=kumo),
    },
)


def job(name: str) -> dg.JobDefinition:
    """One of `JOBS`, as a process of a run gets it again."""
    return defs.resolve_job_def(f"make_{name}")
