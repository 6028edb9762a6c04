"""Statistics that are kept beside the files of a version: small, and enough to compare two versions.

They lie in the version's own folder and come into force with it. A few kilobytes stand for any number
of rows: what asks how the scores are spread, or how many are missing, reads them and not the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.api.records import UTCDatetime
from dagster_kumo.predictions.statistics.anchors import Extremes
from dagster_kumo.predictions.statistics.summary import ColumnSummary, OutputSummary
from dagster_kumo.predictions.store.store import Manifest, NewVersion, PartitionStore

if TYPE_CHECKING:
    from dagster_kumo.predictions.store.transfer import Transferred

STATISTICS = "_statistics.json"
"""The file's name. What reads a folder of Parquet files leaves out names that begin so."""
MAX_CLASSES = 100
MAX_OUTLINES = 30
POINTS = np.linspace(0.0, 1.0, 201)


class StoredColumn(BaseModel):
    """What is kept of one column.

    `nulls` counts nulls, NaN and infinities. `values` outline the distribution of a column of numbers:
    about two hundred of them in ascending order, each for as many rows as `weights` says. `classes`
    are the commonest classes, and `other_classes` the rows of all others.
    """

    model_config = ConfigDict(extra="ignore")

    rows: int
    nulls: int = 0
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    values: list[float] | None = None
    weights: list[int] | None = None
    classes: dict[str, int] | None = None
    other_classes: int = 0

    @classmethod
    def of(cls, column: ColumnSummary, *, outlined: bool = True) -> StoredColumn:
        """What is to be kept of a column."""
        known = cls(rows=column.rows, nulls=column.nulls, mean=column.mean)
        if not column.count:
            return known
        if column.distribution is not None:
            known.min, known.max = float(column.min), float(column.max)
            if outlined:
                outline = column.distribution.outline(POINTS)
                rounded = np.array([float(f"{value:.6g}") for value in outline.values])
                values, which = np.unique(rounded, return_inverse=True)
                known.values = values.tolist()
                known.weights = np.bincount(which, outline.rows).astype(int).tolist()
        if column.values is not None:
            commonest = Counter(column.values).most_common(MAX_CLASSES)
            known.classes = {str(name): rows for name, rows in commonest}
            known.other_classes = column.values.total() - sum(known.classes.values())
        return known

    @property
    def null_fraction(self) -> float:
        """The share of nulls, 0 to 1."""
        return self.nulls / self.rows if self.rows else 0.0


class StoredStatistics(BaseModel):
    """What is kept of an output."""

    model_config = ConfigDict(extra="ignore")

    num_rows: int
    anchors: tuple[UTCDatetime, UTCDatetime] | None = None
    """The earliest and the latest anchor time in the data."""
    columns: dict[str, StoredColumn] = Field(default_factory=dict[str, StoredColumn])

    @classmethod
    def of(cls, summary: OutputSummary, anchors: Extremes | None = None) -> StoredStatistics:
        """What is to be kept of an output."""
        return cls(
            num_rows=summary.num_rows,
            anchors=anchors,
            columns={
                name: StoredColumn.of(column, outlined=index < MAX_OUTLINES)
                for index, (name, column) in enumerate(summary.columns.items())
            },
        )


def keep_statistics(
    version: NewVersion, transferred: Transferred, *, warn: Callable[[str], None]
) -> None:
    """Put the statistics of an output, if it has any, into its version, which is not committed yet.

    When none can be made, `warn` is told why.
    """
    if transferred.summary is None:
        return
    try:
        statistics = StoredStatistics.of(transferred.summary, transferred.anchors)
    except Exception as error:  # noqa: BLE001 - whatever it is, the data stands
        warn(f"No statistics are kept beside the files: {error}")
        return
    scratch = version.scratch / f"{STATISTICS}.partial"
    scratch.write_text(statistics.model_dump_json(exclude_none=True))
    version.put(scratch, STATISTICS)


def kept_statistics(
    store: PartitionStore, manifest: Manifest | None = None
) -> StoredStatistics | None:
    """The statistics of the version in force, or of the one that a manifest names.

    None where nothing is stored, and where no statistics were kept.

    Raises:
        KumoDataError: what lies there are no statistics.
    """
    manifest = manifest or store.manifest()
    if manifest is None:
        return None
    path = store.directory / manifest.version / STATISTICS
    try:
        content: Any = path.fs.cat_file(path.path)
    except FileNotFoundError:
        return None
    try:
        return StoredStatistics.model_validate_json(content)
    except ValidationError:
        raise KumoDataError(
            f"{path} holds no statistics of dagster-kumo.\nMaterialize again to have them written anew."
        ) from None
