"""A training is launched once: whatever is killed in the middle of it, what comes after attaches."""

import signal
from collections import Counter

import dagster as dg
import pytest

from dagster_kumo import KumoClient
from tests.support import wait_until
from tests.system.runs.processes import (
    LOOK,
    MULTIPROCESS,
    POST_SNAPSHOT,
    POST_TRAINING,
    World,
)

pytestmark = pytest.mark.scale

JOB_ID = "dagster-kumo/training_job_id"


def test_a_training_is_attached_to_whenever_the_machine_died(world: World) -> None:
    """Each candidate is at another moment. Only a snapshot whose id has not arrived is taken again."""
    client = KumoClient(world.kumo.url, world.kumo.api_key)
    graphs = {
        query: client.create_graph(client.get_predictive_query(f"pquery-cdnow-{query}").graph)
        for query in ("band", "purchase")
    }
    hold = world.gate.hold
    held = [
        hold(*POST_SNAPSHOT, about=graphs["band"]),
        hold(*POST_TRAINING, about='"launching/candidate"', way="there"),
        hold(*POST_TRAINING, about='"accepted/candidate"'),
        hold(*LOOK, about='"polling/candidate"'),
    ]
    run = world.start("trainings", config=MULTIPROCESS)
    for one in held:
        one.wait()
    run.kill()
    world.gate.release_all()  # what is on its way arrives
    wait_until(lambda: len(world.trainings) == 3)

    again = world.start("trainings", config=MULTIPROCESS, again=run)

    assert again.end() == dg.DagsterRunStatus.SUCCESS
    launched = {job.tags["dagster.asset"]: job.job_id for job in world.trainings}
    assert len(world.trainings) == len(launched) == 4
    for asset, job_id in launched.items():
        (materialization,) = world.materialized(*asset.split("/"))
        assert materialization.metadata[JOB_ID].value == job_id
        assert again.tags[f"dagster/kumo_training_job.{asset.replace('/', '__')}"] == job_id
    refreshed = Counter(
        graph
        for request in world.kumo.requests
        if request.path.endswith("/graphsnapshots")
        for graph in graphs
        if graphs[graph] in str(request.query)
    )
    assert refreshed == {"band": 2, "purchase": 3}


@pytest.mark.parametrize(
    ("moment", "by_a_user"), [("launching", True), ("polling", True), ("polling", False)]
)
def test_a_training_ends_with_its_run_when_a_user_ends_that(
    moment: str, by_a_user: bool, slow_world: World
) -> None:
    world = slow_world
    way = {"launching": (*POST_TRAINING,), "polling": (*LOOK,)}[moment]
    held = world.gate.hold(*way, way="there" if moment == "launching" else "back")
    run = world.start("training")
    held.wait()
    if by_a_user:
        run.terminate()
    else:
        run.signal(signal.SIGTERM)
    world.gate.release_all()

    run.end()
    (job,) = world.trainings
    assert job.job_status_report.status == ("CANCELLED" if by_a_user else "RUNNING")
    assert world.materialized("polling", "candidate") == []
    told = [line for line in run.lines() if line.startswith("Cancelled training job ")]
    assert len(told) == by_a_user
