"""Three days of predictions, end to end: `python -m example_project.demo`.

Runs the project's own job for the last complete days, in the Dagster instance that `make dagit`
shows, and tells what came of it. Always on the stand-in, never on an account.
"""

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from example_project.folders import ASSETS, CALL_LISTS, DATA, PROJECT, WAREHOUSE
from example_project.which_kumo import promote_first_model

LOG = DATA / "demo.log"
MODEL = dg.AssetKey(["purchase", "model"])
PREDICTIONS = dg.AssetKey(["purchase", "predictions"])
SPEND = dg.AssetKey(["spend", "predictions"])
CALL_LIST = dg.AssetKey("call_list")
DRIFT = dg.AssetKey("purchase_drift")
PURCHASES = dg.AssetKey("purchases")
OUTCOMES = dg.AssetKey("purchase_outcomes")
EVALUATION = dg.AssetKey(["purchase", "evaluation"])
EXPORTED = "snowflake_warehouse.PURCHASE_predictions"


class DemoFailed(Exception):
    """A run failed. The message is the reason."""


@dataclass
class Day:
    """What one run made: the metadata of each asset, by its key."""

    key: str
    seconds: float
    metadata: dict[dg.AssetKey, dict[str, Any]]

    def value(self, asset: dg.AssetKey, entry: str) -> Any:
        return self.metadata[asset][entry].value

    def statistics(self, asset: dg.AssetKey, column: str) -> dict[str, Any]:
        records = self.metadata[asset]["dagster-kumo/statistics"].records
        return next(dict(r.data) for r in records if r.data["column"] == column)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m example_project.demo", description=__doc__)
    parser.add_argument("--days", type=int, default=3, help="how many days (default: 3)")
    days = parser.parse_args().days
    # The demo is not to launch jobs on somebody's account.
    for name in ("KUMO_API_KEY", "PURCHASE_TRAINING_JOB", "SPEND_TRAINING_JOB"):
        os.environ.pop(name, None)
    os.environ.setdefault("DAGSTER_HOME", str(PROJECT / "dagster_home"))
    with _quiet() as console:
        try:
            _demo(console, max(days, 1))
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            console.print("Stopped.")
            sys.exit(130)
        except Exception as error:  # noqa: BLE001 - a person gets the reason, the log the rest
            traceback.print_exc()
            reason = error if isinstance(error, DemoFailed) else f"{type(error).__name__}: {error}"
            console.print("[bold red]The demo failed.[/]", end=" ")
            console.print(str(reason), markup=False, highlight=False, soft_wrap=True)
            console.print(f"More is in {_short(LOG)}.", highlight=False, soft_wrap=True)
            sys.exit(1)


def _demo(console: Console, days: int) -> None:
    console.print(
        "Who will buy in the next 30 days? 23,570 customers of a music shop, real data.\n"
        "[yellow]The model is a small stand-in on this machine. It is not Kumo's.[/]\n",
        highlight=False,
    )
    with console.status("Starting the stand-in") as status:
        runs = _Runs(status)
        # First, so that the page of the predictions shows yesterday's afterwards.
        evaluated = runs.evaluate()
        console.print(
            f"[green]✓[/] {evaluated.key}  evaluated, since its 30 days have passed  "
            f"[dim]{evaluated.seconds:.0f} s[/]",
            highlight=False,
        )
        done = []
        for key in runs.last_days(days):
            done.append(day := runs.daily_call_list(key))
            console.print(
                f"[green]✓[/] {key}  predictions, embeddings, export, and a list of "
                f"{day.value(CALL_LIST, 'dagster/row_count')} calls  [dim]{day.seconds:.0f} s[/]",
                highlight=False,
            )
        runs.drift(done[-1].key)
    console.print()
    console.print(_jobs(done))
    console.print(_scores(done))
    console.print(_calls(done[-1].key))
    console.print(_deciles(evaluated))
    _where(console)


