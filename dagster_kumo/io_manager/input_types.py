"""How a stored output is loaded as an input: the annotation decides.

    annotation                         what the asset gets
    Predictions, none, Any             the stored Parquet files, read one at a time
    BatchPredictionJobResult           the result of the job behind them
    pandas.DataFrame, pyarrow.Table    everything in memory
    pyarrow.dataset.Dataset,
    pyarrow.RecordBatchReader          everything, read step by step
    polars.DataFrame, .LazyFrame       the same, with polars installed
    duckdb.DuckDBPyRelation            a relation over the files, read when it is queried
    dask.dataframe.DataFrame,
    pyspark.sql.DataFrame              a frame over the files, read by the engine's workers
    dict[str, <one of these>]          one for each Dagster partition
    <one of these> | None              None if nothing is stored

To add a kind of input, add it to `INPUT_TYPES`.
"""

from __future__ import annotations

import glob
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Union, get_args, get_origin

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.predictions import Predictions


@dataclass(frozen=True)
class Annotation:
    """The parts of an input's annotation.

    Attributes:
        kind: The class to load; Any if none is named.
        by_partition: Whether it is a dictionary by Dagster partition.
        optional: Whether the input may be None.
        optional_values: Whether a partition in the dictionary may be None.
    """

    kind: Any
    by_partition: bool = False
    optional: bool = False
    optional_values: bool = False

    @classmethod
    def parse(cls, annotation: Any) -> Annotation:
        """Parse an annotation, as Dagster passes it to the I/O manager.

        >>> Annotation.parse(dict[str, Predictions | None]).optional_values
        True
        """
        kind, optional = _without_none(annotation)
        if get_origin(kind) not in (dict, Mapping) and kind not in (dict, Mapping):
            return cls(kind, optional=optional)
        arguments = get_args(kind)
        kind, optional_values = _without_none(arguments[1] if len(arguments) == 2 else Any)
        return cls(kind, True, optional, optional_values)

    @property
    def is_open(self) -> bool:
        """Whether the annotation names no class."""
        return self.kind in (Any, None, type(None))


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        others = [a for a in get_args(annotation) if a is not type(None)]
        if len(others) == 1 and len(others) < len(get_args(annotation)):
            return others[0], True
    return annotation, False


def _as_polars(stored: Predictions) -> Any:
    import polars as pl

    return pl.from_arrow(stored.to_arrow())


def _as_lazy_polars(stored: Predictions) -> Any:
    import polars as pl

    scan = partial(pl.scan_parquet, glob=False, hive_partitioning=False)
    paths = _paths_on_disk(stored)
    # Polars' own reader takes date64 for a time, but it is a date in Parquet.
    dates = [field.name for field in stored.schema if "date32" in str(field.type)]
    schemas = [scan(path).collect_schema() for path in paths or () if dates]
    if paths is None or any("Datetime" in str(read[n]) for read in schemas for n in dates):
        return pl.scan_pyarrow_dataset(stored.to_dataset())
    lazy = scan(paths)
    if stored.columns is None:
        return lazy
    # By position, because polars takes names such as "*" and "^x.*$" for patterns.
    return lazy.select(pl.nth(*map(_names_in_files(stored).index, stored.columns)))


def _as_relation(stored: Predictions) -> Any:
    import duckdb

    if not stored.schema.names:
        raise KumoDataError(
            "What is stored has no columns, and a relation of DuckDB has at least one."
        )
    twice = _alike(stored.schema.names)
    if twice:
        raise KumoDataError(
            f"DuckDB takes the columns {' and '.join(twice)} for the same, since their names differ in "
            'upper and lower case alone.\nLeave one out: AssetIn(metadata={"columns": [...]}).'
        )
    # DuckDB's default connection: relations of several inputs can be joined, and duckdb.sql()
    # finds them by the names of Python's variables.
    paths = _paths_on_disk(stored)
    if paths is None or _alike(_names_in_files(stored)):
        return duckdb.from_arrow(stored.to_dataset())
    relation = duckdb.read_parquet(list(map(glob.escape, paths)), hive_partitioning=False)
    if stored.columns is None:
        return relation
    quoted = [name.replace('"', '""') for name in stored.columns]
    return relation.select(*(duckdb.SQLExpression(f'"{name}"') for name in quoted))


def _as_dask(stored: Predictions) -> Any:
    from dagster_kumo.predictions.engines import to_dask

    return to_dask(stored)


def _as_spark(stored: Predictions) -> Any:
    from dagster_kumo.predictions.engines import to_spark

    return to_spark(stored)


INPUT_TYPES: Mapping[str, Callable[[Predictions], Any]] = {
    "Predictions": lambda stored: stored,
    "pandas.DataFrame": Predictions.to_pandas,
    "pyarrow.Table": Predictions.to_arrow,
    "pyarrow.RecordBatchReader": Predictions.to_reader,
    "pyarrow.dataset.Dataset": Predictions.to_dataset,
    "polars.DataFrame": _as_polars,
    "polars.LazyFrame": _as_lazy_polars,
    "duckdb.DuckDBPyRelation": _as_relation,
    "dask.dataframe.DataFrame": _as_dask,
    "pyspark.sql.DataFrame": _as_spark,
}
"""How an input is loaded, by the class that it is annotated with."""


def loader_of(kind: Any) -> Callable[[Predictions], Any]:
    """What loads an input that is annotated with `kind`.

    Raises:
        TypeError: It cannot be loaded.
    """
    if kind in (Predictions, Any, None, type(None)):
        return INPUT_TYPES["Predictions"]
    for name, load in INPUT_TYPES.items():
        if _is_called(kind, name):
            return load
    asked = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', kind)}"
    raise TypeError(
        f"KumoIOManager cannot load an input annotated with {asked.removeprefix('builtins.')}. "
        f"Annotate it with one of {', '.join(INPUT_TYPES)}, BatchPredictionJobResult, or dict[str, ...] of "
        "one of them."
    )


def _is_called(kind: Any, name: str) -> bool:
    """Whether users import a class by this name.

    Classes are recognized by their names, so that only code that uses a library imports it.
    `pandas.core.frame.DataFrame` is `pandas.DataFrame`, and `pyarrow._dataset.Dataset` is
    `pyarrow.dataset.Dataset`.
    """
    package, _, class_name = name.rpartition(".")
    home = str(getattr(kind, "__module__", "")).replace("_", "")
    is_of_package = f"{home}.".startswith(f"{package}.")
    return getattr(kind, "__qualname__", "") == class_name and is_of_package


def _paths_on_disk(stored: Predictions) -> list[str] | None:
    """The paths of the files, if an engine's own reader can read them all with one schema.

    None if they are elsewhere, or have different schemas. Arrow's dataset then reads them with the schema that all
    inputs share.
    """
    from dagster_kumo.predictions.files import StoredFile

    local = all(isinstance(file, StoredFile) and file.is_local for file in stored.files)
    return stored.paths if local and stored.files_agree else None


def _names_in_files(stored: Predictions) -> list[str]:
    """The columns of files that agree, also those that are not selected."""
    return stored.files_with_rows()[0][1].names


def _alike(names: Sequence[str]) -> list[str]:
    """The names that differ from another one only in upper and lower case."""
    times = Counter(name.lower() for name in names)
    return [name for name in names if times[name.lower()] > 1]
