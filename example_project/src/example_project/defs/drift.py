"""Do the scores of this week still look like those of its first day?"""

import dagster as dg
import numpy as np
import pandas as pd

from dagster_kumo import Predictions
from example_project.automation import late_days_too
from example_project.partitions import weekly

# Most customers will not buy: the bins are narrow where the scores are.
EDGES = np.array([0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])


@dg.asset(
    partitions_def=weekly,
    ins={
        "predictions": dg.AssetIn(
            ["purchase", "predictions"],
            # A week may still run, or a day may be missing: what is there counts.
            metadata={"allow_missing_partitions": True},
            partition_mapping=dg.TimeWindowPartitionMapping(
                allow_nonexistent_upstream_partitions=True
            ),
        )
    },
    automation_condition=late_days_too,
    group_name="purchase",
    owners=["team:data-science"],
    kinds={"pandas", "parquet"},
)
def purchase_drift(predictions: dict[str, Predictions]) -> dg.Output[pd.DataFrame]:
    """How the purchase scores are spread, one row for each day of the week.

    `drift` is the population stability index against the first day: below 0.1 is calm, above 0.25 is
    worth a look.
    """
    if not predictions:
        raise dg.Failure("No day of this week has predictions yet.", allow_retries=False)
    rows = []
    for day, scores in predictions.items():
        counts, total = np.zeros(len(EDGES) - 1), 0.0
        # File by file: however many customers there are, one file is in memory.
        for part in scores.iter_tables(columns=["True_PROB"]):
            probabilities = part["True_PROB"].to_numpy()
            counts += np.histogram(probabilities, EDGES)[0]
            total += probabilities.sum(dtype=float)
        shares = (counts + 0.5) / (counts + 0.5).sum()  # no bin is empty: it stands in a logarithm
        first = rows[0]["shares"] if rows else shares
        rows.append(
            {
                "day": day,
                "customers": int(counts.sum()),
                "mean_probability": total / counts.sum(),
                "likely": counts[EDGES[:-1] >= 0.2].sum() / counts.sum(),
                "drift": float(((shares - first) * np.log(shares / first)).sum()),
                "shares": shares,
            }
        )
    table = pd.DataFrame(rows).drop(columns="shares")
    return dg.Output(
        table,
        metadata={
            "days": len(table),
            "largest_drift": float(table["drift"].max()),
            "by_day": dg.MetadataValue.md(_markdown(table)),
        },
    )


def _markdown(table: pd.DataFrame) -> str:
    head = "| day | customers | mean probability | likely to buy | drift |\n|---|--:|--:|--:|--:|\n"
    return head + "\n".join(
        f"| {r.day} | {r.customers:,} | {r.mean_probability:.4f} | {r.likely:.1%} | {r.drift:.4f} |"
        for r in table.itertuples()
    )
