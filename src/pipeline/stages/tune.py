"""./run.sh tune RUN: searches for better settings of a run; the best become a preset.

    ./run.sh tune lstm --preset quick --trials 30
    ./run.sh train --preset output/tune/lstm/best.yaml --model lstm
    ./run.sh tune blend --preset quick

A trial trains one fold after the other and is pruned as soon as it looks worse than others did there. Trials run side
by side. Killed at any moment, the same command continues with the trials that were running. A trial of the blend is a
method and a choice of members, among runs that are trained.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from src.core import locks, storage, versions
from src.core.errors import UserError
from src.core.executors import raise_failures, run_shown
from src.core.language import _
from src.core.names import check_name
from src.core.run_settings import Run
from src.core.settings import PARTS, Config
from src.core.settings_loader import as_preset, model_names, typed_keys, with_words
from src.core.targets import Target
from src.core.terminal import JobProgress, duration, info, result, show_table, warn
from src.data.tasks import Task
from src.ensemble import blending
from src.ensemble.blend_data import blend_rows
from src.ensemble.blending import Evidence
from src.evaluation import metrics
from src.evaluation.broken_runs import REMEDY
from src.evaluation.figures import Figure, estimate, estimate_text, short_text
from src.evaluation.runs import check_settings, command, members_of, ordered_by, seconds_of, split_stack
from src.evaluation.workspace import Workspace
from src.pipeline.stage import run_lock
from src.pipeline.stages.train import run_target
from src.training import device_cache
from src.training.device_cache import Machine
from src.training.planning import fold_jobs, tell_of_extra, unlabelled
from src.training.prediction import prediction_jobs
from src.training.tracking import Tracking, tracking_of
from src.tuning import search_spaces, study, study_plots
from src.tuning.search_spaces import CategoricalDimension, Space
from src.tuning.study import Options, Study
from src.tuning.trial_runner import MOST_FAILURES, TrialRunner, figure_of_run

MEMBER = "member."
"""Prefix of the parameters that say whether a run is in a blend."""
NOT_KEPT = {"paths", "sample", "executor", "device", "tune", "baselines", "submit", "leaderboard"}
NOT_KEPT |= {"explain", "track", "track_uri"}
"""Settings that best.yaml leaves out: they do not belong to the run, or not to the experiment."""


def run(workspace: Workspace, model: str, options: Options) -> None:
    """Searches for settings of run `model`."""
    config = workspace.settings
    machine = device_cache.find(workspace.output, config.device)
    usual = [_usual_space(config.runs[model])]
    space = search_spaces.load_space(options.spaces or usual, PARTS, config.is_clinical)
    space = _without_typed(space, typed_keys(config, model), config.runs[model].complete())
    space.check(lambda words: with_words(config, words, [model]))
    n_folds = len(workspace.splits.splits()) * len(config.runs[model].train.seeds)
    with _opened(workspace, model, options, n_folds, _run_inputs(workspace, machine, model, space)) as trials:
        _compare_with_settings_in_use(workspace, machine, model, space, trials)
        runner = TrialRunner(workspace, machine, model, space, trials)
        runner.clean_up()
        if trials.left:
            _label_by_teachers(workspace, machine, model)
            side_by_side = config.executor.model_copy(update={"workers": options.jobs} if options.jobs else {})
            executor = machine.executor(side_by_side, options.trials, options.deadline)
            to_go = f"{trials.left} of {options.trials} trials to go, {executor.workers} side by side"
            info(
                _("tune: {name}: {to_go}, by {select_on}; {n_dimensions} settings, {sampler}, {pruner}").format(
                    name=trials.name,
                    to_go=to_go,
                    select_on=config.select_on,
                    n_dimensions=len(space.dimensions),
                    sampler=config.tune.sampler,
                    pruner=config.tune.pruner,
                )
            )
            tell_of_extra(workspace, [model])
            runner.run(executor)
        else:
            info(_("tune: {name}: all {trials} trials are made").format(name=trials.name, trials=options.trials))
    if runner.has_given_up:
        raise UserError(
            _("{n} trials in a row failed; no further ones start. The last: {last_failure}").format(
                n=MOST_FAILURES, last_failure=runner.last_failure
            )
        )


def _compare_with_settings_in_use(
    workspace: Workspace, machine: Machine, model: str, space: Space, trials: Study
) -> None:
    """Makes the settings in use a trial, unless they are one: complete, with the score of the trained run, where there
    is one, however little time is left; otherwise the next to be trained."""
    if trials.interrupted:
        info(
            _("tune: continues trials {names}, which were running").format(
                names=", ".join(map(str, trials.interrupted))
            )
        )
    is_new = not trials.has_settings_in_use
    if is_new:
        trials.begin_in_use(*space.in_use(workspace.settings.runs[model].complete()))
    number = trials.in_use_to_do
    if number is None:  # complete, or another machine's
        return
    # Read only: jobs of a run that is not trained leave no files in its folder.
    jobs = fold_jobs(Workspace(workspace.settings, read_only=True), machine)[model]
    command_now = workspace.command("tune", model)
    with locks.hold(workspace.output.locks, [], [run_lock(model)], command_now):
        if not run_target(workspace, model, jobs).is_current():
            if is_new:
                info(_("tune: the settings in use are trial {number}, which is trained first").format(number=number))
            return
        figure = figure_of_run(workspace, workspace.run(model))
        seconds = sum(seconds_of(storage.read_json(job.path / "result.json")) for job in jobs)
    trials.interrupted.remove(number)
    trials.complete(trials.resume(number), figure, seconds)
    info(
        _("tune: the settings in use are trial {number}, {score}: run {model} as it is").format(
            number=number, score=estimate_text(estimate(figure)), model=model
        )
    )


def run_blend(workspace: Workspace, options: Options) -> None:
    """Searches for the method and the members of the blend of the configuration's runs.

    Raises UserError, with the command, for a run that is not trained or was trained with other settings.
    """
    tune = workspace.settings.tune.model_copy(update={"objectives": ["score"], "pruner": "none"})
    workspace = workspace.variant(workspace.settings.model_copy(update={"tune": tune}))
    config = workspace.settings
    if config.blend.fixed:
        raise UserError(
            _("tune blend searches what blend.fixed gives, the weights of the members: leave it out, or blend.fixed={}")
        )
    typed = [text.partition("=")[0] for text in config.overrides]
    is_chosen = bool(config.blend.members) and not {"blend", "blend.members"}.isdisjoint(typed)
    averaged, _stacked = split_stack(config, members_of(config) if is_chosen else list(config.runs))
    parts = {name: workspace.fitting_run(name) for name in averaged}
    check_settings(config, parts.values())
    sound = {name: part for name, part in parts.items() if workspace.force or not part.fault} or parts
    for name in parts.keys() - sound.keys():
        warn(
            _("tune: left out {name}, which {fault}. {remedy}").format(
                name=name, fault=parts[name].fault, remedy=REMEDY
            )
        )
    parts = sound
    evidence = {name: blend_rows(workspace, [part])[0].dealt() for name, part in parts.items()}
    names = [] if is_chosen else [f"{MEMBER}{name}" for name in parts]
    members = {name: CategoricalDimension(type="categorical", choices=[True, False]) for name in names}
    space = comparable(
        workspace.task, next(iter(evidence.values())), search_spaces.load_space(options.spaces or ["blend"], ["blend"])
    )
    space = _without_typed(space, typed, {"blend": config.blend.model_dump()}, members)
    space.check(lambda words: with_words(config, words))
    space = Space({**space.dimensions, **members})
    made_of = {
        "runs": {name: part.score["fingerprint"] for name, part in parts.items()},
        "search space": space.to_json(),
        "settings of the blend": config.blend.model_dump(mode="json"),
        **_data_inputs(workspace),
        "version": versions.BLEND,
    }
    with _opened(workspace, "blend", options, 1, made_of) as trials:
        info(
            _("tune: {name}: {left} of {trials} trials to go, by {select_on}, cross-fitted").format(
                name=trials.name, left=trials.left, trials=options.trials, select_on=config.select_on
            )
        )
        in_use = {f"{MEMBER}{name}": name in members_of(config) for name in parts}
        if not trials.has_settings_in_use:
            given = {
                "blend": config.blend.model_dump(),
                MEMBER.rstrip("."): {name: in_use[f"{MEMBER}{name}"] for name in parts},
            }
            trials.begin_in_use(*space.in_use(given))
        with JobProgress("tune", {f"trial {i}": 1.0 for i in range(trials.left)}, lines=False) as progress:
            for name in progress.jobs:
                trial = trials.next_trial()
                if trial is None and trials.wait_for_others():
                    trial = trials.next_trial()
                if trial is None:
                    break
                started = time.perf_counter()
                chosen = in_use if trial.user_attrs.get(study.IN_USE) else space.suggest(trial)
                if not members or any(chosen[member] for member in members):
                    figure = _blend_figure(workspace, evidence, chosen)
                    trials.complete(trial, figure, time.perf_counter() - started)
                else:
                    trials.fail(trial, "no member")
                progress.finish(name, _("done"))


def comparable(task: Task, evidence: Evidence, space: Space) -> Space:
    """Returns the space without methods of blends whose scores could not be compared on these rows, and says so."""
    reasons = {}
    if not task.has_classes:
        reasons["temperature"] = f"{task.unit} have no temperature"
    if evidence.has_one_fold:
        reason = "nothing can be cross-fitted on a single report"
        reasons = dict.fromkeys(("temperature", "weights", "greedy", "auto"), reason)
    dimension = space.dimensions.get("blend.method")
    if not isinstance(dimension, CategoricalDimension) or reasons.keys().isdisjoint(map(str, dimension.choices)):
        return space
    kept = [choice for choice in dimension.choices if choice not in reasons]
    for method in dimension.choices:
        if method in reasons:
            info(
                _("tune: method {method} is not searched: {reasons}").format(
                    method=method, reasons=reasons[str(method)]
                )
            )
    others = {name: one for name, one in space.dimensions.items() if name != "blend.method"}
    return Space({"blend.method": dimension.model_copy(update={"choices": kept}), **others} if kept else others)


def _blend_figure(workspace: Workspace, evidence: dict[str, Evidence], chosen: dict[str, Any]) -> Figure:
    """Cross-fitted score of the blend of the chosen members."""
    task, blend = workspace.task, workspace.settings.blend
    members = [one for name, one in evidence.items() if chosen.get(f"{MEMBER}{name}", True)]
    rows = replace(members[0], members=[one.members[0] for one in members])
    method = chosen.get("blend.method", blend.method)
    per_group = chosen.get("blend.per_group", blend.per_group)
    fitted = blending.fit_folds(rows, task, method, per_group)
    judged = rows.folds >= 0
    predictions = task.decode(blending.apply_folds(fitted, rows.members, rows.folds)[judged])
    rows = rows.only(judged)
    return metrics.official_figure(task, rows.labels, predictions, rows.weights, rows.reports, rows.folds)


def _without_typed(space: Space, typed: Sequence[str], settings: dict[str, Any], more: Collection[str] = ()) -> Space:
    """Returns the space without what the command line chooses, and says so. Raises UserError if nothing is left, also
    no dimension of `more`."""
    kept = space.without(typed, settings)
    if left_out := [name for name in space.dimensions if name not in kept.dimensions]:
        info(
            _("tune: chosen on the command line, and so not searched: {left_out}").format(left_out=", ".join(left_out))
        )
    if not kept.dimensions and not more:
        raise UserError(_("the command line chooses every setting of the search space: leave one of them out"))
    return kept


@contextmanager
def _opened(
    workspace: Workspace, model: str, options: Options, n_folds: int, made_of: dict[str, Any]
) -> Iterator[Study]:
    """The study of a run or of the blend. Its best settings, table, plots and tracked trials are written at the end."""
    config = workspace.settings
    name = options.name or model
    check_name("study (--name)", name)
    if name != model and name in {*model_names(), *config.runs, *config.denoisers, "blend"}:
        # tune.use looks for the study of a run by the run's name
        raise UserError(
            _("--name {name} is the name of a run, whose own study is called so. Give this one another").format(
                name=repr(name)
            )
        )
    tracking = tracking_of(config)
    with study.opened(workspace.output.tune / name, config.tune, options, n_folds, made_of) as trials:
        if others := sorted({one.user_attrs.get(study.OWNER, "unknown") for one in trials.others()}):
            info(_("tune: trials run at {others}").format(others=", ".join(others)))
        yield trials
        (trials.folder / study.SEAL).unlink(missing_ok=True)
        _write(config, model, trials)
        files = tuple(path for path in map(trials.folder.joinpath, study.SEALED) if path.exists())
        made_by = _maker(model, trials, options)
        Target(trials.name, trials.folder / study.SEAL, None, files).write({"made_by": made_by} if made_by else {})
        _track(tracking, trials)


def _maker(model: str, trials: Study, options: Options) -> list[str]:
    """Words of the command that writes the files of a study again, without a further trial. None for a study in a
    database, whose URL may hold a password."""
    if options.storage:
        return []
    named = ["--name", trials.name] if trials.name != model else []
    spaces = [word for space in options.spaces for word in ("--space", space)]
    return ["tune", model, "--trials", str(len(trials.finished())), *spaces, *named]


def _run_inputs(workspace: Workspace, machine: Machine, model: str, space: Space) -> dict[str, Any]:
    """Inputs that the scores of a run's trials depend on."""
    config, dataset = workspace.settings, workspace.dataset
    others = {name: run for name, run in {**config.denoisers, **config.runs}.items() if name != model}
    return {
        "settings": config.runs[model].model_dump(mode="json"),
        "search space": space.to_json(),
        "settings of the runs that it needs": {name: run.model_dump(mode="json") for name, run in others.items()},
        **_data_inputs(workspace),
        "extra files": [dataset.extra_texts, dataset.extra_labels],
        **_domains_of(workspace, model),
        "device": [machine.device, machine.precision(config.runs[model].train.precision)],
        "version": [versions.TRAIN, versions.PRETRAIN, versions.SCORE],
    }


