"""`dagster-kumo local`: the stand-in for Kumo, in its own process."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Literal

import click

_DEFAULT_PORT = 8765
_SECONDS = click.FloatRange(min=0)


@click.command(short_help="Run a stand-in for Kumo on this machine.")
@click.option(
    "--port",
    default=_DEFAULT_PORT,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port; 0 for a free one.",
)
@click.option(
    "--data",
    default=Path(".kumo-local"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for jobs, prediction files and exports. A restart continues with it.",
)
@click.option(
    "--queue-seconds",
    default=2.0,
    show_default=True,
    type=_SECONDS,
    help="How long a job is QUEUED.",
)
@click.option(
    "--run-seconds",
    default=6.0,
    show_default=True,
    type=_SECONDS,
    help="How long a job is RUNNING.",
)
@click.option(
    "--idle-timeout",
    default=0.0,
    type=_SECONDS,
    help="Stop after so many seconds without a call. By default it does not stop by itself.",
)
@click.option(
    "--api",
    default="2",
    show_default=True,
    type=click.Choice(["2", "3"]),
    help="Generation of the API: that of SDK 2.x, or that of SDK 3.0.",
)
def local(
    port: int,
    data: Path,
    queue_seconds: float,
    run_seconds: float,
    idle_timeout: float,
    api: Literal["2", "3"],
) -> None:
    """Run a stand-in for the Kumo service on this machine (it is not Kumo)."""
    from dagster_kumo.local import LocalKumo
    from dagster_kumo.local.model.tasks import TRAINING_JOBS

    ended = threading.Event()

    def end(*_: object) -> None:
        ended.set()

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, end)
    if hasattr(signal, "pthread_sigmask"):
        # A process inherits signals that its parent has blocked.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    kumo = LocalKumo(data, port=port, queue_seconds=queue_seconds, run_seconds=run_seconds, api=api)
    try:
        kumo.start()
    except (ImportError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    try:
        click.echo(
            "A stand-in for Kumo is running. It is NOT Kumo: its model is a small local one."
        )
        click.echo(f"It speaks the API of SDK {'3.0' if api == '3' else '2.x'}.")
        click.echo(f"  KUMO_API_ENDPOINT={kumo.url}")
        click.echo(f"  KUMO_API_KEY={kumo.api_key}")
        click.echo("Training jobs:")
        for job in TRAINING_JOBS:
            click.echo(f"  {job.id:<36} {job.status:<8} {job.query.description.partition('?')[0]}?")
        click.echo(f"Exports are written to {kumo.data / 'exports'}")
        click.echo("Press Ctrl-C to stop it.")
        while not ended.wait(1.0):
            if idle_timeout and kumo.idle_seconds > idle_timeout:
                click.echo(f"No call for {idle_timeout:g} seconds: stopping.")
                break
    finally:
        kumo.stop()
