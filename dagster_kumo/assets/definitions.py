"""Everything for one model in one call: model, predictions, embeddings, exports, evaluation."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` as an object.

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

import dagster as dg
from typing_extensions import Unpack

from dagster_kumo.assets.asset_decorator import kumo_assets
from dagster_kumo.assets.candidate_asset import KumoTraining, candidate_asset
from dagster_kumo.assets.evaluation_asset import KumoEvaluation, evaluation_asset
from dagster_kumo.assets.export_asset import KumoExport, export_asset
from dagster_kumo.assets.fan_out import build_fanned_out_assets
from dagster_kumo.assets.model_asset import promoted_model_asset, rollback_job
from dagster_kumo.assets.specs import (
    AssetOptions,
    asset_deps,
    completed_spec,
    key_in_run,
    op_name,
    prediction_specs,
)
from dagster_kumo.assets.translator import DagsterKumoTranslator, KumoAssetProps
from dagster_kumo.checks.gate_check import Promotion, gate_check
from dagster_kumo.execution.model_observation import described_model
from dagster_kumo.execution.selection import check_has_run
from dagster_kumo.io_manager.io_manager import DEFAULT_IO_MANAGER_KEY
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.jobs.trained_model import trained_model
from dagster_kumo.resource import DEFAULT_RESOURCE_KEY, KumoResource

Execute: TypeAlias = Callable[
    [dg.AssetExecutionContext, KumoResource, dg.AssetKey], Iterator[dg.MaterializeResult[Any]]
]

_IS_MODEL = {"dagster-kumo/asset": "model"}
"""The tag of a model's asset. Conditions exclude the asset by it, whatever its key is."""


class KumoModelAssets(list[dg.AssetsDefinition]):
    """All assets of one model. It is a list, which you can pass wherever Dagster takes assets.

    Attributes:
        model: The trained model: an observable asset, or with `training=` the promotion of a candidate.
        predictions: The definition of the predictions, and of embeddings and prediction table if
            there are any.
        exports: One for each `KumoExport`.
        evaluation: Predictions compared with outcomes; None without `evaluation=`.
        candidate: A newer training of the model; None without `training=`.
        gate: The blocking check of the candidate; None without a gate.
        rollback_job: The job `<name>_rollback`, which makes the champion before the present one the
            champion again, for `Definitions(jobs=...)`. None if the model is not promoted in Dagster.

    Examples:
        >>> from dagster_kumo import BatchPrediction
        >>> churn = build_kumo_assets_definitions(
        ...     name="churn", prediction=BatchPrediction(training_job_id="trainingjob-1")
        ... )
        >>> job = dg.define_asset_job("churn", selection=[churn.predictions, *churn.exports])
    """

    def __init__(
        self,
        model: dg.AssetsDefinition,
        predictions: dg.AssetsDefinition,
        exports: Sequence[dg.AssetsDefinition] = (),
        evaluation: dg.AssetsDefinition | None = None,
        candidate: dg.AssetsDefinition | None = None,
        gate: dg.AssetChecksDefinition | None = None,
        rollback_job: Any = None,
    ) -> None:
        optional = [asset for asset in (evaluation, candidate, gate) if asset is not None]
        super().__init__([model, predictions, *exports, *optional])
        self.model = model
        self.predictions = predictions
        self.exports = list(exports)
        self.evaluation = evaluation
        self.candidate = candidate
        self.gate = gate
        self.rollback_job = rollback_job


