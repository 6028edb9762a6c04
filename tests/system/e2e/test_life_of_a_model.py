"""A candidate refused, another one promoted, a day predicted by it, and the way back, as a person sees them."""

import pytest
from playwright.sync_api import Page, expect

from dagster_kumo import KumoClient
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE, day
from tests.system.e2e.conftest import Dagit
from tests.system.e2e.test_dagit import button, launched, picture

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

JOBS = "/locations/__repository__@example_project/jobs"
HASTY = {"ops": {"purchase__candidate": {"config": {"run_mode": "debug"}}}}


def test_refused_promoted_and_rolled_back(
    dagit: Dagit, kumo: LocalKumo, browser_page: Page
) -> None:
    page, client = browser_page, KumoClient(kumo.url, kumo.api_key)

    def champion() -> list[str]:
        return [job.job_id for job in client.list_training_jobs({"dagster.champion": "purchase"})]

    def predicted(days_ago: int) -> str:
        run_id = dagit.launch("purchase/predictions", day=day(days_ago))
        assert dagit.wait_for_run(run_id) == "SUCCESS"
        job = client.get_prediction_job(dagit.job_of("purchase/predictions", day(days_ago)) or "")
        return job.config.model_training_job_id

    assert dagit.wait_for_run(dagit.launch("purchases", "customers")) == "SUCCESS"

    # A hasty one is refused by its gate.
    run_id = dagit.launch("purchase/candidate", "purchase/model", config=HASTY)
    assert dagit.wait_for_run(run_id) == "FAILURE"
    assert champion() == [PURCHASE]
    page.goto(f"{dagit.url}/assets/purchase/candidate?view=checks&checkDetail=promotion_gate")
    expect(page.get_by_text("below the champion's").first).to_be_visible()
    picture(page, "gate_refused")

    # The weekly job trains a thorough one, which is promoted and predicts the next day. The run is held meanwhile.
    page.goto(f"{dagit.url}{JOBS}/retrain_purchase")
    button(page, "Materialize all").click()
    assert dagit.wait_for_run(launched(page)) == "SUCCESS"
    (promoted,) = champion()
    assert promoted != PURCHASE
    page.goto(f"{dagit.url}/assets/purchase/model?view=overview")
    expect(page.get_by_text(promoted).first).to_be_visible()
    picture(page, "promoted")
    assert predicted(2) == promoted
    page.goto(
        f"{dagit.url}/assets/purchase/model?view=lineage&lineageScope=neighbors&lineageDepth=5"
    )
    for node in ("purchases", "candidate", "model", "predictions", "evaluation"):
        expect(page.get_by_text(node, exact=True).first).to_be_visible()
    expect(page.get_by_text("Loading...")).to_have_count(0)
    picture(page, "life_of_a_model")

    # A person rolls back by the job, and the old one predicts.
    page.goto(f"{dagit.url}{JOBS}/purchase_rollback")
    button(page, "Materialize").click()
    assert dagit.wait_for_run(launched(page)) == "SUCCESS"
    assert champion() == [PURCHASE]
    picture(page, "rolled_back")
    assert predicted(1) == PURCHASE
