"""What a model predicted for its holdout data, as statistics that an output of it can be compared with."""

from __future__ import annotations

import pyarrow as pa

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoNotFoundError
from dagster_kumo.jobs.trained_model import holdout_data
from dagster_kumo.predictions.columns import CLASS, TARGET_PRED, TRUE_PROB
from dagster_kumo.predictions.statistics.drift import compared_columns
from dagster_kumo.predictions.statistics.stored_statistics import StoredColumn, StoredStatistics
from dagster_kumo.predictions.statistics.summary import OutputSummary

NOTHING = StoredStatistics(num_rows=0)


def holdout_statistics(
    client: KumoClient, training_job_id: str, output: StoredStatistics
) -> StoredStatistics:
    """The statistics of a model's holdout data, by the names that the columns have in `output`.

    A holdout file has what was predicted in TARGET_PRED. For a yes or no question that is taken to be the
    probability of yes if it is a number from 0 to 1; of several classes, the best one. (This is inferred:
    what the file holds is not documented for each kind of question.)

    Raises:
        KumoError: The data cannot be read.
    """
    try:
        data = holdout_data(client, training_job_id)
        names = data.schema.names
    except KumoNotFoundError:
        return NOTHING
    is_of_classes = CLASS in output.columns and CLASS not in names
    wanted = [name for name in names if name in (TARGET_PRED, *output.columns)]
    summary: OutputSummary | None = None
    for batch in data.iter_batches(columns=wanted):
        found = _classes_as_text(batch) if is_of_classes else batch
        summary = summary or OutputSummary(found.schema)
        summary.update(found)
    if summary is None:
        return NOTHING
    statistics = StoredStatistics.of(summary)
    predicted = statistics.columns.get(TARGET_PRED)
    if predicted is not None and TARGET_PRED not in compared_columns(output):
        del statistics.columns[TARGET_PRED]
        if TRUE_PROB in output.columns and TRUE_PROB not in names and _is_probability(predicted):
            statistics.columns[TRUE_PROB] = predicted
        classes = predicted.classes or {}
        if is_of_classes and set(classes) & set(output.columns[CLASS].best or ()):
            statistics.columns[CLASS] = StoredColumn(
                rows=predicted.rows, best=classes, other_best=predicted.other_classes
            )
    return statistics


def _classes_as_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with classes in place of numbers, which would be taken for amounts."""
    if TARGET_PRED not in batch.schema.names:
        return batch
    at = batch.schema.get_field_index(TARGET_PRED)
    return batch.set_column(at, TARGET_PRED, batch.column(at).cast(pa.string()))


def _is_probability(column: StoredColumn) -> bool:
    low, high = column.min, column.max
    return low is not None and high is not None and low >= 0 and high <= 1