def build_kumo_assets_definitions(
    *,
    name: str,
    prediction: BatchPrediction,
    exports: Sequence[KumoExport] = (),
    evaluation: KumoEvaluation | None = None,
    training: KumoTraining | None = None,
    partitions_def: dg.PartitionsDefinition | None = None,
    deps: Iterable[Any] = (),
    translator: DagsterKumoTranslator | None = None,
    resource_key: str = DEFAULT_RESOURCE_KEY,
    io_manager_key: str = DEFAULT_IO_MANAGER_KEY,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    deadline: timedelta | None = None,
    fan_out: bool = False,
    execute: Execute | None = None,
    **options: Unpack[AssetOptions],
) -> KumoModelAssets:
    """Make all assets of one model.

    - `<name>/model` is the trained model, which Kumo trains from the tables in `deps`. An observation
      shows its query, its metrics on the holdout data and its age. Each run that predicts with the model
      observes it.
    - `<name>/predictions`, and `<name>/embeddings` if they are among the outputs. They depend on the
      model and on the tables, which Kumo reads again for each prediction.
    - `<name>/prediction_table`, if the prediction generates one.
    - One asset for each export.
    - `<name>/evaluation`, if `evaluation` says what happened.
    - `<name>/candidate`, if `training` says what is trained: its materialization is a training job. If the
      prediction is that of a champion, the model's materialization is the promotion of the candidate, and a
      gate is a blocking check of the candidate.

    Args:
        name: The model's name; the prefix of the keys.
        prediction: What to run.
        exports: What Kumo writes to warehouses and buckets after the predictions.
        evaluation: The outcomes that the predictions are compared with, once they are known.
        training: How the model is trained again.
        partitions_def: The partitions of all assets except the model and the candidate.
        deps: The source tables that the model reads, as the `deps` of any asset.
        translator: Changes the specs.
        resource_key: The key of the `KumoResource`.
        io_manager_key: The key of the `KumoIOManager`.
        automation_condition: When Dagster materializes predictions and embeddings automatically. It
            ignores the model, which Kumo trains outside of Dagster. Each export has its own condition.
        deadline: How long after the end of its partition an output should be there; without partitions, after the
            run began. A run warns in its log as soon as its job is expected to end later.
        fan_out: Whether each of Kumo's files has its own step, so that the executor spreads them over
            processes or machines. Each run is for one partition; `op_tags`, `retry_policy` and `pool`
            apply to each step.
        execute: What a run of the predictions does with its context, the `KumoResource` and the key of the
            model. By default it is `kumo.predict(context, model=model)`.
        options: See `AssetOptions`. `group_name` is the model's name by default.

    Raises:
        ValueError: An argument is invalid; the message says what to write instead.

    Examples:
        >>> import dagster as dg
        >>> churn = build_kumo_assets_definitions(
        ...     name="churn",
        ...     prediction=BatchPrediction(training_job_id="trainingjob-1"),
        ...     partitions_def=dg.DailyPartitionsDefinition(start_date="2026-01-01"),
        ...     deps=["customers", "orders"],
        ... )
        >>> [asset.key.to_user_string() for asset in churn]
        ['churn/model', 'churn/predictions']
        >>> churn.predictions.key
        AssetKey(['churn', 'predictions'])
    """
    options = {"group_name": name, **options}
    translator = translator or DagsterKumoTranslator()
    tables = asset_deps(deps)
    # Without their partition mappings, which map to the partitions of the predictions.
    trained_from = [table.asset_key for table in tables]
    not_of_outputs: AssetOptions = {
        **options,
        "description": None,
        "freshness_policy": None,
        "code_version": None,
    }
    spec = completed_spec(
        translator.get_asset_spec(KumoAssetProps(name, "model", prediction)),
        deps=trained_from,
        automation_condition=None,
        options=options,
    )
    model = candidate = promotion = gate = rollback = None
    if training is not None:
        candidate = candidate_asset(
            training,
            name=name,
            champion_of=prediction.champion_of,
            deps=trained_from,
            translator=translator,
            resource_key=resource_key,
            options=not_of_outputs,
        )
        evaluations = None
        if evaluation is not None:  # made below, downstream of the model
            props = KumoAssetProps(name, "evaluation", prediction)
            evaluations = translator.get_asset_spec(props).key
        promotion = _promotion(name, prediction, training, candidate.key, evaluations)
        if promotion is not None:
            spec = spec.replace_attributes(
                deps=[promotion.candidate], automation_condition=training.promotion_condition
            )
            model = promoted_model_asset(
                spec, promotion, resource_key=resource_key, options=not_of_outputs
            )
            rollback = rollback_job(name, model)
            if promotion.gate is not None:
                gate = gate_check(promotion, resource_key=resource_key)
    if model is None:
        model = _model(spec.merge_attributes(tags=_IS_MODEL), prediction, resource_key)
    about: dict[str, Any] = {
        "name": name,
        "prediction": prediction,
        "partitions_def": partitions_def,
        "deps": [model.key, *tables],
        "translator": translator,
        "io_manager_key": io_manager_key,
        "automation_condition": automation_condition,
        "deadline": deadline,
    }
    if fan_out and execute is not None:
        raise ValueError(
            f"{name!r} has an execute of its own, and fan_out, whose steps are fixed. Leave one of them out."
        )
    if fan_out:
        predictions = build_fanned_out_assets(
            name=name,
            specs=prediction_specs(**about, options=options),
            prediction=prediction,
            model=model.key,
            partitions_def=partitions_def,
            resource_key=resource_key,
            io_manager_key=io_manager_key,
            options=options,
        )
    else:

        @kumo_assets(**about, required_resource_keys={resource_key}, **options)
        def predictions(context: dg.AssetExecutionContext) -> Any:
            kumo: KumoResource = getattr(context.resources, resource_key)
            check_has_run(context)
            model_key = key_in_run(context, predictions, model.key)
            if execute is None:
                yield from kumo.predict(context, model=model_key)
            else:
                yield from execute(context, kumo, model_key)

    predictions = predictions.map_asset_specs(_with_condition_on_tables)
    made = [
        export_asset(
            export,
            name=name,
            predictions=predictions,
            translator=translator,
            resource_key=resource_key,
            # The description is that of the outputs.
            options={**options, "description": None},
        )
        for export in exports
    ]
    evaluated = None
    if evaluation is not None:
        evaluated = evaluation_asset(
            evaluation,
            name=name,
            predictions=predictions,
            translator=translator,
            resource_key=resource_key,
            io_manager_key=io_manager_key,
            options=not_of_outputs,
        )
    assets = KumoModelAssets(model, predictions, made, evaluated, candidate, gate, rollback)
    _check_keys([key for asset in assets for key in asset.keys])
    return assets


