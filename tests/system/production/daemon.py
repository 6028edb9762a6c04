"""Dagster's daemon, which looks after backfills every second and not every half a minute."""

from dagster._daemon import controller  # Dagster has no setting for it
from dagster._daemon.cli import main

controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 1

if __name__ == "__main__":
    main()
