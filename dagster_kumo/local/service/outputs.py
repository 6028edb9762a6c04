"""The files of predictions, embeddings and prediction tables, as Kumo lays them out.

| output                    | columns                                                                     |
|---------------------------|-----------------------------------------------------------------------------|
| binary classification     | ENTITY, ANCHOR_TIMESTAMP, TARGET_PRED (bool), False_PROB, True_PROB         |
| regression                | ENTITY, ANCHOR_TIMESTAMP, TARGET_PRED (float)                               |
| multiclass classification | ENTITY, ANCHOR_TIMESTAMP, CLASS, SCORE: a row for each entity and class     |
| embeddings                | ENTITY, EMBEDDING (list of floats)                                          |
| prediction table          | ENTITY, ANCHOR_TIMESTAMP                                                    |

ANCHOR_TIMESTAMP is a timestamp in UTC without a zone.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dagster_kumo.local.model.model import Model
from dagster_kumo.local.model.tasks import BANDS

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


def time_column(time: datetime, rows: int) -> pa.Array[Any]:
    """A time, once for each row."""
    import pyarrow as pa

    plain = np.datetime64(time.replace(tzinfo=None), "ns")
    return pa.array(np.full(rows, plain))


def rows_of(entities: NDArray[Any], anchor: datetime, **columns: Any) -> pa.Table:
    """A row for each entity, and its columns; without any it is a prediction table."""
    import pyarrow as pa

    times = time_column(anchor, len(entities))
    table = {"ENTITY": entities, "ANCHOR_TIMESTAMP": times, **columns}
    return pa.table(cast("Any", table))


def predictions_table(
    model: Model,
    features: NDArray[Any],
    entities: NDArray[np.int64],
    anchor: datetime,
    *,
    threshold: float,
    num_classes: int | None,
) -> pa.Table:
    """Predictions for some entities."""
    import pyarrow as pa

    guess = model.predict(features)
    if model.task == "multiclass_classification":
        count = min(num_classes or len(BANDS), len(BANDS))
        order = np.argsort(-guess, axis=1, kind="stable")[:, :count]
        return rows_of(
            np.repeat(entities, count),
            anchor,
            CLASS=pa.array(np.array(BANDS)[order.ravel()], pa.string()),
            SCORE=np.take_along_axis(guess, order, axis=1).ravel().astype(np.float32),
        )
    if model.task == "regression":
        return rows_of(entities, anchor, TARGET_PRED=guess.astype(np.float32))
    return rows_of(
        entities,
        anchor,
        TARGET_PRED=guess >= threshold,
        False_PROB=(1 - guess).astype(np.float32),
        True_PROB=guess.astype(np.float32),
    )


def embeddings_table(model: Model, features: NDArray[Any], entities: NDArray[np.int64]) -> pa.Table:
    """Embeddings of some entities."""
    import pyarrow as pa

    vectors = pa.array(list(model.embed(features)), pa.list_(pa.float32()))
    return pa.table(cast("Any", {"ENTITY": entities, "EMBEDDING": vectors}))


def write_parts(folder: Path, tables: list[pa.Table]) -> None:
    """Write one Parquet file for each table, in place of what is there."""
    import pyarrow.parquet as pq

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"part-{number:05d}.parquet")


def part_files(folder: Path) -> list[Path]:
    """The files of an output, in order."""
    return sorted(folder.glob("part-*.parquet"))
