"""A run that moves the champion's mark is killed at one of its calls; its re-execution ends what it began."""

from __future__ import annotations

import dagster as dg
import pytest

from dagster_kumo import BatchPrediction, KumoClient
from dagster_kumo.jobs.promotion import Author, promote
from dagster_kumo.jobs.trained_model import trained_model
from tests.support import PURCHASE, wait_until
from tests.system.runs.processes import IN_PROCESS, World

SPEND = "trainingjob-cdnow-spend"
OLD = f"{PURCHASE}-old"

pytestmark = [pytest.mark.scale, pytest.mark.usefixtures("nothing_promoted")]


@pytest.mark.parametrize("moment", ["before its first call", "between", "after both"])
@pytest.mark.parametrize("act", ["promotion", "rollback"])
def test_a_move_that_is_killed_is_completed_by_its_re_execution(
    act: str, moment: str, world: World, client: KumoClient
) -> None:
    """At each moment, readers see exactly one champion."""
    target = PURCHASE if act == "promotion" else SPEND
    config = {"training_job_id": target} if act == "promotion" else {"rollback": True}
    moving = {**IN_PROCESS, "ops": {"shop__model": {"config": config}}}
    for job_id in (SPEND, OLD):
        promote(client, job_id, "shop", Author())

    def champion() -> str:
        return trained_model(client, BatchPrediction(champion_of="shop")).job_id

    def marked() -> set[str]:
        return {j.job_id for j in client.list_training_jobs() if "dagster.champion" in j.tags}

    called = OLD if moment == "after both" else target
    held = world.gate.hold(
        "PATCH",
        f"/training_jobs/{called}/tags$",
        way="there" if moment == "before its first call" else "back",
    )
    run = world.start("promotion", config=moving)
    held.wait()
    run.kill()

    if moment == "before its first call":
        assert (champion(), marked()) == (OLD, {OLD})
        held.release()  # it arrives after the end of the process
        wait_until(lambda: champion() == target)
    left = {target} if moment == "after both" else {target, OLD}
    assert (champion(), marked()) == (target, left)
    assert world.materialized("shop", "model") == []
    world.gate.release_all()

    again = world.start("promotion", config=moving, again=run)

    assert again.end() == dg.DagsterRunStatus.SUCCESS
    assert (champion(), marked()) == (target, {target})
    (recorded,) = world.materialized("shop", "model")
    assert recorded.metadata["dagster-kumo/training_job_id"].value == target