def _promotion(
    name: str,
    prediction: BatchPrediction,
    training: KumoTraining,
    candidate: dg.AssetKey,
    evaluation: dg.AssetKey | None,
) -> Promotion | None:
    """How candidates are promoted; None if the predictions are not those of a champion.

    Raises:
        ValueError: The gate has nothing to guard, or reads evaluations that there are not.
    """
    gate = training.gate
    if not prediction.champion_of:
        if gate is not None:
            raise ValueError(
                "A gate guards the promotion to a champion, and the predictions name none. Write "
                f"BatchPrediction(champion_of={name!r}), or leave gate out."
            )
        return None
    if gate is not None and gate.reference != "holdout" and evaluation is None:
        raise ValueError(
            f"The gate has reference={gate.reference}, evaluations of the champion, and there is no asset of "
            "evaluations. Give evaluation=KumoEvaluation(...), or leave reference out."
        )
    return Promotion(prediction.champion_of, candidate, gate, evaluation)


def _model(
    spec: dg.AssetSpec, prediction: BatchPrediction, resource_key: str
) -> dg.AssetsDefinition:
    def model(context: dg.AssetExecutionContext) -> Any:
        kumo: KumoResource = getattr(context.resources, resource_key)
        client = kumo.get_client()
        would_predict = trained_model(client, prediction)
        yield dg.ObserveResult(metadata=described_model(context, client, would_predict))

    with warnings.catch_warnings():
        # Else each process that loads the definitions would warn that it is in beta.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.multi_observable_source_asset(
            name=op_name([spec]), specs=[spec], required_resource_keys={resource_key}
        )(model)


def _with_condition_on_tables(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The condition without the model: nothing materializes the model, so `eager()` would never hold."""
    ignore = getattr(spec.automation_condition, "ignore", None)
    if ignore is None:
        return spec
    (tag,) = _IS_MODEL.items()
    return spec.replace_attributes(
        automation_condition=ignore(dg.AssetSelection.tag(*tag, include_sources=True))
    )


def _check_keys(keys: Sequence[dg.AssetKey]) -> None:
    twice = sorted({key.to_user_string() for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(
            f"Two assets have the key {', '.join(twice)}. Give one of the exports a key of its own: "
            "KumoExport(..., key=dg.AssetKey([...]))."
        )
