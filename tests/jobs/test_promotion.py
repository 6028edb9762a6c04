"""The champion's mark: who has it, how it moves, and what is left after a move that was broken off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dagster_kumo import BatchPrediction, KumoClient
from dagster_kumo.api.errors import KumoConnectionError, KumoModelError
from dagster_kumo.api.records import TrainingJobResource
from dagster_kumo.jobs.promotion import Author, Move, promote, roll_back
from dagster_kumo.jobs.trained_model import trained_model
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE, remove_marks

OLD = "trainingjob-cdnow-purchase-old"
SPEND = "trainingjob-cdnow-spend"
NAME = "shop"


@pytest.fixture(scope="module", params=["2", "3"])
def _kumo_of_generation(request: pytest.FixtureRequest) -> Iterator[LocalKumo]:
    with LocalKumo(api=request.param) as kumo:
        yield kumo


@pytest.fixture
def kumo(_kumo_of_generation: LocalKumo) -> Iterator[LocalKumo]:
    """A stand-in of either generation, on which nothing is promoted."""
    yield _kumo_of_generation
    _kumo_of_generation.faults.clear()
    remove_marks(KumoClient(_kumo_of_generation.url, _kumo_of_generation.api_key))


@pytest.fixture
def client(kumo: LocalKumo) -> KumoClient:
    return KumoClient(kumo.url, kumo.api_key, request_max_retries=0)


def to(client: KumoClient, job_id: str, name: str = NAME, **author: str) -> Move:
    return promote(client, job_id, name, Author(**author))


def champion(client: KumoClient, name: str = NAME) -> TrainingJobResource:
    return trained_model(client, BatchPrediction(champion_of=name))


def marked(client: KumoClient) -> list[str]:
    return [j.job_id for j in client.list_training_jobs() if "dagster.champion" in j.tags]


def test_the_champion_is_the_one_that_was_promoted_last(client: KumoClient) -> None:
    assert to(client, OLD).before is None
    assert to(client, PURCHASE).before == OLD

    assert champion(client).job_id == PURCHASE
    assert marked(client) == [PURCHASE]


def test_who_and_why_stand_at_the_training_job(client: KumoClient) -> None:
    to(client, OLD, by="ada", why="better\non paper " + "x" * 300)

    tags = champion(client).tags
    assert tags["dagster.promoted_by"] == "ada"
    assert tags["dagster.promoted_why"].startswith("better on paper x")
    assert tags["use_case"] == "purchase"


def test_a_champion_that_is_rolled_back_to_says_nothing_of_its_earlier_promotion(
    client: KumoClient,
) -> None:
    to(client, OLD, by="ada", why="better on paper")
    to(client, PURCHASE)

    tags = roll_back(client, NAME, Author()).champion.tags
    assert "dagster.promoted_why" not in tags
    assert tags == champion(client).tags


def test_promoting_the_champion_again_changes_nothing(client: KumoClient) -> None:
    to(client, OLD)
    first = to(client, PURCHASE, why="first")
    again = to(client, PURCHASE, why="again")

    assert (first.is_new, again.is_new) == (True, False)
    assert champion(client).tags == first.champion.tags
    assert roll_back(client, NAME, Author()).champion.job_id == OLD


def test_a_rollback_goes_back_one_by_one(client: KumoClient) -> None:
    for job_id in (SPEND, OLD, PURCHASE):
        to(client, job_id)

    assert roll_back(client, NAME, Author()).champion.job_id == OLD
    assert roll_back(client, NAME, Author()).champion.job_id == SPEND
    assert marked(client) == [SPEND]
    with pytest.raises(KumoModelError, match=f"{SPEND} is the first champion of {NAME}"):
        roll_back(client, NAME, Author())


def test_without_a_promotion_it_is_said_how_to_promote(client: KumoClient) -> None:
    with pytest.raises(KumoModelError, match="dagster-kumo models promote TRAINING_JOB_ID --name"):
        champion(client)
    with pytest.raises(KumoModelError, match="nothing to roll back"):
        roll_back(client, NAME, Author())


def test_only_a_done_model_without_another_mark_is_promoted(client: KumoClient) -> None:
    to(client, PURCHASE)

    with pytest.raises(KumoModelError, match="is the champion of shop"):
        to(client, PURCHASE, "other")
    with pytest.raises(KumoModelError, match="is FAILED"):
        to(client, "trainingjob-cdnow-purchase-failed")
    with pytest.raises(KumoModelError, match="no training job nobody"):
        to(client, "nobody")
    assert marked(client) == [PURCHASE]


def test_a_server_that_ignores_the_filter_finds_no_other_champion(
    kumo: LocalKumo, client: KumoClient
) -> None:
    kumo.faults.ignore_tag_filters()
    to(client, SPEND, "spend")
    to(client, OLD)

    assert champion(client).job_id == OLD
    assert to(client, PURCHASE).before == OLD
    assert champion(client, "spend").job_id == SPEND


def test_a_mark_set_by_hand_gives_way_to_a_promotion(client: KumoClient) -> None:
    client.update_training_job_tags(PURCHASE, {"dagster.champion": NAME})
    client.update_training_job_tags(OLD, {"dagster.champion": NAME, "dagster.promoted_at": "soon"})
    assert champion(client).job_id == PURCHASE  # the newer one

    to(client, SPEND)

    assert champion(client).job_id == SPEND
    assert marked(client) == [SPEND]


def test_a_clock_that_was_fast_does_not_keep_the_mark(client: KumoClient) -> None:
    to(client, OLD)
    client.update_training_job_tags(OLD, {"dagster.promoted_at": "2099-01-01T00:00:00Z"})

    to(client, PURCHASE)

    assert champion(client).job_id == PURCHASE


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("fault", ["drop", "lose_answer"])
@pytest.mark.parametrize("act", ["promotion", "rollback"])
def test_a_move_broken_off_at_any_call_leaves_one_champion(
    kumo: LocalKumo, client: KumoClient, act: str, fault: str, call: int
) -> None:
    """The next attempt of the same run ends where one attempt would have ended."""
    for job_id in (SPEND, OLD) if act == "promotion" else (SPEND, OLD, PURCHASE):
        to(client, job_id)
    target, before = (PURCHASE, OLD) if act == "promotion" else (OLD, PURCHASE)
    author = Author(run_id="run-1")

    def move() -> Move:
        if act == "promotion":
            return promote(client, PURCHASE, NAME, author)
        return roll_back(client, NAME, author)

    getattr(kumo.faults, fault)(path="/tags$", method="PATCH", after=call)
    with pytest.raises(KumoConnectionError):
        move()

    done = call == 1 or fault == "lose_answer"
    assert champion(client).job_id == (target if done else before)
    assert move().champion.job_id == champion(client).job_id == target
    assert marked(client) == [target]
    # Also if only the event was missing.
    assert move().champion.job_id == target
    assert marked(client) == [target]


def test_a_person_who_rolls_back_again_after_an_error_goes_back_once(
    kumo: LocalKumo, client: KumoClient
) -> None:
    for job_id in (SPEND, OLD, PURCHASE):
        to(client, job_id)
    kumo.faults.drop(path="/tags$", method="PATCH", after=1)
    with pytest.raises(KumoConnectionError):
        roll_back(client, NAME, Author())

    assert not roll_back(client, NAME, Author()).is_new
    assert marked(client) == [OLD]


def test_of_two_promotions_at_the_same_moment_one_wins(kumo: LocalKumo, client: KumoClient) -> None:
    """The other one marks its job after this one has read who is marked."""
    to(client, SPEND)
    client.update_training_job_tags(
        OLD, {"dagster.champion": NAME, "dagster.promoted_at": "2099-01-01T00:00:00Z"}
    )
    # The first of the two lists does not show it.
    kumo.faults.answer(200, path="/training_jobs$", body=[])

    with pytest.raises(KumoModelError, match=f"{OLD} was promoted .* at the same moment"):
        to(client, PURCHASE)

    assert champion(client).job_id == OLD
    to(client, OLD)
    assert marked(client) == [OLD]
