"""./run.sh tune RUN: trials of other settings, each by the fold function of training; the best become a YAML file.

    ./run.sh tune lstm --preset quick --trials 30
    ./run.sh train --preset output/tune/lstm/best.yaml --model lstm
    ./run.sh tune blend --preset quick

A trial trains one fold after the other and is given up as soon as it looks worse than others did there. Trials go side
by side. Killed at any moment, the same command goes on with the trials that were running. Of the blend a trial is a
method and a choice of members, among runs that are trained.
"""

from __future__ import annotations

import math
import platform
import re
import shlex
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml

from src.core import storage, versions
from src.core.errors import UserError
from src.core.executors import make_executor, raise_failures, run_shown
from src.core.settings import PARTS, Config, Run
from src.core.settings_loader import model_names, with_words
from src.core.storage import Output
from src.core.terminal import JobProgress, duration, info, result, show_table
from src.data.dataset import Dataset
from src.data.splits import Folds
from src.ensemble import blending
from src.ensemble.blend_data import evidence_of
from src.ensemble.blending import Evidence
from src.evaluation import metrics
from src.evaluation.runs import RunFolder, check_fits, check_settings, command
from src.evaluation.validation_sets import ValidationSets
from src.training import device_cache
from src.training.device_cache import Machine
from src.training.job_specs import is_trained
from src.training.planning import fold_jobs, unlabelled
from src.training.prediction import prediction_jobs
from src.training.tracking import Tracking, tracking_of
from src.tuning import search_spaces, study, study_plots
from src.tuning.search_spaces import CategoricalDimension, Space
from src.tuning.trial_runner import MOST_FAILURES, Search

MEMBER = "member."
"""Begins the name of the setting that says whether a run is in a blend."""
MADE_HERE = {"preset", "overrides", "models", "denoisers", "tuned", "runs"}
NOT_KEPT = MADE_HERE | {"paths", "sample", "executor", "device", "tune", "baselines", "submit", "leaderboard"}
NOT_KEPT |= {"explain", "track", "track_uri"}
"""Of the settings, what best.yaml does not hold: it is not of the run, or not of the experiment."""


@dataclass
class Wishes:
    """What the command line asks for."""

    trials: int
    """In all, of the study."""
    hours: float | None
    jobs: int | None
    """Trials side by side."""
    spaces: list[str]
    storage: str | None
    name: str | None
    release: bool = False


def run(config: Config, model: str, wishes: Wishes) -> None:
    """A study of run `model` of the configuration."""
    output = Output(config.paths.output)
    dataset = Dataset.load(output)
    folds = dataset.load_folds()
    shift = ValidationSets.load(dataset, config)
    space = search_spaces.load_space(wishes.spaces or [_usual_space(config.runs[model])], PARTS)
    space.check(lambda words: with_words(config, words, [model]))
    name = _name(config, model, wishes)
    folder = output.tune / name
    here = device_cache.find(output, config.device)
    n_folds = len(list(folds.splits())) * len(config.runs[model].train.seeds)
    made_of = {
        "settings": config.runs[model].model_dump(mode="json"),
        "search space": space.to_json(),
        "settings of the runs that it needs": {
            one: run.model_dump(mode="json") for one, run in {**config.denoisers, **config.runs}.items() if one != model
        },
        **_made_of(config, dataset, folds, shift),
        "extra files": [dataset.extra_texts, dataset.extra_labels],
        "device": [here.device, here.precision(config.runs[model].train.precision)],
        "version": [versions.TRAIN, versions.PRETRAIN, versions.SCORE],
    }
    tracking = tracking_of(config)
    with study.opened(folder, wishes.storage) as backend:
        trials = study.open_study(backend, name, config.tune, n_folds, made_of)
        owner = _owner(folder)
        _release(trials, owner, wishes)
        search = Search(
            config,
            model,
            dataset,
            folds,
            shift,
            here,
            space,
            trials,
            owner,
            folder,
            wishes.trials,
            wishes.hours,
            bool(wishes.storage),
        )
        if search.left or search.is_interrupted:
            _check_teachers(config, model, dataset, folds, shift, here)
            side_by_side = config.executor.model_copy(update={"workers": wishes.jobs} if wishes.jobs else {})
            executor = make_executor(side_by_side, here.device, wishes.trials)
            info(
                f"tune: {name}: {search.left} of {wishes.trials} trials to go, {executor.workers} side by side, "
                f"by {config.select_on}; {len(space.dimensions)} settings, {config.tune.sampler}, {config.tune.pruner}"
            )
            search.go(executor)
        else:
            info(f"tune: {name}: all {wishes.trials} trials are made")
        _write(config, model, trials, folder, name)
        _track(tracking, name, trials)
        if search.has_given_up:
            raise UserError(
                f"{MOST_FAILURES} trials in a row failed; no further ones are begun. The last: {search.last_failure}"
            )


