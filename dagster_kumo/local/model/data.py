"""The transactions behind the stand-in's predictions: real purchases, moved to the present.

The data are the CDNOW master set: 69,659 purchases that 23,570 customers of a music shop made
from 1 January 1997 to 30 June 1998, published for research by Peter S. Fader and Bruce G. S.
Hardie. The file `cdnow.parquet` beside this module holds the same rows as `CDNOW_master.txt` in
the package `lifetimes` 0.11.3 (MIT licence; see NOTICE), with dollars kept as cents.

All dates are moved by the same number of days, so that the last day of the data is yesterday (UTC).
The move is fixed when a data folder is first used. After a restart on another day, the same anchor
time gives the same predictions, and the data end some days in the past. With a new data folder they
end yesterday again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dagster_kumo.local.folder import DataFolder

if TYPE_CHECKING:
    import pandas as pd

FIRST_DAY = date(1997, 1, 1)
LAST_DAY = date(1998, 6, 30)
NUM_DAYS = (LAST_DAY - FIRST_DAY).days + 1


@dataclass(frozen=True)
class Purchases:
    """The purchases as arrays; `day` counts from the first day of the data."""

    customer: np.ndarray[Any, np.dtype[np.int64]]
    day: np.ndarray[Any, np.dtype[np.int64]]
    cds: np.ndarray[Any, np.dtype[np.int64]]
    cents: np.ndarray[Any, np.dtype[np.int64]]


@lru_cache(maxsize=1)
def purchases() -> Purchases:
    """All purchases, in the order of customer and date."""
    import pyarrow.parquet as pq

    table = pq.read_table(Path(__file__).with_name("cdnow.parquet"))

    def column(name: str) -> np.ndarray[Any, Any]:
        return table.column(name).to_numpy()

    days = column("date").astype("datetime64[D]") - np.datetime64(FIRST_DAY)
    return Purchases(
        customer=column("customer_id").astype(np.int64),
        day=days.astype(np.int64),
        cds=column("number_of_cds").astype(np.int64),
        cents=column("dollar_cents").astype(np.int64),
    )


@dataclass(frozen=True)
class Calendar:
    """The dates of the moved data. `last_day` is the day of the last purchase."""

    last_day: date

    @property
    def first_day(self) -> date:
        return self.last_day - timedelta(days=NUM_DAYS - 1)

    @property
    def latest(self) -> datetime:
        """The latest time in the data, and the default anchor time."""
        return self.at(NUM_DAYS - 1)

    def at(self, day: float) -> datetime:
        """The time (UTC) of a day counted from the first day of the data."""
        start = datetime.combine(self.first_day, datetime.min.time(), timezone.utc)
        return start + timedelta(days=day)

    def day(self, time: datetime) -> float:
        """Days from the start of the data to `time`."""
        return (time - self.at(0)) / timedelta(days=1)


def load_transactions(data: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """The transactions that the stand-in predicts from, one row for each purchase.

    Columns: `customer_id` (int), `date` (timestamp, midnight UTC without a zone),
    `number_of_cds` (int) and `dollar_value` (float).

    Args:
        data: A stand-in's data folder, to get the dates as that stand-in sees them (the folder
            is made if there is none). Without it the last day is yesterday.

    Examples:
        ```python
        from dagster_kumo.local import load_transactions

        transactions = load_transactions("./kumo-data")
        transactions.groupby("customer_id")["dollar_value"].sum()
        ```
    """
    import pandas as pd

    if data is None:
        last_day = datetime.now(timezone.utc).date() - timedelta(days=1)
    else:
        last_day = DataFolder(data).last_day
    rows = purchases()
    first_day = np.datetime64(Calendar(last_day).first_day, "ns")
    return pd.DataFrame(
        {
            "customer_id": rows.customer,
            "date": first_day + rows.day.astype("timedelta64[D]"),
            "number_of_cds": rows.cds,
            "dollar_value": rows.cents / 100,
        }
    )
