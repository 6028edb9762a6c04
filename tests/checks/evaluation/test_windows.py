"""When the outcome of a query is known."""

import datetime as dt

import pytest
from dateutil.relativedelta import relativedelta

from dagster_kumo import KumoError, build_kumo_evaluation_asset
from dagster_kumo.checks.evaluation.window import OutcomeWindow, window_of_query

pytestmark = pytest.mark.fast

ANCHOR = dt.datetime(2026, 1, 31, tzinfo=dt.timezone.utc)
CLOSES = {
    "COUNT(p.*, 0, 30, days) > 0": "2026-03-02",
    "SUM(p.x, 0, 7)": "2026-02-07",
    "SUM(p.x, 0, 2, weeks)": "2026-02-14",
    "SUM(p.x, 0, 12, hours)": "2026-01-31T12",
    "SUM(p.x, 0, 1, months)": "2026-02-28",
    "SUM(p.x, 0, 3, months)": "2026-04-30",
    "SUM(p.x, 0, 7, days) FORECAST 4 TIMEFRAMES": "2026-02-28",
    "SUM(p.x, 7, 14, days) FORECAST 2 TIMEFRAMES": "2026-02-21",
    "COUNT(p.*, 0, 7, days) > 0 AND COUNT(p.*, 7, 14, days) > 3": "2026-02-14",
    # A calendar month from the last of January on is shorter than 30 days.
    "COUNT(p.*, 0, 30, days) > 0 OR COUNT(q.*, 0, 1, months) > 3": "2026-03-02",
    "NOT COUNT(p.* WHERE p.x > 3, 0, 5, days) > 0": "2026-02-05",
    "LIST_DISTINCT(p.item, 0, 7, days) RANK TOP 12": "2026-02-07",
    "c.kind": "2026-01-31",
}


@pytest.mark.parametrize("target", CLOSES)
def test_the_window_of_a_query(target: str) -> None:
    query = (
        f"PREDICT {target} FOR EACH c.id WHERE COUNT(p.*, -90, 0, days) > 0 "
        "ASSUMING COUNT(n.*, 0, 90, days) > 0"
    )
    closes = window_of_query(query).closes_at(ANCHOR)
    assert closes.isoformat().startswith(CLOSES[target])


def test_the_windows_of_a_forecast_can_be_in_the_options_of_the_table() -> None:
    window = window_of_query("PREDICT SUM(p.x, 0, 7, days) FOR EACH c.id", forecast_length=3)
    assert window.closes_at(ANCHOR) - ANCHOR == dt.timedelta(days=21)


@pytest.mark.parametrize(
    "query", ["PREDICT everything", "", "PREDICT MAX(t.x, 0, 1, years) FOR EACH c.id"]
)
def test_a_query_that_cannot_be_read_is_no_dead_end(query: str) -> None:
    with pytest.raises(KumoError, match=r"cannot be read from the predictive query[^\0]*window="):
        window_of_query(query)


def test_a_parser_that_is_not_there_is_no_dead_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "predictive_query", None)
    with pytest.raises(KumoError, match=r"dagster-kumo\[evaluation\][^\0]*window="):
        window_of_query("PREDICT SUM(p.x, 0, 7, days) FOR EACH c.id")


def test_a_month_is_one_of_the_calendar_and_a_day_has_24_hours() -> None:
    month = OutcomeWindow.of(relativedelta(months=1))
    assert month.closes_at(ANCHOR).date() == dt.date(2026, 2, 28)
    berlin = dt.datetime.fromisoformat("2026-03-28T00:00:00+01:00")  # clocks change on the 29th
    day = OutcomeWindow.of(dt.timedelta(days=2))
    assert day.closes_at(berlin) - berlin == dt.timedelta(hours=48)


def test_a_window_lasts_some_time() -> None:
    with pytest.raises(ValueError, match="no positive length of time"):
        build_kumo_evaluation_asset(
            name="churn", predictions="churn/predictions", outcomes="o", window=dt.timedelta()
        )
