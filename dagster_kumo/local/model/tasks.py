"""What the stand-in can predict: its predictive queries and its training jobs.

All three queries look 30 days ahead of the anchor time, one row for each customer:

| training job                   | question                                         | task                       |
|--------------------------------|--------------------------------------------------|----------------------------|
| `trainingjob-cdnow-purchase`   | will the customer buy?                           | binary classification      |
| `trainingjob-cdnow-spend`      | how many dollars will the customer spend?        | regression                 |
| `trainingjob-cdnow-band`       | how often will the customer buy: 0, 1, 2, 3+?    | multiclass classification  |

The first query has three more training jobs, for tests of "the newest DONE job with these tags":
an older one, a FAILED one and a RUNNING one. Those that users launch are trained on newer data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

HORIZON_DAYS = 30
BANDS = ("0", "1", "2", "3+")


@dataclass(frozen=True)
class Split:
    """Anchor days (from the first day of the data) that a model is fitted and measured on.

    Each anchor's labels come from the 30 days after it, and the anchors lie 30 days apart: no
    label of the training or validation data reaches into the holdout month.
    """

    train: tuple[int, ...]
    validation: int
    holdout: int

    @property
    def cutoff(self) -> int:
        """The first day that the training job has not seen. It is the first valid anchor."""
        return self.holdout + HORIZON_DAYS


CURRENT = Split(train=(120, 150, 180, 210), validation=240, holdout=270)
EARLIER = Split(train=(90, 120, 150), validation=180, holdout=210)
# What a new training job learns from. The last month of the data stays unseen, so that predictions of the new
# model can be compared with what happened.
NEWEST = Split(train=(330, 360, 390, 420), validation=450, holdout=480)


@dataclass(frozen=True)
class Recipe:
    """How a model is fitted: from which data, and with which settings of a model plan."""

    split: Split
    channels: int = 16
    epochs: int = 6
    learning_rate: float | None = None  # None: the task's own
    base: Recipe | None = None
    """The recipe of the model whose weights the fit begins with."""


@dataclass(frozen=True)
class Query:
    """A predictive query. `task` is Kumo's name for its kind."""

    id: str
    name: str
    task: str
    text: str
    description: str


PURCHASE = Query(
    id="pquery-cdnow-purchase",
    name="cdnow_purchase",
    task="binary_classification",
    text="PREDICT COUNT(purchases.*, 0, 30, days) > 0 FOR EACH customers.customer_id",
    description="Will the customer buy in the 30 days after the anchor time?",
)
SPEND = Query(
    id="pquery-cdnow-spend",
    name="cdnow_spend",
    task="regression",
    text="PREDICT SUM(purchases.dollar_value, 0, 30, days) FOR EACH customers.customer_id",
    description="How many dollars will the customer spend in the 30 days after the anchor time?",
)
BAND = Query(
    id="pquery-cdnow-band",
    name="cdnow_band",
    task="multiclass_classification",
    text="PREDICT FIRST(months.purchase_band, 0, 1, days) FOR EACH customers.customer_id",
    description=(
        "How often will the customer buy in the 30 days after the anchor time? The table `months` "
        "holds, for each customer and day, the band of the number of purchases in the 30 days "
        "that begin there: " + ", ".join(BANDS) + "."
    ),
)
QUERIES = {query.id: query for query in (PURCHASE, SPEND, BAND)}


def find_query(named: str) -> Query | None:
    """The query with this id, name or text."""
    return next((q for q in QUERIES.values() if named in (q.id, q.name, q.text)), None)


@dataclass(frozen=True)
class TrainingJob:
    """A training job that every data folder has."""

    id: str
    query: Query
    split: Split = CURRENT
    status: str = "DONE"
    # Days from the cut-off to the launch. The running job was launched when the folder was made.
    launched_after: float = 1.125

    @property
    def tags(self) -> dict[str, str]:
        """The tags that its user gave it."""
        return {"use_case": self.query.id.rpartition("-")[2], "dataset": "cdnow"}


TRAINING_JOBS = (
    TrainingJob("trainingjob-cdnow-purchase", PURCHASE),
    TrainingJob("trainingjob-cdnow-spend", SPEND),
    TrainingJob("trainingjob-cdnow-band", BAND),
    TrainingJob("trainingjob-cdnow-purchase-old", PURCHASE, EARLIER),
    TrainingJob(
        "trainingjob-cdnow-purchase-failed", PURCHASE, status="FAILED", launched_after=2.125
    ),
    TrainingJob("trainingjob-cdnow-purchase-running", PURCHASE, status="RUNNING"),
)


def graph_of(query: Query) -> dict[str, Any]:
    """The tables that a query reads, as Kumo's graph definition."""
    tables = {
        "customers": _table("customers", [("customer_id", "ID", "int")], pkey="customer_id"),
        "purchases": _table(
            "purchases",
            [
                ("customer_id", "ID", "int"),
                ("date", "timestamp", "date"),
                ("number_of_cds", "numerical", "int"),
                ("dollar_value", "numerical", "float"),
            ],
            time_col="date",
        ),
    }
    keys = [("customers", "customer_id"), ("purchases", "customer_id")]
    if query is BAND:
        tables["months"] = _table(
            "months",
            [
                ("customer_id", "ID", "int"),
                ("date", "timestamp", "date"),
                ("purchase_band", "categorical", "string"),
            ],
            time_col="date",
        )
        keys.append(("months", "customer_id"))
    group = [{"table_name": table, "col_name": column} for table, column in keys]
    return {"tables": tables, "col_groups": [{"columns": group}]}


def _table(
    name: str,
    columns: list[tuple[str, str, str]],
    *,
    pkey: str | None = None,
    time_col: str | None = None,
) -> dict[str, Any]:
    return {
        "cols": [
            {"name": column, "stype": stype, "dtype": dtype, "timestamp_format": None}
            for column, stype, dtype in columns
        ],
        "source_table": {
            "s3_path": f"s3://cdnow/{name}.parquet",
            "connector_id": None,
            "source_table_name": None,
            "file_type": "PARQUET",
            "data_source_type": "S3",
        },
        "pkey": pkey,
        "time_col": time_col,
        "end_time_col": None,
    }
