"""Statistics of an output in one pass, held against numpy and pandas on the same data."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_kumo.predictions.statistics.quantiles import Distribution, keys_of
from dagster_kumo.predictions.statistics.summary import QUANTILES, ColumnSummary, OutputSummary

pytestmark = pytest.mark.fast

RANK_TOLERANCE = 0.001
"""A quantile lies where at most this share of the rows would have to change places."""


def summary_of(*tables: pa.Table, batch_rows: int = 1000) -> OutputSummary:
    """The statistics of files, each read in batches and then merged."""
    summaries = [OutputSummary(table.schema) for table in tables]
    for summary, table in zip(summaries, tables, strict=True):
        for batch in table.to_batches(max_chunksize=batch_rows):
            summary.update(batch)
    whole = OutputSummary.merged(tables[0].schema, summaries)
    assert whole.failed == {}
    return whole


def column_of(*arrays: object, name: str = "x", type: pa.DataType | None = None) -> ColumnSummary:  # noqa: A002
    tables = [pa.table({name: pa.array(array, type, from_pandas=False)}) for array in arrays]
    return summary_of(*tables).columns[name]


def rank_error(values: np.ndarray, probability: float, estimate: float) -> float:
    """How far an estimated quantile is from its place among the values, as a share of them."""
    below, up_to = np.mean(values < estimate), np.mean(values <= estimate)
    return max(0.0, below - probability, probability - up_to)


def assert_like_numpy(column: ColumnSummary, values: np.ndarray) -> None:
    assert column.count == len(values)
    assert (column.min, column.max) == (values.min(), values.max())
    assert column.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-9, abs=1e-12)
    estimates = column.quantiles()
    assert estimates == sorted(estimates)
    for probability, estimate in zip(QUANTILES, estimates, strict=True):
        assert values.min() <= estimate <= values.max()
        assert rank_error(values, probability, estimate) <= RANK_TOLERANCE


random = np.random.default_rng(7)
DATA = {
    "uniform": random.random(30_000),
    "normal, far from zero": random.normal(1e9, 1.0, 30_000),
    "long tail": random.lognormal(0, 2, 30_000),
    "two spikes": random.integers(0, 2, 30_000).astype(float),
    "many zeros": np.where(random.random(30_000) < 0.7, 0.0, random.lognormal(0, 1, 30_000)),
    "counts": random.poisson(1.5, 30_000),
    "constant": np.full(5_000, 3.25),
    "one value": np.array([42.0]),
    "sorted": np.arange(30_000.0),
    "float32": random.random(30_000).astype(np.float32),
    "negative integers": random.integers(-(10**6), 10**6, 30_000),
}


@pytest.mark.parametrize("values", DATA.values(), ids=DATA)
@pytest.mark.parametrize("files", [1, 3])
def test_figures_are_those_of_numpy(values, files):
    assert_like_numpy(column_of(*np.array_split(values, min(files, len(values)))), values)


def test_files_that_hold_one_value_each_do_not_smear():
    zeros, ones = np.zeros(1000), np.ones(1000)
    column = column_of(zeros, ones)
    assert column.quantiles() == [0, pytest.approx(0.5, abs=0.5), 1]
    assert_like_numpy(column, np.concatenate([zeros, ones]))


def test_more_batches_than_are_kept_apart_stay_accurate():
    values = random.lognormal(0, 1, 20_000)
    column = summary_of(pa.table({"x": values}), batch_rows=100).columns["x"]
    assert_like_numpy(column, values)


@pytest.mark.parametrize("values", DATA.values(), ids=DATA)
@pytest.mark.parametrize("repeated", [1, 8], ids=["sorted", "binned"])
def test_how_many_rows_are_below_a_value_is_known(values, repeated):
    values = np.tile(values.astype(np.float64), repeated)  # as many as are too many to be sorted
    edges = random.choice(values, 20)
    distribution = Distribution()
    distribution.add(values)
    distribution.compact()
    expected = np.searchsorted(np.sort(values), edges)
    error = np.abs(distribution.below(edges) - expected).max() / len(values)
    assert error <= RANK_TOLERANCE
    assert distribution.bins().rows.sum() == len(values)


@pytest.mark.parametrize(("files", "error"), [(1, 0), (5, 1e-4)])
def test_at_the_edges_of_bins_counts_are_exact_and_nearly_so_when_files_are_merged(files, error):
    values = random.beta(0.5, 8, 200_000)
    whole = Distribution()
    for part in np.array_split(values, files):
        distribution = Distribution()
        distribution.add(part)
        distribution.compact()
        whole.merge(distribution)
    edges = random.choice(whole.bins().keys, 500)
    expected = np.searchsorted(np.sort(keys_of(values)), edges)
    assert np.abs(whole.bins().below(edges) - expected).max() <= error * len(values)


# What is no number ########################################################################


def test_nulls_and_nan_and_infinities_are_no_values():
    values = [1.0, None, float("nan"), 3.0, float("inf"), -float("inf")]
    column = column_of(values)
    assert (column.rows, column.count, column.nulls) == (6, 2, 4)
    assert column.null_fraction == pytest.approx(4 / 6)
    assert (column.min, column.max, column.mean) == (1.0, 3.0, 2.0)
    assert column.nulls >= pd.Series(values).isna().sum()


@pytest.mark.parametrize(
    ("values", "type"),
    [
        ([], pa.float64()),
        ([None, None], pa.float64()),
        ([float("nan")], pa.float64()),
        ([float("inf")], pa.float32()),
        ([None], pa.string()),
        ([None], pa.bool_()),
        ([None], pa.list_(pa.float32())),
        ([[], [None]], pa.list_(pa.float32())),
        ([None], pa.timestamp("ns")),
        ([None, None], pa.null()),
        ([None], pa.decimal128(10, 2)),
    ],
    ids=str,
)
def test_a_column_without_values_has_no_figures(values, type):  # noqa: A002
    column = column_of(values, values, type=type)
    assert (column.rows, column.count) == (2 * len(values), 0)
    assert (column.min, column.max, column.mean) == (None, None, None)
    assert column.quantiles() is None
    assert column.null_fraction in (0.0, 1.0)


def test_an_empty_file_changes_nothing():
    full, empty = pa.table({"x": [1.0, 2.0]}), pa.table({"x": pa.array([], pa.float64())})
    for tables in ((full, empty), (empty, full)):
        column = summary_of(*tables).columns["x"]
        assert (column.rows, column.mean, column.min, column.max) == (2, 1.5, 1.0, 2.0)


# Types ####################################################################################


def test_booleans_have_a_share():
    column = column_of([True, False, True, None], [True])
    assert (column.count, column.nulls, column.distinct) == (4, 1, 2)
    assert (column.min, column.max, column.mean) == (False, True, 0.75)
    assert column.values == {True: 3, False: 1}
    assert column.quantiles() is None


@pytest.mark.parametrize(
    "type", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_labels_are_counted(type):  # noqa: A002
    column = column_of(["b", "a", None, "b"], ["c"], type=type)
    assert (column.count, column.nulls, column.distinct) == (4, 1, 3)
    assert (column.min, column.max, column.mean) == ("a", "c", None)
    assert column.values == {"b": 2, "a": 1, "c": 1}


def test_too_many_labels_are_not_counted():
    column = column_of([f"{i}" for i in range(800)], [f"{i}" for i in range(700, 1500)])
    assert (column.count, column.distinct) == (1600, None)


def test_vectors_are_described_by_their_norm_and_their_dimension():
    vectors = [[3.0, 4.0], None, [3.0, float("nan")]]
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 2)):
        column = column_of(vectors, [[1.0, 0.0]], type=kind)
        assert (column.rows, column.nulls, column.count) == (4, 2, 2)
        assert (column.min, column.max, column.mean) == (1.0, 5.0, 3.0)
        assert column.dimension == 2
    assert column_of([[1.0], [1.0, 2.0]]).dimension is None


def test_decimals_are_numbers():
    column = column_of([Decimal("1.50"), None, Decimal("2.50")], [Decimal("3.50")])
    assert (column.count, column.nulls, column.mean) == (3, 1, 2.5)
    assert (column.min, column.max) == (Decimal("1.50"), Decimal("3.50"))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_times_have_extremes(unit, zone):
    times = pd.to_datetime(["2026-11-24", "2026-11-20"]).tz_localize(zone)
    column = column_of(times, type=pa.timestamp(unit, zone))
    assert (column.min, column.max) == (times[1], times[0])
    assert (column.mean, column.distinct) == (None, None)


@pytest.mark.parametrize("type", [pa.int64(), pa.uint64()], ids=str)
def test_integers_beyond_the_precision_of_floats_have_figures(type):  # noqa: A002
    nanoseconds = [1_795_478_400_000_000_001, 1_795_478_400_000_000_003]
    column = column_of(nanoseconds, type=type)
    assert (column.min, column.max) == tuple(nanoseconds)
    assert column.mean == pytest.approx(1_795_478_400_000_000_002)


def test_an_identifier_has_extremes_alone():
    column = column_of([3, 1, 2], name="ENTITY")
    assert (column.min, column.max, column.mean, column.quantiles()) == (1, 3, None, None)


def test_classes_given_as_numbers_are_counted_too():
    assert column_of([1, 2, 2], name="CLASS").values == {1: 1, 2: 2}


@pytest.mark.parametrize(
    "values", [[{"a": 1}, None], [[["x"]], None], [b"x", None], [pd.Timedelta(1), None]], ids=str
)
def test_types_without_figures_are_counted(values):
    column = column_of(pa.array(values))
    assert (column.count, column.nulls, column.mean) == (1, 1, None)


def test_a_column_that_cannot_be_summarised_costs_its_own_figures_and_no_others():
    mixed = OutputSummary(pa.schema({"x": pa.int64(), "y": pa.int64()}))
    mixed.update(pa.record_batch({"x": [1], "y": [1]}))
    mixed.update(pa.record_batch({"x": ["a"], "y": [3]}))
    assert list(mixed.failed) == ["x"]
    assert list(mixed.columns) == ["y"]
    assert (mixed.num_rows, mixed.columns["y"].mean) == (2, 2.0)


# Properties ###############################################################################


numbers = st.floats(-1e12, 1e12, allow_subnormal=False) | st.sampled_from(
    [None, math.nan, math.inf, 0.0, 1.0]
)
files_of_numbers = st.lists(st.lists(numbers, max_size=40), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(files=files_of_numbers, data=st.data())
def test_the_order_of_the_files_does_not_matter(files, data):
    shuffled = data.draw(st.permutations(files))
    one, other = (
        column_of(*[pa.array(file, pa.float64()) for file in order]) for order in (files, shuffled)
    )
    assert (one.rows, one.count, one.nulls) == (other.rows, other.count, other.nulls)
    assert (one.min, one.max) == (other.min, other.max)
    if one.count:
        scale = max(abs(one.min), abs(one.max), 1e-9)
        assert one.mean == pytest.approx(other.mean, abs=1e-9 * scale)
        assert one.quantiles() == pytest.approx(other.quantiles(), abs=1e-6 * scale)


@settings(max_examples=60, deadline=None)
@given(files=files_of_numbers)
def test_figures_are_finite_and_right_whatever_the_data(files):
    column = column_of(*[pa.array(file, pa.float64()) for file in files])
    values = np.array([v for file in files for v in file if v is not None and math.isfinite(v)])
    assert column.rows == column.count + column.nulls == sum(map(len, files))
    if not len(values):
        assert column.mean is column.quantiles() is None
        return
    scale = max(np.abs(values).max(), 1e-9)
    assert (column.min, column.max) == (values.min(), values.max())
    assert column.mean == pytest.approx(values.mean(), abs=1e-9 * scale)
    figures = [*column.quantiles(), *column.distribution.below(np.array([-scale, 0.0, scale]))]
    assert all(math.isfinite(figure) for figure in figures)
    assert sorted(column.quantiles()) == column.quantiles()
