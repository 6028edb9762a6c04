"""`@kumo_assets`: the outputs of a batch prediction as assets."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` as an object.

import inspect
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import dagster as dg
from typing_extensions import Unpack

from dagster_kumo.assets.specs import AssetOptions, op_name, op_options, prediction_specs
from dagster_kumo.assets.translator import DagsterKumoTranslator
from dagster_kumo.execution.run_config import KumoRunConfig
from dagster_kumo.io_manager.io_manager import DEFAULT_IO_MANAGER_KEY
from dagster_kumo.jobs.prediction_spec import BatchPrediction


def kumo_assets(
    *,
    name: str,
    prediction: BatchPrediction,
    partitions_def: dg.PartitionsDefinition | None = None,
    deps: Iterable[Any] = (),
    translator: DagsterKumoTranslator | None = None,
    io_manager_key: str = DEFAULT_IO_MANAGER_KEY,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    deadline: timedelta | None = None,
    required_resource_keys: set[str] | None = None,
    **options: Unpack[AssetOptions],
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Make assets of the outputs of a batch prediction: `<name>/predictions` and `<name>/embeddings`.

    One Kumo job makes both, and each can be materialized alone. With time partitions, the anchor time
    of the job is the end (or the start) of the partition's window. With `prediction_table="generate"`
    there is also `<name>/prediction_table`, the table that Kumo generates first.

    A run takes a `KumoRunConfig`, unless the function has a parameter `config` of another class.

    Args:
        name: The model's name; the prefix of the keys.
        prediction: What to run.
        partitions_def: The partitions of the assets, one job for each.
        deps: The model's source tables, as the `deps` of any asset.
        translator: Changes the specs: keys, groups, owners, tags or deps.
        io_manager_key: The key of the `KumoIOManager` that stores the outputs.
        automation_condition: When Dagster materializes the outputs automatically.
        deadline: How long after the end of its partition an output should be there; without partitions, after the
            run began. A run warns in its log as soon as its job is expected to end later.
        required_resource_keys: The keys of resources that the function takes from its context.
        options: See `AssetOptions`.

    Raises:
        ValueError: An argument is invalid; the message says what to write instead.

    Examples:
        >>> import dagster as dg
        >>> from dagster_kumo import KumoResource
        >>> @kumo_assets(name="churn", prediction=BatchPrediction(training_job_id="trainingjob-1"))
        ... def churn(context: dg.AssetExecutionContext, kumo: KumoResource):
        ...     yield from kumo.predict(context)
        >>> churn.keys
        {AssetKey(['churn', 'predictions'])}
    """
    specs = prediction_specs(
        name=name,
        prediction=prediction,
        partitions_def=partitions_def,
        deps=deps,
        translator=translator,
        io_manager_key=io_manager_key,
        automation_condition=automation_condition,
        deadline=deadline,
        options=options,
    )

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        has_own_config = "config" in inspect.signature(function).parameters
        return dg.multi_asset(
            name=op_name(specs),
            specs=specs,
            partitions_def=partitions_def,
            can_subset=len(specs) > 1,
            required_resource_keys=required_resource_keys,
            config_schema=None if has_own_config else KumoRunConfig.to_fields_dict(),
            **op_options(options),
        )(function)

    return decorate
