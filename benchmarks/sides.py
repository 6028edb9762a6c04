"""What is measured, once by the official SDK and once by dagster-kumo. Each runs in a process of its
own, which prints its seconds and its peak memory; importing is not counted."""

import json
import logging
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY = "bench:mark"
JOB = "job"


def sdk_frame(url: str) -> Callable[[], Any]:
    import kumoai

    kumoai.init(url=url, api_key=KEY, log_level="ERROR")
    return lambda: kumoai.BatchPredictionJobResult(JOB).predictions_df()


def our_frame(url: str) -> Callable[[], Any]:
    import pandas  # noqa: F401 - the SDK has loaded it by now, too

    from dagster_kumo import BatchPredictionJobResult, KumoClient

    return lambda: BatchPredictionJobResult(JOB, KumoClient(url, KEY)).predictions_df()


def sdk_store(url: str) -> Callable[[], Any]:
    """What a hand-written asset does: the frame, its statistics, one file."""
    frame = sdk_frame(url)

    def store() -> None:
        with tempfile.TemporaryDirectory() as folder:
            found = frame()
            found.describe()
            found.to_parquet(Path(folder) / "predictions.parquet")

    return store


def our_store(url: str) -> Callable[[], Any]:
    import dagster as dg

    from dagster_kumo import BatchPredictionJobResult, KumoClient, KumoIOManager

    def store() -> None:
        with tempfile.TemporaryDirectory() as folder:
            context = dg.build_output_context(asset_key=dg.AssetKey("predictions"))
            predictions = BatchPredictionJobResult(JOB, KumoClient(url, KEY)).predictions()
            KumoIOManager(base_path=folder).handle_output(context, predictions)

    return store


SIDES = {f.__name__: f for f in (sdk_frame, our_frame, sdk_store, our_store)}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    name, url = sys.argv[1:]
    act = SIDES[name](url)
    started = time.perf_counter()
    act()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
