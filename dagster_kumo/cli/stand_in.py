"""`dagster-kumo local`: the stand-in for Kumo, in its own process."""

from __future__ import annotations

import signal
import threading
from importlib.util import find_spec
from pathlib import Path

import click

_DEFAULT_PORT = 8765
_NEEDED = ("starlette", "uvicorn", "sklearn", "duckdb")


@click.command()
@click.option("--port", default=_DEFAULT_PORT, show_default=True, help="Port; 0 for a free one.")
@click.option(
    "--data",
    default=Path(".kumo-local"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for jobs, prediction files and exports. A restart continues with it.",
)
@click.option("--queue-seconds", default=2.0, show_default=True, help="How long a job is QUEUED.")
@click.option("--run-seconds", default=6.0, show_default=True, help="How long a job is RUNNING.")
@click.option(
    "--idle-timeout",
    default=0.0,
    help="Stop after so many seconds without a call. By default it does not stop by itself.",
)
def local(
    port: int, data: Path, queue_seconds: float, run_seconds: float, idle_timeout: float
) -> None:
    """Run a stand-in for the Kumo service on this machine (it is not Kumo)."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f"The stand-in needs packages that are not installed ({', '.join(missing)}). "
            "Install them with: pip install 'dagster-kumo[local]'"
        )
    from dagster_kumo.local import LocalKumo
    from dagster_kumo.local.model.tasks import TRAINING_JOBS

    ended = threading.Event()

    def end(number: int, frame: object) -> None:
        del number, frame
        ended.set()

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, end)
    if hasattr(signal, "pthread_sigmask"):
        # The parent process may have blocked them, which is inherited.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    kumo = LocalKumo(data, port=port, queue_seconds=queue_seconds, run_seconds=run_seconds)
    try:
        kumo.start()
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    try:
        click.echo(
            "A stand-in for Kumo is running. It is NOT Kumo: its model is a small local one."
        )
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
