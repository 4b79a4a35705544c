"""./run.sh bench [PART …]: how fast the product is beside plain code and beside what the machine can do.

All figures of a table come from one run, in turns, each from processes of its own: see src/bench/measure.py. Compare
ratios, not seconds of different runs; `--check` compares them with the committed docs/bench.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from src.bench import scale as scaling
from src.bench.agree import WAYS
from src.bench.measure import compare
from src.bench.parts import PARTS, Setting
from src.core import storage
from src.core.errors import UserError, unknown
from src.core.executors import Job, available_cores, make_executor, raise_failures, run_shown
from src.core.settings import ROOT
from src.core.settings_loader import load_config
from src.core.terminal import duration, info, result, show_table, warn
from src.data import sources
from src.data.tasks import Task
from src.evaluation.metrics import official_score, paired_difference
from src.evaluation.workspace import Workspace

COMMITTED = ROOT / "docs" / "bench.json"
TOLERANCE = 0.4
"""A ratio may be smaller than the committed one by this share; two runs on one machine differ by up to half of it."""
PIPELINE, AGREE, SCALE, SERVE, GPU = "pipeline", "agree", "scale", "serve", "gpu"
SOAK_MINUTES, GPU_MINUTES = 1.0, 9.0
ROWS_OF_PIPELINE, TEST_ROWS_OF_PIPELINE = 10_000, 3_000
"""Numbers of round 1."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all timings; an unknown one lists them")
    parser.add_argument(
        "--rows",
        type=int,
        default=1_000_000,
        metavar="N",
        help="reports to read, most reports or stays of scale (default 1000000)",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="turns of each contender, seeds of agree (default 3)"
    )
    parser.add_argument("--bundle", type=Path, metavar="FILE", help="for serve; default: as of ./run.sh serve")
    parser.add_argument(
        "--naive", type=Path, metavar="FILE", help="for serve: bundle of the naive service (default: the same)"
    )
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="for serve: of a figure (default 10)")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="for serve: of the soak (default 1); for gpu: of all (default 9)"
    )
    parser.add_argument("--dry-run", action="store_true", help="for gpu: tiny sizes on the CPU, to try the command")
    parser.add_argument("--check", action="store_true", help="fail where a ratio fell below the committed ones")


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    if workspace.settings.executor.kind == "ray":
        raise UserError("bench measures this machine, and no cluster: leave executor=ray out")
    if parsed.dry_run and parsed.parts != [GPU]:
        raise UserError(f"--dry-run is for: ./run.sh bench {GPU}")
    if parsed.parts == [GPU]:
        gpu(workspace, GPU_MINUTES if parsed.minutes is None else parsed.minutes, parsed.dry_run)
    elif parsed.parts == [SERVE]:
        minutes = SOAK_MINUTES if parsed.minutes is None else parsed.minutes
        serve(workspace, parsed.bundle, parsed.naive, parsed.seconds, minutes)
    elif parsed.bundle or parsed.naive:
        raise UserError(f"--bundle and --naive are for: ./run.sh bench {SERVE}")
    else:
        measure(workspace, parsed.parts, parsed.rows, parsed.repeats, parsed.check)


