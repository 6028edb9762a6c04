"""What the runs of these tests make: a code location."""

import dagster as dg

from dagster_kumo import (
    BatchPrediction,
    KumoIOManager,
    KumoResource,
    build_kumo_assets_definitions,
)
from tests.support import DAYS, PURCHASE


def purchase(name: str, *, fan_out: bool, **options: object):
    return build_kumo_assets_definitions(
        name=name,
        prediction=BatchPrediction(training_job_id=PURCHASE, outputs=("predictions", "embeddings")),
        partitions_def=options.pop("partitions_def", DAYS),
        deps=["customers"],
        fan_out=fan_out,
        **options,
    )


FANNED_OUT = purchase("fanned_out", fan_out=True)
RETRIED = purchase("retried", fan_out=True, retry_policy=dg.RetryPolicy(max_retries=1))

# Where the stand-in and the store are, the run is told.
RESOURCES = {
    "kumo": KumoResource.configure_at_launch(),
    "kumo_io_manager": KumoIOManager.configure_at_launch(),
}


def _job(assets: list, **options: object) -> dg.JobDefinition:
    job = dg.define_asset_job("predict", selection=assets[1:], **options)
    defs = dg.Definitions(assets=assets, jobs=[job], resources=RESOURCES)
    return defs.resolve_job_def("predict")


def fanned_out() -> dg.JobDefinition:
    """A job whose steps run in the processes that Dagster starts by default."""
    return _job(FANNED_OUT)


def retried() -> dg.JobDefinition:
    """The same, with steps that are tried again."""
    return _job(RETRIED)


def on_dask() -> dg.JobDefinition:
    """One for the workers of a Dask cluster, whose executor takes no time partitions."""
    from dagster_dask import dask_executor

    assets = purchase("on_dask", fan_out=True, partitions_def=None)
    return _job(assets, executor_def=dask_executor)
