"""`python -m dagster_kumo.cli`."""

from dagster_kumo.cli import main

if __name__ == "__main__":
    main(prog_name="dagster-kumo")
