"""The section `schedule`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from dagster_kumo.components.named_fields import NamedFields, NamedFieldsResolvable
from dagster_kumo.execution.partitions.anchor_time import has_time

_AT_PARTITION_END = ("minute_of_hour", "hour_of_day", "day_of_week", "day_of_month")


class Schedule(NamedFields, NamedFieldsResolvable):
    """The schedule of all assets of a model.

    With time partitions, each partition is materialized when it has ended, or at a time after that.
    Otherwise a cron expression says when.
    """

    minute_of_hour: int | None = Field(
        default=None, description="The minute after the end of a partition."
    )
    hour_of_day: int | None = Field(default=None, description="The hour, 0 to 23.")
    day_of_week: int | None = Field(
        default=None, description="Of weekly partitions: the day, 0 to 6 from Sunday on."
    )
    day_of_month: int | None = Field(default=None, description="Of monthly partitions: the day.")
    cron_schedule: str | None = Field(
        default=None, description="Without time partitions: when it runs, for example `0 6 * * *`."
    )
    execution_timezone: str | None = Field(
        default=None, description="The time zone of cron_schedule. The default is UTC."
    )
    default_status: Literal["RUNNING", "STOPPED"] = Field(
        default="STOPPED",
        description="RUNNING starts it at once; STOPPED waits for someone to start it in Dagster's UI.",
    )
    tags: Mapping[str, str] = Field(default={}, description="Tags of the runs.")

    def definitions(
        self,
        name: str,
        selection: dg.AssetSelection,
        partitions_def: dg.PartitionsDefinition | None,
        run_tags: Mapping[str, str],
    ) -> dg.Definitions:
        """The schedule `<name>_schedule`, and the job `<name>_job` that it runs.

        Raises:
            ValueError: The options do not fit the partitions; the message says what to write.
        """
        job = dg.define_asset_job(f"{name}_job", selection=selection, tags=run_tags)
        about: dict[str, Any] = {
            "job": job,
            "name": f"{name}_schedule",
            "default_status": dg.DefaultScheduleStatus[self.default_status],
            "tags": self.tags,
        }
        offsets = {
            option: value
            for option in _AT_PARTITION_END
            if (value := getattr(self, option)) is not None
        }
        if partitions_def is not None and has_time(partitions_def):
            if self.cron_schedule or self.execution_timezone:
                raise ValueError(
                    f"The schedule of {name} follows its time partitions. Leave cron_schedule and "
                    f"execution_timezone out; {', '.join(_AT_PARTITION_END)} say when after the end "
                    "of a partition."
                )
            schedule = dg.build_schedule_from_partitioned_job(**about, **offsets)
            return dg.Definitions(jobs=[job], schedules=[schedule])
        if self.cron_schedule is None or offsets:
            raise ValueError(
                f"The schedule of {name} has no time partitions to follow. Write "
                f'cron_schedule: "0 6 * * *", and leave out {", ".join(_AT_PARTITION_END)}.'
            )
        about |= {
            "cron_schedule": self.cron_schedule,
            "execution_timezone": self.execution_timezone,
        }
        if partitions_def is None:
            return dg.Definitions(jobs=[job], schedules=[dg.ScheduleDefinition(**about)])

        @dg.schedule(**about)
        def every_partition(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
            for key in partitions_def.get_partition_keys():
                # Dagster requires a run key when a tick requests several runs.
                run_key = f"{context.scheduled_execution_time.isoformat()} {key}"
                yield dg.RunRequest(run_key=run_key, partition_key=key, tags=self.tags)

        return dg.Definitions(jobs=[job], schedules=[every_partition])
