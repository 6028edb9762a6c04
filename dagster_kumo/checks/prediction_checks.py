"""The checks of `build_kumo_prediction_checks`. Each is a class, with its name and its limits.

Most of them read the statistics beside the files. Two read rows: the check for repeated rows, and the count of
entities if an entity has several rows.
"""

# Definitions load this module: what needs pandas or pyarrow is imported when a check runs.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_kumo.checks.asset_check import ALLOWED, AssetCheck, Finding, NothingToCheck
from dagster_kumo.checks.stored_output import StoredOutput, StoredOutputs
from dagster_kumo.execution.metadata import finite
from dagster_kumo.execution.partitions.anchor_time import said_time
from dagster_kumo.predictions.columns import (
    ANCHOR_TIMESTAMP,
    CLASS,
    CLASS_COLUMNS,
    ENTITY,
    SCORE,
    SCORE_COLUMNS,
    TRUE_PROB,
)

if TYPE_CHECKING:
    from dagster_kumo.predictions.statistics.stored_statistics import StoredStatistics

IDENTIFYING = (ENTITY, ANCHOR_TIMESTAMP, CLASS)
"""No two rows have the same values in these columns, or in those of them that an output has."""
PROBABILITIES = (TRUE_PROB, "False_PROB", SCORE)


PredictionCheck = AssetCheck[StoredOutputs]


class EntitiesMatchSummary(PredictionCheck):
    name = "entities_match_summary"
    description = "The number of stored entities equals the job's."

    def run(self, outputs: StoredOutputs, partition_key: str | None) -> Finding:
        from dagster_kumo.predictions.statistics.distinct import distinct_rows

        output = outputs.output(partition_key)
        expected = output.manifest.num_entities
        if expected is None:
            raise NothingToCheck(
                "No prediction job made the stored data, so the number of entities to expect is not "
                "known.\nCheck what kumo.predict(context) makes, or leave out entities_match_summary."
            )
        found = output.manifest.num_rows
        # Usually an entity has one row. Rows are read only if it may have several.
        if found != expected or CLASS in output.rows.schema.names:
            found = distinct_rows(output.rows, [ENTITY]).distinct
        metadata = {"entities": found, "expected_entities": expected}
        if found == expected:
            return Finding(True, f"{found:,} entities, as the job says.", metadata)
        return Finding(
            False,
            f"Prediction job {output.manifest.job_id} says that it predicted for {expected:,} entities, "
            f"and {found:,} are stored.\nMaterialize again, which runs a new job. If the numbers differ "
            "again, look into the job: the materialization has its tracking_url.",
            metadata,
        )


class UniqueEntities(PredictionCheck):
    name = "unique_entities"
    description = "No two rows are for the same entity (and class), and every row has an entity."

    def run(self, outputs: StoredOutputs, partition_key: str | None) -> Finding:
        from dagster_kumo.predictions.statistics.distinct import distinct_rows

        rows = outputs.output(partition_key).rows
        columns = [name for name in IDENTIFYING if name in rows.schema.names]
        if ENTITY not in columns:
            raise NothingToCheck(f"There is no column {ENTITY}.\nLeave out unique_entities.")
        found = distinct_rows(rows, columns)
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
            f"Of {found.rows:,} rows {found.repeated:,} repeat the {', '.join(columns)} of another one, "
            f"and {found.nulls:,} have no {ENTITY}. A join with them would multiply or lose rows.\n"
            "Check that the entities are unique in the table that the model predicts for. To see the "
            f"rows that repeat: df[df.duplicated({columns})].",
            metadata,
        )


