"""A new user's first minutes in Dagit."""

import re
from datetime import datetime, timedelta, timezone

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import SCREENSHOTS, Dagit

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

YESTERDAY = str((datetime.now(timezone.utc) - timedelta(days=1)).date())
NODES = [
    "purchases",
    "customers",
    "model",
    "predictions",
    "embeddings",
    re.compile("^predict.*_snowflake$"),  # shortened where the box is too small for it
    "call_list",
]


def picture(page: Page, name: str) -> None:
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def materialize(dagit: Dagit, page: Page, asset: str, *, latest_partition: bool = False) -> str:
    """Click through the materialization of an asset: the id of its run."""
    page.goto(f"{dagit.url}/assets/{asset}?view=overview")
    # The names of buttons end with their text; their icons have names as well.
    if latest_partition:
        page.get_by_role("button", name=re.compile("Materialize…$")).click()
        page.get_by_role("button", name=re.compile("Latest$")).click()
        picture(page, "dialog")
        page.get_by_role("button", name=re.compile("Launch 1 run$")).click()
    else:
        page.get_by_role("button", name=re.compile("Materialize$")).click()
    link = page.get_by_role("link", name="View", exact=True)
    run_id = (link.get_attribute("href") or "").rpartition("/")[2]
    assert run_id
    return run_id


def test_the_graph_shows_everything_connected(dagit: Dagit, browser_page: Page) -> None:
    page = browser_page
    page.goto(
        f"{dagit.url}/assets/purchase/model?view=lineage&lineageScope=neighbors&lineageDepth=5"
    )
    for node in NODES:
        expect(page.get_by_text(node, exact=True).first).to_be_visible()
    picture(page, "graph")

    edges = dagit.ask("{ assetNodes { assetKey { path } dependencyKeys { path } } }")["assetNodes"]
    parents = {
        "/".join(n["assetKey"]["path"]): {"/".join(k["path"]) for k in n["dependencyKeys"]}
        for n in edges
    }
    assert {"purchases", "customers"} <= parents["purchase/model"]
    assert "purchase/model" in parents["purchase/predictions"]
    assert "purchase/model" in parents["purchase/embeddings"]
    assert "purchase/predictions" in parents["purchase/predictions_in_snowflake"]
    assert "purchase/predictions" in parents["call_list"]


def test_a_partition_materialized_from_the_dialog(dagit: Dagit, browser_page: Page) -> None:
    page = browser_page
    for table in ("purchases", "customers"):
        assert dagit.wait_for_run(materialize(dagit, page, table)) == "SUCCESS"
    run_id = materialize(dagit, page, "purchase/predictions", latest_partition=True)
    assert dagit.wait_for_run(run_id) == "SUCCESS"

    page.goto(f"{dagit.url}/runs/{run_id}")
    expect(page.get_by_text(re.compile("^Launched prediction job")).first).to_be_visible()
    expect(page.get_by_text(re.compile("^Stored 23,570 rows")).first).to_be_visible()
    picture(page, "run")

    page.goto(f"{dagit.url}/assets/purchase/predictions?view=overview")
    expect(page.get_by_text(YESTERDAY).first).to_be_visible()
    expect(page.get_by_text("23,570").first).to_be_visible()
    expect(page.get_by_text("dagster-kumo/statistics").first).to_be_visible()
    expect(page.get_by_text("True_PROB").first).to_be_visible()
    picture(page, "predictions")
    job_link = page.locator("a[href*='/jobs/bp-job-']").first
    page.goto(job_link.get_attribute("href") or "")
    expect(page.get_by_text(re.compile("stand-in")).first).to_be_visible()
    picture(page, "job")
