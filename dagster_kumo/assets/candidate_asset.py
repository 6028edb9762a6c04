"""The candidate of a model: an asset whose materialization is a training job."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` as an object.

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dagster_kumo.assets.specs import AssetOptions, check_name, completed_spec, op_name, op_options
from dagster_kumo.assets.translator import DagsterKumoTranslator, KumoAssetProps
from dagster_kumo.execution.metadata import TRAINING
from dagster_kumo.execution.run_config import KumoTrainingRunConfig
from dagster_kumo.jobs.promotion_gate import PromotionGate
from dagster_kumo.jobs.training_spec import TrainingSpec
from dagster_kumo.resource import KumoResource


@dataclass(frozen=True, kw_only=True)
class KumoTraining(TrainingSpec):
    """How a model is trained again, for `build_kumo_assets_definitions`.

    Args:
        query: The predictive query to train for, by its id or name. Without `model_plan` and
            `run_mode`, the server makes the plan.
        like: Instead of a query, a training job to train again, by its id or tags: with its query and
            its plan. By tags it is the newest training job that is DONE and carries them all.
        warm_start: Whether training begins with the weights of the job that `like` names.
        model_plan: The plan to train by, as JSON, in the form of Kumo's API.
        run_mode: Instead of a plan, how thorough the plan is that the server suggests: `fast`,
            `normal`, `best` or `debug`.
        job_tags: Tags of the training job.
        refresh_snapshot: Whether Kumo reads the tables again before it trains. Otherwise the server
            chooses the data.
        max_per_week: How many training jobs of the candidate may be launched in seven days, also those
            that failed: each costs money. Beyond that, a run fails before it launches anything.
        automation_condition: When Dagster trains automatically. The candidate is then promoted in the same
            run, or whenever it has passed its gate.
        retry_policy: The retry policy, by default the model's.
        pool: The pool, by default the model's. For example, one that limits how many models are
            trained at the same time.
        gate: What a candidate must fulfil before it is promoted. Without one, each is promoted when the model
            is materialized.

    Raises:
        ValueError: An argument is invalid; the message says what to write instead.

    Examples:
        >>> KumoTraining(query="pquery-churn", run_mode="best", pool="kumo_training").said
        'for the query pquery-churn'
    """

    automation_condition: dg.AutomationCondition[Any] | None = None
    retry_policy: dg.RetryPolicy | None = None
    pool: str | None = None
    gate: PromotionGate | None = None

    @property
    def promotion_condition(self) -> dg.AutomationCondition[Any] | None:
        """When Dagster promotes automatically."""
        if self.automation_condition is None:
            return None
        passed = dg.AutomationCondition.all_deps_blocking_checks_passed()
        return dg.AutomationCondition.eager() & passed


def retrain_after_failed_checks(*assets: dg.AssetKey) -> dg.AutomationCondition[Any]:
    """The condition of a candidate that is trained when a check of some assets begins to fail.

    It holds once when a check fails that did not fail before, and not while a candidate is being trained. Checks of
    drift are those of the predictions, checks of what was realized those of the evaluation.

    Args:
        assets: The assets whose checks count.

    Raises:
        ValueError: There are none.

    Examples:
        >>> condition = retrain_after_failed_checks(dg.AssetKey(["churn", "evaluation"]))
        >>> training = KumoTraining(query="pquery-churn", automation_condition=condition)
    """
    if not assets:
        raise ValueError("Name the assets whose checks count: their keys.")
    failed = [
        dg.AutomationCondition.asset_matches(
            key, dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed())
        )
        for key in assets
    ]
    some_failed = functools.reduce(operator.or_, failed)
    return some_failed.newly_true() & ~dg.AutomationCondition.in_progress()


def candidate_asset(
    training: KumoTraining,
    *,
    name: str,
    champion_of: str | None,
    deps: Iterable[Any],
    translator: DagsterKumoTranslator,
    resource_key: str,
    options: AssetOptions,
) -> dg.AssetsDefinition:
    """The asset of a candidate, downstream of the tables that it is trained from.

    Its metadata has the metrics of the champion of `champion_of` beside its own.
    """
    check_name(name)
    spec = completed_spec(
        translator.get_asset_spec(KumoAssetProps(name, "candidate", training=training)),
        deps=deps,
        automation_condition=training.automation_condition,
        options=options,
        asked=training.asked(),
    ).merge_attributes(metadata={TRAINING: dg.MetadataValue.json(training.to_json())})
    options = {
        **options,
        "retry_policy": training.retry_policy or options.get("retry_policy"),
        "pool": training.pool or options.get("pool"),
        "backfill_policy": None,  # it has no partitions
    }

    @dg.multi_asset(
        name=op_name([spec]),
        specs=[spec],
        required_resource_keys={resource_key},
        config_schema=KumoTrainingRunConfig.to_fields_dict(),
        **op_options(options),
    )
    def candidate(context: dg.AssetExecutionContext) -> Any:
        kumo: KumoResource = getattr(context.resources, resource_key)
        yield from kumo.train(context, training, champion_of=champion_of)

    return candidate
