"""When downstream assets are made without a schedule, once the sensor is on under "Automation"."""

from datetime import timedelta

import dagster as dg

# The newest day, whenever what it is made from is new. A check that blocks does so in its own run: named
# here, it holds back the runs that the sensor launches too.
newest_day = (
    dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed()
)

# Whatever sums up days takes in one that comes late, or again. One of long ago stays as it was.
late_days_too = (
    dg.AutomationCondition.in_latest_time_window(lookback_delta=timedelta(weeks=2))
    & dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)
