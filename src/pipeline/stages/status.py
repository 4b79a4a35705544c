"""./run.sh status: what of the settings at hand is done, running, interrupted, out of date or missing.

Every stage is asked by what it asks itself before it begins; nothing is computed and nothing written. What runs is
known by locks, of which the kernel lets go when their holder dies: see artifacts.at_work and artifacts.lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from src.core import storage
from src.core.errors import UserError
from src.core.settings import Config
from src.core.storage import Output, is_at_work, is_held
from src.core.terminal import add_json, result, show_table
from src.data import input_files, synthetic
from src.data.dataset import Dataset
from src.data.input_files import InputFiles
from src.data.splits import Folds
from src.ensemble.submission_log import SubmissionLog
from src.evaluation import runs, validation_sets
from src.evaluation.runs import RunFolder
from src.evaluation.validation_sets import ValidationSets
from src.pipeline.stages import baselines, blend, explain, leaderboard, prepare, report, shift, train
from src.pipeline.stages import folds as folds_stage
from src.training import device_cache
from src.training.device_cache import Machine
from src.training.initialization import pretrain_jobs
from src.training.job_specs import FoldJob, PretrainJob, is_pretrained, is_trained
from src.training.planning import fold_jobs

T = TypeVar("T")
GOES_ON = "goes on with the same command"
NEEDS = {
    "folds": {"prepare"},
    "shift": {"folds"},
    "baselines": {"folds"},
    "pretrain": {"prepare"},
    "train": {"shift"},
    "blend": {"train"},
    "submit": {"blend"},
    "leaderboard": {"train", "blend"},
    "explain": {"blend"},
    "report": {"train", "blend", "leaderboard", "explain"},
}
"""By stage, those whose results decide whether its own are up to date."""
SUBMITTED = {"prepare", *NEEDS} - {"leaderboard", "explain", "report"}
"""The stages that a submission takes."""


@dataclass(frozen=True)
class Status:
    stage: str
    """The verb that makes it."""
    name: str
    """Of the run, encoder or study; empty where the stage makes one thing."""
    state: str
    """done, running, interrupted (what it had done is kept), stale (made of something else than would be now), missing,
    or unsure (done, but a stage that it rests on is not: whether it stays is known when that is made)."""
    note: str = ""
    done: int | None = None
    """Folds, rungs, runs, epochs or trials, of so many:"""
    of: int | None = None
    command: str = ""
    """What follows ./run.sh to make it; of a study none: the one that began it goes on with it."""


def run(config: Config, models: Sequence[str] = ()) -> None:
    """`models` are those that --model named."""
    chosen = [word for model in models for word in ("--model", model)]
    found = [replace(one, command=_command(config, one, chosen)) for one in look(config)]
    add_json("stages", [asdict(one) for one in found])
    output = Output(config.paths.output)
    rows = [[f"{one.stage} {one.name}".strip(), one.state, one.note] for one in found]
    show_table(f"{output.root} by preset {config.preset}", ["stage", "state", "what"], rows, words=["state", "what"])
    others = sorted(set(output.run_names()) - {*config.runs, "blend"})
    if others:
        result(f"\nruns of other settings: {', '.join(others)}")
    left = [one for one in found if one.state in ("interrupted", "stale", "missing")]
    if any(one.stage in SUBMITTED for one in left):
        result(f"\nall that a submission needs: ./run.sh {runs.command('pipeline', config, *chosen)}")
    for one in left:
        if one.command:
            result(f"{one.stage} {one.name}".strip() + f": ./run.sh {one.command}")


def _command(config: Config, one: Status, chosen: list[str]) -> str:
    if one.stage == "tune":
        return ""  # by which preset, spaces and words it was begun is not known here
    return runs.command(one.stage, config, *(["--model", one.name] if one.stage == "train" else chosen))


def look(config: Config) -> list[Status]:
    """Of every stage, in their order, and of every study."""
    output = Output(config.paths.output)
    dataset = _unless_missing(lambda: Dataset.load(output, only_looks=True))
    folds = _unless_missing(dataset.load_folds) if dataset else None
    measured = _unless_missing(lambda: ValidationSets.load(dataset, config)) if folds else None
    found = [
        _prepare(config, output),
        _folds(config, output, dataset),
        _shift(config, output, dataset, folds),
        _baselines(config, output, dataset, folds),
        *_pretrain(config, output, dataset),
        *_train(config, output, dataset, folds, measured),
        _blend(config, output, dataset, folds, measured),
        _submit(config, output, dataset),
        _leaderboard(config, output, dataset, folds, measured),
        *_explain(config, output),
        *_pages(config, output),
    ]
    lacking: set[str] = set()
    for i, one in enumerate(found):
        if one.state == "done" and lacking & NEEDS.get(one.stage, set()):
            found[i] = one = replace(one, state="unsure")
        if one.state != "done":
            lacking.add(one.stage)
    return [*found, *_studies(output)]


def _unless_missing(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except UserError:
        return None


def _state(output: Output, stage: str, is_current: bool, result_file: Path) -> str:
    """Of a stage that is done in one go; `result_file` is what it writes last."""
    if is_current:
        return "done"
    if is_at_work(output, stage):
        return "running"
    return "stale" if result_file.exists() else "missing"


def _unknown(output: Output, stage: str, result_file: Path) -> str:
    """Where what it rests on is not there to compare with."""
    if is_at_work(output, stage):
        return "running"
    return "unsure" if result_file.exists() else "missing"


def _prepare(config: Config, output: Output) -> Status:
    manifest = output.data / "manifest.json"
    try:
        files = _files(config)
    except UserError as error:
        return Status("prepare", "", _unknown(output, "prepare", manifest), str(error))
    if files is None:
        lacking = f"no reports in {config.paths.input}"
        if input_files.is_default(config.paths):
            lacking += ": sample data is made first"
        return Status("prepare", "", _unknown(output, "prepare", manifest), lacking)
    is_current = prepare.is_current(output, files, prepare.stamp_of(config, files))
    summary = storage.read_json(manifest)["summary"] if is_current else ""
    return Status("prepare", "", _state(output, "prepare", is_current, manifest), summary)


def _files(config: Config) -> InputFiles | None:
    """The user's files, or the sample data where that is made already."""
    found = input_files.find_files(config.paths)
    folder = config.paths.input / "sample"
    if found is None and input_files.is_default(config.paths) and synthetic.is_complete(folder):
        return input_files.find_files(config.paths.model_copy(update={"input": folder}))
    return found


