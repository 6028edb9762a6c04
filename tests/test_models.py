"""Which model predicts, and what is shown of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import BatchPrediction, KumoIOManager, KumoResource
from dagster_kumo.local import LocalKumo
from tests.other_server import OtherServer, training_job
from tests.support import PURCHASE, day, error_of, instance_in, purchase_assets, resources


@pytest.fixture(scope="module")
def stand_in() -> Iterator[LocalKumo]:
    with LocalKumo() as kumo:
        yield kumo


@pytest.fixture
def kumo(stand_in: LocalKumo) -> Iterator[LocalKumo]:
    yield stand_in
    stand_in.faults.clear()


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with instance_in(tmp_path_factory.mktemp("dagster")) as instance:
        yield instance


def by_tags(**tags: str) -> dg.AssetsDefinition:
    return purchase_assets(prediction=BatchPrediction(training_job_tags=tags))


# Which one #################################################################################


def test_tags_take_the_newest_model_that_is_done(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """The stand-in has an older one, a newer one that FAILED and one that is still RUNNING."""
    run = dg.materialize(
        [by_tags(use_case="purchase", dataset="cdnow")],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )

    assert run.success
    assert kumo.jobs[-1]["config"]["model_training_job_id"] == PURCHASE


@pytest.fixture
def other(tmp_path: Path) -> Iterator[tuple[OtherServer, dict[str, Any]]]:
    """A server that lists all training jobs in an order of its own, whatever is asked of it."""
    with OtherServer() as server:
        resource = KumoResource(url=server.url, api_key=server.api_key, request_max_retries=0)
        store = KumoIOManager(base_path=str(tmp_path / "store"), statistics=False)
        yield server, {"kumo": resource, "kumo_io_manager": store}


def test_neither_filters_nor_order_of_a_server_are_relied_on(
    other: tuple[OtherServer, dict[str, Any]], instance: dg.DagsterInstance
) -> None:
    server, where = other
    mine = {"use_case": "churn"}
    server.training_jobs = [
        training_job("without-a-time", tags=mine, created_at=None),
        training_job("old", tags=mine, created_at="2026-02-01T00:00:00"),
        training_job("running", tags=mine, created_at="2026-06-01T00:00:00", status="RUNNING"),
        training_job("new", tags=mine, created_at="2026-05-01T00:00:00+00:00"),
        training_job("middle", tags=mine, created_at="2026-03-01T00:00:00"),
        training_job("of-others", tags={"use_case": "fraud"}, created_at="2026-07-01T00:00:00"),
    ]

    run = dg.materialize(
        [by_tags(use_case="churn")], instance=instance, resources=where, partition_key=day(5)
    )

    assert run.success
    assert server.launches[-1]["model_training_job_id"] == "new"


NOT_DONE = [
    training_job("failed", tags={"use_case": "churn"}, status="FAILED"),
    training_job(
        "running", tags={"use_case": "churn"}, status="RUNNING", created_at="2026-06-01T00:00:00"
    ),
]


@pytest.mark.parametrize(
    ("there", "said"),
    [(NOT_DONE, "there are: running (RUNNING), failed (FAILED)."), ([], "there are: none.")],
    ids=["not done", "none"],
)
def test_without_a_model_that_is_done_it_is_said_which_there_are(
    there: list[dict[str, Any]],
    said: str,
    other: tuple[OtherServer, dict[str, Any]],
    instance: dg.DagsterInstance,
) -> None:
    server, where = other
    server.training_jobs = [*there, training_job("of-others", tags={"use_case": "fraud"})]

    run = dg.materialize(
        [by_tags(use_case="churn")],
        instance=instance,
        resources=where,
        partition_key=day(5),
        raise_on_error=False,
    )

    found_class, message = error_of(run)
    assert found_class == "KumoModelError"
    assert f"No training job with the tags use_case=churn is DONE; {said}" in message
    assert not server.launches


def test_many_newer_ones_that_failed_hide_no_model(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """A list has a limit; it is not filled with what cannot be used."""
    kumo.clear_requests()

    dg.materialize(
        [by_tags(use_case="purchase")],
        instance=instance,
        resources=resources(kumo, tmp_path),
        partition_key=day(5),
    )

    (asked,) = [r for r in kumo.requests if r.path.endswith("/training_jobs")]
    assert asked.query["job_status"] == "DONE"
    assert asked.query["use_case"] == "purchase"
