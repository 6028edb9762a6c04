"""What each check of `build_kumo_prediction_checks` finds in a stored output.

The statistics that are kept beside the files answer all but two questions: whether rows repeat, and how
many entities there are where an entity has several rows. Those two read the identifying columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

import dagster as dg

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.execution.partitions.anchor_time import said_time
from dagster_kumo.predictions.predictions import Predictions
from dagster_kumo.predictions.statistics.distinct import distinct_rows
from dagster_kumo.predictions.statistics.drift import compared_columns, psi
from dagster_kumo.predictions.statistics.stored_statistics import StoredColumn, StoredStatistics
from dagster_kumo.predictions.statistics.summary import ANCHOR_TIMESTAMP, ENTITY
from dagster_kumo.predictions.store.statistics_file import read_statistics
from dagster_kumo.predictions.store.store import Manifest, PartitionStore

PROBABILITIES = ("True_PROB", "False_PROB", "SCORE")
ALLOWED = "allowed"
"""The limit that a check holds against, in words: Dagit plots numbers, and a limit is a flat line."""
IDENTIFYING = (ENTITY, ANCHOR_TIMESTAMP, "CLASS")
"""Columns that no two rows have the same values in, as far as an output has them."""


@dataclass(frozen=True)
class Finding:
    """What a check found: one line, after a failure a second one that says what to do."""

    passed: bool
    said: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR


class NothingToCheck(Exception):
    """A check has nothing to look at. The message is the reason, and what to do.

    A warning, which blocks nothing, unless the rows themselves are missing.
    """

    def __init__(
        self, reason: str, severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN
    ) -> None:
        super().__init__(reason)
        self.severity = severity


class StoredOutput:
    """The version in force of an asset partition, as checks look at it.

    Raises:
        NothingToCheck: nothing is stored.
    """

    def __init__(self, store: PartitionStore, partition_key: str | None) -> None:
        manifest = store.manifest()
        if manifest is None:
            raise NothingToCheck(
                f"Nothing is stored in {store.directory}.\nMaterialize the asset with the same KumoIOManager.",
                dg.AssetCheckSeverity.ERROR,
            )
        self.manifest: Manifest = manifest
        self.partition_key = partition_key
        self._store = store

    @cached_property
    def rows(self) -> Predictions:
        """The rows, of which nothing is read yet."""
        return self._store.predictions(self.manifest)

    @cached_property
    def statistics(self) -> StoredStatistics:
        """What is known without reading rows."""
        found = read_statistics(self._store, self.manifest)
        if found is None:
            raise NothingToCheck(
                "No statistics are kept beside the files.\nMaterialize again; with "
                "KumoIOManager(statistics=False), or by an earlier version, none are written."
            )
        return found

    def columns(self, names: Sequence[str]) -> dict[str, StoredColumn]:
        """The statistics of some columns, all of which must be there."""
        there = self.statistics.columns
        missing = [name for name in names if name not in there]
        if missing:
            raise NothingToCheck(
                f"There are no statistics of {', '.join(missing)}, only of {', '.join(there)}.\n"
                "Give the check other columns=, or the KumoIOManager other statistics_columns=."
            )
        return {name: there[name] for name in names}


def entities_match_summary(output: StoredOutput) -> Finding:
    """Whether there are as many entities as the job says that it predicted for."""
    expected = output.manifest.num_entities
    if expected is None:
        raise NothingToCheck(
            "It is not known how many entities were predicted for: no prediction job made what is "
            "stored.\nCheck what kumo.predict(context) makes, or leave out entities_match_summary."
        )
    found = output.manifest.num_rows
    # One row for each entity is the rule; where there are more, they are told apart.
    if found != expected or "CLASS" in output.rows.schema.names:
        found = distinct_rows(output.rows, [ENTITY]).distinct
    metadata = {"entities": found, "expected_entities": expected}
    if found == expected:
        return Finding(True, f"{found:,} entities, as the job says.", metadata)
    return Finding(
        False,
        f"Prediction job {output.manifest.job_id} says that it predicted for {expected:,} entities, "
        f"and {found:,} are stored.\nMaterialize again, which runs a new job; if it is the same "
        "again, look into the job by the tracking_url of the materialization.",
        metadata,
    )


def unique_entities(output: StoredOutput) -> Finding:
    """Whether each row is for an entity of its own, or an entity and class, and none is for nobody."""
    columns = [name for name in IDENTIFYING if name in output.rows.schema.names]
    if ENTITY not in columns:
        raise NothingToCheck(f"There is no column {ENTITY}.\nLeave out unique_entities.")
    found = distinct_rows(output.rows, columns)
    metadata = {
        "rows": found.rows,
        "repeated_rows": found.repeated,
        "rows_without_entity": found.nulls,
        "columns": ", ".join(columns),
    }
    if not found.repeated and not found.nulls:
        return Finding(True, f"No two of {found.rows:,} rows are for the same.", metadata)
    return Finding(
        False,
        f"Of {found.rows:,} rows {found.repeated:,} repeat the {', '.join(columns)} of another one, and "
        f"{found.nulls:,} have no {ENTITY}. A join with them would multiply or lose rows.\n"
        "Look whether the entities are unique in the table that the model predicts for. Rows that "
        f"repeat: df[df.duplicated({columns})].",
        metadata,
    )


def scores_in_range(
    output: StoredOutput, limits: tuple[float, float], columns: Sequence[str] | None
) -> Finding:
    """Whether all values of the scores' columns lie between two limits."""
    low, high = limits
    slack = 1e-6 * (high - low)  # a probability of 32 bits may end a hair above 1
    names = columns or [name for name in PROBABILITIES if name in output.statistics.columns]
    metadata: dict[str, Any] = {ALLOWED: f"{low:g} to {high:g}"}
    outside: list[str] = []
    for name, column in output.columns(names).items():
        if column.min is None or column.max is None:
            continue
        metadata |= {f"{name}/min": column.min, f"{name}/max": column.max}
        if column.min < low - slack or column.max > high + slack:
            outside.append(f"{name} goes from {column.min:.6g} to {column.max:.6g}")
    if outside:
        return Finding(
            False,
            f"{', '.join(outside)}; allowed is {low:g} to {high:g}.\nLook whether it is the right "
            "model; where such scores are right, widen scores_in_range.",
            metadata,
        )
    if not names:
        said = "There are no probabilities or scores here; other columns can be named by columns=."
        return Finding(True, said, metadata)
    return Finding(True, f"{', '.join(names)} lie between {low:g} and {high:g}.", metadata)