def _folds(config: Config, output: Output, dataset: Dataset | None) -> Status:
    if dataset is None or not folds_stage.is_made(output):
        return Status("folds", "", _unknown(output, "folds", output.folds_manifest))
    is_current = bool(_unless_missing(lambda: folds_stage.is_current(config, dataset)))
    what = folds_stage.WHAT[config.folds.scheme].format(k=config.folds.k)
    return Status("folds", "", _state(output, "folds", is_current, output.folds), what if is_current else "")


def _shift(config: Config, output: Output, dataset: Dataset | None, folds: Folds | None) -> Status:
    result_file = output.shift / "shift.json"
    if folds is None:
        return Status("shift", "", _unknown(output, "shift", result_file))
    stamp = shift.stamp_of(config, dataset)
    is_current = bool(_unless_missing(lambda: shift.is_current(config, dataset, stamp)))
    summary = storage.read_json(result_file)["summary"] if is_current else ""
    return Status("shift", "", _state(output, "shift", is_current, result_file), summary)


def _baselines(config: Config, output: Output, dataset: Dataset | None, folds: Folds | None) -> Status:
    of = len(config.baselines)
    if folds is None:
        return Status("baselines", "", _unknown(output, "baselines", output.baselines), of=of)
    lacking = baselines.missing(config, dataset, baselines.stamp_of(dataset, folds))
    state = _state(output, "baselines", not lacking, output.baselines)
    done = of - len(lacking)
    return Status("baselines", "", state, f"{done} of {of} rungs", done, of)


def _machine(config: Config, output: Output) -> Machine:
    noted = device_cache.recall(output, config.device)
    if noted is not None:
        return noted
    if not output.runs.exists() and not output.pretrained.exists():
        return Machine("cpu", "fp32")  # nothing is trained, whatever the machine is
    from src.training import devices

    picked = devices.pick_device(config.device)
    return Machine(picked.type, devices.pick_precision("auto", picked))


