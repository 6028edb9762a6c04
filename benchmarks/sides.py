"""What is measured, once by the official SDK and once by dagster-kumo.

Each side runs in a process of its own, which prints its seconds and its peak memory. It is warmed up
with a small job first, unless the whole process is measured, so that importing is not counted. What only computes prints seconds of
CPU: nothing is waited for, and what else the machine does is no part of them.
"""

import json
import logging
import resource
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KEY = "bench:mark"
CONNECTIONS, RANGE, PIECE = 16, 8 * 1024**2, 256 * 1024
MODELS = 500
# A run over as many partitions as a year has days, which keeps so many jobs of so many seconds going.
PARTITIONS = 365
JOBS_AT_ONCE = 25
JOB_SECONDS = 6

Act = Callable[[str], Any]  # does the work for a job


def sdk_frame(url: str) -> Act:
    import kumoai

    kumoai.init(url=url, api_key=KEY, log_level="ERROR")
    return lambda job: kumoai.BatchPredictionJobResult(job).predictions_df()


def our_frame(url: str) -> Act:
    from dagster_kumo import BatchPredictionJobResult, KumoClient

    return lambda job: BatchPredictionJobResult(job, KumoClient(url, KEY)).predictions_df()


def plain_download(url: str) -> Act:
    """The limit: the same bytes over as many connections, by ranges, and nothing done with them."""
    host = urlsplit(url).netloc
    connections = threading.local()

    def get(path: str, begin: int, end: int) -> int:
        if not hasattr(connections, "one"):
            connections.one = HTTPConnection(host)
        connections.one.request("GET", path, headers={"Range": f"bytes={begin}-{end - 1}"})
        answer = connections.one.getresponse()
        while answer.read1(PIECE):
            pass
        answer.read()
        return int(answer.headers["Content-Range"].rpartition("/")[2])

    def download(job: str) -> None:
        listing = HTTPConnection(host)
        listing.request("GET", f"/api/v1/jobs/{job}/get_prediction_df_urls")
        urls = json.loads(listing.getresponse().read())["prediction_partitions"]
        paths = [urlsplit(one).path for one in urls]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            lengths = list(pool.map(lambda path: get(path, 0, 1), paths))
            pieces = [
                (path, begin, min(begin + RANGE, length))
                for path, length in zip(paths, lengths, strict=True)
                for begin in range(0, length, RANGE)
            ]
            list(pool.map(lambda piece: get(*piece), pieces))

    return download


