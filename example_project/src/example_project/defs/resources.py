import dagster as dg

from dagster_kumo import KumoIOManager
from example_project.folders import ASSETS, STAND_IN
from example_project.resources import kumo_resource


@dg.definitions
def resources() -> dg.Definitions:
    kumo = kumo_resource(stand_in=str(STAND_IN))
    io_manager = KumoIOManager(base_path=str(ASSETS), kumo=kumo, preview_rows=0)
    return dg.Definitions(
        # The same I/O manager also keeps the frames that other assets return.
        resources={"kumo": kumo, "kumo_io_manager": io_manager, "io_manager": io_manager},
        # Kumo does the work; a process for each step would only cost time.
        executor=dg.in_process_executor,
    )
