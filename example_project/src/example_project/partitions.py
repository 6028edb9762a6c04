"""The days that are predicted for, and the weeks that they are summed up by."""

from datetime import date

import dagster as dg


def first_day(today: date) -> date:
    """The first of the month, five months ago.

    Your project has a fixed date here: the first day that you want predictions for. This example
    cannot, because the stand-in's data always end at the present and it predicts for the last eight
    months only. So the first day moves on with the calendar, once a month: old days leave at the far
    end, and no partition ever changes its meaning. Five months fill Dagit's plots, which show the
    last 120 days.
    """
    months = today.year * 12 + today.month - 1 - 5
    return date(months // 12, months % 12 + 1, 1)


_FIRST_DAY = first_day(date.today()).isoformat()

# A day's predictions look ahead from its end: partition 2026-03-01 is predicted for 2026-03-02 00:00.
daily = dg.DailyPartitionsDefinition(start_date=_FIRST_DAY)

# Weeks begin on Mondays. With end_offset=1 the running week is there too.
weekly = dg.WeeklyPartitionsDefinition(start_date=_FIRST_DAY, day_offset=1, end_offset=1)