def _data_inputs(workspace: Workspace) -> dict[str, Any]:
    """The data that scores of trials depend on."""
    target, made_of = workspace.target, workspace.dataset.made_of(workspace.splits)
    return {
        "select_on": [workspace.settings.select_on, target.name if target else None],
        "train reports": made_of["train"],
        "test files": made_of["tests"],
        "folds": made_of["folds"],
        "noisy copies": workspace.validation_sets.fingerprint,
        **({} if (weights := workspace.dataset.weights) is None else {"row weights": storage.array_hash(weights)}),
        **({} if workspace.settings.average == "logits" else {"average": workspace.settings.average}),
        **ordered_by(workspace),
    }


def _domains_of(workspace: Workspace, model: str) -> dict[str, Any]:
    """The domains, where the run or what teaches it trains by domain."""
    runs = workspace.settings.runs
    by_domain = any(runs[name].train.regime != "pooled" for name in (model, *runs[model].train.teachers))
    return {"domains": storage.array_hash(workspace.domains.of_row)} if by_domain else {}


def _usual_space(run: Run) -> str:
    """Name of the search space for the kind of model, so that a run of any name has one. A head of neighbours learns
    nothing that its encoder did not."""
    if run.remembers:
        return "pretrain"
    if run.model.encoder != "recurrent":
        return run.model.encoder
    return "han" if run.model.pooling == "hierarchical" else run.model.cell


