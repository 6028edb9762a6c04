"""Run the example's days under faults and kills, and tell whether each was paid for exactly once."""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from chaos.processes import Processes
from chaos.proxy import FAULTS, ChaosProxy
from dagster_kumo.local import LocalKumo

# A machine may be busy: to be slow is not to be wrong.
CALM_SECONDS = 1200.0  # for what is left when the storm is over
END_SECONDS = 300.0  # for processes to end


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="that of an earlier run, to draw its faults again")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long the storm may last")
    parser.add_argument("--days", type=int, default=8, help="how many partitions are made")
    arguments = parser.parse_args()
    seed = random.randrange(10_000) if arguments.seed is None else arguments.seed
    # Terminated, it ends its processes as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    console = Console(width=100, highlight=False)
    console.print(f"Chaos with seed {seed}: {arguments.days} days.")
    wrong = _chaos(console, folder, seed, arguments.minutes * 60, arguments.days)
    if wrong:
        for words in wrong:
            console.print(f"WRONG: {words}", style="red", markup=False, soft_wrap=True)
        console.print(f"Seed {seed}. What was left is in {folder}.", soft_wrap=True)
        sys.exit(1)
    console.print("Each day was paid for once, and everything is as the server has it.")
    shutil.rmtree(folder)


def _chaos(
    console: Console, folder: Path, seed: int, storm_seconds: float, count: int
) -> list[str]:
    """One chaos run, with a table of what happened; what is wrong in the end."""
    data = folder / "data"
    processes = Processes(data)
    started = time.monotonic()
    with (
        LocalKumo(data / "kumo", queue_seconds=0.5, run_seconds=2.0, files_per_output=3) as kumo,
        ChaosProxy(
            f"http://{urlsplit(kumo.url).netloc}",
            seed=seed,
            expire_urls=kumo.faults.expire_urls,
            kill=processes.kill,
        ) as proxy,
    ):
        _set_environment(folder, url=proxy.url, api_key=kumo.api_key)
        # Imported only now: the environment says where the example keeps its files.
        from chaos import runs
        from chaos.checks import Checks
        from chaos.definitions import DAILY_ASSETS
        from chaos.server import Server

        days = runs.last_days(count)
        os.environ["CHAOS_DAYS"] = ",".join(days)
        instance = runs.instance()
        runs.source_tables(instance)
        server = Server(data / "kumo")
        person = runs.Person(instance, server)
        try:
            with runs.daemon(folder / "daemon.log"):
                _wait(lambda: runs.is_settled(instance, count), storm_seconds)
                proxy.calm()
                stormed = time.monotonic() - started
                if not _wait(lambda: runs.is_settled(instance, count), CALM_SECONDS):
                    return ["the daemon's runs do not end"]
                # A step may outlive its run.
                if not _wait(lambda: not processes.steps(), END_SECONDS):
                    return ["steps do not end", *processes.describe()]
            if not _wait(lambda: not processes.alive(), END_SECONDS):
                return ["processes are left", *processes.describe()]
            for day in days:
                person.look_after(day)
        finally:
            processes.kill_all()
        kills = sum(times for fault, times in proxy.faults.items() if fault.startswith("killed"))
    checks = Checks(instance, server, data, days)
    wrong = checks.all(kills=kills, folder=folder)
    figures = {
        "partitions, assets of each": f"{count}, {len(DAILY_ASSETS)}",
        "seconds of storm, in all": f"{stormed:.0f}, {time.monotonic() - started:.0f}",
        **{f"requests: {what}": f"{times}" for what, times in sorted(proxy.requests.items())},
        **{fault: f"{proxy.faults[fault]}" for fault in FAULTS},
        "runs": f"{len(instance.get_runs())}",
        **{what: f"{times}" for what, times in sorted(checks.counts.items())},
        **{f"a person {what}": f"{times}" for what, times in sorted(person.did.items())},
        "wrong": f"{len(wrong)}",
    }
    console.print(_table(figures))
    instance.dispose()
    return wrong


def _set_environment(folder: Path, *, url: str, api_key: str) -> None:
    """Lead the example, here and in all processes that are started, to the proxy and to its folders."""
    for name in ("dagster_home", "tmp"):
        (folder / name).mkdir()
    os.environ |= {
        "DAGSTER_HOME": str(folder / "dagster_home"),
        "EXAMPLE_DATA": str(folder / "data"),
        "KUMO_API_ENDPOINT": f"{url}/api",
        "KUMO_API_KEY": api_key,
        "TMPDIR": str(folder / "tmp"),
    }
    for name in ("PURCHASE_TRAINING_JOB", "SPEND_TRAINING_JOB"):
        os.environ.pop(name, None)


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    """Wait until it is done; False when the time is over first."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _table(figures: Mapping[str, str]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for what, figure in figures.items():
        table.add_row(what, figure)
    return table


if __name__ == "__main__":
    main()
