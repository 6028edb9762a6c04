"""Evaluations of predictions that a test makes up: no server is asked."""

import datetime as dt
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_kumo import KumoIOManager, KumoResource, build_kumo_evaluation_asset
from tests.support import metadata_of

EVALUATION = dg.AssetKey(["made_up", "evaluation"])


def evaluate(predictions: Any, outcomes: Any, folder: Path, **options: Any) -> Any:
    """The run that evaluates `predictions` by `outcomes`, both the values of assets."""

    @dg.asset(key=["made_up", "predictions"])
    def predicted() -> Any:
        return predictions

    @dg.asset(io_manager_key="in_memory")
    def happened() -> Any:
        return outcomes

    evaluation = build_kumo_evaluation_asset(
        name="made_up",
        predictions=predicted,
        outcomes=happened,
        **{"window": dt.timedelta(days=30), **options},
    )
    store = KumoIOManager(base_path=str(folder))
    return dg.materialize(
        [predicted, happened, evaluation],
        resources={
            "kumo": KumoResource(url="http://127.0.0.1:1", api_key="never-used"),
            "kumo_io_manager": store,
            "io_manager": store,
            "in_memory": dg.mem_io_manager,
        },
        raise_on_error=False,
    )


def numbers_of(run: Any) -> dict[str, Any]:
    """The numbers of an evaluation, without the namespace."""
    assert run.success
    entries = metadata_of(run, EVALUATION)
    return {name.removeprefix("dagster-kumo/"): value for name, value in entries.items()}
