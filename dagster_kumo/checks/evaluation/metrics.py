"""The numbers of an evaluation, computed by DuckDB from the joined rows. scikit-learn gives the same.

Rows with equal scores have no order among themselves: where the top of a ranking ends between them, each counts in part.
So a number never depends on the order of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from dagster_kumo.checks.evaluation.database import value_of
from dagster_kumo.checks.evaluation.joined_rows import (
    TARGET,
    TARGET_PRED,
    TRUE_PROB,
    JoinedRows,
)
from dagster_kumo.checks.evaluation.metric_names import CALIBRATION_ERROR
from dagster_kumo.predictions.columns import CLASS, ENTITY, SCORE

if TYPE_CHECKING:
    import duckdb

GROUPS = 10
TOPS = (1, 5, 10)
"""Lift and recall are computed for the top so many percent."""
AT_K = (1, 10, 100)
"""Kumo's own cut-offs of rankings."""
_AUROC = """sum((size - total) * (2 * total_above - total)::HUGEINT)::DOUBLE
    / nullif(2.0 * sum(total) * sum(size - total), 0)"""
"""Of rows with the columns of the table `ranked`."""
_EPSILON = math.ulp(1.0)
"""scikit-learn takes a probability to be at least this far from 0 and 1: the logarithm of 0 is infinite."""


@dataclass(frozen=True)
class Group:
    """A tenth of the rows, by their predictions, the highest first.

    Attributes:
        rows: How many.
        predicted: The mean of what was predicted.
        actual: The mean of what happened; of a yes or no question, the share of yes.
        total: The sum of what happened; of a yes or no question, how many yes.
    """

    rows: int
    predicted: float
    actual: float
    total: float


@dataclass(frozen=True)
class Numbers:
    """The metrics by their names, those that are defined, and the ten groups."""

    metrics: Mapping[str, float]
    groups: Sequence[Group] = field(default_factory=list[Group])


def compute(rows: JoinedRows) -> Numbers:
    """Compute the numbers of the joined rows."""
    by_task = {"binary": _binary, "amount": _amount, "classes": _classes, "ranking": _ranking}
    return by_task[rows.task](rows.database)


# Yes or no