def measure(
    workspace: Workspace, parts: Sequence[str] = (), rows: int = 1_000_000, repeats: int = 3, check: bool = False
) -> dict[str, Any]:
    """Measures `parts` (none: all), shows a table each and writes all figures to bench.json of the output folder.

    Raises UserError for an unknown part, for numbers below 1, and with `check` where a ratio has become worse.
    """
    if rows < 1 or repeats < 1:
        raise UserError(f"the benchmark needs rows and repeats of at least 1, not {rows} and {repeats}")
    for alone, does in ((AGREE, lambda: agree(workspace, repeats)), (SCALE, lambda: scale(workspace, rows))):
        if alone in parts:
            if len(parts) > 1 or check:
                raise UserError(f"{alone} takes no turns with other parts and has no ratios: run it by itself")
            return does()
    for alone in {SERVE, GPU} & set(parts):
        raise UserError(f"{alone} takes no turns with other parts and has no ratios: run it by itself")
    for part in parts:
        if part not in (*PARTS, PIPELINE):
            raise unknown("part of the benchmark", part, [*PARTS, PIPELINE, AGREE, SCALE, SERVE, GPU])
    committed = json.loads(COMMITTED.read_text(encoding="utf-8")) if check else None
    if committed and committed["machine"]["cores"] != available_cores():
        raise UserError(
            f"{COMMITTED.name} was measured on {committed['machine']['cores']} cores and there are {available_cores()} "
            "here, where ratios differ. taskset gives a command fewer."
        )
    onnx = all(map(importlib.util.find_spec, ("onnxruntime", "onnx")))
    if not onnx:
        warn("onnxruntime is not installed and takes no part. For it: pip install -r docs/requirements-bench.txt")
    measured: dict[str, Any] = {"machine": _machine(), "rows": rows, "repeats": repeats, "parts": {}, "ratios": {}}
    path = workspace.output.bench
    started = time.perf_counter()
    wanted = [name for name in (*PARTS, PIPELINE) if not parts or name in parts]
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(available_cores(), rows, Path(folder), onnx)
        for i, name in enumerate(wanted, 1):
            info(f"bench: {name} ({i} of {len(wanted)}, {duration(time.perf_counter() - started)} so far)")
            if name == PIPELINE:
                measured["parts"][name] = _pipeline(Path(folder), measured["parts"])
                _show_pipeline(measured["parts"][name])
            else:
                part = PARTS[name](setting)
                figures = compare(part.contenders, repeats)
                measured["parts"][name] = {"title": part.title, "unit": part.unit, "contenders": figures}
                _show(measured["parts"][name], measured["parts"])
            measured["ratios"] = _ratios(measured["parts"])
            storage.write_json(path, measured)
    result(f"\nbench: figures are in {path} ({duration(time.perf_counter() - started)})")
    if committed is not None:
        _check(measured["ratios"], committed["ratios"])
    return measured


def _machine() -> dict[str, Any]:
    libraries = ("torch", "numpy", "pandas", "scikit-learn")
    return {
        "cores": available_cores(),
        "load_before": os.getloadavg()[0],
        "architecture": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }


def _median(figures: dict[str, Any]) -> float:
    return figures["seconds"]["median"]


def _ratios(parts: dict[str, Any]) -> dict[str, float]:
    """Ratio of each other contender's time to the product's for the same work, by part/contender."""
    ratios = {}
    for name, part in parts.items():
        if name == PIPELINE:
            if "times_as_long" in part:
                ratios[f"{name}/textbook"] = part["times_as_long"]
        elif "ours" in part["contenders"]:
            ours = _median(part["contenders"]["ours"])
            others = {key: value for key, value in part["contenders"].items() if key != "ours"}
            ratios |= {f"{name}/{key}": _median(figures) / ours for key, figures in others.items()}
    return ratios


def _share(figures: dict[str, Any], parts: dict[str, Any]) -> float | None:
    """Share of the machine's rate of matrix products, measured in the same run on all cores."""
    if "flops" not in figures["info"] or "limits" not in parts:
        return None
    limit = 1 / _median(parts["limits"]["contenders"][figures["info"]["precision"]])
    return figures["info"]["flops"] / _median(figures) / limit


def _show(part: dict[str, Any], parts: dict[str, Any]) -> None:
    contenders = list(part["contenders"].values())
    shares = [_share(figures, parts) for figures in contenders]
    lines = []
    for figures, share in zip(contenders, shares, strict=True):
        seconds = figures["seconds"]
        line = [
            figures["title"],
            _rate(1 / seconds["median"]),
            f"{_rate(1 / seconds['max'])}–{_rate(1 / seconds['min'])}",
            f"{figures['peak_megabytes']['max']:,.0f}",
            f"{_median(figures) / _median(contenders[0]):.2f}x",
        ]
        lines.append([*line, "" if share is None else f"{share:.0%}"] if any(shares) else line)
    columns = ["", f"{part['unit']}s/s", "from–to", "MB", "time", *(["of limit"] if any(shares) else [])]
    show_table(part["title"], columns, lines)


def _rate(per_second: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6)):
        if per_second >= size:
            return f"{per_second / size:,.1f}{unit}"
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2f}"