def run_blend(config: Config, wishes: Wishes) -> None:
    """A study of the blend of the configuration's runs, all of which must be trained.

    Raises UserError, with the command, for one that is not, or was made with other settings.
    """
    output = Output(config.paths.output)
    dataset = Dataset.load(output)
    folds = dataset.load_folds()
    shift = ValidationSets.load(dataset, config)
    parts = {name: RunFolder.load(output, name, config) for name in config.runs}
    check_fits(parts.values(), dataset, folds)
    check_settings(config, parts.values())
    shift.check_fits(parts.values())
    space = search_spaces.load_space(wishes.spaces or ["blend"], ["blend"])
    space.check(lambda words: with_words(config, words))
    members = {f"{MEMBER}{name}": CategoricalDimension(type="categorical", choices=[True, False]) for name in parts}
    space = Space({**space.dimensions, **members})
    name = _name(config, "blend", wishes)
    folder = output.tune / name
    settings = config.tune.model_copy(update={"objectives": ["score"], "pruner": "none"})
    config = config.model_copy(update={"tune": settings})
    made_of = {
        "runs": {run: part.score["fingerprint"] for run, part in parts.items()},
        "search space": space.to_json(),
        "settings of the blend": config.blend.model_dump(mode="json"),
        **_made_of(config, dataset, folds, shift),
        "version": versions.BLEND,
    }
    tracking = tracking_of(config)
    with study.opened(folder, wishes.storage) as backend:
        trials = study.open_study(backend, name, settings, 1, made_of)
        owner = _owner(folder)
        _release(trials, owner, wishes)
        running = study.left_running(trials, owner, bool(wishes.storage))
        left = max(len(running), wishes.trials - len(study.finished(trials)))  # running ones are always finished
        info(f"tune: {name}: {left} of {wishes.trials} trials to go, by {config.select_on}, cross-fitted")
        labels = np.asarray(dataset.train.labels)
        evidence = {run: evidence_of(config, [part], labels, folds, shift)[0].dealt() for run, part in parts.items()}
        deadline = time.monotonic() + wishes.hours * 3600 if wishes.hours else math.inf
        with JobProgress("tune", {f"trial {i}": 1.0 for i in range(left)}, lines=False) as progress:
            for i in range(left):
                if not running and (time.monotonic() > deadline or len(trials.get_trials(False)) >= wishes.trials):
                    break
                number = running.pop(0) if running else None
                trial = (
                    study.ask(trials, settings, owner) if number is None else study.take_up(trials, settings, number)
                )
                _try_blend(config, dataset, evidence, space.suggest(trial), trials, trial)
                progress.finish(f"trial {i}", "done")
        _write(config, "blend", trials, folder, name)
        _track(tracking, name, trials)


def _try_blend(
    config: Config,
    dataset: Dataset,
    evidence: dict[str, Evidence],
    chosen: dict[str, Any],
    trials: optuna.Study,
    trial: optuna.Trial,
) -> None:
    started = time.perf_counter()
    members = [run for run in evidence if chosen[f"{MEMBER}{run}"]]
    if not members:
        trial.set_user_attr("reason", "no member")
        trials.tell(trial, state=study.TrialState.FAIL)
        return
    first = evidence[members[0]]
    rows = replace(first, members=[evidence[run].members[0] for run in members])
    method = chosen.get("blend.method", config.blend.method)
    per_group = chosen.get("blend.per_group", config.blend.per_group)
    fitted = blending.fit_folds(rows, dataset.task, method, per_group)
    judged = rows.folds >= 0
    probabilities = dataset.task.decode(blending.apply_folds(fitted, rows.members, rows.folds)[judged])
    estimate = metrics.official_score(
        dataset.task, rows.labels[judged], probabilities, rows.weights[judged], rows.reports[judged]
    )
    trial.set_user_attr("score", estimate.to_json())
    trial.set_user_attr("seconds", round(time.perf_counter() - started, 2))
    trials.tell(trial, estimate.value)


def _name(config: Config, model: str, wishes: Wishes) -> str:
    """Of the study. tune.use looks for that of a run by the run's name, so no other may have it."""
    name = wishes.name or model
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"--name {name!r}: want letters, digits, '_', '-' and '.' alone")
    if name != model and name in {*model_names(), *config.runs, *config.denoisers, "blend"}:
        raise UserError(f"--name {name!r} is the name of a run, whose own study is called so. Give this one another")
    return name


def _owner(folder: Path) -> str:
    return f"{platform.node()}:{folder.resolve()}"


def _release(trials: optuna.Study, owner: str, wishes: Wishes) -> None:
    """Trials of machines that are gone, which would wait for ever, are ended where that is asked for, or told."""
    if not wishes.storage:
        return
    if wishes.release:
        info(f"tune: {study.release(trials, owner)} trials of other machines are ended (--release)")
        return
    running = trials.get_trials(deepcopy=False, states=(study.TrialState.RUNNING,))
    others = sorted({one.user_attrs.get(study.OWNER, "unknown") for one in running} - {owner})
    if others:
        info(f"tune: trials run at {', '.join(others)}; if one of these is gone for good, end its trials by --release")


def _made_of(config: Config, dataset: Dataset, folds: Folds, shift: ValidationSets) -> dict[str, Any]:
    """What scores of trials rest on."""
    return {
        "select_on": [config.select_on, shift.target(config.target).name if shift.tests else None],
        "train reports": dataset.manifest["train"],
        "test files": dataset.test_texts,
        "folds": storage.array_hash(folds.table),
        "noisy copies": shift.fingerprint,
    }


