"""How an output divides among its classes: their scores, and how many entities each is the best for.

An output with CLASS and SCORE has a row for each entity and class. Each class then has about as many rows
as any other, and the scores say which of them is likely.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dagster_kumo.predictions.columns import CLASS, ENTITY, SCORE
from dagster_kumo.predictions.statistics.arrays import as_numpy, plain

_NONE = ""  # of an entity without any score
MAX_CLASSES = 10_000  # that are counted; with more there are no shares


@dataclass
class _Best:
    """The best class so far of an entity whose rows may go on in other batches."""

    entity: Any
    rows: int
    score: float
    name: str

    def add(self, other: _Best) -> None:
        """Add rows that follow, of the same entity."""
        self.rows += other.rows
        if other.score > self.score:
            self.score, self.name = other.score, other.name


@dataclass
class ClassShares:
    """What is known of the classes, in one pass over rows in which those of an entity lie together."""

    rows: Counter[str] = field(default_factory=Counter[str])
    scores: defaultdict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    """The sum of each class's scores."""
    _best: Counter[str] = field(default_factory=Counter[str])
    _longest: int = 0
    _first: _Best | None = None
    _last: _Best | None = None
    """The first and the last entity. The others are in `_best`."""

    def update(self, batch: pa.RecordBatch) -> None:
        """Take in a batch of rows. A `ValueError` if there are too many classes."""
        if not batch.num_rows:
            return
        encoded: Any = plain(batch.column(CLASS)).dictionary_encode()
        names = [str(name) for name in encoded.dictionary.to_pylist()]
        # What has no class is a class of its own here, and left out below.
        of_row = _numbers(encoded.indices, missing=len(names), type_=pa.int64())
        score = _numbers(batch.column(SCORE), missing=np.nan, type_=pa.float64())
        known = np.isfinite(score) & (of_row < len(names))
        rows = np.bincount(of_row, minlength=len(names) + 1)
        sums = np.bincount(of_row, np.where(known, score, 0.0), minlength=len(names) + 1)
        for index, name in enumerate(names):
            self.rows[name] += int(rows[index])
            self.scores[name] += float(sums[index])
        self._check()
        if ENTITY in batch.schema.names:
            entity = plain(batch.column(ENTITY))
            self._find_best(entity, of_row, np.where(known, score, -np.inf), names)

    def merge(self, other: ClassShares) -> None:
        """Take in what another has seen, of the rows that follow. Raises as `update` does."""
        self.rows.update(other.rows)
        for name, score in other.scores.items():
            self.scores[name] += score
        self._best.update(other._best)
        self._longest = max(self._longest, other._longest)
        if other._first is not None:
            self._add_entity(replace(other._first))
        if other._last is not None:
            self._add_entity(replace(other._last), goes_on=False)
        self._check()

    @property
    def best(self) -> Counter[str]:
        """How many entities each class has the highest score of, if the rows of an entity lie together."""
        return self._best + Counter(entity.name for entity in self._open_entities())

    @property
    def longest(self) -> int:
        """The most rows of one entity."""
        return max([self._longest, *(entity.rows for entity in self._open_entities())])

    def best_of(self, entities: int | None) -> Counter[str] | None:
        """How many of the `entities` each class has the highest score of; None if their rows do not lie together."""
        found = self.best.total()
        lie_together = found == entities if entities is not None else self.longest > 1
        if not lie_together:
            return None
        return Counter({name: rows for name, rows in self.best.items() if name != _NONE})

    def mean_scores(self, entities: int | None) -> dict[str, float]:
        """The mean score of each class over all entities; 0 counts where an entity lacks the class."""
        count = entities
        if count is None:
            known = self.longest > 1
            count = self.best.total() if known else max(self.rows.values(), default=0)
        return {name: score / count for name, score in self.scores.items()} if count else {}

    def _find_best(
        self,
        entity: pa.Array[Any],
        of_row: np.ndarray[Any, np.dtype[np.int64]],
        score: np.ndarray[Any, np.dtype[np.float64]],
        names: list[str],
    ) -> None:
        changes: Any = pc.not_equal(entity.slice(1), entity.slice(0, len(entity) - 1))
        starts = np.flatnonzero(_numbers(changes, missing=1, type_=pa.int8())) + 1
        starts = np.concatenate([[0], starts])
        lengths = np.diff(np.append(starts, len(entity)))
        highest = np.maximum.reduceat(score, starts)
        is_highest = np.flatnonzero(score == np.repeat(highest, lengths))
        of_run = np.searchsorted(starts, is_highest, side="right") - 1
        place = is_highest[np.unique(of_run, return_index=True)[1]]  # the first, if several are
        labels = [*names, _NONE]
        best = np.where(np.isfinite(highest), of_row[place], len(names))

        def entity_at(run: int) -> _Best:
            row = int(starts[run])
            score, name = float(highest[run]), labels[best[run]]
            return _Best(entity[row].as_py(), int(lengths[run]), score, name)

        self._add_entity(entity_at(0))
        if len(starts) == 1:
            return
        counts = np.bincount(best[1:-1], minlength=len(labels))
        self._best.update({name: int(n) for name, n in zip(labels, counts, strict=True) if n})
        self._longest = max(self._longest, int(lengths[1:-1].max(initial=0)))
        self._add_entity(entity_at(-1), goes_on=False)

    def _open_entities(self) -> list[_Best]:
        return [entity for entity in (self._first, self._last) if entity is not None]

    def _add_entity(self, entity: _Best, *, goes_on: bool = True) -> None:
        """Add an entity; `goes_on` if its rows directly follow those of the last one, which it may be."""
        before = self._last or self._first
        if goes_on and before is not None and before.entity == entity.entity:
            before.add(entity)
        elif self._first is None:
            self._first = entity
        else:
            if self._last is not None:
                self._best[self._last.name] += 1
                self._longest = max(self._longest, self._last.rows)
            self._last = entity

    def _check(self) -> None:
        if len(self.rows) > MAX_CLASSES:
            raise ValueError(f"there are more than {MAX_CLASSES:,} classes")


def _numbers(column: pa.Array[Any], *, missing: float, type_: pa.DataType) -> np.ndarray[Any, Any]:
    column = column.cast(type_, safe=False)
    if column.null_count:
        column = column.fill_null(pa.scalar(missing, type_))
    return as_numpy(column)
