"""What a new user does in Dagit, in the order of a first day: look, materialize, backfill, schedule.

Each test goes on from where the one before has left the instance.
"""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from example_project.partitions import daily
from playwright.sync_api import Locator, Page, expect

from dagster_kumo import KumoIOManager
from dagster_kumo.local import LocalKumo
from tests.support import day
from tests.system.e2e.conftest import SCREENSHOTS, Dagit, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PREDICTIONS = "purchase/predictions"
EXPORT = "purchase/predictions_in_snowflake"
EVALUATION = "purchase/evaluation"
AUTOMATIONS = "/locations/__repository__@example_project"
NODES = [
    "purchases",
    "customers",
    "candidate",
    "model",
    "predictions",
    "embeddings",
    re.compile("^predict.*_snowflake$"),  # shortened where the box is too small for it
    "call_list",
]


def picture(page: Page, name: str) -> None:
    # Dialogs that fade in are shown as they end.
    page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")


def button(page: Page, text: str) -> Locator:
    """A button by the end of its name, for icons have names as well."""
    return page.get_by_role("button", name=re.compile(f"{re.escape(text)}$"))


def choose_partitions(dagit: Dagit, page: Page, keys: str) -> None:
    """Open the dialog of the predictions and fill in which days."""
    page.goto(f"{dagit.url}/assets/{PREDICTIONS}?view=overview")
    button(page, "Materialize…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text(day(1)).first).to_be_visible()  # the partitions are loaded
    box = dialog.locator("input[type=text]").first
    box.fill(keys)
    box.press("Enter")


def launched(page: Page) -> str:
    """Follow the link of the notice that something is launched: its id."""
    page.get_by_text("View", exact=True).last.click()
    page.wait_for_url("**/runs/**")
    return urlsplit(page.url).path.rpartition("/")[2]


def show_log(dagit: Dagit, page: Page, run_id: str, words: str) -> None:
    """Open the page of a run and filter its log."""
    page.goto(f"{dagit.url}/runs/{run_id}")
    box = page.get_by_placeholder(re.compile("^Filter"))
    box.fill(words)
    box.press("Enter")


def show_lineage(dagit: Dagit, page: Page) -> None:
    """Open the lineage page around the model, and see all that is connected with it."""
    page.goto(
        f"{dagit.url}/assets/purchase/model?view=lineage&lineageScope=neighbors&lineageDepth=5"
    )
    for node in NODES:
        expect(page.get_by_text(node, exact=True).first).to_be_visible()


def scroll_to(line: Locator) -> None:
    """Scroll the log, which stands at its end, until a person sees a line of it."""
    line.scroll_into_view_if_needed()
    expect(line).to_be_in_viewport()


def test_the_graph_shows_everything_connected(dagit: Dagit, browser_page: Page) -> None:
    page = browser_page
    show_lineage(dagit, page)

    edges = dagit.ask("{ assetNodes { assetKey { path } dependencyKeys { path } } }")["assetNodes"]
    parents = {
        "/".join(n["assetKey"]["path"]): {"/".join(k["path"]) for k in n["dependencyKeys"]}
        for n in edges
    }
    assert {"purchases", "customers"} <= parents["purchase/candidate"]
    assert parents["purchase/model"] == {"purchase/candidate"}
    assert "purchase/model" in parents["purchase/predictions"]
    assert "purchase/model" in parents["purchase/embeddings"]
    assert "purchase/predictions" in parents["purchase/predictions_in_snowflake"]
    assert "purchase/predictions" in parents["call_list"]


def test_a_partition_materialized_from_the_dialog_goes_green(
    dagit: Dagit, browser_page: Page
) -> None:
    page = browser_page
    # Otherwise the dialog first asks about what is upstream and was never materialized.
    for upstream in (["purchases", "customers"], ["purchase/model"]):
        assert dagit.wait_for_run(dagit.launch(*upstream)) == "SUCCESS"
    choose_partitions(dagit, page, day(2))
    expect(button(page, "Launch 1 run")).to_be_enabled()
    picture(page, "dialog")
    button(page, "Launch 1 run").click()
    run_id = launched(page)
    assert dagit.wait_for_run(run_id) == "SUCCESS"

    show_log(dagit, page, run_id, "prediction job")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    scroll_to(page.get_by_text(re.compile("^Launched prediction job")).first)
    scroll_to(page.get_by_text(re.compile("RUNNING: .* %$")).first)
    picture(page, "run")
    page.goto(f"{dagit.url}/assets/{PREDICTIONS}?view=partitions&partition={day(2)}")
    expect(page.get_by_text("Materialized (1)")).to_be_visible()
    expect(page.get_by_text("23570").first).to_be_visible()
    picture(page, "partition")

    show_log(dagit, page, run_id, "Materialized value purchase predictions")
    page.get_by_text("View full message").first.click()
    entry = page.get_by_role("row").filter(has_text="dagster/column_lineage").last
    entry.get_by_text("[Show JSON]").click()
    lineage = re.compile('"ENTITY".*?"customers".*?"customer_id"', re.DOTALL)
    expect(page.get_by_role("dialog").last).to_contain_text(lineage)
    picture(page, "column_lineage")


def launch_from_launchpad(dagit: Dagit, page: Page, day: str) -> str:
    """Choose the partition in an open launchpad, and launch what it fills in: the run's id."""
    expect(page.get_by_text("No errors")).to_be_visible()  # it is loaded
    page.get_by_placeholder("Partition").fill(day)
    page.get_by_text(day, exact=True).last.click()
    expect(page.get_by_text("No errors")).to_be_visible()
    expect(page.get_by_text("'********'").first).to_be_visible()
    launch = page.get_by_role("button", name=re.compile("(Launch Run|Materialize)$")).last
    expect(launch).to_be_enabled()
    launch.click()
    query = """query($day: String!) { runsOrError(filter: {tags: [
        {key: "dagster/partition", value: $day}]}) { ... on Runs { results { runId } } } }"""
    (run,) = wait_for(lambda: dagit.ask(query, day=day)["runsOrError"]["results"])
    return run["runId"]


def test_the_launchpad_of_an_asset_and_of_a_job(dagit: Dagit, browser_page: Page) -> None:
    page = browser_page
    page.goto(f"{dagit.url}/assets/{PREDICTIONS}?view=overview")
    button(page, "Materialize…").wait_for()
    page.locator("button:right-of(:text('Materialize…'))").first.click()
    page.get_by_text("Open launchpad").click()
    run_id = launch_from_launchpad(dagit, page, day(22))
    assert dagit.wait_for_run(run_id) == "SUCCESS"
    assert dagit.run_of(PREDICTIONS, day(22)) == run_id

    page.goto(f"{dagit.url}{AUTOMATIONS}/jobs/daily_call_list/playground")
    expect(page.get_by_text("No errors")).to_be_visible()
    expect(page.get_by_text("launch_anew").first).to_be_visible()
    picture(page, "launchpad")
    run_id = launch_from_launchpad(dagit, page, day(23))
    assert dagit.wait_for_run(run_id) == "SUCCESS"
    assert dagit.run_of(EXPORT, day(23)) == run_id


def test_a_week_backfilled_from_the_dialog(dagit: Dagit, browser_page: Page) -> None:
    page = browser_page
    choose_partitions(dagit, page, f"[{day(9)}...{day(3)}]")
    expect(page.get_by_role("dialog").get_by_text("7 partitions")).to_be_visible()
    picture(page, "backfill_dialog")
    button(page, "Launch backfill").click()
    backfill_id = launched(page)

    query = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
        ... on PartitionBackfill { status } } }"""

    def ended() -> str | None:
        status = dagit.ask(query, id=backfill_id)["partitionBackfillOrError"]["status"]
        return None if status == "REQUESTED" else status

    assert wait_for(ended, seconds=240) == "COMPLETED_SUCCESS"
    page.goto(f"{dagit.url}/runs/b/{backfill_id}")
    expect(page.get_by_text("100% completed")).to_be_visible()
    picture(page, "backfill")
    assert len({dagit.job_of(PREDICTIONS, day(n)) for n in range(3, 10)} - {None}) == 7


def test_what_is_shown_of_the_predictions(dagit: Dagit, browser_page: Page) -> None:
    page = browser_page
    page.goto(f"{dagit.url}/assets/{PREDICTIONS}?view=overview")
    for text in (
        "23,570",
        "Will the customer buy in the next 30 days?",
        "The primary key of the entity that is predicted for.",
        "The probability of yes, 0 to 1.",
    ):
        expect(page.get_by_text(text).first).to_be_visible()
    picture(page, "predictions")

    expect(page.get_by_text(re.compile("Freshness", re.IGNORECASE)).first).to_be_visible()
    picture(page, "freshness")

    # As a person who scrolls sees it, all at once.
    page.set_viewport_size({"width": 1600, "height": 2200})
    statistics = page.get_by_role("row").filter(has_text="dagster-kumo/statistics")
    expect(statistics.get_by_text("True_PROB", exact=True).first).to_be_visible()
    expect(page.get_by_text(re.compile("at or above the threshold 0.2")).first).to_be_visible()
    picture(page, "metadata")
    page.set_viewport_size({"width": 1600, "height": 1000})
    page.get_by_text("[Show Markdown]").first.click()
    image = page.get_by_role("dialog").locator("img")
    expect(image).to_be_visible()
    assert image.evaluate("image => image.complete && image.naturalWidth") > 300
    picture(page, "distribution")
    page.keyboard.press("Escape")

    button(page, "Plots").click()
    plot = page.get_by_text("dagster-kumo/True_PROB/mean", exact=True)
    expect(plot).to_be_visible()
    plot.scroll_into_view_if_needed()
    picture(page, "plots")

    page.goto(f"{dagit.url}/assets/{PREDICTIONS}?view=overview")
    link = page.locator("a[href*='/jobs/bp-job-']").first
    page.goto(link.get_attribute("href") or "")
    expect(page.get_by_text(re.compile("stand-in")).first).to_be_visible()
    picture(page, "job")


def test_a_failed_job_says_why_on_the_page_of_its_run(
    dagit: Dagit, kumo: LocalKumo, browser_page: Page
) -> None:
    page = browser_page
    reason = "The source table purchases has no column date any more."
    kumo.faults.fail_job(reason, title="Schema")
    run_id = dagit.launch(PREDICTIONS, day=day(20))
    assert dagit.wait_for_run(run_id) == "FAILURE"

    page.goto(f"{dagit.url}/runs/{run_id}")
    said = page.get_by_text(re.compile(f"^Prediction job bp-job-.* FAILED: Schema: {reason}$"))
    scroll_to(said.first)
    picture(page, "failed")
    assert not dagit.is_made(PREDICTIONS, day(20))


def test_terminating_a_run_cancels_its_kumo_job(
    dagit: Dagit, kumo: LocalKumo, browser_page: Page
) -> None:
    page = browser_page
    data, port = kumo.data, urlsplit(kumo.url).port
    kumo.stop()
    try:
        with LocalKumo(data, port=port or 0, run_seconds=120) as slow:
            run_id = dagit.launch(PREDICTIONS, day=day(21))

            def status() -> str:
                newest = slow.jobs[-1]
                return newest["job_status_report"]["status"] if is_ours(newest) else ""

            def is_ours(job: dict[str, Any]) -> bool:
                return job["tags"].get("dagster.run_id") == run_id

            wait_for(lambda: status() == "RUNNING")
            page.goto(f"{dagit.url}/runs/{run_id}")
            button(page, "Terminate").first.click()
            picture(page, "terminate_dialog")
            page.get_by_role("dialog").get_by_role(
                "button", name=re.compile("Terminate")
            ).last.click()
            assert dagit.wait_for_run(run_id) == "CANCELED"
            assert status() == "CANCELLED"
            show_log(dagit, page, run_id, "prediction job")
            scroll_to(page.get_by_text(re.compile("cancelling the prediction job")).first)
            picture(page, "terminated")
    finally:
        kumo.start()
    assert not dagit.is_made(PREDICTIONS, day(21))


def test_a_check_that_fails_blocks_what_is_downstream(dagit: Dagit, browser_page: Page) -> None:
    page = browser_page
    _store_other_scores(dagit, day(31))
    run_id = dagit.launch(PREDICTIONS, EXPORT, day=day(30))
    dagit.wait_for_run(run_id)
    assert dagit.is_made(PREDICTIONS, day(30))
    assert not dagit.is_made(EXPORT, day(30))

    page.goto(f"{dagit.url}/assets/{PREDICTIONS}?view=checks&checkDetail=drift")
    expect(page.get_by_text(re.compile(f"against {day(31)}")).first).to_be_visible()
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    picture(page, "failed_check")
    page.goto(f"{dagit.url}/runs/{run_id}")
    expect(page.get_by_text("Failure", exact=True).first).to_be_visible()
    picture(page, "blocked")


def _store_other_scores(dagit: Dagit, day: str) -> None:
    """Let the store hold scores of a day that are spread as no day's are."""

    @dg.asset(key=PREDICTIONS.split("/"), partitions_def=daily)
    def another_model() -> pd.DataFrame:
        return pd.DataFrame({"ENTITY": range(1000), "True_PROB": np.linspace(0, 1, 1000)})

    store = KumoIOManager(base_path=str(dagit.data / "assets"))
    dg.materialize([another_model], resources={"io_manager": store}, partition_key=day)


