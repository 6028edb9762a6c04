"""Print how dagster-kumo compares with the official SDK: medians, ratios, peak memory."""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

ROWS_PER_FILE = 500_000
COMPARISONS = {
    "predictions_df()": ("sdk_frame", "our_frame"),
    "store with statistics": ("sdk_store", "our_store"),
}


@contextmanager
def server(files: int) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.server", str(files), str(ROWS_PER_FILE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def measure(side: str, url: str) -> tuple[float, int]:
    """Seconds and peak bytes of one side, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sides", side, url]
    printed = subprocess.run(command, capture_output=True, text=True)
    if printed.returncode:
        sys.exit(f"{side} failed:\n{printed.stderr}")
    found = json.loads(printed.stdout.splitlines()[-1])
    return found["seconds"], found["peak_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--files", type=int, default=32, help="files of 500,000 rows each")
    parser.add_argument("--repeat", type=int, default=3, help="how often each side runs")
    arguments = parser.parse_args()
    files, repeat = arguments.files, arguments.repeat
    rows = files * ROWS_PER_FILE
    table = Table(title=f"{rows:,} rows in {files} files on loopback, median of {repeat} runs")
    for heading in ("what", "SDK", "dagster-kumo", "faster", "SDK peak", "peak", "of its memory"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    with server(files) as url:
        for what, sides in COMPARISONS.items():
            # In turns, so that whatever else the machine does strikes both sides alike.
            runs = [[measure(side, url) for side in sides] for _ in range(repeat)]
            seconds = [statistics.median(run[i][0] for run in runs) for i in (0, 1)]
            peaks = [statistics.median(run[i][1] for run in runs) for i in (0, 1)]
            table.add_row(
                what,
                *(f"{s:.1f} s" for s in seconds),
                f"{seconds[0] / seconds[1]:.1f}x",
                *(f"{p / 1e9:.2f} GB" for p in peaks),
                f"{peaks[1] / peaks[0]:.0%}",
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
