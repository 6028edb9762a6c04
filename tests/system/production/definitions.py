"""What the production-like Dagster runs: a code location, connected by its environment.

`KUMO_API_ENDPOINT` and `KUMO_API_KEY` say where the stand-in is, `STORE` where outputs are kept.
"""

import dagster as dg

from dagster_kumo import (
    BatchPrediction,
    KumoIOManager,
    KumoResource,
    build_kumo_hold_sensor,
    kumo_assets,
)
from tests.support import DAYS, PURCHASE

# A worker that begins with this loaded begins in a second.
EXECUTORS = {
    "in_process": dg.in_process_executor,
    "multiprocess": dg.multiprocess_executor.configured(
        {
            "max_concurrent": 4,
            "start_method": {
                "forkserver": {"preload_modules": ["tests.system.production.definitions"]}
            },
        }
    ),
}


def predictions(name: str, *, single_run: bool = False, **prediction: object):
    @kumo_assets(
        name=name,
        prediction=BatchPrediction(training_job_id=PURCHASE, **prediction),
        partitions_def=DAYS,
        backfill_policy=dg.BackfillPolicy.single_run() if single_run else None,
    )
    def assets(context: dg.AssetExecutionContext, kumo: KumoResource):
        yield from kumo.predict(context)

    return assets


MODELS = {
    "one": predictions("one"),
    "many": predictions("many", single_run=True),
    "both": predictions("both", single_run=True, outputs=("predictions", "embeddings")),
    "pair": predictions("pair", outputs=("predictions", "embeddings")),
    "tables": predictions("tables", prediction_table="generate"),
}
FOUR = [predictions(f"step_{number}") for number in range(4)]

kumo = KumoResource(poll_interval=0.3, request_max_retries=2)

defs = dg.Definitions(
    assets=[*MODELS.values(), *FOUR],
    jobs=[
        dg.define_asset_job(f"{name}_{executor}", selection=selection, executor_def=executor_def)
        for name, selection in {**{n: [a] for n, a in MODELS.items()}, "four": FOUR}.items()
        for executor, executor_def in EXECUTORS.items()
    ],
    sensors=[build_kumo_hold_sensor(minimum_interval_seconds=1)],
    resources={
        "kumo": kumo,
        "kumo_io_manager": KumoIOManager(base_path=dg.EnvVar("STORE"), statistics=False, kumo=kumo),
    },
)
