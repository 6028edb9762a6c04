"""Dagster in a chaos run: its daemon, which launches, watches and retries; and a person for the rest."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from example_project.partitions import daily

from chaos.definitions import APPENDED, DAILY_ASSETS, QUIET, day_job, defs
from chaos.server import Server
from dagster_kumo.execution.metadata import EXPORT_JOB_ID_METADATA, JOB_ID_METADATA

DAGSTER_YAML = """
telemetry: {enabled: false}
nux: {enabled: false}
concurrency: {runs: {max_concurrent_runs: 3}}
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
run_monitoring: {enabled: true, poll_interval_seconds: 5, start_timeout_seconds: 600}
run_retries: {enabled: true, max_retries: 6}
compute_logs: {module: dagster.core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}
"""
STOP_SECONDS = 60.0
# Dagster stores the event of a failure before the run's record says so. A daemon that looks in between takes
# the run for one that goes on and never looks again, though the run's tags say that it will be retried.
PASSED_OVER_SECONDS = 120.0


def last_days(count: int) -> list[str]:
    """The last complete days of the example, oldest first."""
    return list(daily.get_partition_keys()[-count:])


def instance() -> dg.DagsterInstance:
    """Dagster's instance in `DAGSTER_HOME`, which is set up here."""
    home = Path(os.environ["DAGSTER_HOME"])
    (home / "dagster.yaml").write_text(DAGSTER_YAML)
    return dg.DagsterInstance.get()


@contextmanager
def daemon(log: Path) -> Iterator[None]:
    """Dagster's daemon with the code location of a chaos run."""
    command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "chaos.definitions"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def is_settled(instance: dg.DagsterInstance, days: int) -> bool:
    """Whether all days have been asked for, and the daemon has nothing more to do."""
    records = instance.get_run_records()
    # The run that loads the source tables is there as well, and is for no day.
    asked_for = {record.dagster_run.tags.get("dagster/partition") for record in records} - {None}
    if len(asked_for) < days:
        return False
    return all(r.dagster_run.is_finished and not _is_to_be_retried(r) for r in records)


def _is_to_be_retried(record: dg.RunRecord) -> bool:
    run = record.dagster_run
    if run.status != dg.DagsterRunStatus.FAILURE:
        return False
    if record.end_time is None or time.time() - record.end_time > PASSED_OVER_SECONDS:
        return False
    # A run that has just failed has no tag that says whether.
    retry = run.tags.get("dagster/will_retry")
    return retry is None or (retry == "true" and "dagster/auto_retry_run_id" not in run.tags)


def source_tables(instance: dg.DagsterInstance) -> None:
    """Make what all days share."""
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        run_config=QUIET,
        asset_selection=[dg.AssetKey("purchases"), dg.AssetKey("customers")],
    )
    assert result.success


class Person:
    """Who looks after what the daemon has given up, when the storm is over."""

    def __init__(self, instance: dg.DagsterInstance, server: Server) -> None:
        self._instance = instance
        self._server = server
        self.did: Counter[str] = Counter()

    def look_after(self, day: str) -> None:
        """Bring a day to its end, as Dagster's messages say."""
        missing = self._missing(day)
        if APPENDED in missing:
            self._settle_appended(day)
        if missing - {APPENDED}:
            last = max(
                self._instance.get_run_records(dg.RunsFilter(tags={"dagster/partition": day})),
                key=lambda record: record.create_timestamp,
            ).dagster_run
            self.did["re-executed from failure"] += 1
            dg.execute_job(
                dg.reconstructable(day_job),
                self._instance,
                tags={"dagster/partition": day},
                reexecution_options=dg.ReexecutionOptions.from_failure(last.run_id, self._instance),
            )

    def _missing(self, day: str) -> set[dg.AssetKey]:
        return {key for key in DAILY_ASSETS if not materialized(self._instance, key, day)}

    def _settle_appended(self, day: str) -> None:
        """Look whether the rows are in the table, before anything is appended again."""
        found = materialized(self._instance, dg.AssetKey(["purchase", "predictions"]), day)
        if not found:
            return
        job_id = str(found[0].metadata[JOB_ID_METADATA].value)
        exports = [e for e in self._server.exports(job_id, "APPEND") if e["status"] == "DONE"]
        if exports:
            self.did["saw that the rows were there"] += 1
            self._instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    APPENDED,
                    partition=day,
                    metadata={
                        JOB_ID_METADATA: job_id,
                        EXPORT_JOB_ID_METADATA: exports[0]["id"],
                    },
                )
            )
            return
        self.did["saw that no rows were there, exported"] += 1
        job = defs.resolve_implicit_global_asset_job_def()
        job.execute_in_process(
            instance=self._instance,
            run_config=QUIET,
            asset_selection=[APPENDED],
            partition_key=day,
            raise_on_error=False,
        )


def materialized(
    instance: dg.DagsterInstance, key: dg.AssetKey, day: str
) -> list[dg.AssetMaterialization]:
    """The materializations of a day, newest first."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[day])
    records = instance.fetch_materializations(wanted, limit=1000).records
    return [record.asset_materialization for record in records if record.asset_materialization]
