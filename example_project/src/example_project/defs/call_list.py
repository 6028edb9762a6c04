"""What the shop does with the predictions: a list of customers to call, each day."""

import dagster as dg
import pandas as pd

from example_project.automation import newest_day
from example_project.folders import CALL_LISTS
from example_project.partitions import daily

LENGTH = 100
COLUMNS = dg.TableSchema(
    [
        dg.TableColumn("rank", "int", "The order in which to call."),
        dg.TableColumn("customer_id", "int", "Whom to call."),
        dg.TableColumn("probability", "float", "That the customer buys in the next 30 days."),
        dg.TableColumn("expected_spend", "float", "Dollars in the next 30 days."),
        dg.TableColumn("last_purchase", "date", "The last one until the end of the day."),
    ]
)


@dg.asset(
    partitions_def=daily,
    ins={
        # Only these columns are read from the stored files.
        "chances": dg.AssetIn(
            ["purchase", "predictions"],
            metadata={"columns": ["ENTITY", "TARGET_PRED", "True_PROB"]},
        ),
        "spend": dg.AssetIn(
            ["spend", "predictions"], metadata={"columns": ["ENTITY", "TARGET_PRED"]}
        ),
    },
    automation_condition=newest_day,
    group_name="sales",
    owners=["team:sales"],
    kinds={"pandas", "csv"},
    metadata={"dagster/column_schema": COLUMNS},
)
def call_list(
    context: dg.AssetExecutionContext,
    chances: pd.DataFrame,
    spend: pd.DataFrame,
    purchases: pd.DataFrame,
) -> dg.MaterializeResult:
    """The customers worth a call: those likely to buy, the biggest spenders first. A CSV file a day."""
    day = context.partition_key
    # A list for a day in the past shows what was known then.
    known = purchases[purchases["date"] <= day]
    last_purchase = known.groupby("customer_id")["date"].max().dt.date

    likely = chances[chances["TARGET_PRED"]].merge(
        spend, on="ENTITY", suffixes=("", "_spend"), validate="one_to_one"
    )
    likely = likely.sort_values("TARGET_PRED_spend", ascending=False).head(LENGTH)
    calls = pd.DataFrame(
        {
            "rank": range(1, len(likely) + 1),
            "customer_id": likely["ENTITY"],
            "probability": likely["True_PROB"].astype("float64").round(3),
            "expected_spend": likely["TARGET_PRED_spend"].astype("float64").round(2),
            "last_purchase": likely["ENTITY"].map(last_purchase),
        }
    )

    path = CALL_LISTS / f"{day}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    calls.to_csv(path, index=False)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(calls),
            "path": dg.MetadataValue.path(path),
            # Numbers are plotted over the days; customers stay in the file.
            "expected_spend": round(float(calls["expected_spend"].sum()), 2),
            "mean_probability": round(float(calls["probability"].mean()), 3),
        }
    )
