"""What the tests of the Dagster side share."""

import datetime as dt
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import pytest
from packaging.version import Version

from dagster_kumo import (
    BatchPrediction,
    BatchPredictionJob,
    KumoClient,
    KumoIOManager,
    KumoResource,
    kumo_assets,
)
from dagster_kumo.api.connectors import kept_by_kumo
from dagster_kumo.api.records import OUTPUT_TYPES, BatchPredictionRequest
from dagster_kumo.local import LocalKumo

T = TypeVar("T")

PURCHASE = "trainingjob-cdnow-purchase"
TODAY = dt.datetime.now(dt.timezone.utc).date()
DAYS = dg.DailyPartitionsDefinition(start_date=str(TODAY - dt.timedelta(days=60)))
SETTLING = 0.3
"""Seconds: the stand-in shows a job at once, but for a test of that."""
PREDICTIONS = dg.AssetKey(["purchase", "predictions"])
EMBEDDINGS = dg.AssetKey(["purchase", "embeddings"])


def has(package: str, version: str) -> bool:
    """Whether the installed version of a package is this one or newer."""
    return Version(metadata.version(package)) >= Version(version)


def since(package: str, version: str, why: str) -> pytest.MarkDecorator:
    """Skips a test with older versions of a package, which cannot do what it needs."""
    return pytest.mark.skipif(not has(package, version), reason=f"{why}: needs {package} {version}")


def day(days_ago: int) -> str:
    """A partition of `DAYS`."""
    return str(TODAY - dt.timedelta(days=days_ago))


@contextmanager
def instance_in(path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that keeps its runs and events on disk."""
    path.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(path)) as instance:
        yield instance


def predict_all(kumo: LocalKumo) -> str:
    """Make predictions and embeddings; return the id of the job, which is done."""
    client = KumoClient(kumo.url, kumo.api_key)
    outputs = [kept_by_kumo(output_type) for output_type in OUTPUT_TYPES]
    request = BatchPredictionRequest(model_training_job_id=PURCHASE, outputs=outputs)
    job_id, _ = client.create_prediction_job(request)
    return BatchPredictionJob(job_id, client).result(poll_interval=0.05).id


def remove_marks(client: KumoClient) -> None:
    """Take back all promotions of a server."""
    for job in client.list_training_jobs():
        marks = [
            t for t in job.tags if t.startswith(("dagster.champion", "dagster.former_champion"))
        ]
        marks += [t for t in job.tags if t.startswith("dagster.promot")]
        if marks:
            client.update_training_job_tags(job.job_id, dict.fromkeys(marks))


def purchase_assets(**options: Any) -> dg.AssetsDefinition:
    """Will the customer buy: assets of the stand-in's model."""
    prediction = options.pop("prediction", None) or BatchPrediction(
        training_job_id=options.pop("training_job_id", PURCHASE),
        outputs=options.pop("outputs", ("predictions",)),
    )

    @kumo_assets(
        name="purchase",
        prediction=prediction,
        partitions_def=options.pop("partitions_def", DAYS),
        **options,
    )
    def purchase(context: dg.AssetExecutionContext, kumo: KumoResource):
        yield from kumo.predict(context)

    return purchase


def resources(kumo: LocalKumo, base_path: object, **options: Any) -> dict[str, Any]:
    """The resources of a code location, for a stand-in and a store."""
    resource = KumoResource(
        url=kumo.url, api_key=kumo.api_key, request_max_retries=2, launch_settling_time=SETTLING
    )
    store = KumoIOManager(base_path=str(base_path), kumo=resource, **options)
    return {"kumo": resource, "kumo_io_manager": store}


def error_of(run: dg.ExecuteInProcessResult) -> tuple[str, str]:
    """The class and the words of the error that ended a run's step."""
    (failure,) = [e for e in run.all_events if e.event_type_value == "STEP_FAILURE"]
    error = failure.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    assert error is not None
    return error.cls_name or "", error.message


def metadata_of(
    run: dg.ExecuteInProcessResult, key: dg.AssetKey, partition: str | None = None
) -> dict[str, Any]:
    """The metadata of the materialization of an asset in a run."""
    found = [
        event.materialization
        for event in run.get_asset_materialization_events()
        if event.asset_key == key and partition in (None, event.partition)
    ]
    assert len(found) == 1, found
    return {name: value.value for name, value in found[0].metadata.items()}


def files_below(path: Path) -> Sequence[str]:
    """The files below a folder, by their paths in it."""
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


# A run that is ended from outside ###########################################################


# `cancel_on_termination`, whether it is a user who terminates, and how the job is left.
TERMINATIONS = [
    ("user", True, "CANCELLED"),
    ("user", False, "RUNNING"),
    ("always", False, "CANCELLED"),
    ("never", True, "RUNNING"),
]

# Processes that begin with Dagster loaded: loading it takes longer than such a run.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__, "dagster._core.storage.sqlite_storage"])


def interrupt_a_run(
    assets: Callable[[], dg.AssetsDefinition],
    *,
    instance: dg.DagsterInstance,
    kumo: LocalKumo,
    when: Callable[[], bool],
    by_a_user: bool,
    partition_key: str | None = None,
    **settings: Any,
) -> None:
    """Materialize `assets()` in a process of its own and send it a SIGINT, when it is time.

    A user's terminate marks the run as CANCELING before the signal; an eviction just signals. The
    instance is one on disk, the only run in it this one; what is stored is beside it, in `store`.
    `settings` are the resource's.
    """
    home = Path(instance.root_directory)
    given = (assets, home, kumo.url, kumo.api_key, partition_key, settings)
    process = _PROCESSES.Process(target=_materialize, args=given)
    process.start()
    try:
        wait_until(when)
        (run,) = instance.get_runs()
        if by_a_user:
            instance.report_run_canceling(run)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
        process.join(20)
        if process.exitcode is None:
            # Python drops what a signal raises while it collects garbage: whoever terminates does it again.
            os.kill(process.pid, signal.SIGINT)
            process.join(20)
        assert process.exitcode is not None
    finally:
        process.kill()


def _materialize(
    assets: Callable[[], dg.AssetsDefinition],
    home: Path,
    url: str,
    api_key: str,
    partition_key: str | None,
    settings: dict[str, Any],
) -> None:
    kumo = KumoResource(url=url, api_key=api_key, **settings)
    store = KumoIOManager(base_path=str(home / "store"), kumo=kumo)
    with instance_in(home) as instance:
        dg.materialize(
            [assets()],
            instance=instance,
            resources={"kumo": kumo, "kumo_io_manager": store},
            partition_key=partition_key,
        )


def wait_until(find: Callable[[], T | None], *, seconds: float = 60, pause: float = 0.02) -> T:
    """Wait for what happens in another process, and return it; fail if it does not."""
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline, f"Nothing came within {seconds:.0f} s."
        time.sleep(pause)
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
