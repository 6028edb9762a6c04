"""The distribution of a column: how many rows are below a value, in bounded memory, mergeable between files.

Values are counted in bins whose edges are the same in every output: a bin holds the floating point numbers
that agree in their leading bits. So the counts are exact, whatever is merged with what and in which order.
How fine the bins are depends on the data: where many rows are, they are narrow, and a value that many rows
have gets a bin of its own.

Compressing a batch is what takes the time. Arrow's t-digest takes 55 ns a value and sorting as much or
more; counting by leading bits takes less than ten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_BINS = 32_768
COMPACT_BINS = 8_192
SORTED_ROWS = 16_384  # of a batch: so few are sorted
CROWDED = 1 / 1_000  # of a batch's rows: a bin with more is divided
_CELL_BITS = 48  # below the sign, the exponent and four bits of the mantissa
_FINE_ENOUGH = 42  # bits below which a bin is at most a thousandth of its value wide
_ALL_BUT_SIGN = np.int64(0x7FFF_FFFF_FFFF_FFFF)

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
Prefix = Callable[[IntArray], IntArray]


@dataclass(frozen=True)
class Bins:
    """Rows counted by the leading bits of their values.

    The key of a number is its 64 bits as an integer; of a negative number, all bits but the sign are
    inverted. So keys are in the order of the numbers.

    Attributes:
        keys: The least key of each bin, in ascending order.
        shifts: How many of its lowest bits a bin passes over; with 0 it holds one value.
        rows: How many rows are in the bin, which may have some narrower bins inside.
    """

    keys: IntArray
    shifts: IntArray
    rows: IntArray

    @classmethod
    def from_values(cls, values: FloatArray) -> Bins:
        """Count numbers without NaN and infinities."""
        if len(values) <= SORTED_ROWS:
            keys, rows = np.unique(keys_of(values), return_counts=True)
            return cls(keys, np.zeros_like(keys), rows)
        low, high = keys_of(np.array([values.min(), values.max()])).tolist()
        keys = values.view(np.int64) if low > 0 else keys_of(values)
        shift = max(0, (high - low).bit_length() - (MAX_BINS.bit_length() - 1))
        if shift <= _FINE_ENOUGH:
            first = low >> shift
            index = keys >> shift
            index -= first
            return _counted(keys, index, shift, lambda index: index + first)
        # Zero and one, for example, are so far apart that only what is between them gets bins.
        cells = keys >> _CELL_BITS
        first = int(cells.min())
        cells -= first
        there = np.flatnonzero(np.bincount(cells))
        place = np.zeros(there[-1] + 1, np.int64)
        place[there] = np.arange(len(there))
        return _divided(keys, place[cells], there + first, _CELL_BITS)

    @classmethod
    def from_counts(cls, values: Sequence[float], rows: Sequence[int]) -> Bins:
        """Different values in ascending order, and how many rows have each."""
        keys = keys_of(np.array(values, np.float64))
        return cls(keys, np.zeros_like(keys), np.array(rows))

    @classmethod
    def merge(cls, parts: Sequence[Bins]) -> Bins:
        """The rows of several."""
        keys = np.concatenate([part.keys for part in parts])
        shifts = np.concatenate([part.shifts for part in parts])
        rows = np.concatenate([part.rows for part in parts])
        order = np.lexsort((shifts, keys))
        keys, shifts, rows = keys[order], shifts[order], rows[order]
        first = _firsts(keys, shifts)
        rows = np.add.reduceat(rows, first) if len(first) else rows
        return cls(keys[first], shifts[first], rows)

    def limited(self, bins: int) -> Bins:
        """The same in at most so many bins. Half of them are equally wide, the others where rows are many."""
        if len(self.keys) <= bins:
            return self
        widest = int(self.shifts.max())
        while np.count_nonzero(np.diff(self.keys >> widest)) >= bins // 2:
            widest += 1
        least = self.rows.sum() / (bins // 2)
        narrowest = int(self.shifts.min())
        done, up = list[Bins](), self.of_shift(narrowest)
        divided = up.keys[:0]  # what has narrower bins inside must not become one bin
        for shift in range(narrowest, widest):
            divided >>= 1
            parents = up.keys >> (shift + 1)
            first = _firsts(parents)
            rows = np.add.reduceat(up.rows, first) if len(first) else up.rows
            stays = (rows >= least) | np.isin(parents[first], divided)
            divided = np.union1d(divided, parents[first][stays])
            stay = np.repeat(stays, np.diff(np.append(first, len(parents))))
            done.append(up._where(stay))
            keys = parents[first][~stays] << (shift + 1)
            wider = Bins(keys, np.full_like(keys, shift + 1), rows[~stays])
            up = Bins.merge([wider, self.of_shift(shift + 1)])
        return Bins.merge([*done, up, self._where(self.shifts > widest)])

    def of_shift(self, shift: int) -> Bins:
        """The bins of one width."""
        return self._where(self.shifts == shift)

    def _where(self, chosen: BoolArray) -> Bins:
        return Bins(self.keys[chosen], self.shifts[chosen], self.rows[chosen])

    def at(self, shares: FloatArray) -> tuple[IntArray, FloatArray]:
        """The bins in which these shares of the rows are reached, and how far inside, 0 to 1."""
        below = np.cumsum(self.rows)
        wanted = shares * below[-1]
        at = np.searchsorted(below, wanted)
        return at, 1 - (below[at] - wanted) / self.rows[at]

    def below(self, edges: IntArray) -> FloatArray:
        """How many rows have a lower key. Within a bin they are taken to be spread evenly."""
        widths = np.int64(1) << self.shifts
        inside = np.clip(edges[:, None], self.keys, self.keys + widths) - self.keys
        return (inside / widths * self.rows).sum(axis=1)


@dataclass
class Distribution:
    """The distribution of a numeric column."""

    _parts: list[Bins] = field(default_factory=list[Bins])

    def add(self, values: FloatArray) -> None:
        """Add numbers without NaN and infinities."""
        if len(values):
            self._append(Bins.from_values(values))

    def merge(self, other: Distribution) -> None:
        """Add the values of another sketch."""
        for part in other._parts:
            self._append(part)

    def compact(self) -> None:
        """Take less memory, once all of a file has been added."""
        if self._parts:
            self._parts = [self.bins().limited(COMPACT_BINS)]

    def bins(self) -> Bins:
        """All rows."""
        if len(self._parts) > 1:
            self._parts = [Bins.merge(self._parts)]
        return self._parts[0]

    def quantiles(self, probabilities: Iterable[float]) -> list[float]:
        """The values at `probabilities`, within the width of a bin."""
        bins = self.bins()
        at, _ = bins.at(np.array(list(probabilities)))
        last = (np.int64(1) << bins.shifts[at]) - 1
        return values_of(bins.keys[at] + last // 2).tolist()

    def below(self, edges: FloatArray) -> FloatArray:
        """How many rows are below each edge."""
        return self.bins().below(keys_of(edges))

    def _append(self, part: Bins) -> None:
        self._parts.append(part)
        if sum(len(part.keys) for part in self._parts) > 2 * MAX_BINS:
            self._parts = [self.bins().limited(MAX_BINS)]


def keys_of(values: FloatArray) -> IntArray:
    """The keys of numbers."""
    bits = (values + 0.0).view(np.int64)  # 0.0 instead of -0.0, which has other bits
    return np.where(bits < 0, bits ^ _ALL_BUT_SIGN, bits) if bits.min() < 0 else bits


def values_of(keys: IntArray) -> FloatArray:
    """The numbers that have these keys."""
    return np.where(keys < 0, keys ^ _ALL_BUT_SIGN, keys).view(np.float64)


def _firsts(*columns: IntArray) -> IntArray:
    """Where something new begins in columns that are in order."""
    changes = [column[1:] != column[:-1] for column in columns]
    return np.flatnonzero(np.append(len(columns[0]) > 0, np.any(changes, axis=0)))


def _counted(keys: IntArray, index: IntArray, shift: int, prefix_of: Prefix) -> Bins:
    """Count rows by an index of the bins; if there are too many in one, divide it."""
    counts = np.bincount(index)
    is_crowded = (counts > len(index) * CROWDED) if shift else np.zeros(len(counts), bool)
    there = np.flatnonzero((counts > 0) & ~is_crowded)
    found = Bins(prefix_of(there) << shift, np.full_like(there, shift), counts[there])
    if not is_crowded.any():
        return found
    crowded = np.flatnonzero(is_crowded)
    inside = is_crowded[index]
    place = (np.cumsum(is_crowded) - 1)[index[inside]]
    return Bins.merge([found, _divided(keys[inside], place, prefix_of(crowded), shift)])


def _divided(keys: IntArray, cell: IntArray, prefixes: IntArray, shift: int) -> Bins:
    """Count rows in parts of the bins that they lie in: `cell` is their place among the `prefixes`."""
    bits = min(shift, max(1, (MAX_BINS // len(prefixes)).bit_length() - 1))
    mask = (1 << bits) - 1
    index = (cell << bits) | ((keys >> (shift - bits)) & mask)
    return _counted(
        keys, index, shift - bits, lambda place: (prefixes[place >> bits] << bits) | (place & mask)
    )
