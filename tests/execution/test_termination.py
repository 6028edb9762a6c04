"""A run that is terminated before an asset's body begins: no Kumo job is launched for it.

Dagster can lose the interrupt of such a run. Here none is sent: an asset upstream reports what Dagster
reports of a terminate.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    S3Connector,
    build_kumo_assets_definitions,
    build_kumo_export_asset,
)
from dagster_kumo.local import LocalKumo
from tests.support import DAYS, PREDICTIONS, PURCHASE, day, purchase_assets, resources

UPSTREAM = ["upstream"]


def terminated(context: dg.AssetExecutionContext) -> None:
    context.instance.report_run_canceling(context.run)


def canceled_by_force(context: dg.AssetExecutionContext) -> None:
    context.instance.report_run_canceled(context.run)


def canceled_by_force_while_it_started(context: dg.AssetExecutionContext) -> None:
    """The start is reported later, and is what the run's status says."""
    canceled_by_force(context)
    start = dg.DagsterEvent("PIPELINE_START", job_name=context.run.job_name)
    context.instance.report_dagster_event(start, context.run.run_id)


def predictions() -> list[dg.AssetsDefinition]:
    return [purchase_assets(deps=UPSTREAM, backfill_policy=dg.BackfillPolicy.single_run())]


def retried() -> list[dg.AssetsDefinition]:
    return [purchase_assets(deps=UPSTREAM, retry_policy=dg.RetryPolicy(max_retries=1))]


def prediction_table() -> list[dg.AssetsDefinition]:
    prediction = BatchPrediction(training_job_id=PURCHASE, prediction_table="generate")
    return [purchase_assets(deps=UPSTREAM, prediction=prediction)]


def fan_out() -> list[dg.AssetsDefinition]:
    made = build_kumo_assets_definitions(
        name="purchase",
        prediction=BatchPrediction(training_job_id=PURCHASE),
        partitions_def=DAYS,
        fan_out=True,
        deps=UPSTREAM,
    )
    return [made.predictions]


def export() -> list[dg.AssetsDefinition]:
    asset = build_kumo_export_asset(
        name="purchase",
        predictions=PREDICTIONS,
        connector=S3Connector("s3://bucket/terminated"),
        table_name="purchase",
        partitions_def=DAYS,
        deps=UPSTREAM,
    )
    return [asset]


@pytest.mark.parametrize("make", [predictions, retried, prediction_table, fan_out, export])
@pytest.mark.parametrize("how", [terminated, canceled_by_force, canceled_by_force_while_it_started])
def test_nothing_is_launched_for_a_run_that_was_terminated_before_the_body_began(
    how: Callable[[dg.AssetExecutionContext], None],
    make: Callable[[], list[dg.AssetsDefinition]],
    kumo: LocalKumo,
    done_job_id: str,
    tmp_path: Path,
) -> None:
    @dg.asset
    def upstream(context: dg.AssetExecutionContext) -> None:
        how(context)

    with dg.DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                PREDICTIONS, partition=day(3), metadata={"dagster-kumo/job_id": done_job_id}
            )
        )
        run = dg.materialize(
            [upstream, *make()],
            instance=instance,
            resources=resources(kumo, tmp_path),
            partition_key=day(3),
            raise_on_error=False,
        )
        stored = instance.get_run_by_id(run.run_id)

    assert stored is not None
    assert stored.status == dg.DagsterRunStatus.CANCELED
    assert posts(kumo) == []


def posts(kumo: LocalKumo) -> list[Any]:
    return [request for request in kumo.requests if request.method == "POST"]