def _usual_space(run: Run) -> str:
    """By the model's kind, so that a run of any name has one."""
    if run.model.encoder != "recurrent":
        return run.model.encoder
    return "han" if run.model.pooling == "hierarchical" else run.model.cell


def _check_teachers(
    config: Config, model: str, dataset: Dataset, folds: Folds, shift: ValidationSets, here: Machine
) -> None:
    """That they are trained, and have labelled what trials learn from. Raises UserError, with the command."""
    teachers = config.runs[model].train.teachers
    if not teachers:
        return
    own = config.model_copy(update={"runs": {name: config.runs[name] for name in teachers}})
    jobs = fold_jobs(own, dataset, folds, shift, here)
    for name in teachers:
        if not all(map(is_trained, jobs[name])):
            raise UserError(f"teacher {name} is not trained. Run: ./run.sh {command('train', config, '--model', name)}")
    trained = [Path(job.folder) for name in teachers for job in jobs[name]]
    executor = make_executor(config.executor, here.device, len(trained))
    raise_failures(run_shown(executor, "predict", prediction_jobs(trained, unlabelled(dataset), here.device)))


def _write(config: Config, model: str, trials: optuna.Study, folder: Path, name: str) -> None:
    """best.yaml, top/, trials.csv and the pictures, of what is there."""
    best = study.best_trials(trials, config.tune.objectives, config.tune.top)
    done = study.finished(trials)
    kinds = {state.name.lower(): sum(trial.state == state for trial in done) for state in study.TrialState}
    told = f"{kinds['complete']} complete, {kinds['pruned']} given up, {kinds['fail']} failed"
    storage.write_text(folder / "trials.csv", study_plots.table(trials))
    if not best:
        result(f"tune: {name}: {told}; nothing to choose from yet")
        return
    shutil.rmtree(folder / "top", ignore_errors=True)
    for rank, trial in reversed(list(enumerate(best, start=1))):
        text = _as_preset(config, model, trial, name, f"{rank} of {len(done)} trials by {config.select_on}")
        storage.write_text(folder / "top" / f"{rank}.yaml", text)
    storage.write_text(folder / "best.yaml", text)
    storage.write_json(folder / "importances.json", study_plots.importances(trials))
    study_plots.draw(trials, folder, config.tune.objectives)
    rows = [
        [
            str(trial.number),
            f"{trial.user_attrs['score']['value']:.4f}±{1e4 * trial.user_attrs['score']['standard_error']:.0f}",
            duration(trial.user_attrs["seconds"]),
        ]
        for trial in best
    ]
    show_table(f"Best trials of {name}", ["trial", config.select_on, "time"], rows)
    result(", ".join(f"{key} {_shown(value)}" for key, value in best[0].params.items()))
    what = "Blend so: ./run.sh blend" if model == "blend" else "Train the best: ./run.sh train"
    words = [
        *([] if model == "blend" else ["--model", model]),
        *(w for w in config.overrides if w.startswith("paths.")),
    ]
    result(f"tune: {name}: {told}. {what} {shlex.join(['--preset', str(folder / 'best.yaml'), *words])}")
    result(f"tune: {folder}")


def _track(tracking: Tracking, name: str, trials: optuna.Study) -> None:
    """Writes settings, score and time of each complete trial."""
    for trial in trials.get_trials(deepcopy=False, states=(study.TrialState.COMPLETE,)):
        settings = {key: search_spaces.from_study(value) for key, value in trial.params.items()}
        score = trial.user_attrs["score"]
        values = {
            "score": score["value"],
            "standard_error": score["standard_error"],
            "seconds": trial.user_attrs["seconds"],
        }
        tracking.trial(name, trial.number, settings, values)


def _as_preset(config: Config, model: str, trial: optuna.trial.FrozenTrial, name: str, rank: str) -> str:
    """A preset of the run with the trial's settings and of the runs that it needs; of a blend, of all its runs."""
    chosen = {key: search_spaces.from_study(value) for key, value in trial.params.items()}
    settings = [key for key in chosen if not key.startswith(MEMBER)]
    words = search_spaces.words({key: chosen[key] for key in settings})
    if model == "blend":
        members = [key.removeprefix(MEMBER) for key, value in chosen.items() if key.startswith(MEMBER) and value]
        found = with_words(config, [*words, f"blend.members={members}"])
    else:
        found = with_words(config, words, [model])
    kept = found.model_dump(mode="json", exclude=NOT_KEPT | (set() if model == "blend" else {"blend"}))
    runs = {one: run.model_dump(mode="json") for one, run in {**found.denoisers, **found.runs}.items()}
    score = trial.user_attrs["score"]
    return (
        f"# Study {name}, trial {trial.number}: rank {rank}, {score['value']:.4f} ± {score['standard_error']:.4f}.\n"
        f"# {command('tune', config, model)} (study {name})\n"
        + yaml.safe_dump({**kept, "runs": runs}, sort_keys=False, allow_unicode=True)
    )


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