def _pipeline(folder: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """The whole preset `quick` on generated reports, time to score by stage; and what the textbook loop would need.

    The latter is not run: its seconds for a report, in training and in prediction, from the other parts of this run
    are multiplied by the preset's epochs, folds and files. What is not training is taken as it is.
    """
    paths = [f"paths.input={folder}", f"paths.output={folder / 'out'}"]
    words = ["sample", "--rows", str(ROWS_OF_PIPELINE), "--test-rows", str(TEST_ROWS_OF_PIPELINE)]
    scaling.run([*words, *paths])
    paths[0] += "/sample"
    whole = scaling.run(["--preset", "quick", *paths])
    seconds = whole["seconds"]
    stages = json.loads((folder / "out" / "pipeline.json").read_text(encoding="utf-8"))["seconds"]
    found = {"title": f"Preset quick, {ROWS_OF_PIPELINE:,} generated reports", **whole, "stages": stages}
    settings = load_config("quick")
    if all(f"{kind}_{name}" in parts for name in settings.runs for kind in ("train", "predict")):
        k, tests = settings.folds.k, 2
        # Out of fold, each fold on each test file, and the noisy copies of train for each test file.
        predicted = (
            ROWS_OF_PIPELINE + k * tests * TEST_ROWS_OF_PIPELINE + settings.shift.draws * tests * ROWS_OF_PIPELINE
        )
        textbook = sum(
            _median(parts[f"train_{name}"]["contenders"]["textbook"])
            * ROWS_OF_PIPELINE
            * (k - 1)
            * run.train.epochs
            * len(run.train.seeds)
            + _median(parts[f"predict_{name}"]["contenders"]["padded"]) * predicted * len(run.train.seeds)
            for name, run in settings.runs.items()
        )
        found |= {"textbook_train_seconds": textbook, "train_times_as_long": textbook / stages["train"]}
        textbook += seconds - stages["train"]
        found |= {"textbook_seconds": textbook, "times_as_long": textbook / seconds}
    return found


def _show_pipeline(found: dict[str, Any]) -> None:
    lines = [[name, f"{seconds:.1f}"] for name, seconds in found["stages"].items()]
    lines.append(["time to score", f"{found['seconds']:.1f}"])
    lines.append(["largest process, MB", f"{found['peak_megabytes']:,.0f}"])
    if "textbook_seconds" in found:
        lines.append(["train by the textbook loop (multiplied, not run)", f"{found['textbook_train_seconds']:.0f}"])
        lines.append(["… times as long", f"{found['train_times_as_long']:.2f}"])
        lines.append(["time to score with it", f"{found['textbook_seconds']:.0f}"])
        lines.append(["… times as long", f"{found['times_as_long']:.2f}"])
    show_table(found["title"], ["stage", "seconds"], lines)


def _check(found: dict[str, float], committed: dict[str, float]) -> None:
    """Raises UserError where a ratio fell by more than TOLERANCE."""
    worse = [
        f"{name}: {found[name]:.2f}, committed {expected:.2f}"
        for name, expected in committed.items()
        if name in found and found[name] < expected * (1 - TOLERANCE)
    ]
    compared = [name for name in committed if name in found]
    if not compared:
        raise UserError(f"nothing that was measured is in {COMMITTED.name}, so nothing can be compared")
    if worse:
        told = "\n".join(worse)
        raise UserError(f"{len(worse)} of {len(compared)} ratios are worse by more than {TOLERANCE:.0%}:\n{told}")
    result(f"bench: {len(compared)} ratios are not more than {TOLERANCE:.0%} below those of {COMMITTED.name}")


def serve(
    workspace: Workspace, bundle: Path | None, naive: Path | None, seconds: float, minutes: float
) -> dict[str, Any]:
    """Shows and writes what service.measure() finds of a bundle, by default of a new one of the pipeline's blend."""
    from src.bench import service
    from src.pipeline.commands.serve import PACKAGES, blend_bundle
    from src.serving.packages import require_packages

    require_packages(f"./run.sh bench {SERVE}", *PACKAGES)
    if not (0 < seconds < math.inf and 0 <= minutes < math.inf):
        raise UserError(f"the load needs more than 0 seconds and at least 0 minutes, not {seconds:g} and {minutes:g}")
    file = bundle or blend_bundle(workspace)
    with tempfile.TemporaryDirectory() as folder:
        found = service.measure(file, naive or file, Path(folder), seconds, minutes, info)
    lines = [
        [f"{clients} clients, {name}", *_load_cells(figures)]
        for clients in service.CLIENTS
        for name in ("service", "naive")
        for figures in [found[name][str(clients)]]
    ]
    saturation = found["saturation"]
    for key, share in (("half", 0.5), ("overload", service.OVERLOAD), ("soak", 0.5)):
        if key in found:
            lines.append([f"{key}, {share * saturation:,.0f} asked/s", *_load_cells(found[key])])
    columns = ["load", "answers/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "429", "other"]
    show_table(f"{file.name} over HTTP on {available_cores()} cores, the generator among them", columns, lines)
    if times := found["overload"]["milliseconds_429"]:
        result(f"overload: p50 and p99 of a 429 are {times['p50']:,.1f} and {times['p99']:,.1f} ms")
    result(f"the service answers {found['times_the_naive']:.1f} times as many reports a second as the naive one")
    if "soak" in found:
        first, last = found["soak"]["megabytes_first"], found["soak"]["megabytes_last"]
        result(f"memory in the soak: {first:,.0f} MB in its first fifth, {last:,.0f} MB in its last")
    storage.write_json(workspace.output.load, {"machine": _machine(), **found})
    return found


def gpu(workspace: Workspace, minutes: float, dry_run: bool = False) -> dict[str, Any]:
    """Measures what a card is worth, within so many minutes, and shows and writes it: see gpu_bench.py.

    Raises UserError where there is no CUDA device, except for a dry run, and for minutes that are not above 0.
    """
    from src.pipeline.gpu_bench import GpuBench

    if not 0 < minutes < math.inf:
        raise UserError(f"bench {GPU} needs more than 0 minutes, not {minutes:g}")
    return GpuBench(workspace, 60 * minutes, dry_run).run()


def _load_cells(figures: dict[str, Any]) -> list[str]:
    times = [f"{value:,.1f}" for value in figures["milliseconds"].values()] or [""] * 4
    counts = figures["statuses"]
    other = sum(count for status, count in counts.items() if status not in ("200", "429"))
    return [f"{figures['per_second']:,.0f}", *times, f"{counts.get('429', 0):,}", f"{other:,}"]


def scale(workspace: Workspace, rows: int) -> dict[str, Any]:
    """The stages on 10,000 reports and ten times as many, up to `rows`; shows and writes seconds and peak memory.

    With --task icu or los, stays. Raises UserError for another task and for a smaller size.
    """
    noun = sources.source_of(workspace.settings).noun
    if noun == "images":
        raise UserError("scale measures reports or stays: leave --task out, or use --task icu")
    if rows < scaling.SMALLEST:
        raise UserError(f"scale begins with {scaling.SMALLEST:,} {noun}: set --rows to no less")
    if noun == "stays":
        return _scale_stays(workspace, rows)
    measured: dict[str, Any] = {}
    for size in scaling.sizes(rows):
        with tempfile.TemporaryDirectory() as folder:
            measured[f"{size}"] = scaling.measure(size, Path(folder), info)
    lines = []
    for size, found in measured.items():
        stages = [f"{found[name]['seconds']:.1f} s {found[name]['peak_megabytes']:,.0f}" for name in scaling.STAGES]
        rates = [
            f"{found[name]['reports_per_second']:,.0f}/s {found[name]['peak_megabytes']:,.0f}"
            for name in ("train", "predict")
        ]
        lines.append([f"{int(size):,}", *stages, *rates])
    title = "Time or reports a second of one thread, and the largest process in MB"
    show_table(title, ["reports", *scaling.STAGES, "train", "predict"], lines)
    storage.write_json(workspace.output.scale, measured)
    return measured


def _scale_stays(workspace: Workspace, rows: int) -> dict[str, Any]:
    """Shows and writes what scaling.measure_stays() finds."""
    with tempfile.TemporaryDirectory() as folder:
        found = scaling.measure_stays(scaling.sizes(rows), workspace.settings, Path(folder), info)
    lines = []
    for size, steps in found.items():
        for step, figures in steps.items():
            spent = [f"{figures[name]:,.1f}" if name in figures else "" for name in ("seconds", "cpu_seconds")]
            rates = [f"{figures[f'stays_per_{name}']:,.0f}" for name in ("second", "cpu_second")]
            disk = f"{figures['disk_megabytes']:,.0f}" if "disk_megabytes" in figures else ""
            lines.append([f"{size:,}", step, *spent, *rates, f"{figures['peak_megabytes']:,.0f}", disk])
    title = f"Synthetic stays in steps of {workspace.settings.grid.step:g} hours; MB: largest process, and on disk"
    columns = ["stays", "step", "seconds", "CPU s", "stays/s", "stays/CPU s", "MB", "disk MB"]
    show_table(title, columns, lines)
    measured = {f"{size}": steps for size, steps in found.items()}
    storage.write_json(workspace.output.scale, measured)
    return measured


def agree(workspace: Workspace, seeds: int) -> dict[str, Any]:
    """Trains each run of the preset on the first fold with so many seeds, by fit() and by the textbook loop, and shows
    the scores on the fold's validation rows. Embeddings start at random in all of them.

    The standard error of a difference is the larger of that over reports, which are paired, and that over seeds.
    """
    config, dataset = workspace.settings, workspace.dataset
    split = workspace.splits.splits()[0]
    labels = workspace.labels[split.valid_rows]
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: str(Path(folder) / f"{name}.npy") for name in ("train_rows", "valid_rows")}
        for name, path in rows.items():
            np.save(path, getattr(split, name))
        jobs = []
        for name, way, seed in itertools.product(config.runs, WAYS, range(1, seeds + 1)):
            payload = {
                "run": config.runs[name].model_dump(mode="json"),
                "corpus": str(dataset.train_folder),
                "task": dataset.task.name,
                "vocabulary_size": len(dataset.vocabulary),
                "way": way,
                "seed": seed,
                "out": str(Path(folder) / f"{name}.{way}.{seed}.npy"),
                **rows,
            }
            work = 3.0 if way == "textbook" else 1.0
            jobs.append(Job(f"{name} {way} seed {seed}", "src.bench.agree:train", payload, work))
        executor = make_executor(config.executor, "cpu", len(jobs))
        raise_failures(
            run_shown(executor, "agree", jobs, lambda news: (news["epoch"] / news["epochs"], f"epoch {news['epoch']}"))
        )
        for name in config.runs:
            made = {
                way: [
                    dataset.task.decode(np.load(Path(folder) / f"{name}.{way}.{seed}.npy"))
                    for seed in range(1, seeds + 1)
                ]
                for way in WAYS
            }
            measured[name] = _agreement(dataset.task, labels, made)
    columns = ["", "score", "less the textbook's", "seeds"]
    for name, found in measured.items():
        lines = [
            [way, f"{one['score']:.4f}", f"{one['difference']:+.4f} ± {one['standard_error']:.4f}", str(seeds)]
            for way, one in found.items()
        ]
        title = f"{name}: one fold of {config.folds.k}, {len(labels):,} validation reports, mean over seeds"
        show_table(title, columns, lines)
    storage.write_json(workspace.output.agreement, measured)
    return measured


def _agreement(task: Task, labels: np.ndarray, made: dict[str, list[np.ndarray]]) -> dict[str, dict[str, float]]:
    """Mean score of each way, its distance from the textbook's, and the standard error of that."""
    found = {}
    for way, several in made.items():
        pairs = [
            paired_difference(task, labels, ours, plain) for ours, plain in zip(several, made["textbook"], strict=True)
        ]
        gains = [pair.value for pair in pairs]
        by_seed = float(np.std(gains, ddof=1)) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        by_report = float(np.mean([pair.standard_error for pair in pairs]))
        found[way] = {
            "score": float(np.mean([official_score(task, labels, one).value for one in several])),
            "difference": float(np.mean(gains)),
            "standard_error": max(by_seed, by_report),
        }
    return found
