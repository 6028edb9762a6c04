"""What must hold when a chaos run is over. Each check yields what is wrong, in words."""

import filecmp
import json
import threading
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path

import dagster as dg
import pandas as pd

from chaos.definitions import APPENDED, CALL_LIST, REPLACED
from chaos.people import Launched
from chaos.runs import materialized
from chaos.scratch import scratch_left
from chaos.server import Server
from dagster_kumo.execution.launch.held_run import HOLD_TAG, UNTIL_DONE
from dagster_kumo.execution.metadata import EXPORT_JOB_ID_METADATA, JOB_ID_METADATA
from dagster_kumo.predictions.store.statistics_file import STATISTICS

OUTPUTS = ("predictions", "embeddings")
HISTORY_TABLE = "snowflake_warehouse.PURCHASE_HISTORY_predictions"
REPLACED_TABLE = "snowflake_warehouse.PURCHASE_predictions"
SECRETS = (b"X-Amz-Signature", b"not-a-secret")


class Checks:
    """What is held against each other: what Dagster knows, what is stored, and what the server has.

    Args:
        instance: Dagster's instance.
        server: the stand-in's data folder. What it has recorded says what was paid.
        data: the example's data folder.
        launched: what people have launched.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        server: Server,
        data: Path,
        launched: Sequence[Launched],
    ) -> None:
        self._instance = instance
        self._server = server
        self._data = data
        self._launched = launched
        self._days = [day for one in launched if one.name == "day" for day in one.days]
        self.counts: Counter[str] = Counter()
        """What is allowed, and worth knowing."""

    def all(self, *, kills: int, killed: Container[int], folder: Path) -> list[str]:
        """Everything that is wrong.

        Args:
            kills: how often processes were killed.
            killed: their ids.
            folder: where Dagster and its processes kept what is theirs.
        """
        return [
            *self.delivered(),
            *self.paid_once(),
            *self.stored_as_the_server_has_it(kills),
            *self.exported_once(),
            *self.call_lists(),
            *self.held(),
            *self.nothing_goes_on(),
            *self.nothing_left(killed, folder),
        ]

    def delivered(self) -> Iterator[str]:
        """All days of what nobody has stopped for good have all their assets."""
        for launched in self._launched:
            for day in launched.days:
                there = [key for key in launched.assets if self._materialized(key, day)]
                missing = {key.to_user_string() for key in set(launched.assets) - {*there}}
                if missing and not launched.stopped:
                    yield f"{missing} of {day} are not materialized (run or backfill {launched.id})"
                self.counts["days delivered whole"] += not missing
                self.counts["days stopped by people for good"] += bool(missing)

    def paid_once(self) -> Iterator[str]:
        """For each day of a model one job is paid, and all materializations name it.

        A job that is cancelled is not paid. It was launched by a run that people have stopped, or at the same
        moment as the one that stays, which is the older one.
        """
        known: set[str] = set()
        for launched, name, outputs, day in self._predicted():
            jobs = self._server.predictions(name, day)
            known |= {job["id"] for job in jobs}
            paid = [job for job in jobs if job["status"] != "CANCELLED"]
            cancelled = [job for job in jobs if job["status"] == "CANCELLED"]
            self.counts["jobs launched"] += len(jobs)
            self.counts["jobs paid"] += len(paid)
            where = f"{name} of {day} (run or backfill {launched.id})"
            ended = ", ".join(f"{job['id']} {job['status']} {job['created_at']}" for job in jobs)
            if len(paid) > 1 or {job["status"] for job in paid} - {"DONE"}:
                yield f"{where} has {len(paid)} jobs that are paid: {ended}"
            if not paid and not launched.stopped:
                yield f"{where} has no job that is paid: {ended or 'none at all'}"
            if launched.ever_stopped:
                self.counts["jobs cancelled since people stopped their runs"] += len(cancelled)
            else:
                self.counts["jobs cancelled as the younger of two"] += len(cancelled)
                first = min((job["created_at"] for job in paid), default="")
                if any(job["created_at"] < first for job in cancelled) or (not paid and cancelled):
                    yield f"{where} has jobs that were cancelled though nobody asked for it: {ended}"
            for output in outputs:
                named = {
                    str(made.metadata[JOB_ID_METADATA].value)
                    for made in self._materialized(dg.AssetKey([name, output]), day)
                }
                if not named <= {job["id"] for job in paid}:
                    yield f"{where}: its {output} name {named}, and it has {ended}"
        others = {job["id"] for job in self._server.jobs("prediction_jobs")} - known
        if others:
            yield f"the server has jobs for none of the days: {others}"

    def stored_as_the_server_has_it(self, kills: int) -> Iterator[str]:
        """What is stored is, byte for byte, what the server wrote for the one job."""
        for launched, name, outputs, day in self._predicted():
            for output in outputs:
                folder = self._data / "assets" / name / output / day
                if (folder / "manifest.json").exists():
                    yield from self._stored(name, output, day, folder)
                elif self._materialized(dg.AssetKey([name, output]), day):
                    yield f"{folder} holds no version in force"
                elif not launched.stopped:
                    yield f"{folder} is not there"
        if self.counts["versions left by the killed"] > kills:
            yield f"more unfinished versions are left than the {kills} kills explain"

    def _stored(self, name: str, output: str, day: str, folder: Path) -> Iterator[str]:
        manifest = json.loads((folder / "manifest.json").read_text())
        version = folder / manifest["version"]
        there = sorted(path.name for path in version.iterdir())
        if there != sorted([STATISTICS, *(file["name"] for file in manifest["files"])]):
            yield f"{version} has {there}, its manifest says otherwise"
        (job_id,) = {manifest["job_id"]}
        wanted = self._server.files(job_id, output)
        stored = [version / file["name"] for file in manifest["files"]]
        if len(wanted) != len(stored) or not wanted:
            yield f"{folder} has {len(stored)} files of {job_id}, the server {len(wanted)}"
        for ours, theirs in zip(stored, wanted, strict=False):
            if not filecmp.cmp(ours, theirs, shallow=False):
                yield f"{ours} is not what the server has in {theirs}"
        if job_id not in {job["id"] for job in self._server.predictions(name, day)}:
            yield f"{folder} holds {job_id}, which is not of that day"
        for path in folder.iterdir():
            if path.name in ("manifest.json", manifest["version"]):
                continue
            if path.name in manifest["superseded"]:
                self.counts["versions superseded"] += 1
            else:
                self.counts["versions left by the killed"] += 1

    def _predicted(self) -> Iterator[tuple[Launched, str, Sequence[str], str]]:
        """What a prediction job is launched for: whose, which outputs, and which day."""
        for launched in self._launched:
            for day in launched.days:
                if launched.name == "day":
                    yield launched, "purchase", OUTPUTS, day
                    yield launched, "spend", OUTPUTS[:1], day
                else:
                    yield launched, launched.name, OUTPUTS, day

    def _materialized(self, key: dg.AssetKey, day: str) -> list[dg.AssetMaterialization]:
        return materialized(self._instance, key, day)

    def exported_once(self) -> Iterator[str]:
        """The table that is appended to holds all days' rows once, the other one day's."""
        of_day: dict[datetime, list[Path]] = {}
        appended: list[Path] = []
        for day in self._days:
            anchor = datetime.combine(date.fromisoformat(day) + timedelta(days=1), time())
            done = self._done("purchase", day)
            of_day[anchor] = [
                file for job_id in done for file in self._server.files(job_id, "predictions")
            ]
            for key, write_mode in ((APPENDED, "APPEND"), (REPLACED, "OVERWRITE")):
                exports = [e for job_id in done for e in self._server.exports(job_id, write_mode)]
                self.counts["exports"] += len(exports)
                ended = Counter(export["status"] for export in exports)
                if write_mode == "APPEND":
                    appended += of_day[anchor] if ended["DONE"] else []
                    if ended["DONE"] > 1 or (self._materialized(key, day) and not ended["DONE"]):
                        yield f"{key.to_user_string()} of {day}: its exports ended {dict(ended)}"
                self.counts["tables replaced again"] += max(0, ended["DONE"] - 1)
                named = {
                    str(made.metadata[EXPORT_JOB_ID_METADATA].value)
                    for made in self._materialized(key, day)
                }
                if not named <= {export["id"] for export in exports}:
                    yield f"{key.to_user_string()} of {day} names {named}, which are not its exports"
        if appended:
            more, less = self._server.rows_that_differ(HISTORY_TABLE, appended)
            if more or less:
                yield f"{HISTORY_TABLE} has {more} rows too many and {less} too few"
        if not self._server.has_table(REPLACED_TABLE):
            return
        anchors = self._server.anchors(REPLACED_TABLE)
        if len(anchors) != 1:
            yield f"{REPLACED_TABLE} holds the days {anchors}, and not one"
        else:
            more, less = self._server.rows_that_differ(REPLACED_TABLE, of_day[anchors[0]])
            if more or less:
                yield f"{REPLACED_TABLE} has {more} rows too many and {less} too few"

    def call_lists(self) -> Iterator[str]:
        """What is made downstream is made of the server's rows."""
        for day in self._days:
            if not self._materialized(CALL_LIST, day):
                continue
            chances, spend = (
                pd.concat(
                    pd.read_parquet(file)
                    for job_id in self._done(name, day)
                    for file in self._server.files(job_id, "predictions")
                )
                for name in ("purchase", "spend")
            )
            likely = chances[chances["TARGET_PRED"]].merge(
                spend, on="ENTITY", suffixes=("", "_spend")
            )
            wanted = likely.sort_values("TARGET_PRED_spend", ascending=False).head(100)
            calls = pd.read_csv(self._data / "call_lists" / f"{day}.csv")
            if calls["customer_id"].tolist() != wanted["ENTITY"].tolist():
                yield f"{CALL_LIST.to_user_string()} of {day} does not follow from the predictions"

    def held(self) -> Iterator[str]:
        """No run that is to be held has begun before the hold sensor released it."""
        for run in self._instance.get_runs():
            hold = run.tags.get(HOLD_TAG)
            if hold is None or "dagster/retry_number" in run.tags:
                continue
            self.counts[f"held runs: {hold}"] += 1
            if hold == UNTIL_DONE and self._instance.get_run_stats(run.run_id).start_time:
                yield f"run {run.run_id} began though it was to be held"

    def _done(self, name: str, day: str) -> list[str]:
        jobs = self._server.predictions(name, day)
        return [job["id"] for job in jobs if job["status"] == "DONE"]

    def nothing_goes_on(self) -> Iterator[str]:
        """Every run and every job has ended, and no thread is left."""
        unfinished = [run.run_id for run in self._instance.get_runs() if not run.is_finished]
        if unfinished:
            yield f"runs have not ended: {unfinished}"
        if live := self._server.live():
            yield f"jobs have not ended: {live}"
        threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        if threads:
            yield f"threads are left: {threads}"

    def nothing_left(self, killed: Container[int], folder: Path) -> Iterator[str]:
        """No scratch files but those of killed processes, and no secret in what was logged or stored."""
        for process, scratch in scratch_left(folder / "tmp"):
            if process in killed:
                self.counts["scratch folders left by the killed"] += 1
            else:
                yield f"a process that was not killed has left {scratch}"
        searched = [folder / "dagster_home", self._data / "assets"]
        for path in searched:
            for file in path.rglob("*"):
                content = file.read_bytes() if file.is_file() else b""
                yield from (f"{file} holds {s.decode()}" for s in SECRETS if s in content)
        for run in self._instance.get_runs():
            logged = str(self._instance.all_logs(run.run_id)).encode()
            yield from (f"run {run.run_id} holds {s.decode()}" for s in SECRETS if s in logged)
