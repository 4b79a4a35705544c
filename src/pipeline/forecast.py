"""Forecast of a pipeline before it starts: what it will make, about how long that takes, and how much disk.

The time is that of the last pipeline in this output folder, scaled by rows, epochs and models. In a new folder it is
that of the preset in MEASURED, scaled in the same way: a guide for whether to wait or to come back tomorrow.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.core import storage
from src.core.errors import UserError
from src.core.executors import available_cores
from src.core.language import _, joined
from src.core.settings import CLINICAL, Config
from src.core.settings_loader import load_config
from src.core.terminal import duration, info, warn
from src.data import sources
from src.evaluation.workspace import Workspace
from src.pipeline.commands import status
from src.pipeline.stage import STAGES, get_stage
from src.training.planning import epoch_cost

MEASURED = {
    ("reports", "sample"): (120, 7_000),
    ("reports", "quick"): (370, 16_000),
    ("reports", "standard"): (2_250, 16_000),
    ("reports", "proof"): (1_800, 16_000),
    ("reports", "ablation"): (7_200, 16_000),
    ("reports", "full"): (11_300, 26_000),
    ("reports", "round2-quick"): (775, 26_000),
    ("reports", "round2"): (3_800, 26_000),
    ("reports", "race"): (4_600, 26_000),
    ("reports", "institutions"): (3_600, 20_000),
    ("icu", "sample"): (63, 2_000),
    ("icu", "quick"): (119, 4_000),
    ("icu", "standard"): (364, 4_000),
    ("los", "sample"): (70, 2_000),
}
"""Seconds on MEASURED_CORES, and rows of all files, of a whole pipeline, by kind of task and preset, as measured; that
of full with single reports, scaled to joined ones, that of quick scaled from fewer epochs of its LSTM, that of round2
put together of parts, and that of race scaled from standard by its rows and epochs. Of others nothing is told before
the first epochs."""
MEASURED_CORES = 2
SHARES = {
    "prepare": 0.01, "folds": 0.01, "shift": 0.08, "baselines": 0.03, "pretrain": 0.24, "train": 0.52, "blend": 0.02,
    "leaderboard": 0.01, "explain": 0.04, "alarms": 0.02, "report": 0.02,
}  # fmt: skip
"""Share of each stage in the time of a whole pipeline; the others take none."""
LEAST = {"shift": 3, "baselines": 2, "train": 5, "blend": 1, "leaderboard": 1, "report": 3}
"""Seconds that a stage takes however few the rows: its processes start."""
LEARNING = ("pretrain", "train")
"""Stages whose time grows with the models and their epochs."""
MODEL_MB = 2.2
"""Weights of one model on one fold: of its best and of its last epoch."""
MODEL_KB = 0.13
"""Predictions of one model for a row, with noisy copies."""
ROW_KB = 2
"""Encoded rows, noisy copies and predictions of runs, for a row."""
DENOISED_KB = 5
"""Further arrays for a row where models read denoised reports."""


@dataclass(frozen=True)
class Forecast:
    stages: list[str]
    """Stages with something to make, in their order."""
    seconds: float | None
    """None where nothing is known of the preset, or not how many rows there are."""
    basis: str
    """Says what the time is taken from."""
    megabytes: float | None
    """Disk that the output folder takes in all; None where the rows are not known."""
    free: float
    """Megabytes that are free there."""


def forecast(workspace: Workspace, left: Mapping[str, float]) -> Forecast:
    """`left`: share that is to be made of each stage with something to make."""
    settings, rows, extra = workspace.settings, rows_of(workspace), extra_share(workspace)
    learning = learning_of(settings, extra)
    place = next(path for path in (workspace.output.root, *workspace.output.root.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free / 1e6
    if rows is None:
        return Forecast(list(left), None, "", None, free)
    before = earlier(workspace)
    table = _of_table(settings.task, settings.preset, rows, learning, extra)
    seconds, basis = None, ""
    if before:
        seconds = _from_earlier(before, settings, rows, learning, table, extra)
        basis = _("by the last run in this folder")
    if seconds is None and table is not None:
        cores = min(available_cores(), max(1, models_of(settings)))
        seconds = {name: value * MEASURED_CORES / cores for name, value in table.items()}
        basis = _("by a table for {cores} cores, scaled to {rows:,} rows").format(cores=MEASURED_CORES, rows=rows)
    total = None if seconds is None else sum(seconds.get(name, 0.0) * share for name, share in left.items())
    return Forecast(list(left), total, basis, megabytes(settings, rows), free)


def shares_left(workspace: Workspace) -> dict[str, float]:
    """shares_of() of the stages as they are now."""
    return shares_of(status.look(Workspace(workspace.settings, read_only=True, force=workspace.force)))


def shares_of(found: Sequence[status.Status]) -> dict[str, float]:
    """Share that is to be made of each stage of the pipeline that is not done: of training, that of the models."""
    shares: dict[str, list[float]] = {}
    for one in found:
        if one.stage in STAGES and not get_stage(one.stage).is_optional:
            # Of what rests on a stage that is to be made, nothing is counted as done: it may be made anew.
            done = one.done / one.of if one.done is not None and one.of and one.state != "unsure" else 0.0
            shares.setdefault(one.stage, []).append(0.0 if one.state == "done" else 1.0 - done)
    return {name: sum(each) / len(each) for name, each in shares.items() if any(each)}


def show(workspace: Workspace, left: Mapping[str, float]) -> None:
    """Says what will be made, about how long it takes, and how much disk; nothing where all is done."""
    if not left:
        return
    found = forecast(workspace, left)
    info(_("to do: {stages}").format(stages=_parts(workspace.settings, found.stages)))
    if found.megabytes is None:
        info(_("time and disk: known once prepare has read the files, whose rows cannot be counted before"))
        return
    seconds = _("time: as long as the first epochs will tell")
    if found.seconds is not None:
        seconds = _("time: about {time} ({basis})").format(time=duration(found.seconds), basis=found.basis)
    disk = _("disk: about {size} in {folder}").format(size=_size(found.megabytes), folder=workspace.output.root)
    info(joined("; ", [seconds, disk]))
    written = storage.size_of(workspace.output.root) / 1e6 if workspace.output.root.exists() else 0.0
    if found.free < found.megabytes - written:
        told = _("only {size} are free there. Make room, or take another folder: paths.output=DIR")
        warn(told.format(size=_size(found.free)))


def _size(megabytes: float) -> str:
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"


def rows_of(workspace: Workspace) -> int | None:
    """Rows of all input files: as prepared, otherwise as counted without decoding them, or of the sample data that will
    be made; None where no count can be made before they are prepared."""
    try:
        return sum(file.get("rows", 0) for file in workspace.dataset.manifest["files"])
    except UserError:
        pass
    try:
        files = workspace.input_files
    except UserError:
        files = None
    source = sources.source_of(workspace.settings)
    return source.sample_rows(workspace.settings) if files is None else source.count_rows(files)


def extra_share(workspace: Workspace) -> float:
    """Share of the rows of all input files that are in labelled extra files; 0 where nothing is prepared."""
    try:
        files, labelled = workspace.dataset.manifest["files"], workspace.dataset.extra_labelled
    except UserError:
        return 0.0
    rows = {file["name"]: file.get("rows", 0) for file in files if file["role"] == "extra"}
    return sum(rows[name] for name in labelled) / max(1, sum(file.get("rows", 0) for file in files))


def models_of(settings: Config) -> int:
    """Models to train: runs x folds x seeds."""
    folds = (1 if settings.folds.scheme == "holdout" else settings.folds.k) * len(settings.folds.seeds)
    return sum(folds * len(run.train.seeds) for run in settings.runs.values())


def learning_of(settings: Config, extra: float = 0.0) -> float:
    """Relative cost of all training and pretraining of the settings, for one row. `extra`: extra_share(), which
    train.own_epochs spare."""
    folds = (1 if settings.folds.scheme == "holdout" else settings.folds.k) * len(settings.folds.seeds)
    return sum(
        epoch_cost(run.model.model_dump())
        * (
            (run.train.epochs - extra * run.train.own_epochs) * (1 + run.train.join) * folds * len(run.train.seeds)
            + run.pretrain.epochs * run.pretrain.n_encoders(settings.folds)
        )
        for run in settings.runs.values()
    )


def megabytes(settings: Config, rows: int) -> float:
    """Size of the output folder of a whole pipeline."""
    is_denoised = any(run.denoise.by for run in settings.runs.values())
    shared = rows * (ROW_KB + (DENOISED_KB if is_denoised else 0)) / 1000
    return shared + models_of(settings) * (MODEL_MB + rows * MODEL_KB / 1000)


def noted(workspace: Workspace, seconds: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, Any]:
    """The entry of pipeline.json that later forecasts and the page read. `seconds`: those that the whole of a stage
    takes, for the forecast; `measured`: those that passed, of all stages that made something, for the page."""
    settings, before = workspace.settings, earlier(workspace)
    about = {"preset": settings.preset, "task": settings.task, "rows": rows_of(workspace)}
    about["learning"] = learning_of(settings, extra_share(workspace))
    kept = before if {key: before.get(key) for key in about} == about else {}
    new = {"seconds": seconds, "measured": measured}
    return {**about, **{key: {**kept.get(key, {}), **values} for key, values in new.items()}}


def earlier(workspace: Workspace) -> dict[str, Any]:
    """Notes that noted() left; empty where there is nothing of this task."""
    path = workspace.output.seconds
    try:
        found = storage.read_json(path).get("made", {}) if path.exists() else {}
    except UserError:
        return {}  # the page's own reader tells that it is damaged
    return found if found.get("task") == workspace.settings.task and found.get("rows") else {}


def _of_table(task: str, preset: str, rows: int, learning: float, extra: float = 0.0) -> dict[str, float] | None:
    """Seconds of each stage by MEASURED; None for a preset that is not in it. `extra`: extra_share()."""
    kind = task if task in CLINICAL else "reports"
    if (kind, preset) not in MEASURED:
        return None
    seconds, measured_rows = MEASURED[kind, preset]
    usual = learning_of(load_config(preset, [f"task={task}"]), extra)
    found: dict[str, float] = {}
    for name, share in SHARES.items():
        more = learning / usual if name in LEARNING else 1
        found[name] = max(seconds * share * rows / measured_rows * more, LEAST.get(name, 0))
    return found


def _from_earlier(
    earlier: Mapping[str, Any],
    settings: Config,
    rows: int,
    learning: float,
    table: Mapping[str, float] | None,
    extra: float,
) -> dict[str, float] | None:
    """Seconds of each stage, from those that an earlier pipeline noted; of another preset, its speed is applied to the
    table. None where it made too little to tell. `extra`: extra_share()."""
    made = {name: seconds for name, seconds in earlier["seconds"].items() if name in SHARES}
    if not {"train", "shift"} <= made.keys():
        return None
    if earlier["preset"] == settings.preset:
        whole, grown = sum(made.values()) / sum(SHARES[name] for name in made), rows / earlier["rows"]
        more = learning / earlier["learning"]
        return {
            name: made.get(name, whole * share) * grown * (more if name in LEARNING else 1)
            for name, share in SHARES.items()
        }
    usual = _of_table(settings.task, earlier["preset"], earlier["rows"], earlier["learning"], extra)
    if table is None or usual is None:
        return None
    speed = sum(made.values()) / sum(usual[name] for name in made)
    return {name: value * speed for name, value in table.items()}


def _parts(settings: Config, stages: Sequence[str]) -> str:
    """Names the stages to make, with the number of models of the settings."""
    runs = len(settings.runs)
    models = _("train ({models:,} models of {runs} runs)") if runs > 1 else _("train ({models:,} models of one run)")
    models = models.format(models=models_of(settings), runs=runs)
    return joined(", ", [models if name == "train" else name for name in stages])
