"""`build_kumo_prediction_checks`: asset checks of predictions that a `KumoIOManager` keeps."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` as an object.

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_kumo.api.records import OutputType
from dagster_kumo.execution.metadata import OUTPUT_TYPE
from dagster_kumo.execution.partitions.anchor_time import window_of
from dagster_kumo.execution.partitions.previous import partition_before
from dagster_kumo.io_manager.io_manager import DEFAULT_IO_MANAGER_KEY, KumoIOManager

if TYPE_CHECKING:
    from dagster_kumo.checks.findings import Finding, StoredOutput

_DESCRIPTIONS = {
    "entities_match_summary": "As many entities are stored as the job says that it predicted for.",
    "unique_entities": "No entity, or entity and class, has two rows, and no row is without one.",
    "scores_in_range": "All probabilities and scores lie between two limits.",
    "null_fraction": "No column lacks more values than allowed.",
    "drift": "The scores are spread as in the partition before, by the population stability index.",
    "anchor_age": "The time that the predictions look ahead from is recent.",
}


def build_kumo_prediction_checks(
    *,
    asset: dg.AssetsDefinition | dg.AssetKey | str | Sequence[str],
    output_type: OutputType | None = None,
    partitions_def: dg.PartitionsDefinition | None = None,
    entities_match_summary: bool = True,
    unique_entities: bool = True,
    scores_in_range: tuple[float, float] | None = (0, 1),
    max_null_fraction: float | None = 0.0,
    max_psi_warn: float | None = 0.1,
    max_psi_error: float | None = 0.25,
    reference: str | None = None,
    max_anchor_age: timedelta | None = None,
    columns: Sequence[str] | None = None,
    blocking: bool = False,
    name: str | None = None,
    io_manager_key: str = DEFAULT_IO_MANAGER_KEY,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    op_tags: Mapping[str, Any] | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
) -> list[dg.AssetChecksDefinition]:
    """Make asset checks of predictions or embeddings that a `KumoIOManager` keeps.

    They run after the asset in the same run, for its partitions. Run by themselves they look at the
    partition that was materialized last; `anchor_age` looks at the newest one. All but the first two
    read the statistics that are kept beside the files, and no rows.

    Args:
        asset: the assets made by `@kumo_assets`, of which one output is checked, or the key of one.
        output_type: which of the outputs, `predictions` or `embeddings`; by default the predictions, or
            the only one there is.
        partitions_def: by default that of `asset`; with a key, `drift` needs it to know what comes before.
        entities_match_summary: as many entities as the job's summary says.
        unique_entities: no two rows for the same entity (and class, and anchor time), none without one.
            Reads these columns of all rows, in bounded memory.
        scores_in_range: the least and the greatest allowed value of True_PROB, False_PROB and SCORE,
            or of `columns`.
        max_null_fraction: the share of nulls that every column, or each of `columns`, may have, 0 to 1.
        max_psi_warn: from which population stability index on drift is a warning.
        max_psi_error: from which one on it is an error.
        reference: the partition to compare with; by default the one before. Without partitions there
            is nothing to compare with, and no check `drift`.
        max_anchor_age: how old the anchor time may be. A run for a partition after which another one
            has ended is not held against it: it makes up for the past.
        columns: the columns that the checks of values look at, instead of their own choice.
        blocking: whether what is downstream in the same run is not made when a check fails with an
            error.
        name: the name of the op; by default the asset's with `__checks` or `__blocking_checks`. A third
            call for the same asset needs one.
        io_manager_key: the key of the `KumoIOManager`.
        automation_condition: when the checks are to run by themselves.
        op_tags: as Dagster's `multi_asset_check` takes them.
        retry_policy: the same.
        pool: the same.

    Raises:
        ValueError: the checks cannot be; the message says what to write instead.

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
    _check_limits(scores_in_range, max_null_fraction, max_psi_warn, max_psi_error, max_anchor_age)
    asset_key = _checked_key(asset, output_type)
    if partitions_def is None and isinstance(asset, dg.AssetsDefinition):
        partitions_def = asset.partitions_def
    compares = max_psi_warn is not None or max_psi_error is not None
    chosen = {
        "entities_match_summary": entities_match_summary,
        "unique_entities": unique_entities,
        "scores_in_range": scores_in_range is not None,
        "null_fraction": max_null_fraction is not None,
        "drift": compares and (partitions_def is not None or reference is not None),
        "anchor_age": max_anchor_age is not None,
    }
    specs = [
        dg.AssetCheckSpec(
            name,
            asset=asset_key,
            description=_DESCRIPTIONS[name],
            blocking=blocking,
            automation_condition=automation_condition,
        )
        for name, wanted in chosen.items()
        if wanted
    ]
    if not specs:
        raise ValueError("No check is left. Switch at least one on.")

    @dg.multi_asset_check(
        name=name
        or f"{asset_key.to_python_identifier()}__{'blocking_checks' if blocking else 'checks'}",
        specs=specs,
        can_subset=True,
        required_resource_keys={io_manager_key},
        op_tags=op_tags,
        retry_policy=retry_policy,
        pool=pool,
    )
    def checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        from dagster_kumo.checks import findings as find

        outputs = _Outputs(context, asset_key, partitions_def, io_manager_key)
        looks: dict[str, Callable[[str | None], Finding]] = {
            "entities_match_summary": lambda key: find.entities_match_summary(outputs.at(key)),
            "unique_entities": lambda key: find.unique_entities(outputs.at(key)),
            "scores_in_range": lambda key: find.scores_in_range(
                outputs.at(key), scores_in_range or (0, 1), columns
            ),
            "null_fraction": lambda key: find.null_fraction(
                outputs.at(key), max_null_fraction or 0.0, columns
            ),
            "drift": lambda key: find.drift(
                outputs.at(key),
                outputs.reference(key, reference),
                warn_from=max_psi_warn,
                error_from=max_psi_error,
                columns=columns,
            ),
            "anchor_age": lambda key: find.anchor_age(
                outputs.at(key), max_anchor_age or timedelta(), outdated=outputs.is_outdated(key)
            ),
        }
        for spec in specs:
            if spec.key in context.selected_asset_check_keys:
                keys = outputs.newest() if spec.name == "anchor_age" else outputs.keys
                found = find.merge_findings(
                    {key: find.run_check(partial(looks[spec.name], key)) for key in keys}
                )
                yield dg.AssetCheckResult(
                    passed=found.passed,
                    asset_key=asset_key,
                    check_name=spec.name,
                    description=found.said,
                    metadata=dict(found.metadata),
                    severity=found.severity,
                )

    return [checks]


