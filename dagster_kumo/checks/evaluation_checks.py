"""`build_kumo_evaluation_checks`: asset checks of the metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dagster as dg

from dagster_kumo.checks.asset_check import ALLOWED, AssetCheck, Finding, NothingToCheck
from dagster_kumo.checks.check_op import checks_of
from dagster_kumo.checks.evaluation.metric_names import (
    CALIBRATION_ERROR,
    COVERAGE,
    HOLDOUT,
    NEITHER,
    is_metric,
)
from dagster_kumo.checks.stored_output import partitions_to_check
from dagster_kumo.execution.launch.deliveries import newest_metadata
from dagster_kumo.execution.metadata import NAMESPACE
from dagster_kumo.execution.partitions.previous import partition_before
from dagster_kumo.execution.selection import OutputReference, find_output
from dagster_kumo.jobs.metric_direction import is_error

Reference = Literal["holdout"] | int


def build_kumo_evaluation_checks(
    *,
    asset: OutputReference,
    min_values: Mapping[str, float] | None = None,
    max_values: Mapping[str, float] | None = None,
    max_drop: Mapping[str, float] | None = None,
    reference: Reference = "holdout",
    max_calibration_error: float | None = None,
    min_coverage: float | None = 0.95,
    partitions_def: dg.PartitionsDefinition | None = None,
    by_partition: bool = False,
    blocking: bool = False,
    name: str | None = None,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    op_tags: Mapping[str, Any] | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
) -> list[dg.AssetChecksDefinition]:
    """Make asset checks of an evaluation: they read its numbers, no rows.

    The checks run after the evaluation in the same run. In a run of their own, they check the partition that was
    evaluated last.

    Args:
        asset: What `build_kumo_evaluation_asset` made, or its key, such as `"churn/evaluation"`.
        min_values: The least value of metrics, such as `{"auroc": 0.7}`.
        max_values: The greatest value of metrics, such as `{"mae": 20}`.
        max_drop: By how much metrics may be worse than `reference`, such as `{"auroc": 0.05}`. Of an error,
            such as mae, it is by how much it may be larger.
        reference: What `max_drop` compares with: `"holdout"` for the metrics of the model on its holdout data,
            or a number n for the mean of the n partitions before that are evaluated.
        max_calibration_error: How far the predicted probabilities may be from what happened, on average over the
            ten groups.
        min_coverage: The share of the predicted entities that must have an outcome. A join that loses entities
            would look better or worse than the predictions are.
        partitions_def: The asset's partitions. By default those of `asset`; if `asset` is a key, a mean of
            partitions needs them.
        by_partition: Whether Dagster keeps the results of each partition apart. It needs Dagster 1.13, where
            this is a preview. A run of the checks alone is then for the partitions that you choose.
        blocking: Whether a check that fails stops the same run from making what is downstream.
        name: The name of the op; by default the asset's with `__checks` or `__blocking_checks`. A third
            call for the same asset needs one.
        automation_condition: When Dagster runs the checks automatically.
        op_tags: As Dagster's `multi_asset_check` takes them.
        retry_policy: The same.
        pool: The same.

    Raises:
        ValueError: A limit is invalid. The message says what to write.

    Examples:
        >>> import dagster as dg
        >>> checks = build_kumo_evaluation_checks(
        ...     asset=dg.AssetKey(["churn", "evaluation"]),
        ...     min_values={"auroc": 0.7},
        ...     max_drop={"auroc": 0.05},
        ... )
        >>> sorted(key.name for check in checks for key in check.check_keys)
        ['coverage', 'drop_from_holdout', 'values']
    """
    asset_key, own_partitions = find_output(asset, None, argument="asset")
    partitions_def = partitions_def or own_partitions
    checks: list[EvaluationCheck] = []
    if min_values or max_values:
        checks.append(Values(min_values or {}, max_values or {}))
    if max_drop:
        checks.append(Drop(max_drop, reference))
    if max_calibration_error is not None:
        checks.append(Calibration(max_calibration_error))
    if min_coverage is not None:
        checks.append(Coverage(min_coverage))
    return checks_of(
        asset_key,
        checks,
        lambda context, key: Evaluations(
            context.instance, key, partitions_def, partitions_to_check(context, key)[0]
        ),
        name=name,
        partitions_def=partitions_def if by_partition else None,
        blocking=blocking,
        resource_keys=set(),
        automation_condition=automation_condition,
        op_tags=op_tags,
        retry_policy=retry_policy,
        pool=pool,
    )


@dataclass(frozen=True)
class Evaluations:
    """The numbers of evaluated partitions, as Dagster has recorded them."""

    instance: dg.DagsterInstance
    asset_key: dg.AssetKey
    partitions_def: dg.PartitionsDefinition | None
    partition_keys: Sequence[str | None]

    def numbers(self, partition_key: str | None) -> dict[str, float]:
        """The numbers of a partition by their names.

        Raises:
            NothingToCheck: It is not evaluated.
        """
        found = self._numbers(partition_key)
        if found is None:
            raise NothingToCheck(
                "There is no evaluation.\nMaterialize the asset.", dg.AssetCheckSeverity.ERROR
            )
        return found

    def before(self, partition_key: str | None, count: int) -> list[dict[str, float]]:
        """The numbers of the `count` partitions before one, those that are evaluated."""
        found: list[dict[str, float]] = []
        key = partition_key
        for _ in range(count):
            if key is None or self.partitions_def is None:
                break
            key = partition_before(self.partitions_def, key, self.instance)
            numbers = self._numbers(key) if key is not None else None
            if numbers is not None:
                found.append(numbers)
        return found

    def _numbers(self, partition_key: str | None) -> dict[str, float] | None:
        metadata = newest_metadata(self.instance, self.asset_key, partition_key)
        if metadata is None:
            return None
        return {
            name.removeprefix(NAMESPACE): value
            for name, value in metadata.items()
            if isinstance(value, int | float)
        }


EvaluationCheck = AssetCheck[Evaluations]


@dataclass(frozen=True)
class Values(EvaluationCheck):
    name = "values"
    description = "The metrics are not below min_values, nor above max_values."

    least: Mapping[str, float]
    greatest: Mapping[str, float]

    def __post_init__(self) -> None:
        _check_names("min_values", self.least)
        _check_names("max_values", self.greatest)

    def run(self, evaluations: Evaluations, partition_key: str | None) -> Finding:
        found = _metrics(evaluations.numbers(partition_key), [*self.least, *self.greatest])
        limits = [(name, "at least", limit) for name, limit in self.least.items()]
        limits += [(name, "at most", limit) for name, limit in self.greatest.items()]
        metadata = {
            **found,
            ALLOWED: ", ".join(f"{name} {which} {limit:g}" for name, which, limit in limits),
        }
        wrong = [
            f"{name} is {found[name]:.4g}, allowed is {which} {limit:g}"
            for name, which, limit in limits
            if (found[name] < limit if which == "at least" else found[name] > limit)
        ]
        if wrong:
            return Finding(
                False,
                f"{'; '.join(wrong)}.\nCompare the metrics of earlier partitions. If the model has become "
                "worse, train it again.",
                metadata,
            )
        said = ", ".join(f"{name} is {value:.4g}" for name, value in found.items())
        return Finding(True, f"{said}.", metadata)


class Drop(EvaluationCheck):
    description = "The metrics are not worse than their reference by more than max_drop."

    def __init__(self, limits: Mapping[str, float], reference: Reference) -> None:
        _check_names("max_drop", limits)
        wrong = [name for name in limits if name in NEITHER]
        if wrong:
            raise ValueError(
                f"max_drop has {', '.join(wrong)}, of which neither more nor less is better. "
                "Limit it by min_values and max_values."
            )
        is_count = isinstance(reference, int) and not isinstance(reference, bool)
        if reference != "holdout" and not (is_count and reference > 0):
            raise ValueError(
                f"reference is 'holdout' or a number of partitions, not {reference!r}."
            )
        self.limits = limits
        self.reference = reference
        # Two such checks of an asset have different names.
        self.name = "drop_from_holdout" if reference == "holdout" else f"drop_from_last_{reference}"

    def run(self, evaluations: Evaluations, partition_key: str | None) -> Finding:
        numbers = evaluations.numbers(partition_key)
        found = _metrics(numbers, list(self.limits))
        reference = self._reference(numbers, evaluations, partition_key)
        if reference is None:
            return Finding(True, "No earlier partition is evaluated to compare with.", found)
        drops = {
            name: (value - reference[name]) * (1 if is_error(name) else -1)
            for name, value in found.items()
        }
        than = (
            "on the holdout data"
            if self.reference == "holdout"
            else f"in the last {self.reference} partitions"
        )
        metadata: dict[str, Any] = {
            ALLOWED: ", ".join(f"{name} worse by {limit:g}" for name, limit in self.limits.items())
        }
        for name, value in found.items():
            metadata |= {
                name: value,
                f"{name}/reference": reference[name],
                f"{name}/drop": drops[name],
            }
        said = "; ".join(f"{n} is {v:.4g}, {than} {reference[n]:.4g}" for n, v in found.items())
        too_far = [name for name, limit in self.limits.items() if drops[name] > limit]
        if too_far:
            return Finding(
                False,
                f"{said}: {', '.join(too_far)} dropped too far.\nCheck that the outcomes are complete. If they "
                "are, train the model again.",
                metadata,
            )
        return Finding(True, f"{said}.", metadata)

    def _reference(
        self, numbers: Mapping[str, float], evaluations: Evaluations, partition_key: str | None
    ) -> dict[str, float] | None:
        if isinstance(self.reference, int):
            earlier = evaluations.before(partition_key, self.reference)
            values = {name: [one[name] for one in earlier if name in one] for name in self.limits}
            if not all(values.values()):
                return None
            return {name: sum(known) / len(known) for name, known in values.items()}
        missing = [name for name in self.limits if f"{HOLDOUT}{name}" not in numbers]
        if missing:
            raise NothingToCheck(
                f"The model has no {', '.join(missing)} on its holdout data.\nCompare with the mean of earlier "
                "partitions: reference=5."
            )
        return {name: numbers[f"{HOLDOUT}{name}"] for name in self.limits}


@dataclass(frozen=True)
class Calibration(EvaluationCheck):
    name = "calibration"
    description = "What was predicted as probable happened as often."

    limit: float

    def __post_init__(self) -> None:
        _check_share("max_calibration_error", self.limit)

    def run(self, evaluations: Evaluations, partition_key: str | None) -> Finding:
        found = _metrics(evaluations.numbers(partition_key), [CALIBRATION_ERROR])
        error = found[CALIBRATION_ERROR]
        metadata = {**found, ALLOWED: f"at most {self.limit:.2%}"}
        said = f"Predicted and realized rates differ by {error:.2%} on average; allowed is {self.limit:.2%}"
        if error <= self.limit:
            return Finding(True, f"{said}.", metadata)
        return Finding(
            False,
            f"{said}.\nDo not take the scores for probabilities: look at the picture of the calibration, and "
            "train the model on newer data.",
            metadata,
        )


@dataclass(frozen=True)
class Coverage(EvaluationCheck):
    name = "coverage"
    description = "Enough of the predicted entities have an outcome."

    limit: float

    def __post_init__(self) -> None:
        _check_share("min_coverage", self.limit)

    def run(self, evaluations: Evaluations, partition_key: str | None) -> Finding:
        coverage = evaluations.numbers(partition_key)[COVERAGE]
        metadata = {COVERAGE: coverage, ALLOWED: f"at least {self.limit:.2%}"}
        said = (
            f"{coverage:.2%} of the predicted entities have an outcome; needed are {self.limit:.2%}"
        )
        if coverage >= self.limit:
            return Finding(True, f"{said}.", metadata)
        return Finding(
            False,
            f"{said}.\nCheck the asset of the outcomes: late data, another type or form of the entity, or "
            "entities that are filtered out. Then materialize the evaluation again.",
            metadata,
        )


def _metrics(numbers: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Some metrics.

    Raises:
        NothingToCheck: One is not there.
    """
    missing = [name for name in names if name not in numbers]
    if missing:
        there = ", ".join(name for name in numbers if is_metric(name))
        raise NothingToCheck(
            f"There is no {', '.join(missing)}, only {there or 'nothing'}.\nA metric that is not defined is left "
            "out: without any yes there is no auroc. Check others, or look at the outcomes."
        )
    return {name: numbers[name] for name in names}


def _check_names(argument: str, limits: Mapping[str, float]) -> None:
    unknown = [name for name in limits if not is_metric(name)]
    if unknown:
        raise ValueError(
            f"{argument} has {', '.join(map(repr, unknown))}, which is no metric. Write it as in the metadata "
            "of the evaluation: 'auroc' for dagster-kumo/auroc."
        )


def _check_share(argument: str, limit: float) -> None:
    if not 0 <= limit <= 1:
        raise ValueError(f"{argument} is a share, 0 to 1, not {limit}.")
