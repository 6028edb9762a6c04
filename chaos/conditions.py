"""What is wrong with Kumo or with a machine for a while, and not with one request.

Kumo's list shows jobs late, or a new job is not found at first; tags are lost; the clock of Kumo or that of
the workers is ten minutes off. All but the workers' clock is made by changing answers: they are all that
anybody sees of a server.
"""

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from chaos.clock import set_clock

LIST_LATE_SECONDS = 5.0
JOB_LATE_SECONDS = 4.0
CLOCK_SECONDS = 600.0

# How likely each of them is in a period.
CONDITIONS = {
    "the list is late": 0.4,
    "a new job is not found": 0.3,
    "tags are lost": 0.3,
    "Kumo's clock is ahead": 0.2,
    "Kumo's clock is behind": 0.2,
    "the workers' clock is ahead": 0.2,
    "the workers' clock is behind": 0.2,
}
PERIOD_SECONDS = (15.0, 40.0)

_JOB = re.compile(r"/prediction_jobs/([^/]+)(/progress)?$")
_TIMES = ("created_at", "start_time", "end_time", "last_updated_at")


class Conditions:
    """The conditions that hold now; others after each period.

    Args:
        seed: decides about the first period, the second, and so on.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._until = 0.0
        self._holding: set[str] = set()
        self._launched_at: dict[str, float] = {}
        self._asked_for: set[str] = set()
        self._lock = threading.Lock()
        self.periods: Counter[str] = Counter()
        """In how many periods each has held."""

    def look(self) -> None:
        """Begin another period when it is time."""
        if time.monotonic() < self._until:
            return
        self._until = time.monotonic() + self._random.uniform(*PERIOD_SECONDS)
        drawn = {name for name, chance in CONDITIONS.items() if self._random.random() < chance}
        for clock in ("Kumo's", "the workers'"):
            if drawn >= {f"{clock} clock is ahead", f"{clock} clock is behind"}:
                drawn.remove(f"{clock} clock is behind")
        self._hold(drawn)
        self.periods.update(drawn)

    def end(self) -> None:
        """Let everything be right from now on."""
        self._hold(set())

    def answer(
        self, method: str, path: str, status: int, content: bytes
    ) -> tuple[int, bytes, list[str]] | None:
        """An answer as it is under these conditions: status, body, and what has changed it.

        None for an answer that they do not concern.
        """
        if status != 200 or "/prediction_jobs" not in path:
            return None
        with self._lock:
            if method == "POST" and path.endswith("/prediction_jobs"):
                self._note_launch(json.loads(content)[0])
            elif method == "GET" and path.endswith("/prediction_jobs"):
                return self._listed(json.loads(content))
            elif method == "GET" and (match := _JOB.search(path)):
                return self._asked(match[1], json.loads(content))
        return None

    def _note_launch(self, job_id: str | None) -> None:
        if job_id is not None:
            self._launched_at[job_id] = time.monotonic()

    def _listed(self, jobs: list[dict[str, Any]]) -> tuple[int, bytes, list[str]]:
        changed: set[str] = set()
        if "the list is late" in self._holding:
            shown = [job for job in jobs if self._age(job["job_id"]) >= LIST_LATE_SECONDS]
            changed |= {"the list is late"} if len(shown) < len(jobs) else set()
            jobs = shown
        return self._told(jobs, changed)

    def _asked(self, job_id: str, job: dict[str, Any]) -> tuple[int, bytes, list[str]]:
        if "a new job is not found" in self._holding and self._age(job_id) < JOB_LATE_SECONDS:
            detail = {"detail": f"There is no prediction job {job_id}."}
            return 404, json.dumps(detail).encode(), ["a new job is not found"]
        # Whoever asks for a job by its id has noted that on the run: its tags may be lost now.
        self._asked_for.add(job_id)
        return self._told(job, set())

    def _told(self, answer: Any, changed: set[str]) -> tuple[int, bytes, list[str]]:
        if "tags are lost" in self._holding:
            for job in answer if isinstance(answer, list) else [answer]:
                if job.get("job_id") in self._asked_for:
                    # Exports have nothing but their tags to go by.
                    job["tags"] = {k: v for k, v in job["tags"].items() if "export" in k}
                    changed.add("tags are lost")
        if seconds := self._shift("Kumo's"):
            answer = _shifted(answer, timedelta(seconds=seconds))
        return 200, json.dumps(answer).encode(), sorted(changed)

    def _age(self, job_id: str) -> float:
        return time.monotonic() - self._launched_at.get(job_id, 0.0)

    def _hold(self, conditions: set[str]) -> None:
        with self._lock:
            self._holding = conditions
        set_clock(self._shift("the workers'"))

    def _shift(self, whose: str) -> float:
        ahead = f"{whose} clock is ahead" in self._holding
        behind = f"{whose} clock is behind" in self._holding
        return CLOCK_SECONDS * (ahead - behind)


def _shifted(answer: Any, by: timedelta) -> Any:
    """An answer with its times moved, all but those that a job predicts for."""
    if isinstance(answer, list):
        return [_shifted(item, by) for item in answer]
    if not isinstance(answer, Mapping):
        return answer
    return {
        key: (datetime.fromisoformat(value) + by).isoformat()
        if key in _TIMES and isinstance(value, str)
        else _shifted(value, by)
        for key, value in answer.items()
    }