class _Outputs:
    """What a run of the checks looks at.

    Raises:
        ValueError: the asset is not kept by a `KumoIOManager`.
    """

    def __init__(
        self,
        context: dg.AssetCheckExecutionContext,
        asset_key: dg.AssetKey,
        partitions_def: dg.PartitionsDefinition | None,
        io_manager_key: str,
    ) -> None:
        manager = getattr(context.resources, io_manager_key)
        if not isinstance(manager, KumoIOManager):
            raise ValueError(
                f"{io_manager_key!r} is a {type(manager).__name__}, whose files these checks cannot read.\n"
                "Name the KumoIOManager of the asset by io_manager_key=."
            )
        self._manager = manager
        self._asset_key = asset_key
        self._partitions_def = partitions_def
        self._instance = context.instance
        self._read: dict[str | None, StoredOutput] = {}
        self.of_run = False
        self.keys: Sequence[str | None] = self._partition_keys(context)

    def at(self, key: str | None) -> "StoredOutput":
        """What is stored of a partition."""
        from dagster_kumo.checks.findings import StoredOutput

        if key not in self._read:
            store = self._manager.partition_store(self._asset_key, key)
            self._read[key] = StoredOutput(store, key)
        return self._read[key]

    def reference(self, key: str | None, named: str | None) -> "StoredOutput | None":
        """What to compare a partition with: the named one, or the one before where that can be."""
        from dagster_kumo.checks.findings import NothingToCheck

        if named is not None:
            return self.at(named)
        if self._partitions_def is None or key is None:
            return None
        before = partition_before(self._partitions_def, key, self._instance)
        if before is None:
            return None
        try:
            earlier = self.at(before)
            _ = earlier.statistics
        except NothingToCheck:
            return None
        return earlier

    def newest(self) -> Sequence[str | None]:
        """The partitions of the run; without any the newest one that is materialized."""
        if self.of_run or self._partitions_def is None:
            return self.keys
        ended = {
            key: window.end
            for key in self._instance.get_materialized_partitions(self._asset_key)
            if (window := window_of(self._partitions_def, key)) is not None
        }
        return [max(ended, key=lambda key: ended[key])] if ended else self.keys

    def is_outdated(self, key: str | None) -> bool:
        """Whether the run makes up for the past: the partition after this one has ended as well."""
        window = window_of(self._partitions_def, key)
        if not self.of_run or window is None:
            return False
        return datetime.now(timezone.utc) >= window.end + (window.end - window.start)

    def _partition_keys(self, context: dg.AssetCheckExecutionContext) -> Sequence[str | None]:
        event = self._instance.get_latest_materialization_event(self._asset_key)
        latest = event.asset_materialization if event is not None else None
        if latest is not None and latest.partition is None:
            return [None]
        # Dagster 1.12 tells the op of the run's partitions, and not the check.
        run = context.op_execution_context
        if run.has_partition_key or run.has_partition_key_range:
            self.of_run = True
            return list(run.partition_keys)
        return [latest.partition if latest is not None else None]


