"""The sensor for prediction jobs that were launched outside Dagster."""
