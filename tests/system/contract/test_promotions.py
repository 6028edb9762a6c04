"""The SDK sees who is the champion, and finds its training job."""

from __future__ import annotations

import pytest

from dagster_kumo import KumoClient
from dagster_kumo.jobs.promotion import Author, promote, roll_back
from tests.support import PURCHASE, remove_marks
from tests.system.contract.sdk import Sdk

OLD = f"{PURCHASE}-old"


@pytest.mark.younger("a search for training jobs by tags")
def test_the_sdk_finds_the_champion_by_its_tag(
    sdk: Sdk, ours: KumoClient, request: pytest.FixtureRequest
) -> None:
    def found(**tags: str) -> list[str]:
        return sdk("find_jobs", "TrainingJob", tags, 9)

    request.addfinalizer(lambda: remove_marks(ours))
    champion = {"dagster.champion": "shop"}
    assert found(**champion) == []

    promote(ours, OLD, "shop", Author(by="ada"))
    promote(ours, PURCHASE, "shop", Author(by="grace"))

    assert found(**champion) == [PURCHASE]
    assert found(**{"dagster.former_champion": "shop"}) == [OLD]
    tags = sdk("training_job_tags", PURCHASE)
    assert tags["dagster.champion"] == "shop"
    assert tags["dagster.champion_before"] == OLD
    assert tags["dagster.promoted_by"] == "grace"
    assert tags["use_case"] == "purchase"
    assert "dagster.champion" not in sdk("training_job_tags", OLD)

    roll_back(ours, "shop", Author())

    assert found(**champion) == [OLD]