def sdk_store(url: str) -> Act:
    """What a hand-written asset does: the frame, its statistics, one file."""
    frame = sdk_frame(url)

    def store(job: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            found = frame(job)
            found.describe()
            found.to_parquet(Path(folder) / "predictions.parquet")

    return store


def our_store(url: str, *, statistics: bool = True) -> Act:
    import dagster as dg

    from dagster_kumo import BatchPredictionJobResult, KumoClient, KumoIOManager

    def store(job: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            context = dg.build_output_context(asset_key=dg.AssetKey("predictions"))
            predictions = BatchPredictionJobResult(job, KumoClient(url, KEY)).predictions()
            KumoIOManager(base_path=folder, statistics=statistics).handle_output(
                context, predictions
            )

    return store


def our_store_without_statistics(url: str) -> Act:
    return our_store(url, statistics=False)


def sdk_import(_: str) -> Act:
    import dagster  # noqa: F401 - who uses either has it

    def load(_: str) -> None:
        import kumoai  # noqa: F401

    return load


def our_import(_: str) -> Act:
    import dagster  # noqa: F401

    def load(_: str) -> None:
        import dagster_kumo  # noqa: F401

        assert not {"pandas", "pyarrow"} & set(sys.modules)

    return load


def plain_definitions(_: str) -> Act:
    """A source and two assets for each model, by Dagster alone."""
    import dagster as dg

    days = dg.DailyPartitionsDefinition("2026-01-01")

    def define(_: str) -> None:
        made: list[Any] = []
        for number in range(MODELS):
            model = dg.AssetSpec([f"m{number}", "model"], deps=["customers"])
            made.append(model)
            for name in ("predictions", "embeddings"):
                made.append(
                    dg.asset(
                        key=[f"m{number}", name], deps=[model.key], partitions_def=days
                    )(lambda: None)
                )  # fmt: skip
        dg.Definitions.validate_loadable(dg.Definitions(assets=made))

    return define


def our_definitions(_: str) -> Act:
    import dagster as dg

    from dagster_kumo import (
        BatchPrediction,
        KumoIOManager,
        KumoResource,
        build_kumo_assets_definitions,
    )

    days = dg.DailyPartitionsDefinition("2026-01-01")

    def define(_: str) -> None:
        made: list[Any] = []
        for number in range(MODELS):
            prediction = BatchPrediction(
                training_job_id=f"trainingjob-{number}", outputs=("predictions", "embeddings")
            )
            made += build_kumo_assets_definitions(
                name=f"m{number}", prediction=prediction, partitions_def=days, deps=["customers"]
            )
        resources = {"kumo": KumoResource(), "kumo_io_manager": KumoIOManager(base_path="data")}
        dg.Definitions.validate_loadable(dg.Definitions(assets=made, resources=resources))

    return define


def our_range(_: str) -> Act:
    import dagster as dg

    from dagster_kumo import (
        BatchPrediction,
        KumoIOManager,
        KumoResource,
        build_kumo_assets_definitions,
    )
    from dagster_kumo.local import LocalKumo

    # Twice a day: of a whole year ago the stand-in's model knows nothing.
    halves = dg.TimeWindowPartitionsDefinition(
        cron_schedule="0 */12 * * *",
        start=datetime.now(timezone.utc) - timedelta(hours=12 * (PARTITIONS + 2)),
        fmt="%Y-%m-%d-%H:%M",
    )
    keys = halves.get_partition_keys()[-PARTITIONS:]
    _, predictions = build_kumo_assets_definitions(
        name="purchase",
        prediction=BatchPrediction(training_job_id="trainingjob-cdnow-purchase"),
        partitions_def=halves,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    span = {
        "dagster/asset_partition_range_start": keys[0],
        "dagster/asset_partition_range_end": keys[-1],
    }

    def backfill(_: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            # In a process of its own: what it computes is no part of the run.
            kumo = LocalKumo.shared(f"{folder}/kumo", queue_seconds=0, run_seconds=JOB_SECONDS)
            resource = KumoResource(
                url=kumo.url, api_key=kumo.api_key, max_concurrent_jobs=JOBS_AT_ONCE
            )
            store = KumoIOManager(base_path=f"{folder}/store", statistics=False)
            try:
                dg.materialize(
                    [predictions],
                    resources={"kumo": resource, "kumo_io_manager": store},
                    tags=span,
                )
            finally:
                kumo.stop()

    return backfill


def our_evaluation(_: str) -> Act:
    """Predictions and outcomes of 500,000 rows a file, joined, measured and stored."""
    import dagster as dg
    import numpy as np
    import pyarrow as pa

    from dagster_kumo import KumoIOManager, KumoResource, build_kumo_evaluation_asset

    size = 500_000

    def rows(files: int, column: str, make: Callable[[Any], Any]) -> Any:
        def batches() -> Any:
            for number in range(files):
                entities = np.arange(number * size, (number + 1) * size)
                values = make(np.random.default_rng(number).random(size))
                yield pa.RecordBatch.from_pydict({"ENTITY": entities, column: values})

        first = next(batches())
        return pa.RecordBatchReader.from_batches(first.schema, batches())

    def evaluate(job: str) -> None:
        files = int(job.rpartition("-")[2])

        @dg.asset(key=["made_up", "predictions"], io_manager_key="kumo_io_manager")
        def predictions() -> Any:
            return rows(files, "True_PROB", lambda chance: chance**4)

        @dg.asset(io_manager_key="kumo_io_manager")
        def outcomes() -> Any:
            return rows(files, "TARGET", lambda chance: chance > 0.7)

        evaluation = build_kumo_evaluation_asset(
            name="made_up",
            predictions=predictions,
            outcomes=outcomes,
            window=timedelta(days=30),
        )
        with tempfile.TemporaryDirectory() as folder:
            store = KumoIOManager(base_path=folder)
            kumo = KumoResource(url="http://127.0.0.1:1", api_key=KEY)
            dg.materialize(
                [predictions, outcomes, evaluation],
                resources={"kumo": kumo, "kumo_io_manager": store},
            )

    return evaluate


COMPUTING = {"sdk_import", "our_import", "plain_definitions", "our_definitions"}
SIDES = {
    side.__name__: side
    for side in (
        sdk_frame,
        our_frame,
        plain_download,
        sdk_store,
        our_store,
        our_store_without_statistics,
        sdk_import,
        our_import,
        plain_definitions,
        our_definitions,
        our_range,
        our_evaluation,
    )
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    name, url, job, warm_up = sys.argv[1:]
    act = SIDES[name](url)
    if warm_up:
        act(warm_up)
    clock = time.process_time if name in COMPUTING else time.perf_counter
    started = clock()
    act(job)
    seconds = clock() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
