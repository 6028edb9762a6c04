"""Launch days and backfills under faults and kills, and tell whether each was paid for exactly once."""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from chaos.clock import CLOCK_VARIABLE, set_clock
from chaos.conditions import CONDITIONS, Conditions
from chaos.processes import Processes
from chaos.proxy import FAULTS, ChaosProxy
from chaos.server import Server
from dagster_kumo import KumoClient
from dagster_kumo.local import LocalKumo
from tests.system.production.postgres import postgres
from tests.system.production.services import Services

# A machine may be busy: to be slow is not to be wrong.
CALM_SECONDS = 1200.0  # for what is left when the storm is over
END_SECONDS = 300.0  # for processes to end
LOOKS = 6  # how often what failed is carried on


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--storage", choices=["sqlite", "postgres"], default="postgres")
    parser.add_argument("--seed", type=int, help="that of an earlier run, to draw its faults again")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the storm lasts")
    arguments = parser.parse_args()
    seed = random.randrange(10_000) if arguments.seed is None else arguments.seed
    # Terminated, it ends its processes as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    console = Console(width=100, highlight=False)
    console.print(f"Chaos with seed {seed}: {arguments.minutes:g} minutes on {arguments.storage}.")
    with postgres() if arguments.storage == "postgres" else nullcontext() as postgres_url:
        wrong = _chaos(console, folder, postgres_url, seed, arguments.minutes * 60)
    if wrong:
        for words in wrong:
            console.print(f"WRONG: {words}", style="red", markup=False, soft_wrap=True)
        console.print(f"Seed {seed}. What was left is in {folder}.", soft_wrap=True)
        sys.exit(1)
    console.print("Each launch was paid for once, and everything is as the server has it.")
    shutil.rmtree(folder)


def _chaos(
    console: Console, folder: Path, postgres_url: str | None, seed: int, storm_seconds: float
) -> list[str]:
    """One chaos run, with a table of what happened; what is wrong in the end."""
    home, data = folder / "dagster_home", folder / "data"
    processes = Processes(data)
    started = time.monotonic()
    with ExitStack() as stack:
        kumo = stack.enter_context(
            LocalKumo(data / "kumo", queue_seconds=0.5, run_seconds=6.0, files_per_output=3)
        )
        conditions = Conditions(seed)
        proxy = stack.enter_context(
            ChaosProxy(
                f"http://{urlsplit(kumo.url).netloc}",
                seed=seed,
                expire_urls=kumo.faults.expire_urls,
                kill=processes.kill,
                conditions=conditions,
            )
        )
        _set_environment(folder, url=proxy.url, api_key=kumo.api_key)
        # Imported only now: the environment says where the example keeps its files.
        from example_project.which_kumo import promote_first_model

        from chaos.checks import Checks
        from chaos.people import People
        from chaos.runs import source_tables

        promote_first_model(KumoClient(kumo.url, kumo.api_key))
        server = Server(data / "kumo")
        try:
            with Services(
                home,
                "chaos.definitions",
                postgres_url=postgres_url,
                environment={},
                max_retries=6,
                runs_at_once=4,
                poll_seconds=3,
            ) as services:
                source_tables(services.instance)
                people = People(services, server, seed)
                end = time.monotonic() + storm_seconds
                while time.monotonic() < end:
                    conditions.look()
                    people.act()
                    time.sleep(0.5)  # people take their time
                proxy.calm()
                conditions.end()
                stormed = time.monotonic() - started
                for _ in range(LOOKS):
                    if not _wait(people.runs.all_ended, CALM_SECONDS):
                        return ["the daemon's runs do not end"]
                    if not people.look_after_all():
                        break
                # A step may outlive its run.
                if not _wait(lambda: not processes.steps(), END_SECONDS):
                    return ["steps do not end", *processes.describe()]
            # All that is left from here on is killed because the chaos run is over.
            killed, hung = frozenset(processes.killed), processes.hung()
        finally:
            processes.kill_all()
    # Everything has ended: what is looked at now does not change.
    with dg.DagsterInstance.get() as instance:
        kills = sum(times for fault, times in proxy.faults.items() if fault.startswith("killed"))
        checks = Checks(instance, server, data, people.launched)
        wrong = checks.all(kills=kills, killed=killed, folder=folder)
        figures = {
            "seconds of storm, in all": f"{stormed:.0f}, {time.monotonic() - started:.0f}",
            **{f"people {what}": times for what, times in sorted(people.did.items())},
            **{f"requests: {what}": times for what, times in sorted(proxy.requests.items())},
            **{fault: proxy.faults[fault] for fault in FAULTS},
            **{f"periods in which {name}": conditions.periods[name] for name in CONDITIONS},
            **{f"answers changed: {what}": times for what, times in sorted(proxy.changed.items())},
            "steps that cannot end, since their worker was killed": hung,
            "runs": len(instance.get_runs()),
            **dict(sorted(checks.counts.items())),
            "wrong": len(wrong),
        }
        console.print(_table(figures))
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
        CLOCK_VARIABLE: str(folder / "clock"),
    }
    set_clock(0)
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


def _table(figures: Mapping[str, object]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for what, figure in figures.items():
        table.add_row(what, str(figure))
    return table


if __name__ == "__main__":
    main()
