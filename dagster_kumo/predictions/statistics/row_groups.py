"""The statistics of a file, by its row groups: on all cores, each group as soon as it has arrived."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.arrival import Arrival, span_of
from dagster_kumo.predictions.columns import ANCHOR_TIMESTAMP
from dagster_kumo.predictions.files import groups_of_rows, open_parquet
from dagster_kumo.predictions.schemas import check_names
from dagster_kumo.predictions.statistics.anchors import TimeRange, anchor_range, merge_ranges
from dagster_kumo.predictions.statistics.summary import OutputSummary
from dagster_kumo.predictions.streams import Span

# Of a batch, of which each core holds one. Fewer rows would need more calls, between which threads wait for each other.
BATCH_ROWS = 131_072
BATCH_VALUES = 750_000  # of all columns
UNIT_ROWS = 131_072  # of the row groups that are summarised together, at least


@dataclass
class FileSummary:
    """What a file holds."""

    schema: pa.Schema
    rows: int
    anchors: TimeRange | None
    summary: OutputSummary | None


@dataclass
class _Unit:
    """Neighbouring row groups that are summarised together, because alone they would be too small."""

    groups: list[int]
    span: Span
    future: Future[None] | None = None
    result: tuple[OutputSummary | None, TimeRange | None] | None = None


class RowGroups:
    """Checks and summarises a local file, also while it arrives: it is a `streams.Watcher`.

    `cores` compute, by batches, between which `check` is called: it raises if the work was stopped. `summarise`
    says whether to compute statistics, or of which columns.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        cores: Executor,
        summarise: bool | Collection[str],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._name = name
        self._arrival = Arrival(path, name)
        self._cores = cores
        self._summarise = summarise
        self._check = check
        self._arriving = threading.Lock()
        self._merging = threading.Lock()
        self._units: list[_Unit] = []
        self.begin(0)

    def begin(self, length: int) -> None:
        """Forget everything: a file of this length begins to arrive."""
        self.close()
        self._arrival.begin(length)
        self._merged: FileSummary | None = None
        self._units = []
        self._next = 0

    def arrived(self, span: Span) -> None:
        """These bytes are there: begin with the row groups that are complete now."""
        self._arrival.arrived(span)
        if self._arrival.footer is not None:
            with contextlib.suppress(KumoDataError):  # `finish` will say so
                self._start(lambda unit: self._arrival.has(unit.span))

    def finish(self) -> FileSummary:
        """The result, once the whole file is there.

        Raises:
            KumoDataError: It is not Parquet, is damaged, or has two columns of the same name.
        """
        self._start(lambda _: True)
        for unit in self._units:
            assert unit.future is not None
            unit.future.result()
        assert self._merged is not None
        return self._merged

    def close(self) -> None:
        """End what still computes."""
        futures = [unit.future for unit in self._units if unit.future is not None]
        for future in futures:
            future.cancel()
        wait(futures)

    def _start(self, is_ready: Callable[[_Unit], bool]) -> None:
        with self._arriving:
            metadata, schema = self._arrival.read_footer()
            if self._merged is None:
                check_names(schema, self._name)
                summary = self._empty_summary(schema)
                self._units = [
                    _Unit(groups, span_of(metadata, groups))
                    for groups in groups_of_rows(metadata, UNIT_ROWS)
                ]
                self._merged = FileSummary(schema, metadata.num_rows, None, summary)
            for unit in self._units:
                if unit.future is None and is_ready(unit):
                    unit.future = self._cores.submit(self._run, unit)

    def _run(self, unit: _Unit) -> None:
        metadata, schema = self._arrival.read_footer()
        columns = self._columns(schema)
        read = None if columns is None else [*columns, ANCHOR_TIMESTAMP]
        summary = self._empty_summary(schema)
        anchors: TimeRange | None = None
        with open_parquet(self._path, name=self._name, metadata=metadata) as parquet:
            for batch in parquet.iter_batches(_batch_rows(metadata), unit.groups, read):
                self._check()
                anchors = merge_ranges(anchors, anchor_range(batch))
                if summary is not None:
                    summary.update(batch)
        if summary is not None:
            summary.compact()
        unit.result = summary, anchors
        self._merge_ready()

    def _merge_ready(self) -> None:
        """Merge results in the order of the rows, as far as they are there, so that few wait in memory."""
        with self._merging:
            merged = self._merged
            assert merged is not None
            while self._next < len(self._units) and (unit := self._units[self._next]).result:
                summary, anchors = unit.result
                merged.anchors = merge_ranges(merged.anchors, anchors)
                if merged.summary is not None and summary is not None:
                    merged.summary.merge(summary)
                unit.result = None
                self._next += 1

    def _empty_summary(self, schema: pa.Schema) -> OutputSummary | None:
        return OutputSummary(schema, self._columns(schema)) if self._summarise else None

    def _columns(self, schema: pa.Schema) -> list[str] | None:
        """The columns to summarise; None for all."""
        if isinstance(self._summarise, bool):
            return None if self._summarise else []
        return [name for name in schema.names if name in self._summarise]


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """The number of rows in a batch, so that its memory does not depend on the width of the file."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    return max(1, min(BATCH_ROWS, BATCH_VALUES * metadata.num_rows // max(1, values)))
