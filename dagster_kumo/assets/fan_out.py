"""Outputs with a step for each file. Dagster can run the steps on several machines.

The steps are `predict`, `transfer[<file>]` for each file, and `store`; `_Steps` says what they do.
"""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` as an object.

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.api.records import OutputType
from dagster_kumo.assets.specs import (
    AssetOptions,
    graph_options,
    nothing_ins,
    op_name,
    step_options,
    upstream_inputs,
)
from dagster_kumo.execution.metadata import OUTPUT_TYPE
from dagster_kumo.execution.partitions.outputs import materialize_one
from dagster_kumo.execution.run_config import KumoRunConfig
from dagster_kumo.execution.selection import RunDefinition, only_partition
from dagster_kumo.io_manager.io_manager import KumoIOManager
from dagster_kumo.io_manager.step_values import (
    STEP_VALUE,
    FinishedFile,
    FinishedOutput,
    OutputPlan,
    PlannedFile,
    remove_step_values,
)
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.resource import KumoResource

if TYPE_CHECKING:
    from dagster_kumo.predictions.files import PartitionFile

_MODEL = "model"
"""The name of the graph's input for the trained model."""
_KEPT = {STEP_VALUE: True}


def build_fanned_out_assets(
    *,
    name: str,
    specs: Sequence[dg.AssetSpec],
    prediction: BatchPrediction,
    model: dg.AssetKey,
    partitions_def: dg.PartitionsDefinition | None,
    resource_key: str,
    io_manager_key: str,
    options: AssetOptions,
) -> dg.AssetsDefinition:
    """Make the assets of `specs` with a graph that has a step for each file. Each run is for one partition.

    Raises:
        ValueError: The prediction or the backfill policy cannot be combined with a fan-out.
    """
    _check(prediction, options.get("backfill_policy"), name=name)
    by_type: dict[OutputType, dg.AssetSpec] = {spec.metadata[OUTPUT_TYPE]: spec for spec in specs}
    deps = {dep.asset_key: dep for spec in specs for dep in spec.deps}
    upstream = {_MODEL: deps.pop(model)} | upstream_inputs(deps.values())
    of_steps = step_options(options)
    steps = _Steps(op_name(specs), list(by_type), resource_key, io_manager_key, of_steps)
    predict, transfer, store = steps.predict(upstream), steps.transfer(), steps.store()

    @dg.graph_multi_asset(
        name=steps.graph,
        ins=nothing_ins(upstream),
        outs={
            output_type: dg.AssetOut(key=spec.key, is_required=len(by_type) == 1)
            for output_type, spec in by_type.items()
        },
        partitions_def=partitions_def,
        can_subset=len(by_type) > 1,
        config=dg.ConfigMapping(_config_of_predict, config_schema=KumoRunConfig.to_fields_dict()),
        **graph_options(options),
    )
    def fan_out(**upstream: Any) -> dict[str, Any]:
        planned = predict.alias("predict")(**upstream)
        stored: Any = store.alias("store")(planned.map(transfer.alias("transfer")).collect())
        return dict(zip(by_type, stored if len(by_type) > 1 else [stored], strict=True))

    by_key = {spec.key: spec.replace_attributes(partitions_def=partitions_def) for spec in specs}
    return fan_out.map_asset_specs(lambda spec: by_key[spec.key])


@dataclass(frozen=True)
class _Steps:
    """Makes the ops of a fan-out."""

    graph: str
    outputs: Sequence[OutputType]
    resource_key: str
    io_manager_key: str
    options: Mapping[str, Any]

    def predict(self, upstream: Iterable[str]) -> dg.OpDefinition:
        """Launch the job or attach to it, wait for it, and plan a step for each file."""

        @dg.op(
            name=f"{self.graph}__predict",
            ins={input_name: dg.In(dg.Nothing) for input_name in upstream},
            out=dg.DynamicOut(PlannedFile, io_manager_key=self.io_manager_key, metadata=_KEPT),
            required_resource_keys={self.resource_key, self.io_manager_key},
            config_schema=KumoRunConfig.to_fields_dict(),
            **self.options,
        )
        def predict(context: dg.AssetExecutionContext) -> Iterator[dg.DynamicOutput[PlannedFile]]:
            store = self._store_of(context)
            partition_key = only_partition(
                context,
                of="a fan-out",
                way_out="Launch a run for each, as a backfill does, or leave fan_out=True out.",
            )
            _check_executor(context)
            model = context.asset_key_for_input(_MODEL)
            for result in self._kumo_of(context).predict(context, model=model):
                plan = _plan(result, store, partition_key)
                for index in range(len(plan.names)):
                    yield dg.DynamicOutput(
                        PlannedFile(plan, index),
                        mapping_key=f"{plan.provenance.output_type}_{index:05d}",
                    )

        return predict

    def transfer(self) -> dg.OpDefinition:
        """Transfer one file into the new version in the store."""

        @dg.op(
            name=f"{self.graph}__transfer",
            out=dg.Out(FinishedFile, io_manager_key=self.io_manager_key, metadata=_KEPT),
            required_resource_keys={self.resource_key, self.io_manager_key},
            **self.options,
        )
        def transfer(context: dg.AssetExecutionContext, file: PlannedFile) -> FinishedFile:
            from dagster_kumo.predictions.store.transfer import transfer_file

            store = self._store_of(context)
            plan = file.plan
            versions = store.partition_store(plan.asset_key, plan.partition_key)
            with versions.shared_version(plan.version) as version:
                transferred = transfer_file(
                    _live_file(self._kumo_of(context), plan, file.index),
                    file.index,
                    version,
                    max_parallel=store.max_parallel_downloads,
                    summarise=store.summarised,
                )
            return FinishedFile(plan, file.index, transferred)

        return transfer

    def store(self) -> dg.OpDefinition:
        """Check that the output is complete, put the version in force and materialize the assets."""
        is_required = len(self.outputs) == 1

        @dg.op(
            name=f"{self.graph}__store",
            out={
                output_type: dg.Out(
                    FinishedOutput, io_manager_key=self.io_manager_key, is_required=is_required
                )
                for output_type in self.outputs
            },
            required_resource_keys={self.io_manager_key},
            **self.options,
        )
        def store(
            context: dg.AssetExecutionContext, files: list[FinishedFile]
        ) -> Iterator[dg.MaterializeResult[Any]]:
            for output_type, asset_key in RunDefinition.of(context).outputs.items():
                plan, output = _finished_output(
                    [file for file in files if file.plan.provenance.output_type == output_type]
                )
                version = dg.DataVersion(plan.data_version)
                yield materialize_one(context, asset_key, output, plan.metadata, version)
            run_ids = {context.run.run_id, context.run.parent_run_id, context.run.root_run_id}
            remove_step_values(self._store_of(context).root(), run_ids, self.graph)

        return store

    def _kumo_of(self, context: dg.AssetExecutionContext) -> KumoResource:
        return getattr(context.resources, self.resource_key)

    def _store_of(self, context: dg.AssetExecutionContext) -> KumoIOManager:
        store = getattr(context.resources, self.io_manager_key)
        if not isinstance(store, KumoIOManager):
            raise ValueError(
                f"{self.io_manager_key!r} is a {type(store).__name__}, which cannot store files one by "
                "one.\nMake it a KumoIOManager, or leave fan_out=True out."
            )
        return store


def _config_of_predict(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"predict": {"config": config}}


def _check(
    prediction: BatchPrediction, backfill_policy: dg.BackfillPolicy | None, *, name: str
) -> None:
    if prediction.generates_table:
        raise ValueError(
            f"{name!r} cannot fan out and generate its prediction table, which is an asset of its own.\n"
            "Leave fan_out=True out, or generate the table apart and give prediction_table_job_id=."
        )
    if backfill_policy is not None and backfill_policy.max_partitions_per_run != 1:
        raise ValueError(
            f"{name!r} uses fan_out, one partition for each run, but its backfill policy makes several in one run.\n"
            "Write BackfillPolicy.multi_run(), or leave fan_out=True out."
        )


def _check_executor(context: dg.AssetExecutionContext) -> None:
    if context.job_def.executor_def.name == "dask":
        raise ValueError(
            "The dask executor skips steps that are planned during a run, so the run "
            "would succeed with nothing stored.\n"
            "Run the job by another executor, or leave fan_out=True out."
        )


def _plan(
    result: dg.MaterializeResult[Any], store: KumoIOManager, partition_key: str | None
) -> OutputPlan:
    assert result.asset_key is not None
    assert result.data_version is not None
    return OutputPlan(
        asset_key=result.asset_key,
        partition_key=partition_key,
        version=store.partition_store(result.asset_key, partition_key).new_name(),
        provenance=result.value.provenance,
        expectation=result.value.expectation,
        names=[file.name for file in result.value.files],
        metadata=dict(result.metadata or {}),
        data_version=result.data_version.value,
        begun=time.time(),
    )


def _live_file(kumo: KumoResource, plan: OutputPlan, index: int) -> "PartitionFile":
    """The file at `index` of the plan, in the server's current list, which may be in another order."""
    result = kumo.batch_prediction_job_result(plan.provenance.job_id)
    is_predictions = plan.provenance.output_type == "predictions"
    files = (result.predictions() if is_predictions else result.embeddings()).files
    names = [file.name for file in files]
    if sorted(names) != sorted(plan.names):
        raise KumoDataError(
            f"The files of the {plan.provenance.output_type} of prediction job {result.id} have changed since "
            "the run planned their transfer. Was the job's output replaced? Materialize again."
        )
    name = plan.names[index]
    return files[names.index(name) if names.count(name) == 1 else index]


def _finished_output(files: Sequence[FinishedFile]) -> tuple[OutputPlan, FinishedOutput]:
    from dagster_kumo.predictions.store.transfer import merge_files

    in_order = sorted(files, key=lambda file: file.index)
    plan = in_order[0].plan
    transferred = merge_files(
        [file.file for file in in_order], names=plan.names, seconds=time.time() - plan.begun
    )
    return plan, FinishedOutput(plan, transferred)