def flip_switch(page: Page) -> None:
    """Click the switch of a schedule or sensor, on its page."""
    box = page.get_by_role("checkbox").first
    # The box itself lies outside the page; what a person clicks is the picture beside it.
    page.locator("label").filter(has=box).click()


def switch_on(dagit: Dagit, page: Page, address: str) -> None:
    page.goto(f"{dagit.url}{AUTOMATIONS}/{address}")
    box = page.get_by_role("checkbox").first
    expect(box).not_to_be_checked()
    flip_switch(page)
    expect(box).to_be_checked()
    expect(box).to_be_enabled()  # grey until it is stored


def ticks(dagit: Dagit, name: str) -> Sequence[str]:
    """The runs that a schedule or sensor has launched."""
    query = """query($s: InstigationSelector!) { instigationStateOrError(instigationSelector: $s) {
        ... on InstigationState { runs(limit: 10) { runId } } } }"""
    selector = {
        "repositoryName": "__repository__",
        "repositoryLocationName": "example_project",
        "name": name,
    }
    return [r["runId"] for r in dagit.ask(query, s=selector)["instigationStateOrError"]["runs"]]


def test_the_daemon_fills_a_partition_once_the_schedule_is_on(
    dagit: Dagit, browser_page: Page
) -> None:
    page = browser_page
    assert not dagit.is_made(PREDICTIONS, day(1))
    switch_on(dagit, page, "schedules/every_minute")
    (run_id,) = wait_for(lambda: ticks(dagit, "every_minute"))
    page.reload()
    expect(page.get_by_text(run_id[:8]).first).to_be_visible()
    picture(page, "schedule")
    flip_switch(page)  # off again: one day is enough
    assert dagit.wait_for_run(run_id) == "SUCCESS"
    page.goto(f"{dagit.url}/assets/call_list?view=partitions&partition={day(1)}")
    expect(page.get_by_text("Materialized (2)")).to_be_visible()
    picture(page, "filled")
    for asset in (PREDICTIONS, EXPORT, "call_list"):
        assert dagit.run_of(asset, day(1)) == run_id

    switch_on(dagit, page, "schedules/held_call_list_schedule")
    picture(page, "held_call_list_schedule")


