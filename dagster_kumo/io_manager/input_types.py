"""How stored outputs are handed to an input: the input's annotation decides.

    annotation                         what the asset gets
    Predictions, none, Any             the stored partition files, read one at a time
    BatchPredictionJobResult           the result of the job behind them
    pandas.DataFrame, pyarrow.Table    everything in memory
    pyarrow.dataset.Dataset,
    pyarrow.RecordBatchReader          everything, read as one goes
    polars.DataFrame, .LazyFrame       the same, with polars installed
    duckdb.DuckDBPyRelation            a relation over the files, read when it is queried
    dask.dataframe.DataFrame,
    pyspark.sql.DataFrame              a frame over the files, which the engine's workers read
    dict[str, <one of these>]          one for each Dagster partition
    <one of these> | None              None when nothing is stored

Libraries are recognised by the name of the annotated class: whoever annotates with it has imported
it, and nobody else pays for it.
"""

from __future__ import annotations

import glob
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from dagster_kumo.jobs.batch_prediction import BatchPredictionJobResult
from dagster_kumo.predictions.predictions import Predictions

Columns = Sequence[str] | None
Load = Callable[[Predictions, Columns], Any]


def _as_predictions(stored: Predictions, columns: Columns) -> Predictions:  # noqa: ARG001 - read with columns= later
    return stored


def _as_pandas(stored: Predictions, columns: Columns) -> Any:
    return stored.to_pandas(columns)


def _as_arrow(stored: Predictions, columns: Columns) -> Any:
    return stored.to_arrow(columns)


def _as_reader(stored: Predictions, columns: Columns) -> Any:
    return stored.to_reader(columns)


def _as_dataset(stored: Predictions, columns: Columns) -> Any:
    import pyarrow as pa

    dataset = stored.to_dataset()
    if columns is None:
        return dataset
    return dataset.replace_schema(pa.schema([dataset.schema.field(name) for name in columns]))


def _as_polars(stored: Predictions, columns: Columns) -> Any:
    import polars as pl

    return pl.from_arrow(stored.to_arrow(columns))


def _as_lazy_polars(stored: Predictions, columns: Columns) -> Any:
    import polars as pl

    paths = _local_paths(stored)
    if paths is not None:
        lazy = pl.scan_parquet(paths, glob=False, hive_partitioning=False)
    else:
        lazy = pl.scan_pyarrow_dataset(stored.to_dataset())
    return lazy if columns is None else lazy.select(list(columns))


def _as_relation(stored: Predictions, columns: Columns) -> Any:
    import duckdb

    # A database of its own for each relation, which keeps it open: nobody else's tables are in the way.
    connection = duckdb.connect()
    paths = _local_paths(stored)
    if paths is not None:
        relation = connection.read_parquet(
            [glob.escape(path) for path in paths], union_by_name=True, hive_partitioning=False
        )
    else:
        relation = connection.from_arrow(stored.to_dataset())
    if columns is None:
        return relation
    return relation.select(*(duckdb.ColumnExpression(name) for name in columns))


def _as_dask(stored: Predictions, columns: Columns) -> Any:
    from dagster_kumo.predictions.engines import to_dask

    return to_dask(stored, columns)


def _as_spark(stored: Predictions, columns: Columns) -> Any:
    from dagster_kumo.predictions.engines import to_spark

    return to_spark(stored, columns)


def _local_paths(stored: Predictions) -> list[str] | None:
    """Where the files are on this machine, for engines with a reader of their own; None: elsewhere."""
    from dagster_kumo.predictions.files import StoredFile

    if stored.files and all(isinstance(f, StoredFile) and f.is_local for f in stored.files):
        return stored.paths
    return None


LOADS: Mapping[str, Load] = {
    "dagster_kumo.predictions.predictions.Predictions": _as_predictions,
    "pandas.DataFrame": _as_pandas,
    "pyarrow.Table": _as_arrow,
    "pyarrow.RecordBatchReader": _as_reader,
    "pyarrow.dataset.Dataset": _as_dataset,
    "polars.DataFrame": _as_polars,
    "polars.LazyFrame": _as_lazy_polars,
    "duckdb.DuckDBPyRelation": _as_relation,
    "dask.dataframe.DataFrame": _as_dask,
    "pyspark.sql.DataFrame": _as_spark,
}
# Where a library defines the class that it exports under the name above.
_HOMES = {
    "pandas.core.frame.DataFrame": "pandas.DataFrame",
    "pyarrow.lib.Table": "pyarrow.Table",
    "pyarrow.lib.RecordBatchReader": "pyarrow.RecordBatchReader",
    "pyarrow._dataset.Dataset": "pyarrow.dataset.Dataset",
    "polars.dataframe.frame.DataFrame": "polars.DataFrame",
    "polars.lazyframe.frame.LazyFrame": "polars.LazyFrame",
    "_duckdb.DuckDBPyRelation": "duckdb.DuckDBPyRelation",
    "duckdb._relation.DuckDBPyRelation": "duckdb.DuckDBPyRelation",
    "duckdb.duckdb.DuckDBPyRelation": "duckdb.DuckDBPyRelation",
    "dask.dataframe.dask_expr._collection.DataFrame": "dask.dataframe.DataFrame",
    "pyspark.sql.dataframe.DataFrame": "pyspark.sql.DataFrame",
    "pyspark.sql.classic.dataframe.DataFrame": "pyspark.sql.DataFrame",
    "pyspark.sql.connect.dataframe.DataFrame": "pyspark.sql.DataFrame",
}


@dataclass(frozen=True)
class Annotation:
    """An input's annotation, taken apart.

    Attributes:
        kind: the class that is loaded.
        by_partition: whether it is a dictionary by Dagster partition.
        optional: whether None stands for what is not stored.
    """

    kind: Any
    by_partition: bool
    optional: bool

    @classmethod
    def parse(cls, annotation: Any) -> Annotation:
        """Take an annotation apart, as Dagster passes it to the I/O manager."""
        inner, optional = _without_none(annotation)
        by_partition = get_origin(inner) in (dict, Mapping) or inner is dict
        if by_partition:
            arguments = get_args(inner)
            inner = arguments[1] if len(arguments) == 2 else Any
        return cls(inner, by_partition, optional)

    @property
    def is_job_result(self) -> bool:
        """Whether the job behind the output is wanted, and not its rows."""
        return self.kind is BatchPredictionJobResult

    def load(self, stored: Predictions, columns: Columns) -> Any:
        """Hand out what is stored as this annotation asks.

        Raises:
            TypeError: nothing is known of loading such a class.
        """
        if self.kind in (Any, None, type(None)):
            return stored
        home = f"{getattr(self.kind, '__module__', '')}.{getattr(self.kind, '__qualname__', '')}"
        load = LOADS.get(_HOMES.get(home, home))
        if load is None:
            raise TypeError(
                f"KumoIOManager cannot load an input annotated with {home.removeprefix('builtins.')}. "
                f"Annotate it with one of {', '.join(n.rpartition('.')[2] if n.startswith('dagster') else n for n in LOADS)}, "
                "BatchPredictionJobResult, or dict[str, ...] of one of them."
            )
        return load(stored, columns)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        others = [a for a in get_args(annotation) if a is not type(None)]
        if len(others) == 1 and len(others) < len(get_args(annotation)):
            return others[0], True
    return annotation, False
