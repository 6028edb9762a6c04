"""Kumo, or the stand-in where there is no account; and the store of all assets."""

import os

import dagster as dg

from dagster_kumo import KumoIOManager, KumoResource, LocalKumoResource
from example_project.folders import ASSETS, STAND_IN


def kumo_resource() -> KumoResource:
    """Kumo itself if there is a key for it, otherwise the stand-in. Your project has the first one only."""
    if os.getenv("KUMO_API_KEY"):
        return KumoResource(api_key=dg.EnvVar("KUMO_API_KEY"))
    return LocalKumoResource(data=str(STAND_IN), api=os.getenv("LOCAL_KUMO_API", "2"))


@dg.definitions
def resources() -> dg.Definitions:
    kumo = kumo_resource()
    io_manager = KumoIOManager(base_path=str(ASSETS), kumo=kumo, preview_rows=0)
    return dg.Definitions(
        # The same I/O manager also keeps the frames that other assets return.
        resources={"kumo": kumo, "kumo_io_manager": io_manager, "io_manager": io_manager},
        # Kumo does the work; a process for each step would only cost time.
        executor=dg.in_process_executor,
    )
