"""What cannot be evaluated is refused, in words that say what to do."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dagster_kumo.checks.evaluation.joined_rows import Outcomes, join
from tests.checks.evaluation.evaluated import evaluate, numbers_of
from tests.checks.evaluation.test_metrics import binary, outcomes
from tests.support import error_of

pytestmark = pytest.mark.fast

ROWS = 20
PREDICTED = binary(np.linspace(0.05, 0.9, ROWS))
HAPPENED = outcomes(np.arange(ROWS) % 3 == 0)
CLASSES = pd.DataFrame({"ENTITY": [1, 1, 2, 2], "CLASS": ["a", "b"] * 2, "SCORE": [0.3, 0.7] * 2})


def with_column(frame: pd.DataFrame, name: str, values: Any) -> pd.DataFrame:
    return frame.assign(**{name: values})


REFUSED = {
    "no outcomes": (PREDICTED, HAPPENED.head(0), "happened has no rows"),
    "None": (PREDICTED, None, "was loaded as NoneType, which is no table"),
    "no table": (PREDICTED, {"ENTITY": 1}, "was loaded as dict, which is no table"),
    "wrong columns": (
        PREDICTED,
        HAPPENED.rename(columns={"ENTITY": "customer", "TARGET": "bought"}),
        "has no column ENTITY and no column TARGET, only customer, bought.\nName its columns by entity= and",
    ),
    "duplicate entities": (
        PREDICTED,
        pd.concat([HAPPENED, HAPPENED.head(2)]),
        "happened has several rows for 2 of its ENTITY",
    ),
    "duplicate predictions": (
        pd.concat([PREDICTED, PREDICTED.head(1)]),
        HAPPENED,
        "made_up/predictions has several rows for 1 of its ENTITY: 0",
    ),
    "several rows of a ranking": (
        CLASSES,
        pd.DataFrame({"ENTITY": [1, 1], "TARGET": ["a", "b"]}),
        "for a ranking the list of its items",
    ),
    "no entity": (
        PREDICTED,
        with_column(HAPPENED, "ENTITY", pd.array([None, *range(1, ROWS)], dtype="Int64")),
        "1 rows of happened have no ENTITY",
    ),
    "no target": (
        PREDICTED,
        with_column(HAPPENED, "TARGET", pd.array([None] * ROWS, dtype="boolean")),
        "20 rows of happened have no TARGET",
    ),
    "no score": (
        with_column(PREDICTED, "True_PROB", np.nan),
        HAPPENED,
        "20 rows of made_up/predictions have no True_PROB",
    ),
    "entities of another type": (
        PREDICTED,
        with_column(HAPPENED, "ENTITY", HAPPENED["ENTITY"].astype(str)),
        "ENTITY is VARCHAR in happened, and ENTITY is BIGINT in made_up/predictions",
    ),
    "entities as floats": (
        PREDICTED,
        with_column(HAPPENED, "ENTITY", HAPPENED["ENTITY"].astype(float)),
        "Make the outcomes' ENTITY BIGINT",
    ),
    "other entities": (
        PREDICTED,
        with_column(HAPPENED, "ENTITY", HAPPENED["ENTITY"] + 1000),
        "None of the 20 entities of made_up/predictions is in happened",
    ),
    "counts for yes or no": (
        PREDICTED,
        with_column(HAPPENED, "TARGET", range(ROWS)),
        "with other values than 0 and 1",
    ),
    "texts for amounts": (
        pd.DataFrame({"ENTITY": range(ROWS), "TARGET_PRED": 1.5}),
        with_column(HAPPENED, "TARGET", "much"),
        "TARGET of happened is VARCHAR, and an amount was predicted",
    ),
    "unknown classes": (
        CLASSES,
        pd.DataFrame({"ENTITY": [1, 2], "TARGET": ["c", "c"]}),
        "No TARGET of happened is a class that was predicted",
    ),
    "embeddings": (
        pd.DataFrame({"ENTITY": range(ROWS), "EMBEDDING": [[0.1, 0.2]] * ROWS}),
        HAPPENED,
        "has nothing to evaluate",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused(what: str, tmp_path: Path) -> None:
    predictions, happened, said = REFUSED[what]
    error, message = error_of(evaluate(predictions, happened, tmp_path))
    assert error == "KumoDataError", message
    assert said in message


def test_duckdb_is_asked_for_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    run = evaluate(PREDICTED, HAPPENED, tmp_path)
    assert "pip install 'dagster-kumo[evaluation]'" in error_of(run)[1]
    assert not [e for e in run.all_events if e.event_type_value == "LOADED_INPUT"]


def test_columns_can_have_other_names_and_types(tmp_path: Path) -> None:
    happened = HAPPENED.rename(columns={"ENTITY": "customer", "TARGET": "bought"})
    happened = happened.astype({"customer": "int32", "bought": "float64"})
    found = numbers_of(evaluate(PREDICTED, happened, tmp_path, entity="customer", target="bought"))
    assert found["coverage"] == 1


def test_entities_without_an_outcome_are_counted_or_taken_for_a_no(tmp_path: Path) -> None:
    buyers = HAPPENED[HAPPENED["TARGET"]]
    found = numbers_of(evaluate(PREDICTED, buyers, tmp_path))
    assert found["coverage"] == pytest.approx(len(buyers) / ROWS)
    said = f"Entities with an outcome: {len(buyers):,} of {ROWS:,}"
    assert f"{said}. Outcomes without a prediction: 0." in found["in_brief"]
    assert found["base_rate"] == 1

    found = numbers_of(evaluate(PREDICTED, buyers, tmp_path / "filled", missing_outcome=False))
    assert f"{said}, {ROWS - len(buyers):,} more counted as missing_outcome." in found["in_brief"]
    assert found["base_rate"] == pytest.approx(len(buyers) / ROWS)
    assert found["coverage"] == pytest.approx(len(buyers) / ROWS)


def test_outcomes_come_as_whatever_speaks_arrow(tmp_path: Path) -> None:
    import duckdb
    import polars as pl
    import pyarrow as pa

    frame = HAPPENED
    for place, value in enumerate(
        (pl.from_pandas(frame), pa.Table.from_pandas(frame), duckdb.sql("FROM frame"))
    ):
        assert numbers_of(evaluate(PREDICTED, value, tmp_path / str(place)))["coverage"] == 1


@pytest.mark.parametrize(
    "error", [dg.DagsterExecutionInterruptedError(), OSError("the bucket is gone")]
)
def test_what_ends_the_reading_is_told_as_it_is(error: BaseException) -> None:
    """A termination is no error of the data."""
    schema = pa.schema([("ENTITY", pa.int64()), ("TARGET", pa.bool_())])

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pydict({"ENTITY": [0], "TARGET": [True]}, schema=schema)
        raise error

    happened = Outcomes(pa.RecordBatchReader.from_batches(schema, batches()), "happened")
    with pytest.raises(type(error)), join(PREDICTED, happened, anchor=None, name="predictions"):
        pass
