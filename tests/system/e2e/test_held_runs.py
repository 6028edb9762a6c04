"""A run that waits for Kumo in the queue, as a person sees it."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from dagster_kumo import HOLD_UNTIL_DONE
from dagster_kumo.local import LocalKumo
from tests.support import day
from tests.system.e2e.conftest import SCREENSHOTS, Dagit, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

PREDICTIONS = "purchase/predictions"
SENSOR = "/locations/__repository__@example_project/sensors/kumo_hold_sensor"
JOB, PROGRESS = "dagster/kumo_job.purchase__predictions", "dagster-kumo/progress"


@pytest.fixture
def slow(kumo: LocalKumo) -> Iterator[LocalKumo]:
    """A server whose jobs take longer than the sensor needs to look twice."""
    data, port = kumo.data, urlsplit(kumo.url).port
    kumo.stop()
    try:
        with LocalKumo(data, port=port or 0, run_seconds=75) as slow:
            yield slow
    finally:
        kumo.start()


def picture(page: Page, name: str) -> None:
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def hold(dagit: Dagit, partition: str) -> str:
    """Launch a run that is held, and wait until it has its job: its id."""
    run_id = dagit.launch(PREDICTIONS, day=partition, tags=HOLD_UNTIL_DONE)
    wait_for(lambda: JOB in dagit.tags(run_id))
    return run_id


@pytest.mark.usefixtures("slow")
def test_a_held_run_is_queued_shows_its_progress_and_ends_green(
    dagit: Dagit, browser_page: Page
) -> None:
    page = browser_page
    run_id = hold(dagit, day(25))
    page.goto(f"{dagit.url}/runs/{run_id}")
    expect(page.get_by_text("Queued", exact=True).first).to_be_visible()
    picture(page, "held")

    wait_for(lambda: dagit.tags(run_id)[PROGRESS].startswith("RUNNING"))
    page.goto(f"{dagit.url}/runs")
    expect(page.get_by_text(re.compile("RUNNING")).first).to_be_visible()
    picture(page, "held_progress")
    page.goto(f"{dagit.url}{SENSOR}")
    expect(page.get_by_text("kumo_hold_sensor").first).to_be_visible()
    picture(page, "held_sensor")

    assert dagit.wait_for_run(run_id) == "SUCCESS"
    page.goto(f"{dagit.url}/runs/{run_id}")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    picture(page, "held_released")
    assert dagit.job_of(PREDICTIONS, day(25)) == dagit.tags(run_id)[JOB]


def test_a_run_that_is_terminated_while_it_is_held_cancels_its_job(
    dagit: Dagit, slow: LocalKumo, browser_page: Page
) -> None:
    page = browser_page
    run_id = hold(dagit, day(26))
    page.goto(f"{dagit.url}/runs/{run_id}")
    page.get_by_role("button", name=re.compile("Terminate$")).first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name=re.compile("Terminate")).last.click()
    assert dagit.wait_for_run(run_id) == "CANCELED"

    def status() -> str:
        (job,) = [job for job in slow.jobs if job["job_id"] == dagit.tags(run_id)[JOB]]
        return job["job_status_report"]["status"]

    wait_for(lambda: status() == "CANCELLED")
    page.goto(f"{dagit.url}/runs/{run_id}")
    expect(page.get_by_text("Canceled", exact=True).first).to_be_visible()
    picture(page, "held_terminated")
    assert not dagit.is_made(PREDICTIONS, day(26))
