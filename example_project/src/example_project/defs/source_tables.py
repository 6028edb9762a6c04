"""The tables that Kumo learns from. Real ones: the purchases of 23,570 customers of a music shop."""

import dagster as dg
import pandas as pd

from dagster_kumo.local import load_transactions
from example_project.folders import STAND_IN

# A table that dbt makes. With dagster-dbt it is among dbt's own assets, by the same key, and this line goes.
customer_segments = dg.AssetSpec(
    ["dbt", "customer_segments"],
    description="One row for each customer: the segment. A dbt model in another project.",
    group_name="shop",
    owners=["team:shop"],
    kinds={"dbt"},
)


@dg.asset(group_name="shop", owners=["team:shop"], kinds={"pandas", "parquet"})
def purchases() -> pd.DataFrame:
    """One row for each purchase: who, when, how many CDs, for how much.

    The CDNOW data set, published for research, with its dates moved so that it ends at the present.
    """
    return load_transactions(STAND_IN)


@dg.asset(group_name="shop", owners=["team:shop"], kinds={"pandas", "parquet"})
def customers(purchases: pd.DataFrame) -> pd.DataFrame:
    """One row for each customer, with the day of the first purchase.

    Nothing that changes later, such as a total: a model that learns from the past must not see it.
    """
    first = purchases.groupby("customer_id", as_index=False)["date"].min()
    return first.rename(columns={"date": "first_purchase"})