def _label_by_teachers(workspace: Workspace, machine: Machine, model: str) -> None:
    """Predicts what trials learn from by their teachers. Raises UserError, with the command, for an untrained one."""
    config = workspace.settings
    teachers = config.runs[model].train.teachers
    if not teachers:
        return
    own = config.model_copy(update={"runs": {name: config.runs[name] for name in teachers}})
    jobs = fold_jobs(workspace.variant(own), machine)
    for name in teachers:
        if not all(job.is_done() for job in jobs[name]):
            remedy = workspace.command("train", "--model", name)
            raise UserError(_("teacher {name} is not trained. Run: ./run.sh {remedy}").format(name=name, remedy=remedy))
    trained = [job.path for name in teachers for job in jobs[name]]
    executor = machine.executor(config.executor, len(trained))
    predictions = prediction_jobs(workspace.output.root, trained, unlabelled(workspace.dataset), machine.device)
    raise_failures(run_shown(executor, "predict", predictions))


def _write(config: Config, model: str, trials: Study) -> None:
    """Writes best.yaml, top/, trials.csv and the plots of the finished trials, and shows the best."""
    best, done = trials.best(config.tune.top), trials.finished()
    counts = ", ".join(f"{sum(one.state == state for one in done)} {word}" for state, word in study.STATES.items())
    storage.write_text(trials.folder / "trials.csv", study_plots.table(trials))
    if not best:
        result(_("tune: {name}: {counts}; nothing to choose from yet").format(name=trials.name, counts=counts))
        return
    shutil.rmtree(trials.folder / "top", ignore_errors=True)
    texts: list[str] = []
    for rank, trial in enumerate(best, start=1):
        head = f"# Study {trials.name}, trial {trial.number}: rank {rank} of {len(done)} trials by {config.select_on}"
        texts.append(_as_preset(config, model, trial, head))
        storage.write_text(trials.folder / "top" / f"{rank}.yaml", texts[-1])
    chosen, in_use = trials.recommended(), trials.in_use
    text = texts[0]
    if chosen.number != best[0].number:
        head = f"# Study {trials.name}, trial {chosen.number}: the settings in use, to be kept by {config.select_on}"
        text = _as_preset(config, model, chosen, head)
    storage.write_text(trials.folder / "best.yaml", text)
    study_plots.draw(trials)
    _show_gains(trials, config.select_on, best, in_use)
    result(_("tune: {name}: {counts}; in {folder}").format(name=trials.name, counts=counts, folder=trials.folder))
    if in_use is None:
        result(_("tune: the settings in use have no score, so that no gain is known"))
    elif chosen.number == in_use.number:
        why = (
            "no trial scores higher"
            if best[0].number == in_use.number
            else f"trial {best[0].number} gains no more than one standard error"
        )
        result(
            _("tune: keep what you have, {score} on {select_on}: {why}").format(
                score=estimate_text(in_use.user_attrs["score"]), select_on=config.select_on, why=why
            )
        )
        return
    result(", ".join(f"{key} {_shown(value)}" for key, value in chosen.params.items()))
    verb, run_words = ("blend", []) if model == "blend" else ("train", ["--model", model])
    paths = [word for word in config.overrides if word.startswith("paths.")]
    words = shlex.join([verb, "--preset", str(trials.folder / "best.yaml"), *run_words, *paths])
    result(_("tune: to use trial {number}: ./run.sh {words}").format(number=chosen.number, words=words))


