"""An output of a prediction job, read one partition file at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
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


@dataclass(frozen=True)
class Provenance:
    """Which prediction job an output comes from, and what that job says of it."""

    job_id: str
    output_type: OutputType
    training_job_id: str | None = None
    prediction_table_job_id: str | None = None
    """The job of the prediction table that was generated first."""
    prediction_time: datetime | None = None
    num_entities: int | None = None
    binary_classification_threshold: float | None = None
    """From which probability on the job answered yes, as far as it was told."""


@dataclass(frozen=True)
class Expectation:
    """The time that an output was asked to be for, which its data must confirm before it is stored."""

    anchor_time: datetime
    window: timedelta
    """How long the partition is whose output it is."""
    is_stated: bool
    """Whether the job or its prediction table states this time; otherwise only the data can."""


class Predictions:
    """An output as a sequence of Parquet partition files, read one at a time.

    The same class stands for the live result of a job and for files that the I/O manager stored.
    Nothing is fetched before it is asked for. Iterating holds one partition in memory, while the next
    few are fetched to a disk; only the columns that are asked for are.

    Raises (from every method that reads):
        KumoDataError: a file is missing, cut or not Parquet, or has no such column.
        KumoConnectionError: a live result could not be fetched.

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
    ) -> None:
        self._files = files
        self._num_rows = num_rows
        self.provenance = provenance
        """The job behind the output; None for data that no Kumo job made, or that several did."""
        self.expectation = expectation
        """What its data must confirm; None where no time was asked for, and once it is stored."""

    def __repr__(self) -> str:
        source = f"{self.output_type} of {self.job_id}" if self.provenance else "data"
        return f"<Predictions: {source}, {len(self)} partition files>"

    @property
    def job_id(self) -> str | None:
        """The prediction job that made this; None when there is not exactly one."""
        return self.provenance.job_id if self.provenance else None

    @property
    def output_type(self) -> OutputType | None:
        """`predictions` or `embeddings`; None when no prediction job made this."""
        return self.provenance.output_type if self.provenance else None

    @property
    def files(self) -> Sequence[PartitionFile]:
        """The partition files themselves, for those who move them."""
        return self._files

    @property
    def paths(self) -> list[str]:
        """Where the partition files are, for engines that read them on their own.

        Of a live result on SaaS these are presigned urls: treat them as secrets.
        """
        return [file.path for file in self._files]

    @property
    def num_files(self) -> int:
        """The number of partition files."""
        return len(self._files)

    def __len__(self) -> int:
        return self.num_files

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns and their types, from the first partition file."""
        self._some_files()
        return next(self._footers(self._files[:1]))[0]

    @property
    def num_rows(self) -> int:
        """The rows of all partition files, counted by their footers."""
        if self._num_rows is None:
            self._num_rows = sum(rows for _, rows in self._footers(self._files))
        return self._num_rows

    def __iter__(self) -> Iterator[pa.Table]:
        return self.iter_tables()

    def iter_tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Each partition file as a `pyarrow.Table`, one after the other."""
        return self._read(lambda parquet, names: [parquet.read(columns=names)], columns)

    def table(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The partition file at `index` as a `pyarrow.Table`."""
        return next(Predictions([self._files[index]]).iter_tables(columns))

    def iter_batches(
        self, batch_size: int = BATCH_ROWS, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """All rows as record batches of at most `batch_size` rows."""
        return self._read(
            lambda parquet, names: parquet.iter_batches(batch_size=batch_size, columns=names),
            columns,
        )

    def iter_pandas(self, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """Each partition file as a `pandas.DataFrame`."""
        for table in self.iter_tables(columns):
            yield table.to_pandas()

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Everything as one `pyarrow.Table`, in memory."""
        import pyarrow as pa

        self._some_files()
        tables = list(self.iter_tables(columns))
        with _fitting_together():
            return pa.concat_tables(tables, promote_options="default")

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Everything as one `pandas.DataFrame`, in memory."""
        from dagster_kumo.predictions.frames import to_frame

        self._some_files()
        with _fitting_together():
            return to_frame(self.iter_tables(columns), len(self))

    def to_reader(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """Everything as a stream of record batches, for DuckDB and the like.

        Their types are those of `to_arrow()`, known beforehand from the footers of all files.
        """
        import pyarrow as pa

        self._some_files()
        schemas = [schema for schema, _ in self._footers(self._files)]
        if columns is not None:
            schemas = [
                pa.schema([schema.field(name) for name in _known(columns, schema.names)])
                for schema in schemas
            ]
        with _fitting_together():
            empty = pa.concat_tables(
                [schema.empty_table() for schema in schemas], promote_options="default"
            )

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in self.iter_batches(columns=columns):
                if batch.schema == empty.schema:
                    yield batch
                    continue
                with _fitting_together():
                    table = pa.concat_tables(
                        [empty, pa.Table.from_batches([batch])], promote_options="default"
                    )
                yield from table.to_batches()

        return pa.RecordBatchReader.from_batches(empty.schema, batches())

    def to_dataset(self) -> ds.Dataset:
        """The stored files as a `pyarrow.dataset.Dataset`, read lazily.

        Raises:
            KumoDataError: this is a live result, whose urls expire: store it first.
        """
        import pyarrow.dataset as ds

        from dagster_kumo.predictions.files import StoredFile

        self._some_files()
        stored = [file for file in self._files if isinstance(file, StoredFile)]
        if len(stored) < len(self):
            raise KumoDataError(
                "A live result cannot be a dataset, since its urls expire. Store it by materializing "
                "the asset with KumoIOManager, or read it with .to_reader() or .iter_batches()."
            )
        file_system = stored[0].upath.fs
        return ds.dataset(
            [file.upath.path for file in stored], filesystem=file_system, format="parquet"
        )

    def _footers(self, files: Sequence[PartitionFile]) -> Iterator[tuple[pa.Schema, int]]:
        """The schema and the rows of each file."""
        return Predictions(files)._read(
            lambda parquet, _: [(parquet.schema_arrow, parquet.metadata.num_rows)], []
        )

    def _read(
        self,
        read: Callable[[pq.ParquetFile, list[str] | None], Iterable[T]],
        columns: Sequence[str] | None,
    ) -> Iterator[T]:
        """What `read` makes of the files, one after the other; the next ones are fetched meanwhile."""
        from dagster_kumo.predictions.files import open_parquet
        from dagster_kumo.predictions.prefetch import fetched

        # Closed here: an interrupt's traceback would keep it, and its threads, alive for a while.
        with closing(fetched(self._files, columns)) as files:
            for file, path in files:
                with open_parquet(path, name=file.name) as parquet:
                    yield from read(parquet, _checked(columns, parquet, file))

    def _some_files(self) -> None:
        if not self._files:
            raise KumoDataError("There are no partition files, so there is no schema either.")


@contextmanager
def _fitting_together() -> Generator[None, None, None]:
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise KumoDataError(f"The partition files do not fit together: {error}") from None


def _checked(
    columns: Sequence[str] | None, parquet: pq.ParquetFile, file: PartitionFile
) -> list[str] | None:
    """`columns`, or an error: pyarrow would leave out in silence what it does not know."""
    if columns is None:
        return None
    return _known(columns, parquet.schema_arrow.names, where=f" in {file.name}")


def _known(columns: Sequence[str], there: Sequence[Any], *, where: str = "") -> list[str]:
    missing = [name for name in columns if name not in there]
    if missing:
        raise KumoDataError(
            f"There is no column {', '.join(missing)}{where}; there are: {', '.join(there)}."
        )
    return list(columns)
