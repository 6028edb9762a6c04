"""The comparisons, and the target of each."""

import compileall
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.sides import JOB_SECONDS, JOBS_AT_ONCE, PARTITIONS

ROWS_PER_FILE = 500_000
# Like a bucket: bytes per second of each connection, and seconds until the first byte.
STREAM = (40e6, 0.05)
LOOPBACK = (0.0, 0.0)
LEAST_OF = 4


@dataclass(frozen=True)
class Measured:
    """A run of one side, or the median or minimum of several."""

    seconds: float
    peak_bytes: float

    @property
    def gigabytes(self) -> str:
        return f"{self.peak_bytes / 1e9:.2f} GB"

    @property
    def time(self) -> str:
        return f"{self.seconds:.2f} s"


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure that should be at least, or at most, its target."""

    what: str
    other: str
    ours: str
    figure: float
    target: float
    unit: str
    at_least: bool = False
    seconds: tuple[float, float] | None = None
    """Of the other side and of ours, for the plot."""

    def met(self, margin: float = 1.0) -> bool:
        """Whether the figure meets its target, or misses it by no more than the factor `margin`."""
        if self.at_least:
            return self.figure >= self.target / margin
        return self.figure <= self.target * margin

    @property
    def found(self) -> str:
        return f"{self.figure:.2f}{self.unit}"

    @property
    def wanted(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.target:g}{self.unit}"


class Bench:
    """Runs sides against servers that it starts."""

    def __init__(self, files: int, repeat: int) -> None:
        self.files = files
        self.repeat = repeat

    def measure(self, *sides: str, speed: tuple[float, float] = LOOPBACK) -> list[Measured]:
        """Each side's medians. They run in turns, so that other load of the machine affects all alike."""
        with server(*speed) as url:
            runs = [[run(side, url, self.files) for side in sides] for _ in range(self.repeat)]
        return _medians(runs)

    def peaks(self, side: str, *, files: Sequence[int]) -> list[float]:
        """A side's peak memory for outputs of so many files. Once each: it hardly varies."""
        with server(*LOOPBACK) as url:
            return [run(side, url, count).peak_bytes for count in files]

    def least(self, *sides: str) -> list[Measured]:
        """The same for what only computes: the least of some runs, for whatever disturbs adds to it."""
        runs = [[run(side, "", 0) for side in sides] for _ in range(LEAST_OF)]
        return [
            min(of_one_side, key=lambda one: one.seconds) for of_one_side in zip(*runs, strict=True)
        ]


def _medians(runs: list[list[Measured]]) -> list[Measured]:
    return [
        Measured(
            statistics.median(one.seconds for one in of_one_side),
            statistics.median(one.peak_bytes for one in of_one_side),
        )
        for of_one_side in zip(*runs, strict=True)
    ]


@contextmanager
def server(bytes_per_second: float, delay: float) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.server"]
    command += [str(value) for value in (ROWS_PER_FILE, bytes_per_second, delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def run(side: str, url: str, files: int) -> Measured:
    """Seconds and peak bytes of one side, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sides", side, url, f"files-{files}"]
    printed = subprocess.run(command, capture_output=True, text=True)
    if printed.returncode:
        sys.exit(f"{side} failed:\n{printed.stderr[-2000:]}")
    found = json.loads(printed.stdout.splitlines()[-1])
    return Measured(found["seconds"], found["peak_bytes"])


def faster(what: str, other: Measured, ours: Measured, target: float) -> Row:
    figure = other.seconds / ours.seconds
    times = other.seconds, ours.seconds
    return Row(what, other.time, ours.time, figure, target, "x faster", True, times)


def smaller(what: str, other: Measured, ours: Measured, target: float) -> Row:
    figure = ours.peak_bytes / other.peak_bytes
    return Row(
        f"{what}, peak memory", other.gigabytes, ours.gigabytes, figure, target, "x the memory"
    )


def frame(bench: Bench) -> list[Row]:
    sdk, ours = bench.measure("sdk_frame", "our_frame")
    what = "`predictions_df()`, loopback"
    return [faster(what, sdk, ours, 1.5), smaller(what, sdk, ours, 1.0)]


def frame_on_streams(bench: Bench) -> list[Row]:
    sdk, ours = bench.measure("sdk_frame", "our_frame", speed=STREAM)
    return [faster("`predictions_df()`, streams of 40 MB/s", sdk, ours, 3.5)]


def store(bench: Bench) -> list[Row]:
    sdk, ours = bench.measure("sdk_store", "our_store")
    what = "store with statistics, loopback"
    return [faster(what, sdk, ours, 4.0), smaller(what, sdk, ours, 0.25)]


def growth(bench: Bench) -> list[Row]:
    """Peak memory when the output is four times, and sixteen times as large."""
    sizes = [bench.files // 4, bench.files, bench.files * 4]
    ours = bench.peaks("our_store", files=sizes)
    sdk = bench.peaks(
        "sdk_store", files=sizes[:2]
    )  # sixteen times as large may not fit into memory
    rows: list[Row] = []
    for step in (0, 1):
        what = f"peak memory of storing, {sizes[step]} to {sizes[step + 1]} files"
        other = f"{sdk[1] / sdk[0]:.2f}x" if step == 0 else "not tried"
        grown = ours[step + 1] / ours[step]
        came = f"{ours[step] / 1e9:.2f} to {ours[step + 1] / 1e9:.2f} GB"
        rows.append(Row(what, other, came, grown, 1.15, "x as much"))
    return rows


def overhead(bench: Bench) -> list[Row]:
    without, with_ = bench.measure("our_store_without_statistics", "our_store", speed=STREAM)
    figure = with_.seconds / without.seconds
    what = "statistics while storing, streams of 40 MB/s"
    return [Row(what, f"without: {without.time}", with_.time, figure, 1.1, "x as long")]


def imports(bench: Bench) -> list[Row]:
    # As in an installation by pip. A checkout may lack byte code, which would take longer than all the rest.
    compileall.compile_dir("dagster_kumo", quiet=1)
    sdk, ours = bench.least("sdk_import", "our_import")
    what = "import after `import dagster`, CPU time"
    return [Row(what, sdk.time, ours.time, ours.seconds, 0.2, " s")]


def definitions(bench: Bench) -> list[Row]:
    plain, ours = bench.least("plain_definitions", "our_definitions")
    figure = ours.seconds / plain.seconds
    what = "definitions of 500 models, 1,500 assets, CPU time"
    return [Row(what, f"plain assets: {plain.time}", ours.time, figure, 2.0, "x as long")]


def partitions(_: Bench) -> list[Row]:
    """A year of daily partitions in one run against the stand-in. Measured once: it takes minutes."""
    seconds = run("our_range", "", 0).seconds
    chain = -(-PARTITIONS // JOBS_AT_ONCE) * JOB_SECONDS
    what = f"{PARTITIONS} partitions in one run, {JOBS_AT_ONCE} jobs at once"
    jobs = f"longest chain of jobs: {chain} s, all jobs: {PARTITIONS * JOB_SECONDS} s"
    return [Row(what, jobs, f"{seconds:.0f} s", seconds / chain, 1.5, "x the chain")]


COMPARISONS: list[Callable[[Bench], list[Row]]] = [
    frame,
    frame_on_streams,
    store,
    growth,
    overhead,
    imports,
    definitions,
    partitions,
]
# Quick to measure, and enough to notice a regression.
QUICK = [frame, frame_on_streams, store, overhead, imports]
