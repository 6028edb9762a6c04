"""The clock of the processes that run users' code, which may be fast or slow.

A process takes the clock that is set when it starts, and keeps it. Dagster's daemon, its database, the server
and the processes that started earlier have another one. What is shifted is what Python asks: the interpreter's
own clock stays.
"""

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import time_machine

CLOCK_VARIABLE = "CHAOS_CLOCK"


def set_clock(seconds: float) -> None:
    """Let the processes that start from now on be `seconds` ahead, or behind."""
    Path(os.environ[CLOCK_VARIABLE]).write_text(str(seconds))


def follow_clock() -> None:
    """Shift this process's clock by what is set."""
    seconds = float(Path(os.environ[CLOCK_VARIABLE]).read_text())
    if seconds:
        then = datetime.now(timezone.utc) + timedelta(seconds=seconds)
        time_machine.travel(then, tick=True).start()