def test_a_day_that_is_made_again_is_exported_and_called_again(
    dagit: Dagit, browser_page: Page
) -> None:
    page = browser_page
    first_job = dagit.job_of(EXPORT, day(1))
    first_list = dagit.run_of("call_list", day(1))
    switch_on(dagit, page, "sensors/default_automation_condition_sensor")
    sensor = "default_automation_condition_sensor"
    evaluated = """query($s: SensorSelector!) { sensorOrError(sensorSelector: $s) {
        ... on Sensor { sensorState { ticks(limit: 1) { status } } } } }"""
    selector = {
        "repositoryName": "__repository__",
        "repositoryLocationName": "example_project",
        "sensorName": sensor,
    }

    def looked() -> bool:
        found = dagit.ask(evaluated, s=selector)["sensorOrError"]["sensorState"]["ticks"]
        return bool(found) and found[0]["status"] in ("SUCCESS", "SKIPPED")

    wait_for(looked)  # what is new is new since then
    run_id = dagit.launch(PREDICTIONS, day=day(1))
    assert dagit.wait_for_run(run_id) == "SUCCESS"
    job = dagit.job_of(PREDICTIONS, day(1))
    assert job != first_job
    wait_for(lambda: dagit.job_of(EXPORT, day(1)) == job)
    wait_for(lambda: dagit.run_of("call_list", day(1)) != first_list)
    page.goto(f"{dagit.url}/automation")
    expect(page.get_by_text(re.compile("At 06:00 AM")).first).to_be_visible()
    picture(page, "automation")


