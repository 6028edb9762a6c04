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

# The types of pyarrow and numpy are partly unknown:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false, reportMissingTypeStubs=false, reportMissingTypeArgument=false

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


def time_column(time: datetime, rows: int) -> pa.Array:
    """A time, once for each row."""
    import pyarrow as pa

    plain = np.datetime64(time.replace(tzinfo=None), "ns")
    return pa.array(np.full(rows, plain))


def table_of(columns: dict[str, Any]) -> pa.Table:
    """A table of arrays, pyarrow's and numpy's."""
    import pyarrow as pa

    return pa.table(cast("Any", columns))


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
        return table_of(
            {
                "ENTITY": np.repeat(entities, count),
                "ANCHOR_TIMESTAMP": time_column(anchor, len(entities) * count),
                "CLASS": pa.array(np.array(BANDS)[order.ravel()], pa.string()),
                "SCORE": np.take_along_axis(guess, order, axis=1).ravel().astype(np.float32),
            }
        )
    columns: dict[str, Any] = {
        "ENTITY": entities,
        "ANCHOR_TIMESTAMP": time_column(anchor, len(entities)),
    }
    if model.task == "regression":
        columns["TARGET_PRED"] = guess.astype(np.float32)
    else:
        columns["TARGET_PRED"] = guess >= threshold
        columns["False_PROB"] = (1 - guess).astype(np.float32)
        columns["True_PROB"] = guess.astype(np.float32)
    return table_of(columns)


def embeddings_table(model: Model, features: NDArray[Any], entities: NDArray[np.int64]) -> pa.Table:
    """Embeddings of some entities."""
    import pyarrow as pa

    vectors = model.embed(features)
    width = vectors.shape[1]
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * width
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel()))
    return table_of({"ENTITY": entities, "EMBEDDING": lists})


def entities_table(entities: NDArray[np.int64], anchor: datetime) -> pa.Table:
    """A prediction table: for whom, and as of when."""
    return table_of({"ENTITY": entities, "ANCHOR_TIMESTAMP": time_column(anchor, len(entities))})


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
