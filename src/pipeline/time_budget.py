"""./run.sh --time 30m: a submission within a time, counted from the command's start, and a better blend until its end.

    ./run.sh --time 5m
    ./run.sh --time 45m --preset standard

1. The speed of training is measured on a few rows (pace.py). The dearest preset whose runs fit into the time is chosen,
   with its own number of folds or fewer.
2. A small run gives a first submission early.
3. The runs of the preset follow one by one, with fewer epochs where there is no time for all, and then a further seed
   for each run of the blend. After each, the blend of what is finished is submitted. What would not be done in time, by
   what was needed before, is not begun.
4. Training stops in time for the expected scores and the page. What time is left then goes to explanations.

The baselines are made behind the first submission, if they are quick.

All runs have the folds that the first step made, or that were there. A finished run of other settings is kept: a run
that would have its name gets the name of the preset too, and a number if that is taken. Killed at any moment, the same
command finds what is finished and goes on. Its settings are noted as a preset, output/time/plan.yaml.
"""

from __future__ import annotations

import bisect
import itertools
import math
import shlex
import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from src.core import interrupts, storage, terminal
from src.core.errors import OutOfTime, UserError
from src.core.language import _, english, joined
from src.core.run_settings import Run, Tabular
from src.core.settings import Config, Folds
from src.core.settings_loader import as_preset, load_config, preset_names
from src.core.terminal import add_json, dependency, duration, info, result, show_table, warn
from src.evaluation import runs
from src.evaluation.figures import estimate_text
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import SAME, Workspace
from src.pipeline import closing, forecast
from src.pipeline.pace import Pace
from src.pipeline.stage import get_stage, make
from src.pipeline.stages.train import run_target
from src.training import device_cache
from src.training.initialization import pretrain_jobs
from src.training.planning import fold_jobs

LADDER = ("sample", "quick", "standard", "full")
"""Presets to choose from, the cheapest first."""
LADDER_OF_TASK = {"round2": ("round2-quick", "round2")}
"""Those of a task that has others."""
WHOLE = ("standard", "full", "round2")
"""Presets that are tried with their own number of folds alone, where there are cheaper ones."""
FEWER_FOLDS = (2, 4)
"""Numbers of folds that are tried too, where a preset has more. Two cores are busy all the time with an even number."""
FEWER_EPOCHS = (1.0, 0.7, 0.5, 0.35)
"""Shares of its epochs that a run is tried with, where there is no time for all."""
FIRST, FIRST_SHARE = "first", 0.06
"""Name of the run of the first submission, and the share of the time that it may take: its epochs are chosen so."""
PROBE_SHARE, NEXT = 0.04, 4
"""Share of the time that measuring a preset may take, and how many times longer it is expected to take than measuring
the cheaper preset before."""
BASELINES_SHARE = 0.05
"""Share of the time that the baselines may take."""
FIXED_SHARE = 0.15
"""Share of the time for what is no training, until it is measured."""
SAFETY, LAST_SHARE = 1.3, 0.02
"""Factor on the measured time of the last steps, which must not end late, and share of the time to be kept beside."""
MARGIN = 1.4
"""Times that a step may take longer than predicted: beside other work a run may be cut off, and is lost for now."""
MOST_SEEDS = 20
"""Seeds of a run."""
LAST = {"leaderboard": _("expected scores"), "explain": _("explanations"), "report": _("the page")}
"""Stages at the end, which a submission does not need, and words for what they make."""
NOT_KEPT = {"paths", "executor", "device", "track", "track_uri"}
"""Settings that the noted preset leaves out: those of the command."""


@dataclass(frozen=True)
class Plan:
    """Runs that may be trained, all on the same folds."""

    preset: str
    settings: Config
    seconds: float = 0.0
    """Predicted seconds of what is not trained yet."""

    @property
    def words(self) -> str:
        folds = self.settings.folds
        parts = _("a holdout") if folds.scheme == "holdout" else _("{n} folds").format(n=folds.k)
        return _("preset {preset} with {folds}").format(preset=self.preset, folds=parts)


@dataclass(frozen=True)
class Step:
    """A submission, for the table at the end."""

    name: str
    predicted: float | None
    """Predicted seconds of its training; None where nothing was trained."""
    seconds: float
    """Seconds that its training took."""
    at: float
    """Seconds since the start of the command at which it was there."""
    score: str
    """Out-of-fold score of the blend."""


