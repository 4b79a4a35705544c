"""Workspace: the settings of one command and what lies in its output folder, each part loaded once, on first use.

A command makes one and hands it to stages, planning, blending and the report. Nobody else opens the dataset, the
splits, the validation sets or a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from src.core import storage
from src.core.errors import Damaged, OutOfDate, UserError, unknown
from src.core.language import _
from src.core.settings import Config
from src.core.settings_loader import model_names
from src.core.storage import Output, missing
from src.core.terminal import info, warn
from src.data import sources
from src.data.corpus import Corpus
from src.data.dataset import Dataset
from src.data.domains import Domains, find_domains
from src.data.input_files import InputFiles
from src.data.splits import Splits
from src.data.tasks import Task, get_task
from src.evaluation.broken_runs import REMEDY
from src.evaluation.runs import RunFolder, check_fits, command, figure_of, options
from src.evaluation.validation_sets import ShiftedTest, Validation, ValidationSets, validation

T = TypeVar("T")
LOADED = ("input_files", "input_checksums", "dataset", "domains", "splits", "validation_sets", "labels")
SAME = ("paths", "data", "grid", "folds", "domains", "shift", "task", "sample")
"""Settings that what is loaded depends on."""


class Workspace:
    def __init__(self, settings: Config, read_only: bool = False, force: bool = False, preset_reason: str = ""):
        """`read_only`: nothing is written, not even a cache; for ./run.sh status. `force`: broken runs are used like
        others (--force). `preset_reason`: why the preset was chosen, where the command names none."""
        self.settings = settings
        self.read_only = read_only
        self.force = force
        self.preset_reason = preset_reason
        self.deadline = math.inf
        """Time, of time.monotonic(), at which training stops with OutOfTime."""
        self._warned: set[str] = set()
        self.output = Output(settings.paths.output)
        self._kept: dict[str, Any] = {}
        self._left_out: set[str] = set()
        self.made: set[str] = set()
        """Stages that this command has made or found current."""
        self.is_preset_told = False

    def variant(self, settings: Config) -> Workspace:
        """A workspace of other settings that shares what is loaded, where that does not depend on them."""
        other = Workspace(settings, self.read_only, self.force, self.preset_reason)
        other.is_preset_told = self.is_preset_told
        other.deadline = self.deadline
        if all(getattr(settings, key) == getattr(self.settings, key) for key in SAME):
            other.__dict__ |= {key: value for key, value in self.__dict__.items() if key in LOADED}
        return other

    def tell_preset(self) -> None:
        """Tells, once, of a preset that was chosen, when something is about to be made by it."""
        if self.preset_reason and not self.is_preset_told:
            info(
                _("preset {preset}, as {preset_reason}; --preset NAME takes another").format(
                    preset=self.settings.preset, preset_reason=self.preset_reason
                )
            )
        self.is_preset_told = True

    def refresh(self) -> None:
        """Forgets what is loaded, after a stage wrote something or another command may have."""
        for key in LOADED:
            self.__dict__.pop(key, None)
        self._kept.clear()

    def keep(self, key: str, compute: Callable[[], T]) -> T:
        """The result of `compute`, which is called once between two refreshes."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    @cached_property
    def input_files(self) -> InputFiles | None:
        """The user's files; in the project's own input folder without any, the sample data; None where neither is
        there."""
        found, source = sources.find_files(self.settings), sources.source_of(self.settings)
        folder = sources.sample_folder(self.settings)
        if found is None and sources.is_default(self.settings) and source.synthetic.is_complete(folder):
            found = source.find(self.settings, folder)
        return found and replace(found, rows=sources.row_files(self.settings))

    @cached_property
    def input_checksums(self) -> list[list[str]]:
        """Role, name and checksum of each of the input files; they are read once a command."""
        return sources.checksums(self.settings, self.input_files) if self.input_files else []

    @cached_property
    def dataset(self) -> Dataset:
        """Raises UserError, with the command, where nothing is prepared, or what is prepared is not of the input files
        that are there now."""
        found = Dataset.load(self.output, self.read_only, options(self.settings))
        if told := self._changes(found):
            raise OutOfDate(
                _(
                    "{folder} was not made of the files that are in {input} now: {changes}. "
                    "Put back what it was made of, or make all of what is there: ./run.sh {command}"
                ).format(
                    folder=self.output.data,
                    input=self.settings.paths.input,
                    changes=told,
                    command=self.command("pipeline"),
                )
            )
        found.check()
        return found

    def check_input(self) -> None:
        """Raises UserError, with the command, where something is prepared, and not of the input files that are there
        now. For a verb that may have nothing else to read of the dataset."""
        if (self.output.data / "manifest.json").exists():
            _ = self.dataset

    def _changes(self, prepared: Dataset) -> str:
        """Changes of the input files since they were prepared; empty if they are the same. Further test and extra
        files are no change: nothing was made of them."""
        if "input" not in prepared.manifest:
            return _("an older version made it, and did not note of what")
        then = {(role, name): checksum for role, name, checksum in prepared.manifest["input"]}
        now = {(role, name): checksum for role, name, checksum in self.input_checksums}
        changes = {
            _("gone"): then.keys() - now.keys(),
            _("new"): {(role, name) for role, name in now.keys() - then.keys() if role not in ("test", "extra")},
            _("of another content"): {file for file in then.keys() & now.keys() if then[file] != now[file]},
        }
        found = {what: ", ".join(sorted({name for _role, name in files})) for what, files in changes.items()}
        return "; ".join(f"{what}: {names}" for what, names in found.items() if names)

    @property
    def task(self) -> Task:
        return get_task(self.dataset.manifest["task"], self.settings.metric)

    @cached_property
    def labels(self) -> np.ndarray:
        """(N, n_labels) uint8, of the train reports."""
        return np.asarray(self.dataset.train.labels)

    @cached_property
    def domains(self) -> Domains:
        """Domain of each train row, by settings.domains."""
        return find_domains(self.dataset, self.settings.domains)

    @cached_property
    def splits(self) -> Splits:
        return self.dataset.load_splits()

    @cached_property
    def validation_sets(self) -> ValidationSets:
        """Raises UserError, with the command, where it is missing or was made of other files or folds."""
        made_of = self.dataset.made_of(self.splits)
        return ValidationSets.load(self.output, made_of, self.command("shift"))

    @property
    def target(self) -> ShiftedTest | None:
        """The test file that settings.target names; None where there is no test file."""
        return self.validation_sets.target(self.settings.target)

    def validation(self, name: str | None = None, test: ShiftedTest | None = None) -> Validation:
        """Rows of the validation `name` (default: select_on) for a test file (default: the target)."""
        test = test or self.target
        return validation(name or self.settings.select_on, self.validation_sets.rows, test, self.splits)

    def validation_for(
        self, runs: Iterable[RunFolder], name: str | None = None, test: ShiftedTest | None = None
    ) -> Validation:
        """validation() that all of these runs can be judged by: without noise (clean for noised, weighted for shifted)
        where one has no predictions of noisy copies."""
        name = name or self.settings.select_on
        if not all(run.has_copies for run in runs):
            name = {"noised": "clean", "shifted": "weighted"}.get(name, name)
        return self.validation(name, test)

    def test_ids(self, test: str) -> np.ndarray:
        """Ids (N,) of all rows of a test file; those of reports without a description, which the corpus lacks, last."""
        ids = np.asarray(Corpus.load(self.dataset.test_folder(test)).ids)
        empty = self.dataset.empty_reports(test)
        return np.concatenate([ids, empty.ids]) if len(empty) else ids

    @property
    def prior(self) -> np.ndarray:
        """Prediction (L,) for a report without a description: the rates of the train labels where they count."""
        return self.task.rates(self.labels)

    def whole_test_file(self, test: str, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids (N,) and predictions (N, L) of all rows of a test file, from the predictions of its corpus: reports
        without a description, which the corpus lacks, get the rates of the train labels where these count."""
        ids = np.asarray(Corpus.load(self.dataset.test_folder(test)).ids)
        empty = self.dataset.empty_reports(test)
        return empty.complete(ids, predictions, self.prior) if len(empty) else (ids, predictions)

    def command(self, verb: str, *words: str) -> str:
        """A command line, without ./run.sh, with the preset and the settings of this workspace."""
        return command(verb, self.settings, *words)

    def submission_files(self) -> dict[str, Path]:
        """Submission files of the pipeline's blend that are there, by test file."""
        paths = {test: self.output.submission(test) for test in self.dataset.test_files}
        return {test: path for test, path in paths.items() if path.exists()}

    def run(self, name: str, scored: bool = True) -> RunFolder:
        """A finished run. Raises UserError, with the command that makes it, where there is none and, where it must be
        `scored`, for one that was imported without out-of-fold predictions."""
        path = self.output.run(name)
        if (path / "run.json").exists():
            return RunFolder.load(path, self.settings, scored)
        if name == "blend":
            raise missing(path, self.command("blend"))
        if name in model_names() or name in self.settings.runs:
            raise missing(path, self.command("train", "--model", name))
        raise unknown("run", name, [*self.output.run_names(), *self.output.unscored_names()])

    def check_unbroken(self, runs: Iterable[RunFolder]) -> None:
        """Raises UserError for a broken run (broken_runs.py), of which --force makes a warning."""
        broken = [run for run in runs if run.fault]
        if broken and not self.force:
            what = "; ".join(f"run {run.name} {run.fault}" for run in broken)
            told = _(
                "{what}. Broken runs are not blended, submitted or handed on. {remedy} "
                "To use them all the same: --force"
            )
            raise UserError(told.format(what=what, remedy=REMEDY))
        for run in broken:
            if run.name not in self._warned:
                self._warned.add(run.name)
                warn(_("run {name} {fault}. It is used all the same (--force)").format(name=run.name, fault=run.fault))

    def fitting_run(self, name: str) -> RunFolder:
        """A finished run of the reports, folds, test files and noisy copies that are there now."""
        run = self.run(name)
        self.check_fits([run])
        return run

    def fitting_runs(self) -> tuple[list[RunFolder], list[str]]:
        """Finished runs of the reports, folds, test files and noisy copies that are there now; names of the others.

        Where the validation sets are missing, noisy copies are not compared. Warns of a run that is damaged, or rests
        on one that is, and counts it among the others.
        """
        fitting, others = [], []
        for name in self.output.run_names():
            try:
                run = self.run(name)
                self.check_fits([run], self._has_validation_sets)
                fitting.append(run)
            except UserError as error:
                others.append(name)
                self.leave_out(f"run {name}", error)
        return fitting, others

    def ranked_runs(self) -> tuple[list[RunFolder], list[str]]:
        """fitting_runs(), the best last: by select_on for the target test file, where the leaderboard has that."""
        fitting, others = self.fitting_runs()
        target = self.target if self._has_validation_sets else None

        def score(run: RunFolder) -> float:
            boards = self.boards(run)
            if target is not None and target.name in boards:
                value = boards[target.name]["validations"][self.settings.select_on]["value"]
            else:
                value = figure_of(run.score, self.settings.metric)["value"]
            return -math.inf if value is None else value

        return sorted(fitting, key=score), others

    def boards(self, run: RunFolder) -> dict[str, Any]:
        """Findings of ./run.sh leaderboard for a run, by test file; empty, with a warning, where they are damaged."""
        return self.findings(run, "leaderboard.json", "leaderboard").get("tests", {})

    def findings(self, run: RunFolder, file: str, verb: str) -> dict[str, Any]:
        """RunFolder.findings() of a run; empty, with a warning, where they are damaged."""
        try:
            return run.findings(file, verb)
        except UserError as error:
            self.leave_out(_("what {verb} found of {run}").format(verb=verb, run=run.name), error)
            return {}

    def baselines(self, folds_table: str) -> dict[str, dict[str, Any]]:
        """Content of the score.json of each baseline on the folds of a run, by its name; others and damaged ones are
        left out, with a warning. `folds_table`: as the score.json of the run notes it."""
        found = {}
        for path in sorted(self.output.baselines.glob("*/score.json")):
            try:
                score = storage.read_json(path, self.command("baselines"))
            except UserError as error:
                self.leave_out(f"baseline {path.parent.name}", error)
                continue
            if score.get("folds_table") == folds_table:
                found[path.parent.name] = score
            else:
                told = f"{path} is of other folds or rows. Make it anew with: ./run.sh {self.command('baselines')}"
                self.leave_out(f"baseline {path.parent.name}", UserError(told))
        return found

    def leave_out(self, what: str, error: UserError) -> None:
        """Warns, once, of a result that a command does without, unless it is only of other inputs or settings."""
        if not isinstance(error, OutOfDate) and what not in self._left_out:
            self._left_out.add(what)
            warn(_("{what} is left out: {error}").format(what=what, error=error))

    @property
    def _has_validation_sets(self) -> bool:
        try:
            return self.validation_sets is not None
        except Damaged as error:
            self.leave_out("shift", error)
            return False
        except UserError:
            return False

    def check_fits(self, runs: Iterable[RunFolder], noisy_copies: bool = True) -> None:
        """Raises UserError, with the command, for a run of other reports, folds, test files or, unless that is not
        asked for, noisy copies."""
        runs = list(runs)
        now = {**self.dataset.made_of(self.splits), "shift": None}
        # The settings of the folds are named last: they take back those of the run's own command.
        found = self.dataset.fold_words()
        words = {**found, "folds": {"threshold": "null", **found["folds"]}}
        check_fits(runs, now, words, self.settings)
        if noisy_copies:
            now["shift"], words["shift"] = self.validation_sets.fingerprint, self.validation_sets.facts["settings"]
            check_fits(runs, now, words, self.settings)
