"""What the stand-in holds, read from its own files: no client, no proxy, no dagster-kumo between."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

OVER = ("DONE", "FAILED", "CANCELLED")


class Server:
    """The data folder of a stand-in.

    Args:
        data: the folder.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self.warehouse = data / "exports" / "warehouses.duckdb"

    def jobs(self, kind: str) -> list[dict[str, Any]]:
        """All jobs of a kind, oldest first."""
        files = (self._data / "jobs" / kind).glob("*.json")
        return sorted((json.loads(file.read_text()) for file in files), key=_created)

    def live(self) -> list[str]:
        """The jobs that have not ended. (A training job is there that never does.)"""
        return [
            f"{job['id']} ({job['status']})"
            for kind in ("prediction_jobs", "genpredtable_jobs", "artifact")
            for job in self.jobs(kind)
            if job["status"] not in OVER
        ]

    def predictions(self, name: str, day: str) -> list[dict[str, Any]]:
        """The prediction jobs of a model's assets for a partition, oldest first."""
        return [
            job
            for job in self.jobs("prediction_jobs")
            if job["tags"].get("dagster.asset", "").startswith(f"{name}/")
            and job["tags"].get("dagster.partition") == day
        ]

    def exports(self, job_id: str, write_mode: str) -> list[dict[str, Any]]:
        """The exports of a prediction job."""
        return [
            export
            for export in self.jobs("artifact")
            if export["config"]["job_id"] == job_id
            and export["config"]["prediction_output"]["write_mode"] == write_mode
        ]

    def files(self, job_id: str, output: str) -> list[Path]:
        """The files of an output, in order."""
        return sorted((self._data / "files" / job_id / output).glob("part-*.parquet"))

    def rows_that_differ(self, table: str, files: Sequence[Path]) -> tuple[int, int]:
        """How many rows a table of the warehouse has too many, and how many too few, held against
        Parquet files. A row that is there twice counts as one too many."""
        columns = "ENTITY, ANCHOR_TIMESTAMP::TIMESTAMP, TARGET_PRED, False_PROB, True_PROB"
        names = ", ".join(f"'{file}'" for file in files)
        there = f"SELECT {columns} FROM {table}"
        wanted = f"SELECT {columns} FROM read_parquet([{names}])"
        with duckdb.connect(str(self.warehouse), read_only=True) as warehouse:
            more, less = (
                warehouse.execute(f"SELECT count(*) FROM ({a} EXCEPT ALL {b})").fetchall()[0][0]
                for a, b in ((there, wanted), (wanted, there))
            )
        return more, less

    def has_table(self, table: str) -> bool:
        """Whether a table is in the warehouse."""
        if not self.warehouse.exists():
            return False
        schema, name = table.split(".")
        with duckdb.connect(str(self.warehouse), read_only=True) as warehouse:
            found = warehouse.execute(
                "SELECT 1 FROM information_schema.tables WHERE table_schema = ? AND table_name = ?",
                [schema, name],
            )
            return bool(found.fetchall())

    def anchors(self, table: str) -> list[Any]:
        """The anchor times in a table of the warehouse."""
        with duckdb.connect(str(self.warehouse), read_only=True) as warehouse:
            found = warehouse.execute(f"SELECT DISTINCT ANCHOR_TIMESTAMP FROM {table}").fetchall()
        return sorted(row[0] for row in found)


def _created(job: dict[str, Any]) -> str:
    return job["created_at"]