def _epochs_done(job: FoldJob | PretrainJob) -> int:
    """By its newest checkpoint, see checkpoints.py."""
    names = [path.stem.removeprefix("state_") for path in job.path.glob("state_*.json")]
    return max(map(int, names), default=0)


def _is_running(job: FoldJob | PretrainJob) -> bool:
    return is_held(job.path / "job.lock")


def _pretrain(config: Config, output: Output, dataset: Dataset | None) -> list[Status]:
    """One for each encoder, under the names of the runs that share it."""
    asking = {name: run for name, run in {**config.denoisers, **config.runs}.items() if run.pretrain.epochs}
    if not asking:
        return []
    if dataset is None:
        return [Status("pretrain", name, _unknown(output, f"pretrain.{name}", output.pretrained)) for name in asking]
    users: dict[str, list[str]] = {}
    jobs = pretrain_jobs(config, dataset, _machine(config, output))
    for name, job in jobs.items():
        users.setdefault(job.folder, []).append(name)
    return [_encoder(output, jobs[names[0]], names) for names in users.values()]


def _encoder(output: Output, job: PretrainJob, names: list[str]) -> Status:
    epochs, of = _epochs_done(job), job.run["pretrain"]["epochs"]
    shown, at = ", ".join(names), f"epoch {epochs} of {of}"
    if is_pretrained(job):
        made = storage.read_json(job.path / "result.json")["epochs"]
        return Status("pretrain", shown, "done", f"{made} of {of} epochs", made, of)
    if _is_running(job):
        return Status("pretrain", shown, "running", at, epochs, of)
    if any(is_at_work(output, f"pretrain.{name}") for name in names):
        return Status("pretrain", shown, "running", "waits for its turn", epochs, of)
    if epochs:
        return Status("pretrain", shown, "interrupted", f"at {at}; {GOES_ON}", epochs, of)
    return Status("pretrain", shown, "missing", "", 0, of)


def _train(
    config: Config, output: Output, dataset: Dataset | None, folds: Folds | None, measured: ValidationSets | None
) -> list[Status]:
    if measured is None:
        return [
            Status("train", name, _unknown(output, f"train.{name}", output.run(name) / "score.json"))
            for name in config.runs
        ]
    jobs = fold_jobs(config, dataset, folds, measured, _machine(config, output))
    return [
        _run(output, name, group, train.is_assembled(config, dataset, folds, measured, name, group))
        for name, group in jobs.items()
    ]


def _run(output: Output, name: str, jobs: list[FoldJob], is_whole: bool) -> Status:
    score, of = output.run(name) / "score.json", len(jobs)
    left = [job for job in jobs if not is_trained(job)]
    trained = of - len(left)
    running, begun = [job for job in left if _is_running(job)], [job for job in left if _epochs_done(job)]
    told = [f"{trained} of {of} folds", *(_at(job, jobs) for job in running or begun)]
    if not left and is_whole:
        state = "done"
        official = storage.read_json(score)["overall"]["score"]
        told.append(f"score {official['value']:.4f}")
    elif running or is_at_work(output, f"train.{name}"):
        state = "running"
        told += [] if running else ["waits for its turn" if left else "predicts"]
    elif begun or (trained and not score.exists()):
        state = "interrupted"
        told.append(GOES_ON)
    else:
        state = "stale" if score.exists() else "missing"
        told += [] if left else ["to be put together anew"]
    return Status("train", name, state, "; ".join(told), trained, of)


def _at(job: FoldJob, jobs: list[FoldJob]) -> str:
    seed = f" seed {job.seed}" if len({other.seed for other in jobs}) > 1 else ""
    return f"fold {job.fold}{seed} at epoch {_epochs_done(job)} of {job.run['train']['epochs']}"


def _blend(
    config: Config, output: Output, dataset: Dataset | None, folds: Folds | None, measured: ValidationSets | None
) -> Status:
    score = output.run("blend") / "score.json"
    members = ", ".join(blend.members_of(config))
    if measured is None:
        return Status("blend", "", _unknown(output, "blend.blend", score), members)

    def is_current() -> bool:
        parts = [RunFolder.load(output, name, config) for name in blend.members_of(config)]
        runs.check_fits(parts, dataset, folds)
        runs.check_settings(config, parts)
        measured.check_fits(parts)
        made_of = {part.name: part.score["fingerprint"] for part in parts}
        stamp = blend.stamp_of(config, dataset, folds, measured, made_of)
        return storage.is_current(score, stamp, runs.files(dataset.test_files))

    return Status("blend", "", _state(output, "blend.blend", bool(_unless_missing(is_current)), score), members)


