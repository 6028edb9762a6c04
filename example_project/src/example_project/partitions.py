"""The days that are predicted for, and the weeks that they are summed up by."""

import dagster as dg

# The first day that there are to be predictions for. The stand-in predicts for the last eight months.
FIRST_DAY = "2026-07-01"

# A day's predictions look ahead from its end: partition 2026-11-01 is predicted for 2026-11-02 00:00.
daily = dg.DailyPartitionsDefinition(start_date=FIRST_DAY)

# Weeks begin on Mondays. With end_offset=1 the running week is there too.
weekly = dg.WeeklyPartitionsDefinition(start_date=FIRST_DAY, day_offset=1, end_offset=1)