def null_fraction(output: StoredOutput, limit: float, columns: Sequence[str] | None) -> Finding:
    """Whether no column has a larger share of nulls, NaN and infinities than allowed."""
    there = output.columns(columns or list(output.statistics.columns))
    shares = {name: column.null_fraction for name, column in there.items()}
    worst = max(shares, key=lambda name: shares[name])
    metadata = {
        "null_fraction": shares[worst],
        "column": worst,
        ALLOWED: f"at most {limit:.2%} of each column",
    }
    too_many = {name: share for name, share in shares.items() if share > limit}
    if not too_many:
        return Finding(
            True, f"At most {shares[worst]:.2%} of a column; allowed is {limit:.2%}.", metadata
        )
    told = ", ".join(f"{share:.2%} of {name}" for name, share in too_many.items())
    return Finding(
        False,
        f"Without a value: {told}; allowed is {limit:.2%}.\nLook into the prediction job for entities "
        "that it could not predict for; where they are expected, raise max_null_fraction.",
        metadata,
    )


def drift(
    output: StoredOutput,
    reference: StoredOutput | None,
    *,
    warn_from: float | None,
    error_from: float | None,
    columns: Sequence[str] | None,
) -> Finding:
    """How far the scores have moved from those of another partition."""
    if reference is None:
        return Finding(True, "There is no earlier partition to compare with.")
    names = columns or compared_columns(output.statistics)
    now, before = output.columns(names), reference.columns(names)
    found = {name: psi(before[name], now[name]) for name in names}
    known = {name: value for name, value in found.items() if value is not None}
    limits = {"a warning": warn_from, "an error": error_from}
    allowed = [f"{what} from {limit:g} on" for what, limit in limits.items() if limit is not None]
    metadata: dict[str, Any] = {"reference": reference.partition_key, ALLOWED: ", ".join(allowed)}
    if not known:
        return Finding(True, "There are no scores or classes here to compare.", metadata)
    metadata |= {f"{name}/psi": round(value, 6) for name, value in known.items()}
    most = max(known, key=lambda name: known[name])
    said = f"PSI of {most} against {reference.partition_key}: {known[most]:.3f}"
    is_error = error_from is not None and known[most] >= error_from
    if not is_error and (warn_from is None or known[most] < warn_from):
        return Finding(True, f"{said}.", metadata)
    severity = dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN
    limit = error_from if is_error else warn_from
    return Finding(
        False,
        f"{said}, from {limit:g} on it counts as moved.\nCompare the distributions and the input "
        "tables of both; where the change is real, train the model anew or raise the limit.",
        metadata,
        severity,
    )


