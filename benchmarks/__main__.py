"""Print how dagster-kumo compares with the official SDK, and write it to docs/benchmarks.md."""

import argparse
import sys

from benchmarks import report
from benchmarks.comparisons import COMPARISONS, QUICK, Bench, Row

MARGIN = 2.0  # of the short mode: a busy machine is no reason to fail, a figure twice as bad is
ATTEMPTS = 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--files", type=int, default=32, help="files of 500,000 rows each")
    parser.add_argument("--repeat", type=int, default=3, help="how often each side runs")
    parser.add_argument("--only", nargs="*", help="some of the comparisons; nothing is written")
    parser.add_argument(
        "--short", action="store_true", help="a quick look that fails when a figure is far off"
    )
    arguments = parser.parse_args()
    if arguments.short:
        sys.exit(check())
    bench = Bench(arguments.files, arguments.repeat)
    rows: list[Row] = []
    for compare in COMPARISONS:
        if not arguments.only or compare.__name__ in arguments.only:
            found = compare(bench)
            print(report.markdown(found).split("\n", 2)[2], flush=True)
            rows += found
    if not arguments.only:
        report.write(rows, arguments.files, arguments.repeat)
        print(f"Written to {report.PAGE}: {report.machine()}")


def check() -> str | None:
    """What is far from its target, measured again and again before it counts; None: nothing."""
    bench = Bench(files=16, repeat=1)
    wrong: list[str] = []
    for compare in QUICK:
        for _ in range(ATTEMPTS):
            rows = compare(bench)
            print(report.markdown(rows).split("\n", 2)[2], flush=True)
            off = [row for row in rows if not row.met(MARGIN)]
            if not off:
                break
        else:
            wrong += [f"{row.what}: {row.found}, wanted {row.wanted}" for row in off]
    return "\n".join(wrong) or None


if __name__ == "__main__":
    main()
