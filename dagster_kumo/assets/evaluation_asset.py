"""`build_kumo_evaluation_asset`: an asset that compares predictions with outcomes."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` as an object.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

import dagster as dg
from dateutil.relativedelta import relativedelta
from typing_extensions import Unpack

from dagster_kumo.assets.specs import (
    AssetOptions,
    check_name,
    completed_spec,
    graph_options,
    nothing_ins,
    op_name,
    step_options,
    upstream_inputs,
)
from dagster_kumo.assets.translator import DagsterKumoTranslator, KumoAssetProps
from dagster_kumo.checks.evaluation.evaluation_run import (
    OUTCOMES,
    PREDICTIONS,
    EvaluationRun,
    EvaluationSettings,
)
from dagster_kumo.checks.evaluation.window import OutcomeWindow
from dagster_kumo.execution.metadata import EVALUATION
from dagster_kumo.execution.selection import (
    OutputReference,
    check_has_run,
    find_output,
    prediction_in,
)
from dagster_kumo.io_manager.io_manager import DEFAULT_IO_MANAGER_KEY
from dagster_kumo.resource import DEFAULT_RESOURCE_KEY, KumoResource

OutcomesReference: TypeAlias = (
    dg.AssetIn | dg.AssetsDefinition | dg.AssetSpec | dg.AssetKey | str | Sequence[str]
)
"""What names the outcomes: an asset or its key, or an `AssetIn` that also says how it is loaded."""


@dataclass(frozen=True, kw_only=True)
class KumoEvaluation:
    """How the predictions of a model are evaluated, for `build_kumo_assets_definitions`.

    The arguments are those of `build_kumo_evaluation_asset`.

    Args:
        outcomes: What happened: an asset of the same partitions, or its key, or an `AssetIn`.
        window: How long after the anchor time the outcome is known. By default it is read from the model's
            predictive query.
        entity: The column of the outcomes that has the entity.
        target: The column of the outcomes that has what happened.
        missing_outcome: What happened to an entity without an outcome, False or 0. By default such
            entities are left out and counted.
        automation_condition: When Dagster materializes the evaluation automatically.

    Examples:
        >>> KumoEvaluation(outcomes=dg.AssetKey("churn_outcomes"), window=timedelta(days=30)).target
        'TARGET'
    """

    outcomes: OutcomesReference
    window: timedelta | relativedelta | None = None
    entity: str = "ENTITY"
    target: str = "TARGET"
    missing_outcome: bool | float | None = None
    automation_condition: dg.AutomationCondition[Any] | None = None


def build_kumo_evaluation_asset(
    *,
    name: str,
    predictions: OutputReference,
    outcomes: OutcomesReference,
    window: timedelta | relativedelta | None = None,
    entity: str = "ENTITY",
    target: str = "TARGET",
    missing_outcome: bool | float | None = None,
    partitions_def: dg.PartitionsDefinition | None = None,
    translator: DagsterKumoTranslator | None = None,
    resource_key: str = DEFAULT_RESOURCE_KEY,
    io_manager_key: str = DEFAULT_IO_MANAGER_KEY,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    **options: Unpack[AssetOptions],
) -> dg.AssetsDefinition:
    """Make the asset `<name>/evaluation`: stored predictions joined with their outcomes, with metrics.

    The value is the joined rows: ENTITY, ANCHOR_TIMESTAMP, TARGET, TARGET_PRED, the scores, EVALUATED_AT,
    PREDICTION_ID (the prediction job) and MODEL_ID (the training job). Each metric is an entry of the metadata, which
    Dagster plots over the partitions. A partition can be evaluated once its outcome window has closed. Before, the
    run fails with `KumoWindowError`, and nothing is read. Each run evaluates one partition. It needs the extra
    `evaluation`.

    Args:
        name: The model's name; the prefix of the key.
        predictions: What `@kumo_assets` or `build_kumo_assets_definitions` made, or the key of the predictions.
        outcomes: What happened: an asset of the same partitions with the columns ENTITY and TARGET, or its
            key. Its I/O manager loads it, as a frame of pandas or polars, an Arrow table, a relation of DuckDB or
            `Predictions`. An `AssetIn` can name another one by `input_manager_key`. TARGET is True or False, an
            amount, a class, or for rankings the list of the items.
        window: How long after the anchor time the outcome is known: a `timedelta`, or a `relativedelta` for
            calendar months. By default it is read from the predictive query of the model that made the predictions.
        entity: The column of the outcomes that has the entity.
        target: The column of the outcomes that has what happened.
        missing_outcome: What happened to an entity without an outcome, False or 0. By default such
            entities are left out and counted.
        partitions_def: By default that of `predictions`.
        translator: Changes the spec.
        resource_key: The key of the `KumoResource`, from which the query and the holdout metrics come.
        io_manager_key: The key of the I/O manager that stores the joined rows.
        automation_condition: When Dagster materializes the evaluation automatically.
        options: See `AssetOptions`.

    Raises:
        ValueError: An argument is invalid; the message says what to write instead.

    Examples:
        >>> evaluation = build_kumo_evaluation_asset(
        ...     name="churn",
        ...     predictions=dg.AssetKey(["churn", "predictions"]),
        ...     outcomes=dg.AssetKey("churn_outcomes"),
        ...     window=timedelta(days=30),
        ... )
        >>> evaluation.key
        AssetKey(['churn', 'evaluation'])
    """
    evaluation = KumoEvaluation(
        outcomes=outcomes,
        window=window,
        entity=entity,
        target=target,
        missing_outcome=missing_outcome,
        automation_condition=automation_condition,
    )
    return evaluation_asset(
        evaluation,
        name=name,
        predictions=predictions,
        partitions_def=partitions_def,
        translator=translator or DagsterKumoTranslator(),
        resource_key=resource_key,
        io_manager_key=io_manager_key,
        options=options,
    )


def evaluation_asset(
    evaluation: KumoEvaluation,
    *,
    name: str,
    predictions: OutputReference,
    partitions_def: dg.PartitionsDefinition | None = None,
    translator: DagsterKumoTranslator,
    resource_key: str,
    io_manager_key: str,
    options: AssetOptions,
) -> dg.AssetsDefinition:
    """The asset of an evaluation; the other arguments are those of `build_kumo_evaluation_asset`."""
    check_name(name)
    predicted, upstream_partitions = find_output(predictions, None, argument="predictions")
    outcomes = _outcomes_in(evaluation.outcomes)
    prediction = prediction_in(predictions)
    window = OutcomeWindow.of(evaluation.window) if evaluation.window is not None else None
    settings = EvaluationSettings(
        window=window,
        anchor=prediction.anchor if prediction else "end",
        forecast_length=prediction.prediction_table_options.get("forecast_length")
        if prediction
        else None,
        entity=evaluation.entity,
        target=evaluation.target,
        missing_outcome=evaluation.missing_outcome,
    )
    partitions_def = partitions_def or upstream_partitions
    backfill_policy = options.get("backfill_policy")
    if backfill_policy is not None and backfill_policy.max_partitions_per_run != 1:
        # That of the predictions, which can be for several partitions in a run.
        options = {**options, "backfill_policy": None}
    of_steps = step_options(options)
    spec = completed_spec(
        translator.get_asset_spec(KumoAssetProps(name, "evaluation", prediction)),
        deps=[],
        automation_condition=evaluation.automation_condition,
        options=options,
        asked=settings.to_json().data,
    ).merge_attributes(metadata={EVALUATION: settings.to_json()})
    graph = op_name([spec])
    # What a translator adds is upstream as well; nothing of it is loaded.
    loaded = (predicted, outcomes.key)
    further = upstream_inputs(dep for dep in spec.deps if dep.asset_key not in loaded)

    @dg.op(
        name=f"{graph}__check_window",
        ins={PREDICTIONS: dg.In(dg.Nothing), **{key: dg.In(dg.Nothing) for key in further}},
        out=dg.Out(dg.Nothing),
        required_resource_keys={resource_key},
        **of_steps,
    )
    def check_window(context: dg.AssetExecutionContext) -> None:
        check_has_run(context)
        kumo: KumoResource = getattr(context.resources, resource_key)
        EvaluationRun(context, settings, kumo).check_window()

    @dg.op(
        name=f"{graph}__evaluate",
        ins={
            PREDICTIONS: dg.In(),
            OUTCOMES: dg.In(
                **_type_of(outcomes),
                metadata=outcomes.metadata,
                input_manager_key=outcomes.input_manager_key,
            ),
            "closed": dg.In(dg.Nothing),
        },
        out={"evaluation": dg.Out(io_manager_key=io_manager_key)},
        required_resource_keys={resource_key},
        **of_steps,
    )
    def evaluate(
        context: dg.AssetExecutionContext, predictions: Any, outcomes: Any
    ) -> Iterator[dg.MaterializeResult[Any]]:
        kumo: KumoResource = getattr(context.resources, resource_key)
        yield from EvaluationRun(context, settings, kumo).results(predictions, outcomes)

    @dg.graph_multi_asset(
        name=graph,
        ins={PREDICTIONS: dg.AssetIn(predicted), OUTCOMES: outcomes, **nothing_ins(further)},
        outs={"evaluation": dg.AssetOut(key=spec.key)},
        partitions_def=partitions_def,
        **graph_options(options),
    )
    def evaluation_graph(predictions: Any, outcomes: Any, **further: Any) -> Any:
        closed: Any = check_window.alias("check_window")(predictions=predictions, **further)
        return {"evaluation": evaluate.alias("evaluate")(predictions, outcomes, closed)}

    # Not those that the graph has: Dagster gives them no partition mappings.
    assert outcomes.key is not None
    deps = [
        dg.AssetDep(predicted),
        dg.AssetDep(outcomes.key, partition_mapping=outcomes.partition_mapping),
        *further.values(),
    ]
    return evaluation_graph.map_asset_specs(
        lambda _: spec.replace_attributes(deps=deps, partitions_def=partitions_def)
    )


def _outcomes_in(given: OutcomesReference) -> dg.AssetIn:
    """The input that the outcomes are. It has a key.

    Raises:
        ValueError: An `AssetIn` names no asset, or a definition has several.
    """
    if not isinstance(given, dg.AssetIn):
        return dg.AssetIn(find_output(given, None, argument="outcomes")[0])
    if given.key is None:
        raise ValueError('outcomes= names no asset. Write AssetIn("churn_outcomes", ...).')
    return given


def _type_of(given: dg.AssetIn) -> dict[str, Any]:
    """The type that the outcomes are loaded as, if the input names one."""
    kind = given.dagster_type
    return {"dagster_type": kind} if kind != dg.AssetIn().dagster_type else {}
