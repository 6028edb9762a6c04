"""Where the project keeps its files: all below one folder, which git ignores."""

import os
from pathlib import Path

PROJECT = Path(__file__).parents[2]
DATA = Path(os.getenv("EXAMPLE_DATA") or PROJECT / "data").resolve()

ASSETS = DATA / "assets"  # Parquet, written by the I/O manager
CALL_LISTS = DATA / "call_lists"  # CSV, for people
STAND_IN = DATA / "kumo"  # what the stand-in for Kumo keeps: jobs, files, exports
WAREHOUSE = STAND_IN / "exports" / "warehouses.duckdb"
