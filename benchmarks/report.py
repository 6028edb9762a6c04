"""Writes the figures: a table in Markdown, and a plot."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.comparisons import LEAST_OF, ROWS_PER_FILE, Row

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "benchmarks.md"
README = DOCS.parent / "README.md"
BEGIN, END = "<!-- written by `make bench` -->\n", "<!-- until here -->"
PLOT = DOCS / "images" / "benchmarks.svg"
PACKAGES = ("kumoai", "dagster", "pyarrow", "pandas", "numpy")


def machine() -> str:
    """The machine and its load, in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GB of memory, "
        f"{platform.system()}, load average {os.getloadavg()[2]:.1f}, "
        f"Python {platform.python_version()}, {versions}"
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [
        "| what | SDK | plain download | dagster-kumo | result | target | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        verdict = "met" if row.met() else "not met"
        cells = (row.what, row.other, row.limit, row.ours, row.found, row.wanted, verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(rows: Sequence[Row], files: int, repeat: int) -> None:
    """Write the page and its plot, and the table into the README."""
    runs = "one run" if repeat == 1 else f"medians of {repeat} runs in turns"
    table, taken = markdown(rows), f"Taken on {machine()}."
    page = f"""# Speed and memory

`make bench` compares dagster-kumo with the official SDK, both in the same session: a local server, {files * ROWS_PER_FILE:,}
rows of predictions, {runs}. Each run has a process of its own, which has been warmed up.

- "Streams" behave like a bucket: no connection is faster than 40 MB/s, and the first byte comes after 50 ms.
- The rows are the same in each case, in one file, in four or in {files}. A job leaves one file for each worker, and has
  one worker by default.
- "Plain download" is the limit: the bytes of the same files over 16 connections, with nothing done to them.
- "Store with statistics" is `KumoIOManager` on our side. On the SDK's side it is `predictions_df()`, `describe()`
  and `to_parquet()`.
- CPU time is that of the process, the minimum of {LEAST_OF} runs. Imports are measured on a byte-compiled
  installation, after `import dagster`.
- Partitions run against [the stand-in](guides/testing.md), whose jobs take a given time. They and the growth of
  memory are measured once.

{taken}

The load average is that of the minutes before. On a busy machine both sides are slower, and the side that uses
all cores loses more.

{table}

![Seconds of both sides](images/{PLOT.name})
"""
    PAGE.write_text(page)
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(f"{before}{BEGIN}{table}\n\n{taken}\n{END}" + rest.partition(END)[2])
    _plot([row for row in rows if row.seconds])


def _plot(rows: Sequence[Row]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: small, and sharp
    figure = Figure(figsize=(7, 0.6 + 0.8 * len(rows)))
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        assert row.seconds
        sides = zip((-0.18, 0.18), row.seconds, ("#9aa0a6", "#4f43dd"), strict=True)
        for offset, seconds, color in sides:
            bar = axes.barh(place + offset, seconds, height=0.32, color=color)
            axes.bar_label(bar, [f"{seconds:.1f} s"], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), [row.what.replace("`", "") for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False, left=False)
    axes.set_title("SDK (grey) and dagster-kumo: seconds, less is better", fontsize=9, loc="left")
    figure.tight_layout()
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})
