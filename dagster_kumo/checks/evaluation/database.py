"""The DuckDB file in which rows are joined. It is removed afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_kumo.api.errors import KumoDataError, KumoError
from dagster_kumo.predictions.predictions import Predictions
from dagster_kumo.predictions.store.tables import arrow_reader

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MEMORY_LIMIT = "256MB"
"""What DuckDB may use. More than that lies on the disk."""
MAX_THREADS = 4

_SIGNED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_INTEGERS = (*_SIGNED, *(f"U{name}" for name in _SIGNED))


@contextmanager
def database() -> Generator[duckdb.DuckDBPyConnection, None, None]:
    """A database in a temporary file, with bounded memory.

    Raises:
        KumoError: DuckDB is not installed.
    """
    check_installed()
    import duckdb

    with tempfile.TemporaryDirectory(prefix="kumo-evaluation-") as folder:
        settings: dict[str, Any] = {
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": str(Path(folder) / "spilled"),
            "threads": min(MAX_THREADS, os.cpu_count() or 1),
            "preserve_insertion_order": False,
        }
        with duckdb.connect(str(Path(folder) / "evaluation.duckdb"), config=settings) as connection:
            yield connection


def check_installed() -> None:
    """Refuse to begin without DuckDB.

    Raises:
        KumoError: It is not installed.
    """
    if find_spec("duckdb") is None:
        raise KumoError(
            "Evaluations are computed by DuckDB, which is not installed: "
            "pip install 'dagster-kumo[evaluation]'."
        )


def read_table(connection: duckdb.DuckDBPyConnection, table: str, value: Any, name: str) -> None:
    """Read the value of an asset, `Predictions`, a frame or a table, into a table. Messages call it `name`.

    Raises:
        KumoDataError: The rows cannot be read.
    """
    import duckdb
    import pyarrow as pa

    try:
        reader = value.to_reader() if isinstance(value, Predictions) else arrow_reader(value)
    except (pa.ArrowException, TypeError) as error:
        raise KumoDataError(f"The rows of {name} cannot be read as a table: {error}") from None
    if reader is None:
        raise KumoDataError(
            f"{name} was loaded as {type(value).__name__}, which is no table.\n"
            "Its I/O manager must load a frame of pandas or polars, an Arrow table, a relation of DuckDB, or "
            "Predictions."
        )
    raised: list[BaseException] = []
    try:
        connection.register("given", _noting(reader, raised))
        connection.execute(f"CREATE TABLE {table} AS SELECT * FROM given")
        connection.unregister("given")
    except duckdb.Error as error:
        if raised:  # a damaged file, or a termination, which DuckDB would hide
            raise raised[0] from None
        raise KumoDataError(f"DuckDB cannot read the rows of {name}: {error}") from None


def _noting(reader: pa.RecordBatchReader, raised: list[BaseException]) -> pa.RecordBatchReader:
    """The same stream, whose own error is kept in `raised`."""
    import pyarrow as pa

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except GeneratorExit:
            raise
        except BaseException as error:
            raised.append(error)
            raise

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def value_of(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    """The one value of a query. All of its result is fetched: until then the connection is in use."""
    ((value,),) = connection.execute(query).fetchall()
    return value


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: bool | float | str) -> str:
    """A value in SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def family(kind: str) -> str:
    """Types that can be compared: integers of any length, and texts."""
    if kind in _INTEGERS or (kind.startswith("DECIMAL") and kind.endswith(",0)")):
        return "integer"
    return "text" if kind == "VARCHAR" or kind.startswith("ENUM") else kind


def is_number(kind: str) -> bool:
    return kind in (*_INTEGERS, "FLOAT", "DOUBLE") or kind.startswith("DECIMAL")


def as_time(column: str, kind: str) -> str:
    """A column as a timestamp in UTC. An integer is unix time, in a unit that its size tells."""
    if kind in _INTEGERS:
        units = ((1e11, "* 1000000"), (1e14, "* 1000"), (1e17, ""))
        cases = " ".join(
            f"WHEN abs({column}) < {limit:.0f} THEN {column} {by}" for limit, by in units
        )
        return f"make_timestamp((CASE {cases} ELSE {column} // 1000 END)::BIGINT)"
    if kind.startswith("TIMESTAMP"):
        return f"make_timestamp(epoch_us({column}))"
    return f"{column}::TIMESTAMP"
