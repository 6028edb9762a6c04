"""`build_kumo_prediction_checks`: asset checks of predictions that a `KumoIOManager` stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from dagster_kumo.api.records import OutputType
from dagster_kumo.checks.check_op import checks_of
from dagster_kumo.checks.prediction_checks import (
    AnchorAge,
    Drift,
    EntitiesMatchSummary,
    HoldoutDrift,
    NullFraction,
    PredictionCheck,
    ScoresInRange,
    UniqueEntities,
)
from dagster_kumo.checks.stored_output import StoredOutputs
from dagster_kumo.execution.selection import OutputReference, find_output, given_key
from dagster_kumo.io_manager.io_manager import DEFAULT_IO_MANAGER_KEY
from dagster_kumo.resource import DEFAULT_RESOURCE_KEY


def build_kumo_prediction_checks(
    *,
    asset: OutputReference,
    output_type: OutputType | None = None,
    partitions_def: dg.PartitionsDefinition | None = None,
    entities_match_summary: bool = True,
    unique_entities: bool = True,
    scores_in_range: tuple[float, float] | None = (0, 1),
    max_null_fraction: float | None = 0.0,
    max_psi_warn: float | None = 0.1,
    max_psi_error: float | None = 0.25,
    reference: str | None = None,
    holdout_drift: bool = False,
    max_anchor_age: timedelta | None = None,
    columns: Sequence[str] | None = None,
    by_partition: bool = False,
    blocking: bool = False,
    name: str | None = None,
    io_manager_key: str = DEFAULT_IO_MANAGER_KEY,
    resource_key: str = DEFAULT_RESOURCE_KEY,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    op_tags: Mapping[str, Any] | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
) -> list[dg.AssetChecksDefinition]:
    """Make asset checks of predictions or embeddings that a `KumoIOManager` stores.

    The checks run after the asset in the same run, for the partitions of the run. In a run of their own,
    they check the partition that was materialized last; `anchor_age` checks the newest one. All but the
    first two read only the statistics beside the files, no rows.

    Args:
        asset: What `@kumo_assets` or `build_kumo_assets_definitions` made, of which one output is
            checked; or the key of an asset, such as `"churn/predictions"`.
        output_type: Which output to check, `predictions` or `embeddings`. By default the predictions,
            or the only output.
        partitions_def: The asset's partitions. By default those of `asset`; if `asset` is a key, `drift`
            needs them to find the partition before.
        entities_match_summary: Check that as many entities are stored as the job's summary says.
        unique_entities: Check that no two rows are for the same entity (and class, and anchor time), and
            that every row has an entity. Reads these columns of all rows, in bounded memory.
        scores_in_range: The least and the greatest allowed value of True_PROB, False_PROB and SCORE,
            or of `columns`.
        max_null_fraction: The share of missing values that each column, or each of `columns`, may have,
            0 to 1.
        max_psi_warn: The population stability index (PSI) from which on drift is a warning.
        max_psi_error: The PSI from which on drift is an error.
        reference: The partition to compare with, by default the previous one. Without partitions and
            without a reference there is no check `drift`.
        holdout_drift: Check drift also against the holdout data of the model that made the output, with
            the same limits. Each model is compared with its own holdout data, so a new model is no
            drift. The data is read from Kumo. If it has no scores, the check passes and says so.
        max_anchor_age: The maximum age of the anchor time. A run for a past partition passes.
        columns: The columns that `scores_in_range`, `null_fraction` and `drift` check, instead of their
            defaults.
        by_partition: Whether Dagster keeps the results of each partition apart. It needs Dagster 1.13, where
            this is a preview. A run of the checks alone is then for the partitions that you choose.
        blocking: Whether an error of a check stops downstream assets in the same run.
        name: The name of the op; by default the asset's with `__checks` or `__blocking_checks`. A third
            call for the same asset needs one.
        io_manager_key: The key of the `KumoIOManager`.
        resource_key: The key of the `KumoResource`, which `holdout_drift` needs.
        automation_condition: When Dagster runs the checks automatically.
        op_tags: Passed on to Dagster's `multi_asset_check`.
        retry_policy: The same.
        pool: The same.

    Raises:
        ValueError: A limit is invalid, or there is no such output. The message says what to write.

    Examples:
        >>> import dagster as dg
        >>> checks = build_kumo_prediction_checks(
        ...     asset=dg.AssetKey(["churn", "predictions"]),
        ...     partitions_def=dg.DailyPartitionsDefinition(start_date="2026-01-01"),
        ...     blocking=True,
        ... )
        >>> sorted(key.name for check in checks for key in check.check_keys)
        ['drift', 'entities_match_summary', 'null_fraction', 'scores_in_range', 'unique_entities']
    """
    if output_type is not None and given_key(asset) is not None:
        raise ValueError(
            f"output_type={output_type!r} chooses among the assets of a definition.\n"
            "Leave it out: the key says which asset is checked."
        )
    asset_key, own_partitions = find_output(asset, output_type, argument="asset")
    partitions_def = partitions_def or own_partitions
    checks: list[PredictionCheck] = []
    if entities_match_summary:
        checks.append(EntitiesMatchSummary())
    if unique_entities:
        checks.append(UniqueEntities())
    if scores_in_range is not None:
        checks.append(ScoresInRange(*scores_in_range, columns))
    if max_null_fraction is not None:
        checks.append(NullFraction(max_null_fraction, columns))
    if max_psi_warn is not None or max_psi_error is not None:
        drift = Drift(max_psi_warn, max_psi_error, columns, reference)
        if partitions_def is not None or reference is not None:
            checks.append(drift)
        if holdout_drift:
            checks.append(HoldoutDrift(max_psi_warn, max_psi_error, columns))
    if max_anchor_age is not None:
        checks.append(AnchorAge(max_anchor_age))
    return checks_of(
        asset_key,
        checks,
        lambda context, key: StoredOutputs(
            context, key, partitions_def, io_manager_key, resource_key
        ),
        name=name,
        partitions_def=partitions_def if by_partition else None,
        blocking=blocking,
        resource_keys={io_manager_key, *([resource_key] if holdout_drift else [])},
        automation_condition=automation_condition,
        op_tags=op_tags,
        retry_policy=retry_policy,
        pool=pool,
    )