@dataclass(frozen=True)
class ScoresInRange(PredictionCheck):
    name = "scores_in_range"
    description = "All probabilities and scores lie within the limits."

    low: float
    high: float
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(
                f"scores_in_range is the least and the greatest value, not {(self.low, self.high)}."
            )

    def run(self, outputs: StoredOutputs, partition_key: str | None) -> Finding:
        output = outputs.output(partition_key)
        known = output.statistics.columns
        names = self.columns or [name for name in PROBABILITIES if name in known]
        slack = 1e-6 * (self.high - self.low)  # 32 bits may make a 1 slightly larger
        limits = f"{self.low:g} to {self.high:g}"
        metadata: dict[str, Any] = {ALLOWED: limits}
        if not names:
            return _no_columns(
                output, PROBABILITIES, "There are no probabilities or scores.", metadata
            )
        outside: list[str] = []
        for name, column in output.columns(names).items():
            if column.min is None or column.max is None:
                continue
            metadata |= {f"{name}/min": finite(column.min), f"{name}/max": finite(column.max)}
            if column.min < self.low - slack or column.max > self.high + slack:
                outside.append(f"{name} goes from {column.min:.6g} to {column.max:.6g}")
        if outside:
            return Finding(
                False,
                f"{', '.join(outside)}; allowed is {limits}.\nCheck that this is the right model. If such "
                "scores are right, widen scores_in_range.",
                metadata,
            )
        return Finding(
            True, f"{', '.join(names)} lie between {self.low:g} and {self.high:g}.", metadata
        )


@dataclass(frozen=True)
class NullFraction(PredictionCheck):
    name = "null_fraction"
    description = "The share of missing values in each column stays within max_null_fraction."

    limit: float
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= 1:
            raise ValueError(f"max_null_fraction is a share, 0 to 1, not {self.limit}.")

    def run(self, outputs: StoredOutputs, partition_key: str | None) -> Finding:
        output = outputs.output(partition_key)
        columns = output.columns(self.columns or list(output.statistics.columns))
        if not columns:
            raise NothingToCheck(
                "There are no statistics of any column.\nGive the KumoIOManager statistics_columns= that "
                "the output has, or leave out max_null_fraction."
            )
        shares = {name: column.null_fraction for name, column in columns.items()}
        worst = max(shares, key=lambda name: shares[name])
        metadata = {
            "null_fraction": shares[worst],
            "column": worst,
            ALLOWED: f"at most {self.limit:.2%} of each column",
        }
        too_many = {name: share for name, share in shares.items() if share > self.limit}
        if not too_many:
            said = (
                f"At most {shares[worst]:.2%} of a column is missing; allowed is {self.limit:.2%}."
            )
            if not shares[worst]:
                said = f"No value is missing in {len(shares)} columns."
            return Finding(True, said, metadata)
        missing = ", ".join(f"{share:.2%} of {name}" for name, share in too_many.items())
        return Finding(
            False,
            f"Missing values: {missing}; allowed is {self.limit:.2%}.\nLook in the prediction job for "
            "entities that it could not predict for. If missing values are expected, raise "
            "max_null_fraction.",
            metadata,
        )


@dataclass(frozen=True)
class Drift(PredictionCheck):
    name = "drift"
    description = "Score drift against the previous partition (PSI)."

    warn_from: float | None
    error_from: float | None
    columns: Sequence[str] | None = None
    reference: str | None = None

    def __post_init__(self) -> None:
        limits = {"max_psi_warn": self.warn_from, "max_psi_error": self.error_from}
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} is more than 0, not {limit}; None switches it off.")
        if None not in limits.values() and (self.warn_from or 0) > (self.error_from or 0):
            raise ValueError(
                f"A warning comes before an error: max_psi_warn={self.warn_from} is more than "
                f"max_psi_error={self.error_from}."
            )

    def run(self, outputs: StoredOutputs, partition_key: str | None) -> Finding:
        output = outputs.output(partition_key)
        if self.reference is not None:
            reference = outputs.output(self.reference)
        else:
            reference = outputs.output_before(partition_key)
        if reference is None:
            return Finding(True, "There is no earlier partition with statistics to compare with.")
        reference.columns(self._compared(output))
        found = self._compare(output, reference.statistics, str(reference.partition_key))
        before, now = (one.manifest.training_job_id for one in (reference, output))
        if self.reference is not None or None in (before, now) or before == now:
            return found
        # The scores of another model move, and nothing is wrong. Whether it is good enough, its gate has said.
        (said, *_) = found.said.splitlines()
        said = f"{said} {reference.partition_key} was predicted by another model, {before}, so the limit does not count."
        return Finding(True, said, found.metadata)

    def _compared(self, output: StoredOutput) -> Sequence[str]:
        """The columns to compare, all of which have statistics.

        Raises:
            NothingToCheck: One of them has none.
        """
        from dagster_kumo.predictions.statistics.drift import compared_columns

        return list(output.columns(self.columns or compared_columns(output.statistics)))

    def _compare(self, output: StoredOutput, before: StoredStatistics, reference: str) -> Finding:
        from dagster_kumo.predictions.statistics.drift import drift

        found = drift(before, output.statistics, self._compared(output))
        limits = {"a warning": self.warn_from, "an error": self.error_from}
        allowed = ", ".join(f"{what} from {limit:g} on" for what, limit in limits.items() if limit)
        metadata: dict[str, Any] = {"reference": reference, ALLOWED: allowed}
        if not found:
            scores = (*SCORE_COLUMNS, *CLASS_COLUMNS)
            return _no_columns(output, scores, "There are no scores or classes.", metadata)
        metadata |= {f"{name}/psi": float(f"{value:.4g}") for name, value in found.items()}
        most = max(found, key=lambda name: found[name])
        value = "< 0.001" if 0 < found[most] < 0.0005 else f"{found[most]:.3f}"
        said = f"PSI of {most} against {reference}: {value}"
        is_error = self.error_from is not None and found[most] >= self.error_from
        limit = self.error_from if is_error else self.warn_from
        if limit is None or found[most] < limit:
            return Finding(True, f"{said}.", metadata)
        return Finding(
            False,
            f"{said}; the limit is {limit:g}.\nCompare the distributions and the input tables of both. If "
            "the change is real, train the model again or raise the limit.",
            metadata,
            dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        )


