"""What the tests of the Dagster side share."""

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_kumo import BatchPrediction, KumoIOManager, KumoResource, kumo_assets
from dagster_kumo.local import LocalKumo

PURCHASE = "trainingjob-cdnow-purchase"
TODAY = dt.datetime.now(dt.timezone.utc).date()
DAYS = dg.DailyPartitionsDefinition(start_date=str(TODAY - dt.timedelta(days=60)))
PREDICTIONS = dg.AssetKey(["purchase", "predictions"])
EMBEDDINGS = dg.AssetKey(["purchase", "embeddings"])


def day(days_ago: int) -> str:
    """A partition of `DAYS`."""
    return str(TODAY - dt.timedelta(days=days_ago))


@contextmanager
def instance_in(path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that keeps its runs and events on disk."""
    path.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(path)) as instance:
        yield instance


def purchase_assets(**options: Any) -> dg.AssetsDefinition:
    """Will the customer buy: assets of the stand-in's model."""
    prediction = options.pop("prediction", None) or BatchPrediction(
        training_job_id=options.pop("training_job_id", PURCHASE),
        outputs=options.pop("outputs", ("predictions",)),
    )

    @kumo_assets(
        name="purchase",
        prediction=prediction,
        partitions_def=options.pop("partitions_def", DAYS),
        **options,
    )
    def purchase(context: dg.AssetExecutionContext, kumo: KumoResource):
        yield from kumo.predict(context)

    return purchase


def resources(kumo: LocalKumo, base_path: object, **options: Any) -> dict[str, Any]:
    """The resources of a code location, for a stand-in and a store."""
    resource = KumoResource(url=kumo.url, api_key=kumo.api_key, request_max_retries=2)
    store = KumoIOManager(base_path=str(base_path), kumo=resource, **options)
    return {"kumo": resource, "kumo_io_manager": store}


def error_of(run: dg.ExecuteInProcessResult) -> tuple[str, str]:
    """The class and the words of the error that ended a run's step."""
    (failure,) = [e for e in run.all_events if e.event_type_value == "STEP_FAILURE"]
    error = failure.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    assert error is not None
    return error.cls_name or "", error.message


def metadata_of(
    run: dg.ExecuteInProcessResult, key: dg.AssetKey, partition: str | None = None
) -> dict[str, Any]:
    """The metadata of the materialization of an asset in a run."""
    found = [
        event.materialization
        for event in run.get_asset_materialization_events()
        if event.asset_key == key and partition in (None, event.partition)
    ]
    assert len(found) == 1, found
    return {name: value.value for name, value in found[0].metadata.items()}


def files_below(path: Path) -> Sequence[str]:
    """The files below a folder, by their paths in it."""
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
