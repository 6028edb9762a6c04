"""Stored files for an engine with many processes. Its workers read the files, not this process.

Such engines take paths for patterns and names of folders for columns. Both are prevented here.
"""

from __future__ import annotations

import glob
import re
from functools import partial, reduce
from typing import Any, TypeGuard

import pyarrow as pa

from dagster_kumo.predictions.files import StoredFile
from dagster_kumo.predictions.predictions import Predictions

NANOS_AS_LONG = "spark.sql.legacy.parquet.nanosAsLong"
# Hadoop's names of file systems that have another name in fsspec.
_HADOOP_SCHEMES = {"": "file", "local": "file", "s3": "s3a", "gcs": "gs"}


def to_dask(stored: Predictions) -> Any:
    """Stored files as a `dask.dataframe.DataFrame`. Workers get the store's options."""
    import dask.config  # pyright: ignore[reportMissingImports] - as below
    import dask.dataframe as dd  # pyright: ignore[reportMissingImports] - an extra that nothing else needs

    schema = stored.schema
    paths = [file.upath.path for file, _ in _stored_files(stored)]
    file_system: Any = _stored_files(stored)[0][0].upath.fs
    if not stored.files_agree:
        read = partial(_read_file, file_system=file_system, schema=schema)
        with dask.config.set({"dataframe.convert-string": False}):  # it changes lists too
            return dd.from_map(read, paths, meta=_as_dask_does(schema.empty_table()))
    return dd.read_parquet(
        [glob.escape(path) for path in paths],
        columns=None if stored.columns is None else schema.names,
        filesystem=file_system,
        dataset={"partitioning": None},
    )


def to_spark(stored: Predictions) -> Any:
    """Stored files as a DataFrame of the active Spark session, or of a new one.

    Spark does not support nanoseconds. It refuses files with them, unless a setting makes it read them as
    integers. That setting is set in the session if it is needed, and the integers are converted to times,
    to the microsecond. Files with different schemas are read in groups of the same schema, and each group
    is cast to the common one: Spark's own merging would narrow types, and refuses columns without values.
    """
    from pyspark.sql import SparkSession  # pyright: ignore[reportMissingImports] - as above

    session = SparkSession.getActiveSession() or SparkSession.builder.getOrCreate()
    schema = stored.schema
    groups: dict[pa.Schema, list[str]] = {}
    for file, of_file in _stored_files(stored):
        groups.setdefault(of_file.remove_metadata(), []).append(_hadoop_path(file))
    if any(_is_nanos(type_) for of_group in groups for type_ in of_group.types):
        session.conf.set(NANOS_AS_LONG, "true")
    frames: list[Any] = [
        session.read.parquet(*paths).select(*_spark_columns(of_group, schema))
        for of_group, paths in groups.items()
    ]
    return reduce(lambda one, other: one.unionAll(other), frames)


def _read_file(path: str, *, file_system: Any, schema: pa.Schema) -> Any:
    """A file as a frame with all columns of `schema`. Called on a worker."""
    import pyarrow.dataset as ds

    dataset = ds.dataset(path, schema=schema, filesystem=file_system, format="parquet")
    return _as_dask_does(dataset.to_table())


def _as_dask_does(table: pa.Table) -> Any:
    """A frame with the types that `dd.read_parquet` has for texts and decimals."""
    import pandas as pd

    def type_of(type_: pa.DataType) -> Any:
        if pa.types.is_string(type_) or pa.types.is_large_string(type_):
            return pd.StringDtype("pyarrow")
        return pd.ArrowDtype(type_) if pa.types.is_decimal(type_) else None

    return table.to_pandas(types_mapper=type_of)


def _stored_files(stored: Predictions) -> list[tuple[StoredFile, pa.Schema]]:
    return [(file, of) for file, of in stored.files_with_rows() if isinstance(file, StoredFile)]


def _hadoop_path(file: StoredFile) -> str:
    path = file.upath
    where = path.path if file.is_local else str(path).partition("://")[2]
    where = re.sub(r"([\\*?{}[\]])", r"\\\1", where)
    return f"{_HADOOP_SCHEMES.get(path.protocol, path.protocol)}://{where}"


def _is_nanos(type_: pa.DataType) -> TypeGuard[pa.TimestampType[Any]]:
    return isinstance(type_, pa.TimestampType) and type_.unit == "ns"


def _spark_columns(of_group: pa.Schema, schema: pa.Schema) -> list[Any]:
    """The columns of `schema`, from files with the schema `of_group`."""
    from pyspark.sql import functions as f  # pyright: ignore[reportMissingImports] - as above

    columns: list[Any] = []
    for field in schema:
        at = of_group.get_field_index(field.name)
        found = of_group.field(at).type if at >= 0 else pa.null()
        column: Any = f.lit(None)
        if not pa.types.is_null(found):
            column = f.expr(_spark_column(field.name, found))
        if found != field.type and (type_ := _spark_type(field.type)) is not None:
            if pa.types.is_integer(found) and pa.types.is_floating(field.type):
                lost = f.raise_error(
                    f.lit(f"{field.name} has integers that {field.type} cannot hold")
                )
                column = f.when(f.abs(column) > 2**53, lost).otherwise(column)
            column = column.cast(type_)
        columns.append(column.alias(field.name))
    return columns


def _spark_type(type_: pa.DataType) -> Any:
    """Spark's name of a type; None if it has no such type."""
    from pyspark.errors import PySparkTypeError  # pyright: ignore[reportMissingImports] - as above
    from pyspark.sql.pandas.types import from_arrow_type  # pyright: ignore[reportMissingImports]

    try:
        return from_arrow_type(type_, prefer_timestamp_ntz=True)
    except PySparkTypeError:
        return None


def _spark_column(name: str, type_: pa.DataType) -> str:
    """A column by its name. Integers that stand for times are converted to times."""
    column = "`" + name.replace("`", "``") + "`"
    if not _is_nanos(type_):
        return column
    if type_.tz is not None:
        return f"timestamp_micros({column} div 1000)"
    seconds = f"cast({column} div 1000 as decimal(20, 0)) / 1000000"
    return f"timestamp_ntz'1970-01-01' + make_dt_interval(0, 0, 0, {seconds})"
