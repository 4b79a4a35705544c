"""Large files for ./run.sh predict, and what it takes to predict them, for the table in docs/distributed.md.

python -m tests.large_prediction make 10000000 many.csv
python -m tests.large_prediction measure lstm many.csv --workers 1 2 --preset sample

The reports are those of ./run.sh sample, without labels, PIECE at a time. What follows the file is given to
./run.sh predict, whose output is removed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from src.bench.scale import run
from src.data.synthetic import make_sample
from src.data.tasks import ROUND1

PIECE = 100_000
"""Reports in each of the two test files of a sample."""


def make(rows: int, path: Path) -> None:
    """Writes a file of so many synthetic reports."""
    written = seed = 0
    with path.open("wb") as file, tempfile.TemporaryDirectory() as folder:
        while written < rows:
            make_sample(Path(folder), rows=10, test_rows=min(PIECE, rows - written), task=ROUND1, seed=seed)
            for name in ("sample_testA.csv", "sample_testB.csv"):
                for line in (Path(folder) / name).read_bytes().splitlines()[: rows - written]:
                    file.write(b"%d|,|%s\n" % (written, line.partition(b"|,|")[2]))
                    written += 1
            seed += 1
            print(f"{written:,} of {rows:,} reports", flush=True)


def measure(name: str, path: Path, workers: list[int], more: list[str]) -> None:
    """Prints seconds and peak memory of the prediction of a file by so many workers of one thread each."""
    with path.open("rb") as file:
        rows = sum(1 for _line in file)
    print("| reports | file | workers | wall clock | reports/s | reports/s and core | peak of the largest process |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for n in workers:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            to = ["--to", str(Path(folder) / "predicted.csv")]
            given = ["predict", name, str(path), *to, f"executor.workers={n}", "executor.threads=1", *more]
            spent = run(given)
        seconds, cpu = spent["seconds"], spent["cpu_seconds"]
        rates = f"{rows / seconds:,.0f} | {rows / cpu:,.0f}"
        size, peak = path.stat().st_size / 1e6, spent["peak_megabytes"]
        print(f"| {rows:,} | {size:,.0f} MB | {n} | {seconds:,.0f} s | {rates} | {peak:,.0f} MB |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, dest="verb")
    making = verbs.add_parser("make")
    making.add_argument("rows", type=int)
    making.add_argument("file", type=Path)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("run")
    measuring.add_argument("file", type=Path)
    measuring.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parsed, more = parser.parse_known_args()
    if parsed.verb == "make":
        make(parsed.rows, parsed.file)
    else:
        measure(parsed.run, parsed.file, parsed.workers, more)