def _binary(connection: duckdb.DuckDBPyConnection) -> Numbers:
    _rank(connection, TRUE_PROB, f"count(*) FILTER ({TARGET})")
    count, yes = _totals(connection)
    metrics = _row(
        connection,
        f"""SELECT
            {_AUROC} AS auroc,
            fsum(total * (total_above / size_above)) / nullif({yes}, 0) AS auprc,
            -fsum(total * ln({_clipped("score")}) + (size - total) * ln({_clipped("1 - score")})) / {count}
                AS log_loss,
            fsum(total * (1 - score) ^ 2 + (size - total) * score ^ 2) / {count} AS brier,
            {yes} / {count} AS base_rate,
            fsum(size * score) / {count} AS predicted_rate
        FROM ranked""",
    )
    if _has_column(connection, TARGET_PRED):
        metrics |= _row(
            connection,
            f"""SELECT
                count(*) FILTER ({TARGET} AND {TARGET_PRED}) / nullif(count(*) FILTER ({TARGET_PRED}), 0) AS precision,
                count(*) FILTER ({TARGET} AND {TARGET_PRED}) / nullif({yes}, 0) AS recall
            FROM joined""",
        )
    groups = _groups(connection, count)
    metrics[CALIBRATION_ERROR] = (
        sum(group.rows * abs(group.predicted - group.actual) for group in groups) / count
    )
    for percent in TOPS if yes else ():
        size = -(-count * percent // 100)
        (top,) = _slices(connection, [(0, size)])
        metrics[f"lift_at_{percent}"] = (top.total / size) / (yes / count)
        metrics[f"recall_at_{percent}"] = top.total / yes
    return Numbers(metrics, groups)


def _clipped(probability: str) -> str:
    return f"greatest(least({probability}, {1 - _EPSILON!r}), {_EPSILON!r})"


# Amounts


def _amount(connection: duckdb.DuckDBPyConnection) -> Numbers:
    predicted = f"{TARGET_PRED}::DOUBLE"
    metrics = _row(
        connection,
        f"""SELECT
            favg(abs({predicted} - {TARGET})) AS mae,
            sqrt(favg(({predicted} - {TARGET}) ^ 2)) AS rmse,
            favg({predicted} - {TARGET}) AS bias,
            1 - fsum(({predicted} - {TARGET}) ^ 2)
                / nullif(fsum(({TARGET} - (SELECT favg({TARGET}) FROM joined)) ^ 2), 0) AS r2,
            fsum({predicted}) / nullif(fsum({TARGET}), 0) AS share_of_total
        FROM joined""",
    )
    _rank(connection, predicted, f"fsum({TARGET})")
    count, _ = _totals(connection)
    return Numbers(metrics, _groups(connection, count))


# Classes


def _classes(connection: duckdb.DuckDBPyConnection) -> Numbers:
    metrics = _row(
        connection,
        f"""WITH entities AS (
            SELECT
                any_value({TARGET_PRED} = {TARGET}) AS is_right,
                max({SCORE}::DOUBLE) FILTER ({CLASS}::VARCHAR = {TARGET}) AS score
            FROM joined GROUP BY {ENTITY}
        )
        SELECT
            count(*) FILTER (is_right) / count(*) AS accuracy,
            CASE WHEN count(score) = count(*) THEN -favg(ln({_clipped("score")})) END AS log_loss
        FROM entities""",
    )
    # An entity has no row for a class that was not among its likeliest: its score lies below all others.
    metrics |= _row(
        connection,
        f"""WITH entities AS (SELECT DISTINCT {ENTITY}, {TARGET} FROM joined),
        happened AS (SELECT {TARGET} AS class, count(*) AS yes FROM entities GROUP BY ALL),
        scores AS (
            SELECT {CLASS}::VARCHAR AS class, {SCORE}::DOUBLE AS score, count(*) AS size,
                count(*) FILTER ({CLASS}::VARCHAR = {TARGET}) AS total
            FROM joined GROUP BY ALL
        ),
        filled AS (
            FROM scores UNION ALL
            SELECT class, '-inf'::DOUBLE, (SELECT count(*) FROM entities) - sum(size), any_value(yes) - sum(total)
            FROM scores JOIN happened USING (class) GROUP BY class
        ),
        ranked AS (
            SELECT class, size, total, sum(total) OVER (PARTITION BY class ORDER BY score DESC) AS total_above
            FROM filled
        ),
        by_class AS (
            SELECT {_AUROC} AS auroc FROM ranked JOIN happened USING (class) GROUP BY class
        )
        SELECT avg(auroc) AS macro_auroc FROM by_class""",
    )
    return Numbers(metrics)


# Rankings


def _ranking(connection: duckdb.DuckDBPyConnection) -> Numbers:
    connection.execute(
        f"""CREATE TABLE hits AS
        SELECT {ENTITY}, {TARGET} AS is_hit,
            row_number() OVER (PARTITION BY {ENTITY} ORDER BY {SCORE} DESC, {CLASS}) AS place
        FROM joined"""
    )
    longest = value_of(connection, "SELECT max(place) FROM hits")
    metrics: dict[str, float] = {}
    for k in [*(k for k in AT_K if k < longest), longest]:
        found = _row(
            connection,
            f"""WITH top AS (
                SELECT *, sum(is_hit::INTEGER) OVER (PARTITION BY {ENTITY} ORDER BY place) AS hits_above
                FROM hits WHERE place <= {k}
            ),
            gains AS (SELECT i AS best, sum(1 / log2(i + 1)) OVER (ORDER BY i) AS ideal FROM range(1, {k + 1}) t(i)),
            entities AS (
                SELECT count(*) FILTER (is_hit) / any_value(items) AS recall,
                    coalesce(sum(hits_above / place) FILTER (is_hit), 0) / least(any_value(items), {k}) AS map,
                    coalesce(sum(1 / log2(place + 1)) FILTER (is_hit), 0) AS gain,
                    least(any_value(items), {k}) AS best
                FROM top JOIN relevant USING ({ENTITY}) GROUP BY {ENTITY}
            )
            SELECT favg(recall) AS recall, favg(map) AS map, favg(gain / ideal) AS ndcg
            FROM entities JOIN gains USING (best)""",
        )
        metrics |= {f"{name}_at_{k}": value for name, value in found.items()}
        if k == longest:
            metrics |= {f"{name}_at_k": value for name, value in found.items()} | {"k": k}
    return Numbers(metrics)


# What several of them use


def _rank(connection: duckdb.DuckDBPyConnection, score: str, total: str) -> None:
    """Make the table `ranked`: for each score its rows and the sum of their outcomes, and both from the top on."""
    connection.execute(
        f"""CREATE TABLE ranked AS
        WITH scores AS (SELECT {score}::DOUBLE AS score, count(*) AS size, {total} AS total FROM joined GROUP BY ALL)
        SELECT *, (sum(size) OVER top)::BIGINT AS size_above, sum(total) OVER top AS total_above
        FROM scores WINDOW top AS (ORDER BY score DESC)"""
    )


def _totals(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    ((count, total),) = connection.execute(
        "SELECT sum(size)::BIGINT, sum(total) FROM ranked"
    ).fetchall()
    return count, total


def _groups(connection: duckdb.DuckDBPyConnection, count: int) -> list[Group]:
    edges = [-(-count * place // GROUPS) for place in range(GROUPS + 1)]
    slices = [(start, end) for start, end in pairwise(edges) if end > start]
    return _slices(connection, slices)


def _slices(
    connection: duckdb.DuckDBPyConnection, slices: Sequence[tuple[int, int]]
) -> list[Group]:
    """The rows between two places of the ranking, for each pair of places."""
    values = ", ".join(f"({start}, {end})" for start, end in slices)
    rows = connection.execute(
        f"""WITH slices(first, last) AS (VALUES {values}),
        parts AS (
            SELECT first, score, size, total, least(size_above, last) - greatest(size_above - size, first) AS part
            FROM ranked JOIN slices ON size_above > first AND size_above - size < last
        )
        SELECT sum(part)::BIGINT, fsum(part * score) / sum(part), fsum(part * total / size)
        FROM parts GROUP BY first ORDER BY first"""
    ).fetchall()
    return [Group(rows, predicted, total / rows, total) for rows, predicted, total in rows]


def _row(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, float]:
    """The one row of a query, without what is not defined."""
    result = connection.execute(query)
    names = [column[0] for column in result.description or ()]
    (values,) = result.fetchall()
    return {
        name: float(value)
        for name, value in zip(names, values, strict=True)
        if value is not None and math.isfinite(value)
    }


def _has_column(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    return name in [row[0] for row in connection.execute("DESCRIBE joined").fetchall()]
