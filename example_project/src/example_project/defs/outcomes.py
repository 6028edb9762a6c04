"""What happened: who bought in the 30 days after a day. Known when they have passed."""

import dagster as dg
import pandas as pd

from example_project.defs.models import WINDOW
from example_project.partitions import daily


@dg.asset(
    partitions_def=daily,
    group_name="purchase",
    owners=["team:data-science"],
    kinds={"pandas", "parquet"},
)
def purchase_outcomes(context: dg.AssetExecutionContext, purchases: pd.DataFrame) -> pd.DataFrame:
    """One row for each customer of the day: whether a purchase followed within 30 days."""
    # A purchase has a date and no time: that of the day which begins at the anchor time comes after it.
    anchor = pd.Timestamp(context.partition_time_window.end).tz_localize(None)
    dates = purchases["date"]
    customers = pd.Series(purchases[dates < anchor]["customer_id"].unique())
    buyers = purchases[(dates >= anchor) & (dates < anchor + WINDOW)]["customer_id"]
    return pd.DataFrame({"ENTITY": customers, "TARGET": customers.isin(buyers)})
