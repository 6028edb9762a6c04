"""What must hold when a chaos run is over. Each check yields what is wrong, in words."""

import filecmp
import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path

import dagster as dg
import pandas as pd

from chaos.definitions import (
    APPENDED,
    CALL_LIST,
    DAILY_ASSETS,
    EMBEDDINGS,
    PURCHASES,
    REPLACED,
    SPEND,
)
from chaos.runs import materialized
from chaos.server import PURCHASE_MODEL, SPEND_MODEL, Server
from dagster_kumo.execution.metadata import EXPORT_JOB_ID_METADATA, JOB_ID_METADATA
from dagster_kumo.predictions.store.statistics_file import STATISTICS

OUTPUTS = {
    PURCHASES: (PURCHASE_MODEL, "predictions"),
    EMBEDDINGS: (PURCHASE_MODEL, "embeddings"),
    SPEND: (SPEND_MODEL, "predictions"),
}
HISTORY_TABLE = "snowflake_warehouse.PURCHASE_HISTORY_predictions"
REPLACED_TABLE = "snowflake_warehouse.PURCHASE_predictions"
SECRETS = (b"X-Amz-Signature", b"not-a-secret")


class Checks:
    """What is held against each other: what Dagster knows, what is stored, and what the server has.

    Args:
        instance: Dagster's instance.
        server: the stand-in's data folder.
        data: the example's data folder.
        days: the partitions that were made.
    """

    def __init__(
        self, instance: dg.DagsterInstance, server: Server, data: Path, days: Sequence[str]
    ) -> None:
        self._instance = instance
        self._server = server
        self._data = data
        self._days = days
        self.counts: Counter[str] = Counter()
        """What is allowed, and worth knowing."""

    def all(self, *, kills: int, folder: Path) -> list[str]:
        """Everything that is wrong.

        Args:
            kills: how many processes were killed.
            folder: where Dagster and its processes kept what is theirs.
        """
        return [
            *self.materialized(),
            *self.paid_once(),
            *self.stored_as_the_server_has_it(kills),
            *self.exported_once(),
            *self.call_lists(),
            *self.nothing_goes_on(),
            *self.nothing_left(folder),
        ]

    def materialized(self) -> Iterator[str]:
        """Each day has all its assets."""
        for day in self._days:
            for key in DAILY_ASSETS:
                if not materialized(self._instance, key, day):
                    yield f"{key.to_user_string()} of {day} is not materialized"

    def paid_once(self) -> Iterator[str]:
        """For each day one job of each model has been done, and all materializations name it."""
        known: set[str] = set()
        for key, (model, _) in OUTPUTS.items():
            for day in self._days:
                jobs = self._server.predictions(model, day)
                known |= {job["id"] for job in jobs}
                ended = Counter(job["status"] for job in jobs)
                if ended["DONE"] != 1 or set(ended) - {"DONE", "CANCELLED"}:
                    yield f"{model} has for {day} jobs that ended {dict(ended)}"
                if key != EMBEDDINGS:  # of one job with the predictions
                    self.counts["jobs"] += len(jobs)
                    self.counts["cancelled losers"] += ended["CANCELLED"]
                done = {job["id"] for job in jobs if job["status"] == "DONE"}
                named = {
                    str(made.metadata[JOB_ID_METADATA].value)
                    for made in materialized(self._instance, key, day)
                }
                if named != done:
                    yield f"{key.to_user_string()} of {day} names {named}, the server has {done}"
        others = {job["id"] for job in self._server.jobs("prediction_jobs")} - known
        if others:
            yield f"the server has jobs for none of the days: {others}"

    def stored_as_the_server_has_it(self, kills: int) -> Iterator[str]:
        """What is stored is, byte for byte, what the server wrote for the one job."""
        for key, (model, output) in OUTPUTS.items():
            for day in self._days:
                folder = self._data.joinpath("assets", *key.path, day)
                if not (folder / "manifest.json").exists():
                    yield f"{folder} holds no version in force"
                    continue
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
                named = {job["id"] for job in self._server.predictions(model, day)}
                if job_id not in named:
                    yield f"{folder} holds {job_id}, which is not of that day"
                for path in folder.iterdir():
                    if path.name in ("manifest.json", manifest["version"]):
                        continue
                    if path.name in manifest["superseded"]:
                        self.counts["versions superseded"] += 1
                    else:
                        self.counts["versions left by the killed"] += 1
        if self.counts["versions left by the killed"] > kills:
            yield f"more unfinished versions are left than the {kills} kills explain"

    def exported_once(self) -> Iterator[str]:
        """The table that is appended to holds all days' rows once, the other one day's."""
        of_day: dict[datetime, list[Path]] = {}
        for day in self._days:
            anchor = datetime.combine(date.fromisoformat(day) + timedelta(days=1), time())
            done = [
                job["id"]
                for job in self._server.predictions(PURCHASE_MODEL, day)
                if job["status"] == "DONE"
            ]
            of_day[anchor] = [
                file for job_id in done for file in self._server.files(job_id, "predictions")
            ]
            for key, write_mode in ((APPENDED, "APPEND"), (REPLACED, "OVERWRITE")):
                exports = [e for job_id in done for e in self._server.exports(job_id, write_mode)]
                self.counts["exports"] += len(exports)
                ended = Counter(export["status"] for export in exports)
                if set(ended) != {"DONE"} or (write_mode == "APPEND" and ended["DONE"] != 1):
                    yield f"{key.to_user_string()} of {day}: its exports ended {dict(ended)}"
                self.counts["tables replaced again"] += max(0, ended["DONE"] - 1)
                named = {
                    str(made.metadata[EXPORT_JOB_ID_METADATA].value)
                    for made in materialized(self._instance, key, day)
                }
                if not named <= {export["id"] for export in exports}:
                    yield f"{key.to_user_string()} of {day} names {named}, which are not its exports"
        everything = [file for files in of_day.values() for file in files]
        more, less = self._server.rows_that_differ(HISTORY_TABLE, everything)
        if more or less:
            yield f"{HISTORY_TABLE} has {more} rows too many and {less} too few"
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
            chances, spend = (
                pd.concat(
                    pd.read_parquet(file)
                    for job in self._server.predictions(model, day)
                    if job["status"] == "DONE"
                    for file in self._server.files(job["id"], "predictions")
                )
                for model in (PURCHASE_MODEL, SPEND_MODEL)
            )
            likely = chances[chances["TARGET_PRED"]].merge(
                spend, on="ENTITY", suffixes=("", "_spend")
            )
            wanted = likely.sort_values("TARGET_PRED_spend", ascending=False).head(100)
            calls = pd.read_csv(self._data / "call_lists" / f"{day}.csv")
            if calls["customer_id"].tolist() != wanted["ENTITY"].tolist():
                yield f"{CALL_LIST.to_user_string()} of {day} does not follow from the predictions"

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

    def nothing_left(self, folder: Path) -> Iterator[str]:
        """No scratch files, and no secret in what was logged or stored."""
        scratch = [path for path in (folder / "tmp").rglob("*") if "kumo" in path.name]
        if scratch:
            yield f"scratch files are left: {scratch}"
        searched = [folder / "dagster_home", folder / "daemon.log", self._data / "assets"]
        for path in searched:
            for file in path.rglob("*") if path.is_dir() else [path]:
                content = file.read_bytes() if file.is_file() else b""
                yield from (f"{file} holds {s.decode()}" for s in SECRETS if s in content)