@dataclass
class TimeBudget:
    """The command: what is chosen, what is finished, and how much time is left."""

    workspace: Workspace
    seconds: float
    is_free: bool
    """True if the command line names no preset."""
    finished: dict[str, Run] = field(default_factory=dict)
    """Runs that are trained, with their seeds."""
    presets: list[str] = field(default_factory=list)
    """Presets to choose from; before they are measured, none."""
    earlier: dict[str, Run] = field(default_factory=dict)
    """Trained runs that an earlier command noted."""
    earlier_members: list[str] = field(default_factory=list)
    """Members of its blend."""
    failed: set[str] = field(default_factory=set)
    """Runs that could not be trained."""
    steps: list[Step] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage in all."""
    last: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage when it was last made."""

    @property
    def deadline(self) -> float:
        return terminal.started() + self.seconds

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def reserve(self) -> float:
        """Seconds to keep for what follows training."""
        known = [self.last[name] for name in ("blend", "submit", "leaderboard", "report") if name in self.last]
        return SAFETY * sum(known) + LAST_SHARE * self.seconds if len(known) == 4 else FIXED_SHARE * self.seconds

    def __post_init__(self) -> None:
        self.workspace.preset_reason = ""  # the preset is chosen here, and told
        if not self.is_free:
            self.presets = [self.workspace.settings.preset]

    def run(self) -> None:
        info(_("time: {time}, counted from the start of the command").format(time=duration(self.seconds)))
        try:
            self._begin()
            self._submit_early()
            self._make_baselines()
            while move := self._next_move():
                self._try(*move)
        except (OutOfTime, interrupts.TimedOut):
            if not self.steps:
                raise UserError(
                    _(
                        "{time} are too short for a submission: the first run is not trained. Give more "
                        "time; what is finished is kept, and the same command goes on from there"
                    ).format(time=duration(self.seconds))
                ) from None
        if not self.steps:
            raise UserError(
                _("no run could be trained and submitted, for the reasons above. Mend one, and run it again")
            )
        self._close()

    def _begin(self) -> None:
        """Makes what training needs, and chooses what to train. Raises TimedOut, or OutOfTime."""
        self.workspace.deadline = self.deadline
        with interrupts.limited(self.left):
            self._make(self.workspace, "sample", "prepare")
        self.here = device_cache.find(self.workspace.output, self.workspace.settings.device)
        self.pace = Pace(self.workspace, self.here)
        self.workspace = self.workspace.variant(self._choose().settings)
        with interrupts.limited(self.left):
            self._make(self.workspace, "folds", "shift")
        self.pace.has_validation_sets = True
        self.plan = self._named(self._choose())
        measured = {name: self.pace.of(run) for name, run in self.plan.settings.runs.items()}
        speeds = ", ".join(f"{name} {1000 * speed:.2f} ms" for name, speed in measured.items() if speed < math.inf)
        info(_("time: the speed here and now, for a row and epoch: {speeds}").format(speeds=speeds or _("unknown")))
        known = self.plan.seconds < math.inf
        takes = (
            _("takes about {time}").format(time=duration(self.plan.seconds)) if known else _("cannot all be trained")
        )
        info(
            _("time: {words} is chosen: what is missing of it {takes}, and {time} are left").format(
                words=self.plan.words, takes=takes, time=duration(max(0.0, self.left))
            )
        )
        self._find_finished()

    def _make(self, workspace: Workspace, *stages: str) -> None:
        for name in stages:
            started = time.monotonic()
            with dependency():
                make(workspace, get_stage(name))
            workspace.made.add(name)
            self.last[name] = time.monotonic() - started
            self.stage_seconds[name] = self.stage_seconds.get(name, 0.0) + self.last[name]

    # Choosing

    def _choose(self) -> Plan:
        """The dearest plan that fits into the time that is left; if none does, the cheapest. The presets that the first
        call measures are all that later calls choose from."""
        available = (1 - FIRST_SHARE) * (self.left - self.reserve) / MARGIN
        fitting: Plan | None = None
        tried: list[Plan] = []
        for candidates in self._candidates():
            probed = sum(self.pace.measure(plan.settings) for plan in candidates)
            found = [replace(plan, seconds=self._seconds_of(plan.settings, plan.settings.runs)) for plan in candidates]
            tried += found
            if fit := [plan for plan in found if plan.seconds <= available]:
                fitting = fit[-1]
            if not fit or NEXT * probed > PROBE_SHARE * self.seconds:
                break
        self.presets = list(dict.fromkeys(plan.preset for plan in tried))
        if fitting is None:
            return tried[0]
        longer = [plan for plan in tried[tried.index(fitting) + 1 :] if plan.seconds > available]
        if longer and self.pace.has_validation_sets:
            finite = longer[0].seconds < math.inf
            takes = (
                _("would take about {time}").format(time=duration(longer[0].seconds))
                if finite
                else _("cannot be trained")
            )
            info(_("time: {words} {takes}").format(words=longer[0].words, takes=takes))
        return fitting

    def _candidates(self) -> Iterator[list[Plan]]:
        """Plans of each preset, the cheapest first."""
        settings = self.workspace.settings
        typed = {word.partition("=")[0] for word in settings.overrides}
        ladder = LADDER_OF_TASK.get(self.workspace.task.name, LADDER)
        names = self.presets or [name for name in ladder if name in preset_names(settings.task)]
        for name in names:
            try:
                config = settings if name == settings.preset else load_config(name, settings.overrides)
            except UserError as error:
                info(
                    _("time: preset {name} is left out, it does not take the words of this command: {error}").format(
                        name=name, error=error
                    )
                )
                continue
            if any(getattr(config, key) != getattr(settings, key) for key in SAME if key != "folds"):
                continue
            is_fixed = "folds.k" in typed or (name in WHOLE and len(names) > 1)
            yield [
                Plan(name, config.model_copy(update={"folds": folds})) for folds in self._folds(config.folds, is_fixed)
            ]

    def _folds(self, own: Folds, is_fixed: bool) -> list[Folds]:
        """Folds to try, the fewest first: those that are there, where there are any, for other runs are on them."""
        dataset = self.workspace.dataset
        if dataset.output.folds_manifest.exists() and dataset.output.folds.exists():
            dataset.check_folds()
            known = {key: value for key, value in dataset.splits_settings().items() if key in Folds.model_fields}
            there = own.model_copy(update=Folds(**known).model_dump(include=set(known)))
            if dataset.find_splits(there) is not None:
                return [there]
        fewer = [k for k in FEWER_FOLDS if k < own.k and not is_fixed and own.scheme != "holdout"]
        return [own.model_copy(update={"k": k}) for k in fewer] + [own]

    def _seconds_of(self, settings: Config, names: Mapping[str, Run]) -> float:
        """Predicted seconds of what is not trained yet of the runs `names` of the settings."""
        return sum(self._predicted(settings, names).values())

    def _predicted(self, settings: Config, names: Mapping[str, Run]) -> dict[str, float]:
        """Predicted seconds of pretraining and of training."""
        lacking, jobs = self._missing(settings)
        return {
            "pretrain": self.pace.pretrain_seconds(settings, lacking),
            "train": sum(self.pace.run_seconds(settings, name, jobs[name]) for name in names),
        }

    def _missing(self, settings: Config) -> tuple[set[str], dict[str, int]]:
        """Names of the runs whose encoder is not pretrained, and the number of folds of each run that are not trained:
        of folds that are not made yet, all."""
        if not self.pace.has_validation_sets:
            folds = settings.folds
            n_folds = 1 if folds.scheme == "holdout" else folds.k * len(folds.seeds)
            jobs = {name: n_folds * len(run.train.seeds) for name, run in settings.runs.items()}
            return {*settings.runs, *settings.denoisers}, jobs
        workspace = self._reading(settings)
        encoders, jobs_of = pretrain_jobs(workspace, self.here), fold_jobs(workspace, self.here)
        lacking = {name for name, jobs in encoders.items() if not all(job.is_done() for job in jobs)}
        return lacking, {name: sum(not job.is_done() for job in jobs) for name, jobs in jobs_of.items()}

    def _reading(self, settings: Config) -> Workspace:
        """A workspace of these settings in which jobs that are only counted leave no files."""
        workspace = self.workspace.variant(settings)
        workspace.read_only = True
        return workspace

    def _named(self, plan: Plan) -> Plan:
        """The plan with names that no finished run of other settings has, and with the seeds of finished runs."""
        settings, names, found = plan.settings, {}, {}
        waiting = {**settings.denoisers, **settings.runs}
        while waiting:
            name = next(name for name, run in waiting.items() if not (_needs(run) - {name}) & waiting.keys())
            run = waiting.pop(name)
            for new, before in self._names(name, plan.preset, {*found, *waiting}):
                renamed = _renamed(run, {**names, name: new})
                if before is not None and _extends(before, renamed):
                    renamed = before
                elif before is not None and not _extends(renamed, before):
                    continue
                names[name], found[new] = new, renamed
                break
        chosen = {names[name]: found[names[name]] for name in settings.runs}
        stack = [names[name] for name in settings.blend.stack if name in settings.runs]
        members = [names[name] for name in settings.blend.members if name in settings.runs]
        members = members or [name for name in chosen if name not in stack]
        blend = settings.blend.model_copy(update={"members": members, "stack": stack})
        denoisers = {names[name]: found[names[name]] for name in settings.denoisers}
        return replace(
            plan,
            settings=settings.model_copy(update={"runs": chosen, "denoisers": denoisers, "blend": blend}),
        )

    def _names(self, name: str, preset: str, others: Container[str]) -> Iterator[tuple[str, Run | None]]:
        """Names that a run may get and the settings of the trained run that has the name, up to the first that no
        finished run has. None is one of the `others`."""
        stem = f"{name}_{Path(preset).stem}"
        for new in itertools.chain([name, stem], (f"{stem}_{i}" for i in itertools.count(2))):
            if new in others:
                continue
            if not (self.workspace.output.run(new) / "run.json").exists():
                yield new, None
                return
            if (before := self._made_of(new)) is not None:
                yield new, before

    def _made_of(self, name: str) -> Run | None:
        """Settings of the trained run of this name; None where there is none."""
        folder = self.workspace.output.run(name)
        if not (folder / "score.json").exists():
            return None
        run = RunFolder.at(folder, self.workspace.settings)
        return run.settings if run.is_model else None

    def _find_finished(self) -> None:
        """Finds the finished runs of the plan, and those that an earlier command noted, if they are on these folds."""
        self.finished = self._current(self.plan.settings)
        if self._file.exists():
            try:
                noted = load_config(str(self._file), self._words(self.plan.settings))
                if noted.folds == self.plan.settings.folds:
                    self.earlier = self._current(noted)
                    self.earlier_members = [name for name in noted.blend.members if name in self.earlier]
                    # They may get further seeds, and may be of a preset that is not measured yet.
                    self.pace.measure(noted.model_copy(update={"runs": self.earlier}))
            except UserError as error:
                warn(_("{file} is not used: {error}").format(file=self._file, error=error))

    def _current(self, settings: Config) -> dict[str, Run]:
        """Runs of the settings that are trained, those that others need first."""
        workspace = self._reading(settings)
        jobs = fold_jobs(workspace, self.here)
        found = [name for name in jobs if run_target(workspace, name, jobs[name]).is_current()]
        if broken := [name for name in found if self._is_broken(name)]:
            warn(_("time: {broken}: left out, for their predictions are of no use").format(broken=", ".join(broken)))
            self.failed.update(broken)
        return {name: settings.runs[name] for name in found if name not in broken}

    # Training

    def _submit_early(self) -> None:
        """Submits what is finished or, if nothing is, a small run: the cheapest that can be trained."""
        if self.finished or self.earlier_members:
            try:
                self._submit(_("what was finished"), None, 0.0)
            except UserError as error:
                warn(_("time: what was finished is not submitted: {error}").format(error=error))
        else:
            for name, run in self._first():
                self._try(name, run)
                if self.steps:
                    break
                self.failed.discard(name)
        if self.steps and self.left > self.seconds / 2:
            try:
                self._make(self._workspace(), "leaderboard", "report")
            except OutOfTime:
                raise
            except UserError as error:  # the submission is there, and both are made again at the end
                warn(_("time: no page yet: {error}").format(error=error))

    def _first(self) -> Iterator[tuple[str, Run]]:
        """The runs of the cheapest preset without teachers and pretraining, the cheapest first, each with as many
        epochs as FIRST_SHARE of the time allows, or as many as it was trained with before."""
        plan = next(self._candidates())[-1]
        self.pace.measure(plan.settings)
        free = {
            name: _renamed(run, {}).model_copy(update={"pretrain": Run().pretrain, "denoise": Run().denoise})
            for name, run in plan.settings.runs.items()
            if not run.train.teachers and not run.remembers
        }
        for one in sorted(free.values(), key=self.pace.of):
            run = _with_seeds(one, [1])
            least = run.train.epochs if isinstance(run.model, Tabular) else min(2, run.train.epochs)
            epochs = range(least, run.train.epochs + 1)
            limit = FIRST_SHARE * self.seconds
            fitting = bisect.bisect_right(epochs, limit, key=lambda n, run=run: self._first_seconds(_for(run, n)))
            chosen = _for(run, epochs[max(fitting - 1, 0)])
            planned = {*self.plan.settings.denoisers, *self.plan.settings.runs}
            for new, before in self._names(FIRST, plan.preset, planned):
                if before is None or (before.train.epochs in epochs and before == _for(run, before.train.epochs)):
                    yield new, before or chosen
                    break

    def _first_seconds(self, run: Run) -> float:
        settings = self.plan.settings.model_copy(update={"runs": {FIRST: run}, "denoisers": {}})
        n_folds = 1 if settings.folds.scheme == "holdout" else settings.folds.k * len(settings.folds.seeds)
        return self.pace.run_seconds(settings, FIRST, n_folds)

    def _make_baselines(self) -> None:
        """Makes the baselines, if BASELINES_SHARE of the time is enough."""
        seconds = min(BASELINES_SHARE * self.seconds, self.left - self.reserve)
        if seconds > 0:
            try:
                with interrupts.limited(seconds):
                    self._make(self.workspace, "baselines")
            except interrupts.TimedOut:
                info(_("time: the baselines take longer than {time}, and are left out").format(time=duration(seconds)))
            except UserError as error:
                warn(_("time: the baselines are left out: {error}").format(error=error))

    def _next_move(self) -> tuple[str, Run] | None:
        """The next run to train that can be done in time: one of the plan, or a member of the blend with one more seed.
        None if there is none. At the end, what can just be done is tried: there is nothing else to do."""
        moves = (self._move(margin) for margin in (MARGIN, 1.0))
        return next((move for move in moves if move), None)

    def _move(self, margin: float) -> tuple[str, Run] | None:
        """The next run that can be done in time even if it takes `margin` times as long as predicted."""
        planned = self.plan.settings.runs
        for name in sorted(planned, key=lambda name: planned[name].rank):
            if name not in self.finished.keys() | self.failed and set(planned[name].rests_on) <= self.finished.keys():
                for run in _shorter(planned[name]):
                    if any(_is_as_long(before, run) for before in self.earlier.values()):
                        break  # what an earlier command trained gets further seeds
                    if self._fits(name, run, margin):
                        if run != planned[name]:
                            info(
                                _("time: {name} gets {epochs} of {all} epochs").format(
                                    name=name, epochs=run.train.epochs, all=planned[name].train.epochs
                                )
                            )
                        return name, run
        teachers = {teacher for run in planned.values() for teacher in run.train.teachers}
        trained = {**self.earlier, **self.finished}
        members = [name for name in self._members(trained) if name not in teachers | self.failed]
        for name in sorted(members, key=lambda name: len(trained[name].train.seeds)):
            seeds = trained[name].train.seeds
            run = _with_seeds(trained[name], [*seeds, max(seeds) + 1])
            if len(seeds) < MOST_SEEDS and not run.is_fitted and self._fits(name, run, margin):
                return name, run
        return None

    def _fits(self, name: str, run: Run, margin: float) -> bool:
        settings = self._settings({**self.finished, name: run})
        return margin * self._seconds_of(settings, {name: run}) <= self.left - self.reserve

    def _train(self, name: str, run: Run) -> None:
        """Trains a run and submits the blend with it. Raises OutOfTime."""
        trained = {**self.finished, name: run}
        settings = self._settings(trained)
        workspace = self.workspace.variant(settings)
        workspace.deadline = self.deadline - self.reserve
        predicted = self._predicted(settings, {name: run})
        self._make(workspace, "pretrain", "train")
        for stage, seconds in predicted.items():
            self.pace.learn(stage, seconds, self.last[stage])
        self.finished = trained
        seed = _(", seed {seed}").format(seed=run.train.seeds[-1]) if len(run.train.seeds) > 1 else ""
        self._submit(joined("", [name, seed]), sum(predicted.values()), self.last["pretrain"] + self.last["train"])

    def _try(self, name: str, run: Run) -> None:
        """Trains a run and submits the blend with it. A run that cannot be trained, or is broken, is told and left out.
        Raises OutOfTime."""
        try:
            self._train(name, run)
        except OutOfTime:
            raise
        except UserError as error:
            self.failed.add(name)
            if self.finished.get(name) is not run:
                warn(_("time: {name} is left out, it cannot be trained: {error}").format(name=name, error=error))
            elif self._is_broken(name):
                warn(_("time: {name} is left out: {error}").format(name=name, error=error))
                del self.finished[name]
            else:
                warn(
                    _("time: {name} is trained, but the blend with it is not submitted: {error}").format(
                        name=name, error=error
                    )
                )

    def _is_broken(self, name: str) -> bool:
        """True for a trained run that is not blended, for its predictions are of no use (broken_runs.py)."""
        return not self.workspace.force and bool(self.workspace.run(name).fault)

    def _submit(self, name: str, predicted: float | None, seconds: float) -> None:
        workspace = self._workspace()
        text = as_preset(workspace.settings, NOT_KEPT)
        storage.write_text(self._file, f"# What ./run.sh --time has trained so far, {english(self.plan.words)}\n{text}")
        self._make(workspace, "blend", "submit")
        score = workspace.run("blend").score
        told = estimate_text(runs.figure_of(score, workspace.settings.metric))
        self.steps.append(Step(name, predicted, seconds, self.seconds - self.left, told))
        info(
            _("time: {name}: the blend has {told} out of fold, submitted after {time}").format(
                name=name, told=told, time=duration(self.seconds - self.left)
            )
        )

    @property
    def _file(self) -> Path:
        return self.workspace.output.time / "plan.yaml"

    def _workspace(self) -> Workspace:
        """A workspace of what is finished."""
        return self.workspace.variant(self._settings(self.finished))

    @staticmethod
    def _words(settings: Config) -> list[str]:
        """Words of the command that belong to the noted preset's commands too."""
        return [
            word
            for word in settings.overrides
            if word.startswith(("paths.", "executor.", "executor=", "ray.", "device="))
        ]

    def _settings(self, chosen: Mapping[str, Run]) -> Config:
        """Settings of the runs that are `chosen` and of earlier ones, as the noted preset has them."""
        plan, chosen = self.plan.settings, {**self.earlier, **chosen}
        known = {**self.earlier, **plan.denoisers, **plan.runs}
        denoisers = {by: known[by] for run in chosen.values() if (by := run.denoise.by) and by not in chosen}
        return plan.model_copy(
            update={
                "preset": str(self._file),
                "overrides": self._words(plan),
                "models": list(chosen),
                "runs": dict(chosen),
                "denoisers": denoisers,
                "blend": plan.blend.model_copy(
                    update={
                        "members": self._members(chosen),
                        "stack": [name for name in plan.blend.stack if name in chosen],
                    }
                ),
            }
        )

    def _members(self, chosen: Mapping[str, Run]) -> list[str]:
        """Members of the blend of these runs: those that the preset blends, once all are there. Before, those that are
        there, or else further runs of the preset, and the members that an earlier command noted; or else the first run.
        """
        planned = self.plan.settings
        members = [name for name in planned.blend.members if name in chosen]
        if len(members) < len(planned.blend.members):
            averaged = planned.runs.keys() - set(planned.blend.stack)
            members = members or [name for name in planned.runs if name in averaged & chosen.keys()]
            members += [name for name in self.earlier_members if name in chosen and name not in members]
        return members or list(chosen)

    # The end

    def _close(self) -> None:
        workspace = self._workspace()
        noted = {"command": f"./run.sh {self._command()}", "seconds": self.stage_seconds}
        if earlier := forecast.earlier(workspace):  # what forecasts rest on
            noted["made"] = earlier
        storage.write_json(workspace.output.seconds, noted)
        self._make_last(workspace)
        storage.write_json(workspace.output.seconds, noted)
        rows = [
            [
                step.name,
                "–" if step.predicted is None or not math.isfinite(step.predicted) else duration(step.predicted),
                duration(step.seconds),
                duration(step.at),
                step.score,
            ]
            for step in self.steps
        ]
        columns = [_("trained"), _("predicted"), _("took"), _("submitted after"), _("blend, out of fold")]
        show_table(
            _("Within {time}: {words}").format(time=duration(self.seconds), words=self.plan.words), columns, rows
        )
        closing.show(workspace)
        if not _is_made(workspace, "baselines"):
            info(
                _("time: not made: baselines. Make them: ./run.sh {command}").format(
                    command=workspace.command("baselines")
                )
            )
        add_json("time", {"seconds": self.seconds, "preset": self.plan.preset, "plan": str(self._file)})
        result(
            _(
                "time: done after {time} of {all}. The same command goes on from there; what it "
                "trained is a preset: ./run.sh {command}"
            ).format(
                time=duration(self.seconds - self.left),
                all=duration(self.seconds),
                command=workspace.command("pipeline"),
            )
        )

    def _make_last(self, workspace: Workspace) -> None:
        page = SAFETY * self.last.get("report", 0.5 * self.reserve)
        for stage in LAST:
            self._make_in_time(workspace, stage, page + LAST_SHARE * self.seconds if stage == "explain" else 0.0)

    def _make_in_time(self, workspace: Workspace, stage: str, reserve: float) -> None:
        """Makes a stage, unless it takes longer than the time that is left but for the `reserve`, or fails."""
        try:
            with interrupts.limited(max(0.0, self.left - reserve)):
                self._make(workspace, stage)
        except interrupts.TimedOut:
            warn(
                _("time: no time is left for {what}. To make that: ./run.sh {command}").format(
                    what=LAST[stage], command=workspace.command(stage)
                )
            )
        except UserError as error:
            warn(_("time: {what} cannot be made: {error}").format(what=LAST[stage], error=error))

    def _command(self) -> str:
        preset = [] if self.is_free else ["--preset", self.plan.preset]
        return shlex.join(["pipeline", "--time", f"{self.seconds:g}s", *preset, *self.workspace.settings.overrides])


