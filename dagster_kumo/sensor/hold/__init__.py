"""Runs that wait for Kumo in Dagster's queue, without a worker: a sensor launches their jobs and releases them."""
