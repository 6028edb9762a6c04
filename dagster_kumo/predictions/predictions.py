"""An output of a prediction job, read one file at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.api.records import OutputType

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    from dagster_kumo.predictions.files import PartitionFile

BATCH_ROWS = 131_072

T = TypeVar("T")
Data = TypeVar("Data", "pa.Table", "pa.RecordBatch")


@dataclass(frozen=True)
class Provenance:
    """The prediction job that an output comes from, and what the job says about it."""

    job_id: str
    output_type: OutputType
    training_job_id: str | None = None
    prediction_table_job_id: str | None = None
    """The job of the prediction table, if one was generated."""
    prediction_time: datetime | None = None
    num_entities: int | None = None
    binary_classification_threshold: float | None = None
    """The probability from which the job answers yes, if it was set."""


@dataclass(frozen=True)
class Expectation:
    """The requested time of an output. Its data must confirm it before they are stored."""

    anchor_time: datetime
    window: timedelta
    """The length of the partition's window: data may be earlier by up to this."""
    is_stated: bool
    """Whether the job or its prediction table states the requested time. If not, the data must."""


class Predictions:
    """An output as a sequence of Parquet files, read one at a time.

    The same class stands for the live result of a job and for files that the I/O manager stored.
    Nothing is fetched before it is needed. Iterating holds one file in memory, while the next few are
    fetched to disk. Only the requested columns of a file are fetched.

    Files with different schemas are read with one schema: the columns of all files, with types wide enough
    for all of them. If a file lacks a column, its values are null. Iterating with `columns=None` gives
    each file as it is.

    Raises (from every method that reads):
        KumoDataError: a file is missing, truncated or not Parquet; no file has such a column; or the
            files have types that cannot be combined, such as text and numbers.
        KumoConnectionError: a live result could not be fetched.
        TypeError: `columns` is a text instead of a list.

    Examples:
        >>> for table in predictions:                       # doctest: +SKIP
        ...     print(table.num_rows)
        >>> predictions.to_pandas(columns=["ENTITY", "True_PROB"])   # doctest: +SKIP
    """

    def __init__(
        self,
        files: Sequence[PartitionFile],
        *,
        provenance: Provenance | None = None,
        expectation: Expectation | None = None,
        num_rows: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.files = files
        """The files themselves, for code that moves them."""
        self._num_rows = num_rows
        self.columns = columns
        """The columns that are read, in their order; None: all of them."""
        self.provenance = provenance
        """The job behind the output; None if the data come from no Kumo job, or from several."""
        self.expectation = expectation
        """What its data must confirm; None without a requested time, and once it is stored."""

    def __repr__(self) -> str:
        source = f"{self.output_type} of {self.job_id}" if self.provenance else "data"
        return f"<Predictions: {source}, {len(self)} partition files>"

    def __reduce__(self) -> Any:
        """Refuse to be pickled if that would write keys or presigned urls to a disk.

        Dagster's own I/O managers pickle what an asset returns.
        """
        from dagster_kumo.predictions.files import StoredFile

        if all(isinstance(f, StoredFile) and not f.upath.storage_options for f in self.files):
            return super().__reduce__()
        raise TypeError(
            f"{self!r} cannot be pickled: it holds what gives access to its files. Let KumoIOManager store "
            'it: Definitions(resources={"kumo_io_manager": KumoIOManager(base_path=...)}), or hand on a '
            "DataFrame, as .to_pandas() makes it."
        )

    @property
    def job_id(self) -> str | None:
        """The prediction job that made this; None if there is not exactly one."""
        return self.provenance.job_id if self.provenance else None

    @property
    def output_type(self) -> OutputType | None:
        """`predictions` or `embeddings`; None if no prediction job made this."""
        return self.provenance.output_type if self.provenance else None

    @property
    def paths(self) -> list[str]:
        """The paths or urls of the files, for engines that read them themselves.

        For a live result on SaaS these are presigned urls: treat them as secrets.
        """
        return [file.path for file in self.files]

    @property
    def num_files(self) -> int:
        """The number of files."""
        return len(self.files)

    def __len__(self) -> int:
        return self.num_files

    def select(self, columns: Iterable[str]) -> Predictions:
        """The same output, of which only these columns are read.

        Raises:
            KumoDataError: No file has such a column.

        Examples:
            >>> scores = predictions.select(["ENTITY", "True_PROB"])   # doctest: +SKIP
        """
        selected = Predictions(
            self.files,
            provenance=self.provenance,
            expectation=self.expectation,
            num_rows=self._num_rows,
            columns=self.schema_of(columns).names,
        )
        selected._footers = self._footers  # fetched just now
        return selected

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns and their types: one schema for all files, from their footers."""
        return self._unified(self.columns)

    def schema_of(self, columns: Iterable[str] | None) -> pa.Schema:
        """The schema of some columns, in their order; None for all.

        Raises:
            KumoDataError: No file has such a column.
        """
        names = column_list(columns)
        if names is None:
            return self.schema
        known = self.columns or {name: None for schema, _ in self._footers for name in schema.names}
        missing = [name for name in names if name not in known]
        if missing:
            raise KumoDataError(
                f"There is no column {', '.join(map(str, missing))}; there are: {', '.join(known)}."
            )
        return self._unified(names)

    def _unified(self, columns: Sequence[str] | None) -> pa.Schema:
        from dagster_kumo.predictions.schemas import project, unify

        names = self._names
        schemas = [project(schema, columns) for schema, _ in self._footers]
        unified = unify(schemas, names, [rows for _, rows in self._footers])
        return unified if columns is None else project(unified, columns)

    @cached_property
    def files_agree(self) -> bool:
        """Whether all files have the same columns, in the same order and of the same types."""
        return all(schema.equals(self._footers[0][0]) for schema, _ in self._footers)

    def files_with_rows(self) -> list[tuple[PartitionFile, pa.Schema]]:
        """The files that have rows, and the schema of each; all files where none has rows."""
        files = [(file, *footer) for file, footer in zip(self.files, self._footers, strict=True)]
        return [(file, schema) for file, schema, rows in files if rows or not self.num_rows]

    @property
    def num_rows(self) -> int:
        """The rows of all files, according to their footers."""
        if self._num_rows is None:
            self._num_rows = sum(rows for _, rows in self._footers)
        return self._num_rows

    def __iter__(self) -> Iterator[pa.Table]:
        return self.iter_tables()

    def iter_tables(self, columns: Iterable[str] | None = None) -> Iterator[pa.Table]:
        """Each file as a `pyarrow.Table`, one after the other."""
        return self._tables(columns, self.files)

    def table(self, index: int, columns: Iterable[str] | None = None) -> pa.Table:
        """The file at `index` as a `pyarrow.Table`."""
        return next(self._tables(columns, [self.files[index]]))

    def _tables(
        self, columns: Iterable[str] | None, files: Sequence[PartitionFile]
    ) -> Generator[pa.Table, None, None]:
        return self._read_columns(lambda file, names: [file.read(columns=names)], columns, files)

    def iter_batches(
        self, batch_size: int = BATCH_ROWS, columns: Iterable[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """All rows as record batches of at most `batch_size` rows."""
        return self._read_columns(
            lambda file, names: file.iter_batches(batch_size=batch_size, columns=names), columns
        )

    def iter_pandas(self, columns: Iterable[str] | None = None) -> Iterator[pd.DataFrame]:
        """Each file as a `pandas.DataFrame`, one after the other."""
        return (table.to_pandas() for table in self.iter_tables(columns))

    def to_arrow(self, columns: Iterable[str] | None = None) -> pa.Table:
        """Everything as one `pyarrow.Table`, in memory."""
        from dagster_kumo.predictions.schemas import concat

        return concat(list(self.iter_tables(columns)), self._names)

    def to_pandas(self, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """Everything as one `pandas.DataFrame`, in memory."""
        from dagster_kumo.predictions.arrival import Outdated

        try:
            return self._to_pandas(columns, early=True)
        except Outdated:  # rows of a file were read that was replaced meanwhile, or arrived damaged
            return self._to_pandas(columns, early=False)

    def _to_pandas(self, columns: Iterable[str] | None, *, early: bool) -> pd.DataFrame:
        """See `to_pandas`. With `early`, rows are read while the rest of their file is still on its way."""
        from dagster_kumo.predictions.files import groups_of_rows
        from dagster_kumo.predictions.frames import FrameBuilder

        with FrameBuilder(self._names) as frame:

            def read(file: pq.ParquetFile, names: list[str] | None) -> Iterable[pa.Table]:
                frame.begin_file(file.metadata.num_rows)
                return (
                    file.read_row_groups(groups, names)
                    for groups in groups_of_rows(file.metadata, BATCH_ROWS)
                )

            # Closed here, as in `_read`: an interrupt can come between two tables.
            with closing(self._read_columns(read, columns, early=early)) as tables:
                for table in tables:
                    frame.append(table)
            return frame.frame()

    def to_reader(self, columns: Iterable[str] | None = None) -> pa.RecordBatchReader:
        """Everything as a stream of record batches, for DuckDB and the like.

        The types are those of `to_arrow()`. They are read from the footers of all files first.
        """
        import pyarrow as pa

        from dagster_kumo.predictions.schemas import conform

        names = column_list(columns)
        schema = self.schema_of(names)
        batches = (conform(batch, schema) for batch in self.iter_batches(columns=names))
        return pa.RecordBatchReader.from_batches(schema, batches)

    def to_dataset(self, columns: Iterable[str] | None = None) -> ds.Dataset:
        """The stored files as a `pyarrow.dataset.Dataset`, read lazily, by whole row groups.

        Raises:
            KumoDataError: This is a live result, whose urls expire: store it first.
        """
        import pyarrow.dataset as ds

        from dagster_kumo.predictions.files import StoredFile

        if not all(isinstance(file, StoredFile) for file in self.files):
            raise KumoDataError(
                "A live result cannot be a dataset, because its urls expire. Store it by materializing "
                "the asset with KumoIOManager, or read it with .to_reader() or .iter_batches()."
            )
        schema = self.schema_of(columns)
        stored = [file for file, _ in self.files_with_rows() if isinstance(file, StoredFile)]
        file_system = stored[0].upath.fs
        paths = [file.upath.path for file in stored]
        # A buffer filled ahead would hold all of a file that was read by batches.
        options = ds.ParquetFragmentScanOptions(pre_buffer=False)
        parquet = ds.ParquetFileFormat(default_fragment_scan_options=options)
        return ds.dataset(paths, schema=schema, filesystem=file_system, format=parquet)

    @cached_property
    def _footers(self) -> list[tuple[pa.Schema, int]]:
        """The schema and the rows of each file."""
        return list(
            self._read(lambda file: [(file.schema_arrow, file.metadata.num_rows)], [], self.files)
        )

    @property
    def _names(self) -> list[str]:
        """The names of the files in messages. An error if there are no files."""
        from dagster_kumo.predictions.files import StoredFile

        if not self.files:
            raise KumoDataError("There are no partition files, so there is no schema either.")
        return [f.path if isinstance(f, StoredFile) else f.name for f in self.files]

    def _read_columns(
        self,
        read: Callable[[pq.ParquetFile, list[str] | None], Iterable[Data]],
        columns: Iterable[str] | None,
        files: Sequence[PartitionFile] | None = None,
        *,
        early: bool = False,
    ) -> Generator[Data, None, None]:
        """The result of `read` for each file, with exactly `columns`."""
        from dagster_kumo.predictions.schemas import conform

        names = column_list(self.columns if columns is None else columns)
        if self.columns is not None:
            self.schema_of(names)  # of the selected columns alone

        def read_file(file: pq.ParquetFile) -> Iterable[Data]:
            if names is None:
                return read(file, None)
            present = [name for name in names if name in file.schema_arrow.names]
            if len(present) == len(names):
                return (data.select(names) for data in read(file, names))
            schema = self.schema_of(names)  # another file has the column, or none does
            return (conform(data, schema) for data in read(file, present))

        return self._read(read_file, names, self.files if files is None else files, early=early)

    def _read(
        self,
        read: Callable[[pq.ParquetFile], Iterable[T]],
        columns: list[str] | None,
        files: Sequence[PartitionFile],
        *,
        early: bool = False,
    ) -> Generator[T, None, None]:
        """The result of `read` for each file, in order. The next files are fetched meanwhile.

        With `early`, `read` begins before a file is complete, and `read_row_groups` waits for them.
        """
        from dagster_kumo.predictions.files import open_parquet
        from dagster_kumo.predictions.prefetch import prefetch

        # Closed here: an interrupt's traceback would keep it, and its threads, alive for a while.
        with closing(prefetch(files, columns, early=early)) as fetched:
            for file, path, arrival in fetched:
                opened = arrival.open() if arrival else open_parquet(path, name=file.name)
                with opened as parquet:
                    yield from read(parquet)


def column_list(columns: Iterable[str] | None) -> list[str] | None:
    """Names of columns as a list; None: all columns.

    Raises:
        TypeError: It is a text. Its letters would be taken for names.

    >>> column_list(name.upper() for name in ("entity", "score"))
    ['ENTITY', 'SCORE']
    """
    if isinstance(columns, str):
        raise TypeError(f"columns is a list of names: write columns=[{columns!r}].")
    return None if columns is None else list(columns)
