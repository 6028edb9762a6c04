"""Predictions beside outcomes: validated and joined in a database."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.checks.evaluation.database import (
    as_time,
    database,
    family,
    is_number,
    literal,
    quoted,
    read_table,
    value_of,
)
from dagster_kumo.predictions.columns import (
    ANCHOR_TIMESTAMP,
    CLASS,
    ENTITY,
    SCORE,
    TARGET_PRED,
    TRUE_PROB,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

Task = Literal["binary", "amount", "classes", "ranking"]

TARGET = "TARGET"
TIME_COLUMNS = (ANCHOR_TIMESTAMP, "TIMESTAMP")
"""What tells the windows of a forecast apart."""
BATCH_ROWS = 131_072
SHOWN = 5


@dataclass(frozen=True)
class Outcomes:
    """What happened: the value of an asset, and the names of its columns."""

    value: Any
    name: str
    """The asset, in messages."""
    entity: str = ENTITY
    target: str = TARGET
    missing: bool | float | None = None
    """What happened to an entity that is not there; None leaves it out."""


@dataclass(frozen=True)
class Counts:
    """How many predicted entities there are, and how many of them have an outcome."""

    predicted: int
    joined: int
    """Those that are evaluated: with `missing_outcome`, all."""
    known: int
    """Those that have an outcome."""
    without_prediction: int
    """Outcomes of entities that were not predicted for."""

    @property
    def coverage(self) -> float:
        """The share of the predicted entities that have an outcome."""
        return self.known / self.predicted if self.predicted else 0.0

    def in_words(self) -> str:
        """The counts as sentences.

        >>> Counts(predicted=2000, joined=1998, known=1998, without_prediction=3).in_words()
        'Entities with an outcome: 1,998 of 2,000. Outcomes without a prediction: 3.'
        """
        filled = self.joined - self.known
        counted = f", {filled:,} more counted as missing_outcome" if filled else ""
        return (
            f"Entities with an outcome: {self.known:,} of {self.predicted:,}{counted}. "
            f"Outcomes without a prediction: {self.without_prediction:,}."
        )


@dataclass(frozen=True)
class JoinedRows:
    """The joined rows: the table `joined` of a database, which lives as long as the context manager."""

    database: duckdb.DuckDBPyConnection
    task: Task
    counts: Counts
    is_forecast: bool
    """Whether an entity has a row for each of several windows."""

    def anchor(self) -> datetime | None:
        """The anchor time in the rows, from which the window counts; None if they state none.

        It is the latest one. Of a forecast it is the earliest: there each of its windows may state a time.
        """
        which = "min" if self.is_forecast else "max"
        latest: datetime | None = value_of(
            self.database, f"SELECT {which}({ANCHOR_TIMESTAMP}) FROM joined"
        )
        return None if latest is None else latest.replace(tzinfo=timezone.utc)

    def to_reader(self, prediction_id: str | None, model_id: str | None) -> pa.RecordBatchReader:
        """The rows with the job, the model and the time of the evaluation beside them."""
        time = datetime.now(timezone.utc).replace(tzinfo=None)
        rows = self.database.sql(
            "SELECT *, ?::TIMESTAMP AS EVALUATED_AT, ?::VARCHAR AS PREDICTION_ID, ?::VARCHAR AS MODEL_ID "
            "FROM joined",
            params=[time, prediction_id, model_id],
        )
        return rows.to_arrow_reader(BATCH_ROWS)


@contextmanager
def join(
    predictions: Any, outcomes: Outcomes, *, anchor: datetime | None, name: str
) -> Generator[JoinedRows, None, None]:
    """Join predictions, the value of an asset, and outcomes by their entities.

    The `anchor` is that of predictions that do not state it themselves. Messages call the predictions `name`.

    Raises:
        KumoDataError: One of them is not what can be evaluated. Says which, and what to do.
        KumoError: DuckDB is not installed.
    """
    with database() as connection:
        read_table(connection, "predictions", predictions, name)
        read_table(connection, "outcomes", outcomes.value, outcomes.name)
        tables = _Tables(connection, outcomes, name)
        task = tables.check()
        counts = tables.join(task, anchor)
        yield JoinedRows(connection, task, counts, is_forecast=bool(tables.time_keys))


class _Tables:
    """The tables `predictions` and `outcomes`: validates them, and joins them."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, outcomes: Outcomes, name: str
    ) -> None:
        self._connection = connection
        self._given = outcomes
        self._name = name
        self._predicted = self._types("predictions")
        self._outcomes = self._types("outcomes")

    def check(self) -> Task:
        """Validate both, and find out what was predicted.

        Raises:
            KumoDataError: One of them cannot be evaluated.
        """
        given = self._given
        if ENTITY not in self._predicted:
            raise KumoDataError(
                f"{self._name} has no column {ENTITY}, only {', '.join(self._predicted)}.\n"
                "Evaluate the predictions of a Kumo job."
            )
        missing = [name for name in (given.entity, given.target) if name not in self._outcomes]
        if missing:
            raise KumoDataError(
                f"{given.name} has no column {' and no column '.join(missing)}, only "
                f"{', '.join(self._outcomes)}.\nName its columns by entity= and target=."
            )
        if not self._count("outcomes"):
            raise KumoDataError(
                f"{given.name} has no rows, so it is not known what happened.\n"
                "Materialize it again once the outcomes are there."
            )
        self._check_entities()
        task = self._task()
        self._check_target(task)
        return task

    def _types(self, table: str) -> dict[str, str]:
        rows = self._connection.execute(f"DESCRIBE {table}").fetchall()
        return {name: kind for name, kind, *_ in rows}

    def _count(self, table: str, where: str = "true") -> int:
        return self._value(f"SELECT count(*) FROM {table} WHERE {where}")

    def _value(self, query: str) -> Any:
        return value_of(self._connection, query)

    # Entities

    def _check_entities(self) -> None:
        given = self._given
        for name, table, entity in self._sides():
            nulls = self._count(table, f"{quoted(entity)} IS NULL")
            if nulls:
                raise KumoDataError(
                    f"{nulls:,} rows of {name} have no {entity}, so they belong to nobody.\n"
                    "Leave such rows out."
                )
        theirs, ours = self._outcomes[given.entity], self._predicted[ENTITY]
        if family(theirs) != family(ours):
            raise KumoDataError(
                f"{given.entity} is {theirs} in {given.name}, and {ENTITY} is {ours} in {self._name}, so no "
                f"row would match.\nMake the outcomes' {given.entity} {ours}."
            )
        for name, table, entity in self._sides():
            columns = [entity, *self._other_keys(table)]
            named = ", ".join(map(quoted, columns))
            repeated = self._connection.execute(
                f"SELECT any_value({quoted(entity)})::VARCHAR, count(*) OVER () FROM {table} "
                f"GROUP BY {named} HAVING count(*) > 1 ORDER BY 1 LIMIT {SHOWN}"
            ).fetchall()
            if repeated:
                count = repeated[0][1]
                said = ", ".join(row[0] for row in repeated) + (", ..." if count > SHOWN else "")
                raise KumoDataError(
                    f"{name} has several rows for {count:,} of its {' and '.join(columns)}: {said}.\n"
                    + self._instead_of_several(table)
                )

    def _sides(self) -> Sequence[tuple[str, str, str]]:
        given = self._given
        return (self._name, "predictions", ENTITY), (given.name, "outcomes", given.entity)

    def _other_keys(self, table: str) -> list[str]:
        """What tells the rows of an entity apart."""
        classes = [CLASS] if table == "predictions" and CLASS in self._predicted else []
        return [*classes, *self.time_keys]

    @cached_property
    def time_keys(self) -> list[str]:
        """The column that tells the windows of a forecast apart; empty where an entity has one."""
        if CLASS in self._predicted:
            return []
        for column in TIME_COLUMNS:
            if column in self._predicted and column in self._outcomes:
                several = self._value(
                    f"SELECT count(DISTINCT {column}) > 1 FROM predictions WHERE {column} IS NOT NULL"
                )
                if several:
                    return [column]
        return []

    def _instead_of_several(self, table: str) -> str:
        if table == "predictions":
            return (
                f"The windows of a forecast differ by {' or '.join(TIME_COLUMNS)}: give the outcomes "
                "that column too. Otherwise look into the prediction table of the job."
            )
        if CLASS in self._predicted:
            return (
                "An entity has one row: the class that came true, or for a ranking the list of its items, as "
                "list(item) ... GROUP BY entity makes it."
            )
        return "An entity has one outcome: sum its events up first, by GROUP BY."

    # Targets

    def _task(self) -> Task:
        predicted, target = self._predicted, self._outcomes[self._given.target]
        if CLASS in predicted and SCORE in predicted:
            return "ranking" if target.endswith("[]") else "classes"
        if TRUE_PROB in predicted:
            return "binary"
        if TARGET_PRED in predicted and is_number(predicted[TARGET_PRED]):
            return "amount"
        raise KumoDataError(
            f"{self._name} has nothing to evaluate: neither {TRUE_PROB}, nor {CLASS} and {SCORE}, nor amounts "
            f"in {TARGET_PRED}. It has {', '.join(predicted)}."
        )

    def _check_target(self, task: Task) -> None:
        given = self._given
        column, kind = quoted(given.target), self._outcomes[given.target]
        nulls = self._count("outcomes", f"{column} IS NULL")
        if nulls:
            raise KumoDataError(
                f"{nulls:,} rows of {given.name} have no {given.target}.\nLeave out the entities whose outcome "
                "is not known: they lower the coverage. If nothing happened, say so by 0 or False."
            )
        score = {"binary": TRUE_PROB, "amount": TARGET_PRED}.get(task, SCORE)
        unusable = self._count("predictions", f"{score} IS NULL OR isnan({score}::DOUBLE)")
        if unusable:
            raise KumoDataError(
                f"{unusable:,} rows of {self._name} have no {score}, so they say nothing.\n"
                "Look in the prediction job for entities that it could not predict for."
            )
        if task == "binary":
            self._check_yes_or_no(column, kind)
        if task == "amount" and not is_number(kind):
            raise KumoDataError(
                f"{given.target} of {given.name} is {kind}, and an amount was predicted.\nGive a number."
            )

    def _check_yes_or_no(self, column: str, kind: str) -> None:
        given = self._given
        if kind == "BOOLEAN":
            return
        other = not is_number(kind) or self._count("outcomes", f"{column} NOT IN (0, 1)")
        if other:
            raise KumoDataError(
                f"{given.target} of {given.name} is {kind} with other values than 0 and 1, and the question "
                "is yes or no.\nMake it True or False."
            )

    # The join

    def join(self, task: Task, anchor: datetime | None) -> Counts:
        """Make the table `joined`.

        Raises:
            KumoDataError: No entity of the one is in the other.
        """
        given = self._given
        on = [f"o.{quoted(given.entity)} = p.{ENTITY}"]
        on += [
            f"{as_time(f'o.{key}', self._outcomes[key])} = {as_time(f'p.{key}', self._predicted[key])}"
            for key in self.time_keys
        ]
        matching = " AND ".join(on)
        columns = [name for name in self._predicted if name not in (ENTITY, ANCHOR_TIMESTAMP)]
        selected = [f"p.{ENTITY}", self._anchor(anchor), f"{self._target(task)} AS {TARGET}"]
        if task == "classes":
            best = f"first({CLASS} ORDER BY {SCORE} DESC, {CLASS})"
            self._connection.execute(
                f"CREATE TABLE best AS SELECT {ENTITY}, {best}::VARCHAR AS {TARGET_PRED} FROM predictions GROUP BY {ENTITY}"
            )
            selected.append(f"b.{TARGET_PRED}")
            columns = [name for name in columns if name != TARGET_PRED]
        selected += [f"p.{quoted(name)}" for name in columns if name != TARGET]
        self._connection.execute(
            f"CREATE TABLE joined AS SELECT {', '.join(selected)} FROM predictions p "
            + (f"JOIN best b ON b.{ENTITY} = p.{ENTITY} " if task == "classes" else "")
            + ("LEFT " if given.missing is not None else "")
            + f"JOIN outcomes o ON {matching}"
        )
        if task == "ranking":
            # Of these entities a recall is defined.
            self._connection.execute(
                f"CREATE TABLE relevant AS SELECT {quoted(given.entity)} AS {ENTITY}, "
                f"len(list_distinct({quoted(given.target)})) AS items FROM outcomes WHERE items > 0"
            )
        rows = f"DISTINCT {ENTITY}" if CLASS in self._predicted else "*"
        predicted = self._value(f"SELECT count({rows}) FROM predictions")
        joined = self._value(f"SELECT count({rows}) FROM joined")
        known = self._value(
            f"SELECT count({rows}) FROM predictions p SEMI JOIN outcomes o ON {matching}"
        )
        if not known:
            raise KumoDataError(
                f"None of the {predicted:,} entities of {self._name} is in {given.name}.\nCheck that both "
                f"are about the same entities and the same partition: {self._examples()}."
            )
        if task == "classes" and not self._count("joined", f"{CLASS}::VARCHAR = {TARGET}"):
            raise KumoDataError(
                f"No {given.target} of {given.name} is a class that was predicted.\nWrite classes as in the "
                f"column {CLASS}: {self._examples(CLASS, given.target)}."
            )
        return Counts(predicted, joined, known, self._count("outcomes") - known)

    def _examples(self, ours: str = ENTITY, theirs: str | None = None) -> str:
        said: list[str] = []
        for name, table, entity in self._sides():
            column = ours if table == "predictions" else theirs or entity
            rows = self._connection.execute(
                f"SELECT {quoted(column)}::VARCHAR FROM {table} LIMIT 2"
            ).fetchall()
            said.append(f"{name} has {', '.join(row[0] for row in rows) or 'none'}")
        return "; ".join(said)

    def _anchor(self, anchor: datetime | None) -> str:
        if ANCHOR_TIMESTAMP in self._predicted:
            time = as_time(f"p.{ANCHOR_TIMESTAMP}", self._predicted[ANCHOR_TIMESTAMP])
        elif anchor is not None:
            time = f"make_timestamp({round(anchor.timestamp() * 1_000_000)})"
        else:
            time = "NULL::TIMESTAMP"
        return f"{time} AS {ANCHOR_TIMESTAMP}"

    def _target(self, task: Task) -> str:
        target = f"o.{quoted(self._given.target)}"
        if task == "ranking":
            items = f"list_transform({target}, lambda item: item::VARCHAR)"
            return f"coalesce(list_contains({items}, p.{CLASS}::VARCHAR), false)"
        kind = {"binary": "BOOLEAN", "amount": "DOUBLE"}.get(task, "VARCHAR")
        if self._given.missing is None:
            return f"{target}::{kind}"
        return f"coalesce({target}::{kind}, {literal(self._given.missing)}::{kind})"