def test_an_evaluated_day_shows_how_right_it_was(dagit: Dagit, browser_page: Page) -> None:
    page = browser_page
    assets = (PREDICTIONS, "purchase_outcomes", EVALUATION)
    for known in (day(33), day(32), day(31)):
        assert dagit.wait_for_run(dagit.launch(*assets, day=known)) == "SUCCESS"

    page.goto(f"{dagit.url}/assets/{EVALUATION}?view=partitions&partition={day(31)}")
    expect(page.get_by_text("Materialized (3)")).to_be_visible()
    expect(page.get_by_text(re.compile("^Of the 2,357 most likely")).first).to_be_visible()
    for entry in ("dagster-kumo/auroc", "dagster-kumo/holdout/auroc", "dagster-kumo/coverage"):
        expect(page.get_by_text(entry, exact=True).first).to_be_visible()
    picture(page, "evaluation")
    page.goto(f"{dagit.url}/assets/{EVALUATION}?view=overview")
    button(page, "Plots").click()
    plot = page.get_by_text("dagster-kumo/auroc", exact=True)
    expect(plot).to_be_visible()
    plot.scroll_into_view_if_needed()
    picture(page, "evaluation_plots")

    # The window of yesterday is open.
    run_id = dagit.launch(EVALUATION, day=day(2))
    assert dagit.wait_for_run(run_id) == "FAILURE"
    page.goto(f"{dagit.url}/runs/{run_id}")
    scroll_to(page.get_by_text(re.compile("looks ahead until")).first)


def test_the_lineage_from_source_table_to_export(dagit: Dagit, browser_page: Page) -> None:
    page = browser_page
    page.set_viewport_size({"width": 1600, "height": 1200})  # so high that no box is cut
    show_lineage(dagit, page)
    picture(page, "graph")