def _checked_key(
    asset: dg.AssetsDefinition | dg.AssetKey | str | Sequence[str], output_type: OutputType | None
) -> dg.AssetKey:
    if not isinstance(asset, dg.AssetsDefinition):
        if output_type is not None:
            raise ValueError(
                f"output_type={output_type!r} chooses among the assets of a definition.\n"
                "Leave it out: the key says which asset is checked."
            )
        return dg.AssetKey.from_coercible(asset)
    by_type = {entries.get(OUTPUT_TYPE): key for key, entries in asset.metadata_by_key.items()}
    wanted = output_type or "predictions"
    if wanted in by_type:
        return by_type[wanted]
    if output_type is not None:
        there = ", ".join(key.to_user_string() for key in asset.keys)
        raise ValueError(
            f"{asset.op.name!r} has no {output_type}, only {there}.\n"
            f"Leave output_type out, or add {output_type!r} to the outputs of its BatchPrediction."
        )
    if len(by_type) == len(asset.keys) == 1:
        return next(iter(asset.keys))
    raise ValueError(
        f"{asset.op.name!r} has several assets, none of which are predictions.\n"
        "Give the key of the one to check: asset=dg.AssetKey([...])."
    )


def _check_limits(
    scores: tuple[float, float] | None,
    nulls: float | None,
    psi_warn: float | None,
    psi_error: float | None,
    anchor_age: timedelta | None,
) -> None:
    if scores is not None and not scores[0] <= scores[1]:
        raise ValueError(
            f"scores_in_range is the least and the greatest value, not {tuple(scores)}."
        )
    if nulls is not None and not 0 <= nulls <= 1:
        raise ValueError(f"max_null_fraction is a share, 0 to 1, not {nulls}.")
    for name, limit in {"max_psi_warn": psi_warn, "max_psi_error": psi_error}.items():
        if limit is not None and not limit > 0:
            raise ValueError(f"{name} is more than 0, not {limit}; None switches it off.")
    if psi_warn is not None and psi_error is not None and psi_warn > psi_error:
        raise ValueError(
            f"A warning comes before an error: max_psi_warn={psi_warn} is more than "
            f"max_psi_error={psi_error}."
        )
    if anchor_age is not None and anchor_age <= timedelta():
        raise ValueError(f"max_anchor_age is a span of time, not {anchor_age}.")
