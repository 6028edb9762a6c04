"""The op that runs some checks of one asset."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` as an object.

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import dagster as dg

from dagster_kumo.checks.asset_check import AssetCheck, Data


def checks_of(
    asset_key: dg.AssetKey,
    checks: Sequence[AssetCheck[Data]],
    read: Callable[[dg.AssetCheckExecutionContext, dg.AssetKey], Data],
    *,
    resource_keys: set[str],
    name: str | None,
    partitions_def: dg.PartitionsDefinition | None = None,
    blocking: bool,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    op_tags: Mapping[str, Any] | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
) -> list[dg.AssetChecksDefinition]:
    """The definitions of some checks.

    Args:
        asset_key: The asset.
        checks: The checks.
        read: Makes what the checks read, once for a run.
        resource_keys: The keys of the resources that `read` takes from the context.
        name: The name of the op, if it is not the usual one.
        partitions_def: The partitions of the results, if Dagster keeps them apart.
        blocking: As the others, an option of Dagster's `multi_asset_check` or `AssetCheckSpec`.

    Raises:
        ValueError: There are no checks, or this version of Dagster does not keep partitions apart.
    """
    if not checks:
        raise ValueError("No check is left. Switch at least one on.")
    by_partition: dict[str, Any] = {}
    if partitions_def is not None:
        if "partitions_def" not in signature(dg.AssetCheckSpec).parameters:
            raise ValueError(
                f"by_partition=True needs Dagster 1.13, and this is {dg.__version__}. Leave it out."
            )
        by_partition["partitions_def"] = partitions_def

    @dg.multi_asset_check(
        name=name
        or f"{asset_key.to_python_identifier()}__{'blocking_checks' if blocking else 'checks'}",
        specs=[
            dg.AssetCheckSpec(
                check.name,
                asset=asset_key,
                description=check.description,
                blocking=blocking,
                automation_condition=automation_condition,
                **by_partition,
            )
            for check in checks
        ],
        can_subset=True,
        required_resource_keys=resource_keys,
        op_tags=op_tags,
        retry_policy=retry_policy,
        pool=pool,
    )
    def run_checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        # Not `asset_key`: loading a module under a prefix changes the key afterwards.
        selected = {key.name: key.asset_key for key in context.selected_asset_check_keys}
        checked_key = next(iter(selected.values()))
        data = read(context, checked_key)
        for check in checks:
            if check.name in selected:
                found = check.find(data)
                yield dg.AssetCheckResult(
                    passed=found.passed,
                    asset_key=checked_key,
                    check_name=check.name,
                    description=found.said,
                    metadata=dict(found.metadata),
                    severity=found.severity,
                )

    return [run_checks]
