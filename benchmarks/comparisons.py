"""The comparisons, and the target of each."""

import compileall
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.sides import JOB_SECONDS, JOBS_AT_ONCE, PARTITIONS

ROWS_PER_FILE = 500_000
WARM_UP = f"files-1-of-{ROWS_PER_FILE}"
# Like a bucket: bytes per second of each connection, and seconds until the first byte.
STREAM = (40e6, 0.05)
LOOPBACK = (0.0, 0.0)
LEAST_OF = 4

# Seconds of a job, and the most that a held run's worker takes of those of one that waits.
WAITED = [(60, 0.5), (600, 0.1)]
WAITED_SHORT = [(30, 0.8)]


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
    limit: str = ""
    """How long a plain parallel download takes."""

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

    def measure(
        self,
        *sides: str,
        speed: tuple[float, float] = LOOPBACK,
        files: int | Sequence[int] | None = None,
        whole: bool = False,
    ) -> list[Measured]:
        """Each side's medians. They run in turns, so that other load of the machine affects all alike.

        Args:
            sides: What is measured.
            speed: Of the connections.
            files: Into how many files the rows are divided, for all sides or for each.
            whole: Whether the whole process is measured, with what it imports.
        """
        counts = [*files] if isinstance(files, Sequence) else [files or self.files] * len(sides)
        rows = [self.files * ROWS_PER_FILE // count for count in counts]
        jobs = [f"files-{count}-of-{each}" for count, each in zip(counts, rows, strict=True)]
        with server(*speed, *rows) as url:
            runs = [
                [run(side, url, job, whole=whole) for side, job in zip(sides, jobs, strict=True)]
                for _ in range(self.repeat)
            ]
        return _medians(runs)

    def peaks(self, side: str, *, files: Sequence[int]) -> list[float]:
        """A side's peak memory for outputs of so many files. Once each: it hardly varies."""
        with server(*LOOPBACK) as url:
            jobs = [f"files-{count}-of-{ROWS_PER_FILE}" for count in files]
            return [run(side, url, job).peak_bytes for job in jobs]

    def least(self, *sides: str) -> list[Measured]:
        """The same for what only computes: the least of some runs, for whatever disturbs adds to it."""
        runs = [[run(side) for side in sides] for _ in range(LEAST_OF)]
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
def server(bytes_per_second: float, delay: float, *rows: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.server", folder]
        command += [str(value) for value in (bytes_per_second, delay, *{ROWS_PER_FILE, *rows})]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                yield process.stdout.readline().strip()
            finally:
                process.terminate()


def run(side: str, url: str = "", job: str = "", *, whole: bool = False) -> Measured:
    """Seconds and peak bytes of one side, in a process of its own."""
    warm_up = WARM_UP if url and not whole else ""
    command = [sys.executable, "-m", "benchmarks.sides", side, url, job, warm_up]
    started = time.perf_counter()
    printed = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if printed.returncode:
        sys.exit(f"{side} failed:\n{printed.stderr[-2000:]}")
    found = json.loads(printed.stdout.splitlines()[-1])
    return Measured(seconds if whole else found["seconds"], found["peak_bytes"])


def faster(
    what: str, other: Measured, ours: Measured, target: float, limit: Measured | None = None
) -> Row:
    figure = other.seconds / ours.seconds
    times = other.seconds, ours.seconds
    plain = limit.time if limit else ""
    return Row(what, other.time, ours.time, figure, target, "x faster", True, times, plain)


def smaller(what: str, other: Measured, ours: Measured, target: float) -> Row:
    figure = ours.peak_bytes / other.peak_bytes
    return Row(
        f"{what}, peak memory", other.gigabytes, ours.gigabytes, figure, target, "x the memory"
    )


def one_file(bench: Bench) -> list[Row]:
    """The usual case: a job with the default `num_workers=1`."""
    sdk, limit, ours, sdk_stored, our_stored = bench.measure(
        "sdk_frame", "plain_download", "our_frame", "sdk_store", "our_store", speed=STREAM, files=1
    )
    frame, store = (
        "one file, `predictions_df()`, streams",
        "one file, store with statistics, streams",
    )
    return [
        faster(frame, sdk, ours, 3.5, limit),
        smaller(frame, sdk, ours, 1.0),
        faster(store, sdk_stored, our_stored, 4.0, limit),
        smaller(store, sdk_stored, our_stored, 0.25),
    ]


def one_file_on_loopback(bench: Bench) -> list[Row]:
    sdk, limit, ours, sdk_stored, our_stored = bench.measure(
        "sdk_frame", "plain_download", "our_frame", "sdk_store", "our_store", files=1
    )
    return [
        faster("one file, `predictions_df()`, loopback", sdk, ours, 1.5, limit),
        faster("one file, store with statistics, loopback", sdk_stored, our_stored, 4.0, limit),
    ]


def four_files(bench: Bench) -> list[Row]:
    sdk, limit, ours = bench.measure(
        "sdk_frame", "plain_download", "our_frame", speed=STREAM, files=4
    )
    return [faster("four files, `predictions_df()`, streams", sdk, ours, 3.5, limit)]


def many_files(bench: Bench) -> list[Row]:
    sdk, limit, ours = bench.measure("sdk_frame", "plain_download", "our_frame", speed=STREAM)
    return [faster(f"{bench.files} files, `predictions_df()`, streams", sdk, ours, 6.0, limit)]


def many_files_on_loopback(bench: Bench) -> list[Row]:
    sdk, limit, ours, sdk_stored, our_stored = bench.measure(
        "sdk_frame", "plain_download", "our_frame", "sdk_store", "our_store"
    )
    frame = f"{bench.files} files, `predictions_df()`, loopback"
    store = f"{bench.files} files, store with statistics, loopback"
    return [
        faster(frame, sdk, ours, 1.5, limit),
        smaller(frame, sdk, ours, 1.0),
        faster(store, sdk_stored, our_stored, 4.0, limit),
        smaller(store, sdk_stored, our_stored, 0.25),
    ]


def one_against_eight(bench: Bench) -> list[Row]:
    """An output of one file is stored as fast as the same rows in eight."""
    eight, one = bench.measure("our_store", "our_store", speed=STREAM, files=(8, 1))
    what = "store with statistics, one file instead of eight, streams"
    figure = one.seconds / eight.seconds
    return [Row(what, f"eight files: {eight.time}", one.time, figure, 1.1, "x as long")]


def whole_process(bench: Bench) -> list[Row]:
    sdk, ours = bench.measure("sdk_frame", "our_frame", speed=STREAM, files=1, whole=True)
    what = "one file, whole process with imports to the frame, streams"
    return [faster(what, sdk, ours, 1.5)]


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
    without, with_ = bench.measure(
        "our_store_without_statistics", "our_store", speed=STREAM, files=1
    )
    figure = with_.seconds / without.seconds
    what = "one file, statistics while storing, streams"
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
    seconds = run("our_range").seconds
    chain = -(-PARTITIONS // JOBS_AT_ONCE) * JOB_SECONDS
    what = f"{PARTITIONS} partitions in one run, {JOBS_AT_ONCE} jobs at once"
    jobs = f"longest chain of jobs: {chain} s, all jobs: {PARTITIONS * JOB_SECONDS} s"
    return [Row(what, jobs, f"{seconds:.0f} s", seconds / chain, 1.5, "x the chain")]


def waiting(bench: Bench) -> list[Row]:
    """A run that waits for Kumo, and one that is held in the queue meanwhile. Once each: a job takes minutes."""
    from benchmarks.waiting import Seconds, measure

    rows: list[Row] = []
    held: list[Seconds] = []
    for seconds, target in WAITED_SHORT if bench.repeat == 1 else WAITED:
        other, ours = measure(seconds)
        held.append(ours)
        what = f"a job of {seconds} s, waited for or held in the queue"
        figure = ours.worker / other.worker
        rows.append(Row(what, str(other), str(ours), figure, target, "x the worker"))
    if len(held) > 1:
        short, long = held
        what = f"a held run, its job of {WAITED[0][0]} s or of {WAITED[1][0]} s"
        figure = long.worker / short.worker
        rows.append(Row(what, str(short), str(long), figure, 1.3, "x the worker"))
    return rows


def evaluation(bench: Bench) -> list[Row]:
    """Peak memory of evaluating 16 million rows, beside a quarter of them; an eighth of both for a quick look."""
    files = bench.files if bench.files >= 32 else 4
    fewer, all_ = (run("our_evaluation", job=f"files-{count}") for count in (files // 4, files))
    million = files * ROWS_PER_FILE / 1e6
    return [
        Row(
            f"peak memory of evaluating {million:g} million rows",
            f"a quarter of them: {fewer.gigabytes}",
            f"{all_.gigabytes}, {all_.seconds:.0f} s",
            all_.peak_bytes / fewer.peak_bytes,
            1.25,
            "x as much",
        )
    ]


COMPARISONS: list[Callable[[Bench], list[Row]]] = [
    one_file,
    one_against_eight,
    overhead,
    four_files,
    many_files,
    one_file_on_loopback,
    many_files_on_loopback,
    whole_process,
    growth,
    imports,
    definitions,
    partitions,
    waiting,
    evaluation,
]
# Quick to measure, and enough to notice a regression.
QUICK = [one_file, many_files, many_files_on_loopback, imports, evaluation]
