"""The example project with one more schedule, which a test need not wait for until the morning."""

import dagster as dg
from example_project.defs.jobs import daily_call_list
from example_project.partitions import daily

from example_project import definitions as example


@dg.schedule(job=daily_call_list, cron_schedule="* * * * *")
def every_minute() -> dg.RunRequest:
    return dg.RunRequest(partition_key=daily.get_last_partition_key())


# The example's own `defs`, a function, must not be a name of this module: Dagster would take it for this
# code location's.
defs = dg.Definitions.merge(example.defs(), dg.Definitions(schedules=[every_minute]))
