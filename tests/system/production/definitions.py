"""What the production-like Dagster runs: a code location, connected by its environment.

`KUMO_API_ENDPOINT` and `KUMO_API_KEY` say where the stand-in is, `STORE` where outputs are kept, and `MODELS` names the
state of a workspace.
"""

import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_kumo import (
    BatchPrediction,
    KumoIOManager,
    KumoResource,
    KumoTraining,
    KumoWorkspaceComponent,
    build_kumo_assets_definitions,
    build_kumo_evaluation_asset,
    build_kumo_hold_sensor,
    build_kumo_sensor,
    evaluation_partitions_due,
    kumo_assets,
)
from tests.support import PURCHASE, TODAY

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


# More than a year of them, so that each test has days of its own.
DAYS = dg.DailyPartitionsDefinition(start_date=str(TODAY - timedelta(days=400)))
# The model predicts for no day before the end of its own data, some eight months ago.
KEYS = dg.StaticPartitionsDefinition([str(number) for number in range(300)])
POOL = "kumo"


def predictions(
    name: str,
    *,
    single_run: bool = False,
    partitions_def: dg.PartitionsDefinition = DAYS,
    options: Mapping[str, Any] = {},
    **prediction: object,
):
    @kumo_assets(
        name=name,
        prediction=BatchPrediction(training_job_id=PURCHASE, **prediction),
        partitions_def=partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run() if single_run else None,
        **options,
    )
    def assets(context: dg.AssetExecutionContext, kumo: KumoResource):
        yield from kumo.predict(context)

    return assets


@dg.asset(partitions_def=DAYS)
def before_pooled() -> None:
    """Done without a pool, so that a run begins whose next step waits for one."""


MODELS = {
    "one": predictions("one"),
    "many": predictions("many", single_run=True),
    "both": predictions("both", single_run=True, outputs=("predictions", "embeddings")),
    "pair": predictions("pair", outputs=("predictions", "embeddings")),
    "tables": predictions("tables", prediction_table="generate"),
    "year": predictions("year", single_run=True, outputs=("predictions", "embeddings")),
    "hundreds": predictions("hundreds", single_run=True, partitions_def=KEYS, anchor=None),
    "continued": predictions("continued"),
    "pooled": predictions("pooled", options={"pool": POOL, "deps": [before_pooled]}),
}


@dg.asset(partitions_def=DAYS)
def bought() -> Any:
    """What became of some of the customers."""
    import pandas as pd

    return pd.DataFrame({"ENTITY": range(1, 101), "TARGET": [True, False] * 50})


judged = predictions("judged")
judgement = build_kumo_evaluation_asset(
    name="judged", predictions=judged, outcomes=bought, window=timedelta(days=3)
)
judge = dg.define_asset_job("judge", [bought, judgement], executor_def=dg.in_process_executor)


@dg.schedule(cron_schedule="* * * * *", job=judge)
def judge_every_minute(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """Evaluates what is due."""
    for key in evaluation_partitions_due(judgement, context.instance):
        yield dg.RunRequest(run_key=key, partition_key=key)


trained = build_kumo_assets_definitions(
    name="trained",
    prediction=BatchPrediction(champion_of="trained"),
    training=KumoTraining(query="cdnow_purchase", run_mode="debug"),
)
TRAINED = [a for a in (trained.candidate, trained.model) if a is not None]

# The models of the stand-in, each with its training. The instance lets two of a pool run at once.
WORKSPACE = KumoWorkspaceComponent.resolve_from_yaml("""
models: {tags: {dataset: cdnow}}
assets:
  training: {run_mode: debug, pool: trainings}
""")
MODELS_VARIABLE = "MODELS"


def assets_of_workspace() -> list[dg.AssetsDefinition]:
    state = os.getenv(MODELS_VARIABLE)
    no_context: Any = None  # which it does not look at
    found = WORKSPACE.build_defs_from_state(no_context, Path(state) if state else None)
    return [asset for asset in found.assets or () if isinstance(asset, dg.AssetsDefinition)]


OF_WORKSPACE = assets_of_workspace()
CANDIDATES = [one for one in OF_WORKSPACE if one.node_def.name.endswith("__candidate")]

# A step whose process is killed is tried again in its own run.
RETRIED = {"retry_policy": dg.RetryPolicy(max_retries=1)}
FOUR = [predictions(f"step_{number}", options=RETRIED) for number in range(4)]
SELECTIONS = {
    **{name: [assets] for name, assets in MODELS.items()},
    "pooled": [before_pooled, MODELS["pooled"]],
    "judged": [judged],
    "four": FOUR,
    "trained": TRAINED,
    "workspace": CANDIDATES,
}

kumo = KumoResource(poll_interval=0.3, request_max_retries=2, max_concurrent_jobs=20)

defs = dg.Definitions(
    assets=[
        *MODELS.values(),
        *FOUR,
        *TRAINED,
        *OF_WORKSPACE,
        before_pooled,
        judged,
        bought,
        judgement,
    ],
    jobs=[
        judge,
        *(
            dg.define_asset_job(
                f"{name}_{executor}", selection=selection, executor_def=executor_def
            )
            for name, selection in SELECTIONS.items()
            for executor, executor_def in EXECUTORS.items()
            if selection
        ),
    ],
    schedules=[judge_every_minute],
    sensors=[
        build_kumo_hold_sensor(minimum_interval_seconds=1),
        build_kumo_sensor(
            MODELS["continued"],
            continue_runs_after=timedelta(seconds=15),
            minimum_interval_seconds=1,
        ),
    ],
    resources={
        "kumo": kumo,
        "kumo_io_manager": KumoIOManager(base_path=dg.EnvVar("STORE"), statistics=False, kumo=kumo),
    },
)
