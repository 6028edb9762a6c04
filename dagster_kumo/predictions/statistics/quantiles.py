"""A sketch of a column's distribution: quantiles in bounded memory, mergeable between files.

Each batch is compressed to about a thousand of its values, each standing for a number of rows. The
compressed batches are merged, and compressed again when there are many.

Compressing is what takes the time. Arrow's t-digest takes 55 ns a value and sorting as much; a histogram
takes 4 ns, and only where many values fall into one bin are they sorted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BINS = 8_192
MAX_SHARE = 1 / 400  # of the values that one bin may stand for
MAX_SAMPLES = 32  # that are kept apart
# Closer together at both ends, where a picture would otherwise lose the last few rows.
_TAIL = np.array([0.00001, 0.0001, 0.0003])
GRID = np.unique(np.concatenate([np.linspace(0.0, 1.0, 1001), _TAIL, 1.0 - _TAIL]))

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class WeightedSample:
    """Values in ascending order, each with the number of rows that it stands for."""

    values: FloatArray
    rows: IntArray

    @classmethod
    def from_values(cls, values: FloatArray) -> WeightedSample:
        """A sample of values: those of a bin become its middle, unless they are more than `MAX_SHARE` of all."""
        low, high = values.min(), values.max()
        with np.errstate(over="ignore", divide="ignore"):
            scale = BINS / (high - low)
        if len(values) <= BINS or not np.isfinite(scale):  # few, all the same, or too far apart
            return cls(np.sort(values), np.ones(len(values), np.int64))
        bins = np.minimum(((values - low) * scale).astype(np.int64), BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        crowded = counts > len(values) * MAX_SHARE
        binned = np.flatnonzero(~crowded & (counts > 0))
        alone = values[crowded[bins]] if crowded.any() else values[:0]
        return cls.merge(
            [
                cls(low + (binned + 0.5) / scale, counts[binned]),
                cls(alone, np.ones(len(alone), np.int64)),
            ]
        )

    @classmethod
    def merge(cls, samples: list[WeightedSample]) -> WeightedSample:
        """Several samples as one."""
        values = np.concatenate([sample.values for sample in samples])
        rows = np.concatenate([sample.rows for sample in samples])
        order = np.argsort(values, kind="stable")
        return cls(values[order], rows[order])

    def compressed(self, grid: FloatArray = GRID) -> WeightedSample:
        """A smaller sample: between each two steps of the grid, the middle row stands for all."""
        if len(self.values) <= len(grid):
            return self
        below = np.cumsum(self.rows)
        steps = np.unique(np.rint(grid * below[-1]).astype(np.int64))
        middles = (steps[:-1] + steps[1:] + 1) // 2
        return WeightedSample(self.values[np.searchsorted(below, middles)], np.diff(steps))


@dataclass
class Distribution:
    """The distribution of a numeric column, of which the quantiles are known to half a percent."""

    _samples: list[WeightedSample] = field(default_factory=list[WeightedSample])

    def add(self, values: FloatArray) -> None:
        """Add numbers without NaN and infinities."""
        if len(values):
            self._append(WeightedSample.from_values(values).compressed())

    def merge(self, other: Distribution) -> None:
        """Take in what another has seen."""
        for sample in other._samples:
            self._append(sample)

    def quantiles(self, probabilities: Iterable[float]) -> list[float]:
        """The values at `probabilities`."""
        whole = self._merged()
        below = np.cumsum(whole.rows)
        at = np.searchsorted(below, np.array(list(probabilities)) * below[-1])
        return [float(v) for v in whole.values[at]]

    def histogram(self, edges: FloatArray) -> list[float]:
        """How many values lie between each two neighbours of `edges`; what is beyond counts at the ends."""
        whole = self._merged()
        inside = np.clip(whole.values, edges[0], edges[-1])
        return [float(v) for v in np.histogram(inside, edges, weights=whole.rows)[0]]

    def outline(self, grid: FloatArray) -> WeightedSample:
        """The distribution by about as many values as `grid` has steps, from 0 to 1."""
        return self._merged().compressed(grid)

    def _append(self, sample: WeightedSample) -> None:
        self._samples.append(sample)
        if len(self._samples) > MAX_SAMPLES:
            self._samples = [self._merged().compressed()]

    def _merged(self) -> WeightedSample:
        if len(self._samples) > 1:
            self._samples = [WeightedSample.merge(self._samples)]
        return self._samples[0]