def _submit(config: Config, output: Output, dataset: Dataset | None) -> Status:
    """A submission is up to date if it is noted as one made in this way, and was written after the blend."""
    if dataset is None:
        return Status("submit", "", "running" if is_at_work(output, "submit") else "missing")
    score = output.run("blend") / "score.json"
    noted = {
        (one.test, one.sha256) for one in SubmissionLog(output.submissions).submissions() if one.how == _how(config)
    }
    paths = {test: output.submission(test) for test in dataset.test_files}
    current = [
        test
        for test, path in paths.items()
        if path.exists()
        and score.exists()
        and path.stat().st_mtime_ns >= score.stat().st_mtime_ns
        and (test, storage.file_sha256(path)) in noted
    ]
    there = next((path for path in paths.values() if path.exists()), output.root / "submission")
    state = _state(output, "submit", len(current) == len(paths), there)
    return Status("submit", "", state, f"{len(current)} of {len(paths)} files", len(current), len(paths))


def _how(config: Config) -> dict[str, bool]:
    return {"label_shift": config.submit.label_shift}


def _leaderboard(
    config: Config, output: Output, dataset: Dataset | None, folds: Folds | None, measured: ValidationSets | None
) -> Status:
    boards = sorted(output.runs.glob("*/leaderboard.json"))
    any_board = boards[0] if boards else output.runs / "leaderboard.json"
    if measured is None:
        return Status("leaderboard", "", _unknown(output, "leaderboard", any_board))
    fitting = _unless_missing(lambda: validation_sets.fitting_runs(config, dataset, folds, measured)[0]) or []
    current = [one for one in fitting if leaderboard.is_current(config, measured, one, fitting)]
    state = _state(output, "leaderboard", bool(fitting) and len(current) == len(fitting), any_board)
    return Status("leaderboard", "", state, f"{len(current)} of {len(fitting)} runs", len(current), len(fitting))


def _explain(config: Config, output: Output) -> list[Status]:
    """Of the pipeline's blend, which it is done of; where it is switched off, nothing."""
    if not config.explain.per_label:
        return []
    blended = _unless_missing(lambda: RunFolder.load(output, "blend", config))
    path = output.explained("blend")
    if blended is None:
        return [Status("explain", "", _unknown(output, "explain", path))]
    is_current = explain.is_current(config, blended)
    return [Status("explain", "", _state(output, "explain", is_current, path), str(path) if is_current else "")]


def _pages(config: Config, output: Output) -> list[Status]:
    """That of the data alone goes by time: it has no fingerprint, and is made in seconds."""
    manifest = output.data / "manifest.json"
    is_newer = output.eda.exists() and manifest.exists() and output.eda.stat().st_mtime_ns > manifest.stat().st_mtime_ns
    pages = {
        "report": (output.report, report.is_current(config, output)),
        "eda": (output.eda, is_newer),
    }
    return [
        Status(stage, "", _state(output, stage, is_current, page), str(page) if page.exists() else "")
        for stage, (page, is_current) in pages.items()
    ]


def _studies(output: Output) -> list[Status]:
    folders = sorted(path.parent for path in output.tune.glob("*/study.db"))
    if not folders:
        return []
    from src.tuning import study

    found = []
    for folder in folders:
        is_running = is_held(folder / "study.lock")
        try:
            counts, left = study.counted(folder)
        except UserError as error:
            state = "running" if is_running else "interrupted"
            found.append(Status("tune", folder.name, state, str(error)))
            continue
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none finished"
        done = sum(counts.values())
        if is_running:
            state, told = "running", f"{told}; {left} under way"
        elif left:
            state, told = "interrupted", f"{told}; {left} under way; {GOES_ON}"
        else:
            state = "done"
        found.append(Status("tune", folder.name, state, f"trials: {told}", done))
    return found