class _Runs:
    """Runs the project's jobs in this process, in the persistent instance."""

    def __init__(self, status: Status) -> None:
        from example_project.definitions import defs
        from example_project.defs.resources import kumo_resource

        promote_first_model(kumo_resource().get_client())
        self._status = status
        self._title = ""
        logger = dg.Definitions(loggers={"demo": self._logger()})
        self._project = dg.Definitions.merge(defs(), logger)
        self._instance = dg.DagsterInstance.get()

    def last_days(self, count: int) -> Sequence[str]:
        from example_project.partitions import daily

        return daily.get_partition_keys()[-count:]

    def daily_call_list(self, day: str) -> Day:
        job = self._project.resolve_job_def("daily_call_list")
        return self._day(job, day)

    def evaluate(self) -> Day:
        """The newest day whose outcome is known, predicted for as it would have been then."""
        from example_project.defs.models import WINDOW
        from example_project.partitions import daily

        (day,) = daily.get_partition_keys()[-WINDOW.days - 1 : -WINDOW.days]
        job = self._project.resolve_implicit_global_asset_job_def()
        # The model too, so that Dagster shows which one predicts.
        selection = [MODEL, PURCHASES, PREDICTIONS, OUTCOMES, EVALUATION]
        return self._day(job, day, asset_selection=selection)

    def _day(self, job: dg.JobDefinition, day: str, **options: Any) -> Day:
        started = time.monotonic()
        result = self._run(job, title=day, partition_key=day, **options)
        metadata = {
            event.asset_key: dict(event.materialization.metadata)
            for event in result.get_asset_materialization_events()
            if event.asset_key
        }
        return Day(day, time.monotonic() - started, metadata)

    def drift(self, day: str) -> None:
        """The week that a day belongs to."""
        from example_project.partitions import weekly

        week = [key for key in weekly.get_partition_keys() if key <= day][-1]
        job = self._project.resolve_implicit_global_asset_job_def()
        self._run(job, title=f"week {week}", partition_key=week, asset_selection=[DRIFT])

    def _run(self, job: dg.JobDefinition, *, title: str, **options: Any) -> Any:
        self._title = title
        self._status.update(title)
        result = job.execute_in_process(
            instance=self._instance,
            run_config={"loggers": {"demo": {}}},
            raise_on_error=False,
            **options,
        )
        if not result.success:
            raise _failure(result)
        return result

    def _logger(self) -> dg.LoggerDefinition:
        """Takes the place of Dagster's lines on the console; the event log has all of them."""
        runs = self

        class ShowProgress(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                # A message reads "<job> - <run> - <step> - <what happened>".
                print(record.getMessage(), flush=True)  # into the log file
                told = record.getMessage().rpartition(" - ")[2].partition("\n")[0]
                runs._status.update(f"{runs._title}  [dim]{escape(told)}[/]")

        @dg.logger
        def progress(_: dg.InitLoggerContext) -> logging.Logger:
            logger = logging.Logger("demo", logging.INFO)
            logger.addHandler(ShowProgress())
            return logger

        return progress


def _failure(result: Any) -> BaseException:
    """Why a run failed: what the asset raised, without Dagster's wrapping."""
    errors = [
        event.step_failure_data.error for event in result.all_events if event.is_step_failure
    ] or [event.job_failure_data.error for event in result.all_events if event.is_job_failure]
    error = errors[0] if errors else None
    if error is None:
        return DemoFailed("A run failed.")
    while error.cause:
        error = error.cause
    if error.cls_name == "DagsterExecutionInterruptedError":
        return KeyboardInterrupt()
    return DemoFailed(error.message.strip())


def _jobs(days: list[Day]) -> Table:
    table = _table("What Kumo's jobs made", "day", "job", ">entities", ">rows", ">files")
    for day in days:
        table.add_row(
            day.key,
            day.value(PREDICTIONS, "dagster-kumo/job_id"),
            f"{day.value(PREDICTIONS, 'dagster-kumo/num_entities_predicted'):,}",
            f"{day.value(PREDICTIONS, 'dagster/row_count'):,}",
            str(day.value(PREDICTIONS, "dagster-kumo/num_files")),
        )
    return table


def _scores(days: list[Day]) -> Table:
    table = _table(
        "The chance to buy in the next 30 days, and what all customers spend",
        "day",
        ">mean",
        ">5 %",
        ">median",
        ">95 %",
        ">above 20 %",
        ">spend",
    )
    for day in days:
        chance = day.statistics(PREDICTIONS, "True_PROB")
        rows = day.value(PREDICTIONS, "dagster/row_count")
        likely = day.value(PREDICTIONS, "dagster-kumo/share_yes")
        spend = day.value(SPEND, "dagster-kumo/TARGET_PRED/mean")
        table.add_row(
            day.key,
            *(f"{chance[name]:.2%}" for name in ("mean", "5 %", "median", "95 %")),
            f"{likely * rows:,.0f} ({likely:.1%})",
            f"${spend * day.value(SPEND, 'dagster/row_count'):,.0f}",
        )
    return table


def _deciles(day: Day) -> Table:
    table = _table(
        f"Was it right? The predictions of {day.key}",
        ">customers",
        ">predicted",
        ">bought",
        ">share",
        ">times the average",
    )
    for record in day.value(EVALUATION, "dagster-kumo/deciles").records[:4]:
        group = record.data
        table.add_row(
            f"{group['entities']:,}",
            f"{group['predicted']:.1%}",
            f"{group['came true']:,.0f}",
            f"{group['actual']:.1%}",
            f"{group['lift']:.1f}",
        )
    return table


def _calls(day: str, count: int = 5) -> Table:
    calls = pd.read_csv(CALL_LISTS / f"{day}.csv").head(count)
    table = _table(
        f"Call list of {day}, the first {len(calls)}",
        ">",
        ">customer",
        ">chance to buy",
        ">expected spend",
        "last purchase",
    )
    for call in calls.itertuples():
        table.add_row(
            str(call.rank),
            str(call.customer_id),
            f"{call.probability:.0%}",
            f"${call.expected_spend:,.2f}",
            call.last_purchase,
        )
    return table


def _where(console: Console) -> None:
    with duckdb.connect(str(WAREHOUSE), read_only=True) as warehouse:
        (rows,) = warehouse.execute(f"SELECT count(*) FROM {EXPORTED}").fetchone() or (0,)
    places = Table.grid(padding=(0, 2))
    places.add_row("Predictions", f"{_short(ASSETS)}/purchase/predictions/<day>/")
    places.add_row("Embeddings", f"{_short(ASSETS)}/purchase/embeddings/<day>/")
    places.add_row("Call lists", f"{_short(CALL_LISTS)}/<day>.csv")
    places.add_row("Export", f"{_short(WAREHOUSE)}, a DuckDB file:")
    places.add_row("", f"{rows:,} rows in {EXPORTED}")
    console.print(places, highlight=False)
    console.print("\nTo see all of it in Dagster: [bold]make dagit[/]", highlight=False)


def _table(title: str, *columns: str) -> Table:
    """A table; the columns that begin with > are numbers."""
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=True)
    return table


def _short(path: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


@contextmanager
def _quiet() -> Iterator[Console]:
    """Give the terminal to a console of our own; what others print goes to the log file."""
    DATA.mkdir(parents=True, exist_ok=True)
    terminal, errors = os.dup(1), os.dup(2)
    sys.stdout.flush()
    with LOG.open("wb", buffering=0) as log, os.fdopen(os.dup(terminal), "w") as out:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield Console(file=out)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(terminal, 1)
            os.dup2(errors, 2)
            os.close(terminal)
            os.close(errors)


if __name__ == "__main__":
    main()