def _is_made(workspace: Workspace, stage: str) -> bool:
    try:
        return all(target.is_current() for target in get_stage(stage).targets(workspace))
    except UserError:  # something that it is made of is missing
        return False


def _needs(run: Run) -> set[str]:
    """Names of the runs that a run needs."""
    return {*run.rests_on, *filter(None, [run.denoise.by])}


def _renamed(run: Run, names: Mapping[str, str]) -> Run:
    """The run with other names for the runs that it needs."""
    teachers = [names.get(name, name) for name in run.train.teachers]
    denoiser, encoder = (by and names.get(by, by) for by in (run.denoise.by, run.pretrain.by))
    return run.model_copy(
        update={
            "train": run.train.model_copy(update={"teachers": teachers}),
            "denoise": run.denoise.model_copy(update={"by": denoiser}),
            "pretrain": run.pretrain.model_copy(update={"by": encoder}),
        }
    )


def _with_seeds(run: Run, seeds: list[int]) -> Run:
    return run.model_copy(update={"train": run.train.model_copy(update={"seeds": seeds})})


def _extends(run: Run, other: Run) -> bool:
    """True if the run is the other one with the same seeds or further ones."""
    seeds = run.train.seeds[: len(other.train.seeds)]
    return seeds == other.train.seeds and _with_seeds(run, seeds) == other


def _is_as_long(run: Run, other: Run) -> bool:
    """True if the run is the other one with the same epochs or more, whatever their seeds."""
    same = _for(_with_seeds(run, other.train.seeds), other.train.epochs) == other
    return same and run.train.epochs >= other.train.epochs


def _shorter(run: Run) -> list[Run]:
    """The run with each of the shares FEWER_EPOCHS of its epochs, and no fewer than 2 where it has as many."""
    if run.is_fitted:
        return [run]
    least = min(2, run.train.epochs)
    epochs = dict.fromkeys(max(least, round(share * run.train.epochs)) for share in FEWER_EPOCHS)
    return [_for(run, n) for n in epochs]


def _for(run: Run, epochs: int) -> Run:
    """The run with so many epochs."""
    return run.model_copy(update={"train": run.train.with_epochs(epochs)})
