"""Compares what was computed in two output folders, byte for byte: weights, predictions, splits, submissions.

    ./run.sh --preset quick paths.output=/tmp/local executor.threads=1
    ./run.sh --preset quick paths.output=/tmp/cluster executor.threads=1 executor=ray ray.address=local
    python -m tests.same_bytes /tmp/local /tmp/cluster

Ends with status 1 where a file differs, is missing on one side, or no file of a kind is there.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

KINDS = {".safetensors": "weights", ".npy": "predictions and other arrays", ".npz": "splits and other arrays",
         ".csv": "submissions and other tables"}  # fmt: skip
"""Kinds of files with what was computed, by their endings: all but the notes of times, and pages that show them."""


def results(folder: Path) -> dict[str, str]:
    """Hash of each file of KINDS, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in KINDS and path.is_file()
    }


def main(folders: list[str]) -> int:
    if len(folders) != 2:
        print(__doc__)
        return 2
    left, right = (results(Path(folder)) for folder in folders)
    different = sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
    for name in different:
        why = "differs" if name in left and name in right else f"only in {folders[name in right]}"
        print(f"{name}: {why}")
    print("| files | there | differ |\n|---|---:|---:|")
    counts = {ending: sum(name.endswith(ending) for name in left) for ending in KINDS}
    for ending, kind in KINDS.items():
        print(f"| {kind} ({ending}) | {counts[ending]} | {sum(name.endswith(ending) for name in different)} |")
    return int(bool(different) or not all(counts.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