@dataclass(frozen=True)
class HoldoutDrift(Drift):
    """Each output is compared with the holdout data of the model that made it, so a new model is no drift."""

    name = "holdout_drift"
    description = "Score drift against the holdout data of the model (PSI)."

    def run(self, outputs: StoredOutputs, partition_key: str | None) -> Finding:
        output = outputs.output(partition_key)
        model = output.manifest.training_job_id
        if model is None:
            return Finding(
                True, "No model made this output, so there is no holdout to compare with."
            )
        compared = self._compared(output)
        holdout = outputs.holdout(model, output.statistics)
        if not set(compared) & set(holdout.columns):
            found = ", ".join(holdout.columns) or "no file"
            return Finding(
                True,
                f"The holdout of {model} has no scores to compare {', '.join(compared) or 'this output'} "
                f"with (it has: {found}).",
                {"reference": f"holdout of {model}"},
            )
        return self._compare(output, holdout, f"holdout of {model}")


@dataclass(frozen=True)
class AnchorAge(PredictionCheck):
    name = "anchor_age"
    description = "The anchor time of the predictions is recent."

    limit: timedelta

    def __post_init__(self) -> None:
        if self.limit <= timedelta():
            raise ValueError(f"max_anchor_age is a span of time, not {self.limit}.")

    def partition_keys(self, data: StoredOutputs) -> Sequence[str | None]:
        return data.newest_partition_keys()

    def run(self, outputs: StoredOutputs, partition_key: str | None) -> Finding:
        latest = outputs.output(partition_key).latest_anchor
        if latest is None:
            raise NothingToCheck(
                "The anchor time is not known: neither the data nor the job states it.\n"
                "Leave out max_anchor_age."
            )
        age = datetime.now(timezone.utc) - latest
        metadata = {
            "anchor_time": dg.MetadataValue.timestamp(latest),
            "age_hours": round(age.total_seconds() / 3600, 2),
            ALLOWED: f"at most {_said(self.limit)}",
        }
        said = f"The predictions are for {said_time(latest)}, {_said(age)} ago"
        if age <= self.limit:
            return Finding(True, f"{said}; allowed is {_said(self.limit)}.", metadata)
        if outputs.is_backfill(partition_key):
            return Finding(True, f"{said}. This run makes a past partition.", metadata)
        return Finding(
            False,
            f"{said}; allowed is {_said(self.limit)}.\nMaterialize a newer partition. If its anchor time "
            "is no newer, check that Kumo's source tables are up to date.",
            metadata,
        )


def _no_columns(
    output: StoredOutput, names: Sequence[str], said: str, metadata: Mapping[str, Any]
) -> Finding:
    """A check passes if the output has none of the columns that it checks.

    Raises:
        NothingToCheck: The output has some of them, but no statistics of them.
    """
    output.columns([name for name in names if name in output.rows.schema.names])
    return Finding(True, f"{said} Name other columns by columns=.", metadata)


def _said(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours:.3g} hours" if abs(hours) < 48 else f"{hours / 24:.3g} days"