def anchor_age(output: StoredOutput, limit: timedelta, *, outdated: bool) -> Finding:
    """Whether the time that the predictions look ahead from is recent enough.

    A run that makes up for the past is `outdated` by intent.
    """
    anchors = _anchors(output)
    if anchors is None:
        raise NothingToCheck(
            "For which time the predictions are is not known: neither the data nor the job says so.\n"
            "Leave out max_anchor_age."
        )
    latest = anchors[1]
    age = datetime.now(timezone.utc) - latest
    metadata = {
        "anchor_time": dg.MetadataValue.timestamp(latest),
        "age_hours": round(age.total_seconds() / 3600, 2),
        ALLOWED: f"at most {_said(limit)}",
    }
    said = f"The predictions are for {said_time(latest)}, {_said(age)} ago"
    if outdated and age > limit:
        return Finding(True, f"{said}: this run makes up for the past.", metadata)
    if age <= limit:
        return Finding(True, f"{said}; allowed is {_said(limit)}.", metadata)
    return Finding(
        False,
        f"{said}; allowed is {_said(limit)}.\nMaterialize a newer partition. If it is no newer, look "
        "whether Kumo's source tables are up to date.",
        metadata,
    )


def merge_findings(findings: Mapping[str | None, Finding]) -> Finding:
    """The findings in several partitions as one: failed where one failed, with the worst one's words."""
    keys = list(findings)
    if len(keys) == 1:
        finding = findings[keys[0]]
        label = {} if keys[0] is None else {"partition": keys[0]}
        return Finding(
            finding.passed, finding.said, {**label, **finding.metadata}, finding.severity
        )
    failed = [key for key in keys if not findings[key].passed]
    if not failed:
        said = f"Passed in all {len(keys)} partitions."
        return Finding(True, said, {"partitions": len(keys), "failed_partitions": 0})
    worst = max(failed, key=lambda key: findings[key].severity == dg.AssetCheckSeverity.ERROR)
    more = ", ..." if len(failed) > 5 else ""
    return Finding(
        False,
        f"Failed in {len(failed)} of {len(keys)} partitions: {', '.join(map(str, failed[:5]))}{more}. "
        f"{worst}: {findings[worst].said}",
        {
            "partitions": len(keys),
            "failed_partitions": len(failed),
            "partition": str(worst),
            **findings[worst].metadata,
        },
        findings[worst].severity,
    )


def run_check(look: Callable[[], Finding]) -> Finding:
    """A finding; a failure too where there is nothing to look at, or a file is damaged."""
    try:
        return look()
    except NothingToCheck as reason:
        return Finding(False, str(reason), severity=reason.severity)
    except KumoDataError as error:
        return Finding(False, f"{error}\nMaterialize again.")


def _anchors(output: StoredOutput) -> tuple[datetime, datetime] | None:
    known = output.manifest.prediction_time
    try:
        return output.statistics.anchors or (known and (known, known))
    except NothingToCheck:
        return known and (known, known)


def _said(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours:.3g} hours" if abs(hours) < 48 else f"{hours / 24:.3g} days"