def _show_gains(trials: Study, select_on: str, best: Sequence[FrozenTrial], in_use: FrozenTrial | None) -> None:
    """Table of the settings in use and the best trials, each with its gain over these."""
    shown = {one.number: one for one in ([in_use] if in_use else []) + list(best)}
    rows = []
    for number, trial in shown.items():
        is_now = in_use is not None and number == in_use.number
        gain = None if is_now else trials.gain(trial)
        rows.append(
            [
                "now" if is_now else "best" if number == best[0].number else "",
                str(number),
                short_text(trial.user_attrs["score"]),
                short_text(gain, sign="+") if gain else "–",
                duration(trial.user_attrs["seconds"]),
            ]
        )
    show_table(
        _("{name}: settings in use and best trials").format(name=trials.name),
        ["", _("trial"), select_on, _("gain"), _("time")],
        rows,
    )


def _as_preset(config: Config, model: str, trial: FrozenTrial, head: str) -> str:
    """Preset with the trial's settings: of the run and of the runs that it needs, or of the blend and all its runs."""
    is_now = trial.user_attrs.get(study.IN_USE)
    chosen = {} if is_now else {key: search_spaces.from_study(value) for key, value in trial.params.items()}
    words = search_spaces.words({key: value for key, value in chosen.items() if not key.startswith(MEMBER)})
    if model == "blend":
        members = [key.removeprefix(MEMBER) for key, value in chosen.items() if key.startswith(MEMBER) and value]
        found = with_words(config, [*words, f"blend.members={members}"] if members else words)
    else:
        found = with_words(config, words, [model])
    text = as_preset(found, NOT_KEPT | (set() if model == "blend" else {"blend"}))
    return f"{head}, {estimate_text(trial.user_attrs['score'])}.\n# {command('tune', config, model)}\n{text}"


def _track(tracking: Tracking, trials: Study) -> None:
    """Writes settings, score and time of each complete trial to the tracker."""
    for trial in trials.trials(TrialState.COMPLETE):
        settings = {key: search_spaces.from_study(value) for key, value in trial.params.items()}
        score, seconds = trial.user_attrs["score"], trial.user_attrs["seconds"]
        figures = {"score": score["value"], "standard_error": score["standard_error"], "seconds": seconds}
        tracking.trial(trials.name, trial.number, settings, figures)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
