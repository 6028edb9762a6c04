"""A candidate refused, another one promoted, a day predicted by it, and the way back, as a person sees them."""

from functools import partial

import pytest
from playwright.sync_api import Page, expect

from dagster_kumo import KumoClient
from dagster_kumo.jobs.promotion import Author, promote
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE, day, remove_marks, wait_until
from tests.system.e2e.conftest import Dagit
from tests.system.e2e.test_dagit import button, launched, picture

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def train_like(client: KumoClient, run_mode: str) -> None:
    """Make a training job of this run mode the one that candidates are trained again like."""
    query = client.get_predictive_query("pquery-cdnow-purchase")
    plan = client.suggest_model_plan(query.query_string, client.create_graph(query.graph), run_mode)
    job_id = client.create_training_job(
        {
            "pquery_id": "pquery-cdnow-purchase",
            "model_plan": plan,
            "job_tags": {"train": "like-this"},
        }
    )
    wait_until(lambda: client.get_training_job(job_id).job_status_report.is_terminal)


def test_refused_promoted_and_rolled_back(
    dagit: Dagit, kumo: LocalKumo, browser_page: Page
) -> None:
    page, client = browser_page, KumoClient(kumo.url, kumo.api_key)
    launch = partial(dagit.launch, location="training")
    promote(client, PURCHASE, "shop", Author(why="the first"))

    def champion() -> list[str]:
        return [job.job_id for job in client.list_training_jobs({"dagster.champion": "shop"})]

    def predicted(days_ago: int) -> str:
        run_id = launch("shop/predictions", day=day(days_ago))
        assert dagit.wait_for_run(run_id) == "SUCCESS"
        job = client.get_prediction_job(dagit.job_of("shop/predictions", day(days_ago)) or "")
        return job.config.model_training_job_id

    # A hasty one is refused by its gate.
    train_like(client, "debug")
    run_id = launch("shop/candidate", "shop/model")
    assert dagit.wait_for_run(run_id) == "FAILURE"
    assert champion() == [PURCHASE]
    page.goto(f"{dagit.url}/assets/shop/candidate?view=checks&checkDetail=promotion_gate")
    expect(page.get_by_text("below the champion's").first).to_be_visible()
    picture(page, "gate_refused")

    # A thorough one is promoted, and predicts the next day.
    train_like(client, "normal")
    assert dagit.wait_for_run(launch("shop/candidate", "shop/model")) == "SUCCESS"
    (promoted,) = champion()
    assert promoted != PURCHASE
    page.goto(f"{dagit.url}/assets/shop/model?view=overview")
    expect(page.get_by_text(promoted).first).to_be_visible()
    picture(page, "promoted")
    assert predicted(2) == promoted
    page.goto(f"{dagit.url}/assets/shop/model?view=lineage&lineageScope=neighbors&lineageDepth=5")
    for node in ("shop_tables", "candidate", "model", "predictions"):
        expect(page.get_by_text(node, exact=True).first).to_be_visible()
    expect(page.get_by_text("Loading...")).to_have_count(0)
    picture(page, "life_of_a_model")

    # A person rolls back by the job, and the old one predicts.
    page.goto(f"{dagit.url}/locations/__repository__@training/jobs/shop_rollback")
    button(page, "Materialize").click()
    assert dagit.wait_for_run(launched(page)) == "SUCCESS"
    assert champion() == [PURCHASE]
    picture(page, "rolled_back")
    assert predicted(1) == PURCHASE
    remove_marks(client)
