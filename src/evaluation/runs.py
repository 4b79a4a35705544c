"""A run is a folder that explains itself; a blend is a run with the same files.

config.yaml         the settings that made it
run.json            task, text form, and its parts: fold folders of a model, member runs of a blend
vocabulary.json     how its models number tokens (reports only)
environment.json    machine and versions
fold_K.split_S.seed_S.HASH/   weights, history and logits of one model (models only)
history.csv         every epoch of every fold (models only)
oof.npy             logits (N, n_labels) in the order of the training files; NaN where no model may be judged
test_NAME.npy       logits of a test file
copies_NAME.npy     out-of-fold logits (D, M, n_labels) of the train rows with noise up to that of the test file
folds_NAME.npy      logits (k, m, n_labels) of each fold's models alone for (a sample of) the test file
score.json          written last

An imported run has predictions that were made elsewhere: no settings, no models, and no copies where a test file is
noisier than train. Without out-of-fold predictions it has imported.json in the place of score.json.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.core import array_files, storage
from src.core.errors import OutOfDate, UserError
from src.core.language import _, joined, word
from src.core.names import BLEND
from src.core.run_settings import Run
from src.core.settings import PARTS, Config
from src.core.settings_loader import run_from_yaml
from src.core.targets import check_files, made_by
from src.core.terminal import result, show_table, warn_once
from src.data.tasks import Average, Task, get_task
from src.evaluation import broken_runs, metrics
from src.evaluation.stored_sentences import message_of

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace


@dataclass(frozen=True)
class RunFolder:
    path: Path
    record: dict[str, Any]
    """Content of run.json."""
    config: Config
    """Settings of the present command, which may differ from those that made the run."""

    @classmethod
    def load(cls, path: Path, settings: Config, scored: bool = True) -> RunFolder:
        """Raises UserError, with the command, for a run that is not finished or, where it must be `scored`, for one
        without a score."""
        run = cls.at(path, settings)
        if run.is_scored or not scored:
            storage.require(run.result, run.remedy)
            return run
        raise UserError(
            _(
                "run {name} was imported without out-of-fold predictions (--oof): it has no score. "
                "It can be submitted, and blended with fixed weights (blend.method=mean, or "
                "blend.fixed.RUN=0.3 for each member)"
            ).format(name=run.name)
        )

    @classmethod
    def at(cls, path: Path, settings: Config) -> RunFolder:
        """The run in a folder, which may lack its predictions. Raises Damaged, with the command, for a file of it that
        is not as it was written."""
        remedy = _maker_of(path, settings)
        run = cls(path, storage.read_json(path / "run.json", remedy), settings)
        if run.result.exists():
            check_files(run.result, run.remedy)
        return run

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_blend(self) -> bool:
        return self.record["kind"] == "blend"

    @property
    def is_model(self) -> bool:
        """True for a run that was trained here."""
        return self.record["kind"] == "model"

    @property
    def is_scored(self) -> bool:
        """False for a run that was imported without out-of-fold predictions."""
        return self.record.get("scored", True)

    @property
    def has_copies(self) -> bool:
        """False for an imported run, or a blend with one, where a test file is noisier than train."""
        return self.record.get("copies", True)

    @property
    def result(self) -> Path:
        """File that is written last and notes the fingerprint."""
        return self.path / ("score.json" if self.is_scored else "imported.json")

    @property
    def fingerprint(self) -> str:
        """Fingerprint of what the run was made of."""
        return storage.read_json(self.result, self.remedy)["fingerprint"]

    @property
    def remedy(self) -> str:
        """The command that makes this run again, on the files and folds that are there now."""
        return self.repeated(maker(self.record, self.name))

    def repeated(self, words: list[str]) -> str:
        """The command of these words with the preset and the settings that the run was made with."""
        paths = [word for word in self.config.overrides if word.startswith("paths.")]
        return shlex.join([*words, "--preset", self.record["preset"], *self.record["overrides"], *paths])

    def ancestors(self) -> set[str]:
        """Names of the members, and of their members."""
        found: set[str] = set()
        for name in self.record.get("members", ()):
            member = self.path.parent / name / "run.json"
            found |= {name}
            if member.exists():
                found |= RunFolder.at(member.parent, self.config).ancestors()
        return found

    def all_members(self) -> list[RunFolder]:
        """Members of a blend, and their members, by name."""
        return [RunFolder.at(self.path.parent / name, self.config) for name in sorted(self.ancestors())]

    def members(self) -> list[RunFolder]:
        """Members of a blend, in the order of its weights."""
        paths = [self.path.parent / name for name in self.record["members"]]
        return [RunFolder.at(path, self.config) for path in paths]

    def leaves(self) -> list[RunFolder]:
        """The runs that are no blends and that a blend is made of, through blends of blends; of others, itself."""
        return [member for member in self.all_members() if not member.is_blend] if self.is_blend else [self]

    def models(self) -> list[RunFolder]:
        """The trained models that a blend is made of, through blends of blends; of a model, itself. Raises UserError
        for imported runs, which have no models here."""
        found = self.leaves()
        if imported := [run.name for run in found if not run.is_model]:
            raise UserError(
                _(
                    "run {name} rests on predictions that were imported ({imported}), and these have no "
                    "models that could predict, be explained or bundled. Take a run of models alone"
                ).format(name=self.name, imported=", ".join(imported))
            )
        return found

    def check_members(self) -> None:
        """Raises UserError for a blend of which a member was made anew since."""
        for name, made in self.record.get("members", {}).items():
            path = self.path.parent / name
            member = RunFolder.at(path, self.config)
            if member.fingerprint != made:
                raise OutOfDate(
                    _("run {run} was made anew after the blend {blend}. Run: ./run.sh {command}").format(
                        run=name, blend=self.name, command=self.remedy
                    )
                )
            member.check_members()

    @property
    def task(self) -> Task:
        return get_task(self.record["task"], self.config.metric)

    @property
    def score(self) -> dict[str, Any]:
        return storage.read_json(self.path / "score.json", self.remedy)

    @property
    def averages(self) -> str:
        """Setting `average` of the run: mean over the folds and seeds of its models."""
        return self.record.get("average", "logits")

    @property
    def average(self) -> Average:
        """Mean over the folds and seeds of its models."""
        return self.task.average(self.averages)

    @property
    def fault(self) -> str:
        """Reason why the run is broken, see broken_runs.py; empty for every other run."""
        return message_of(self.score.get("fault", "")) if self.is_scored else ""

    @property
    def settings_file(self) -> Path:
        """Its config.yaml, which is as the score notes it. Raises UserError, with the command, where it is missing."""
        return storage.require(self.path / "config.yaml", self.remedy)

    @property
    def settings(self) -> Run:
        """Settings of a trained model."""
        return run_from_yaml(self.settings_file)

    def findings(self, file: str, verb: str) -> dict[str, Any]:
        """Content of what a verb has noted of the run as it is now in a file of its folder; empty where there is none,
        and, with a warning, where it is of the run as it was, of another one or of something else."""
        path, remedy = self.path / file, command(verb, self.config)
        if not path.exists():
            return {}
        found = storage.read_json(path, remedy)
        if found.get("run") == self.score["fingerprint"]:
            return found
        warn_once(
            _("{path} is not of {name} as it is now: it counts for nothing. Run: ./run.sh {remedy}").format(
                path=path, name=self.name, remedy=remedy
            )
        )
        return {}

    def oof(self) -> np.ndarray:
        return array_files.read_npy(self.path / "oof.npy", self.remedy)

    def test_logits(self, test_file: str) -> np.ndarray:
        return array_files.read_npy(test_path(self.path, test_file), self.remedy)

    def copies(self, test_file: str) -> np.ndarray | None:
        """Out-of-fold logits of the noisy copies, (D, M, n_labels); None where the run has none."""
        if not self.has_copies:
            return None
        return array_files.read_npy(copies_path(self.path, test_file), self.remedy)

    def fold_logits(self, test_file: str) -> np.ndarray:
        return array_files.read_npy(folds_path(self.path, test_file), self.remedy)


def seconds_of(result: Mapping[str, Any]) -> float:
    """Seconds that the training of a fold took over all its starts, by its result.json; an older version noted those of
    the last start alone. What an earlier start did after its last checkpoint is not counted."""
    return result.get("seconds", result["seconds_since_last_start"])


def members_of(settings: Config) -> list[str]:
    """Runs of the preset that are blended where none are named: those that are averaged, then those that are stacked
    on them; all, where none is left to average."""
    stacked = [name for name in settings.blend.stack if name in settings.runs]
    others = [name for name in settings.runs if name not in stacked]
    averaged = [name for name in settings.blend.members if name in others] or others
    return [*averaged, *stacked] if averaged else stacked


def split_stack(settings: Config, members: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits the members of a blend into those that are averaged and those that are stacked on them (blend.stack). With
    none to average, all are."""
    averaged = [name for name in members if name not in settings.blend.stack]
    return (averaged, [name for name in members if name not in averaged]) if averaged else (list(members), [])


def check_fits(
    found: Iterable[RunFolder], now: dict[str, Any], words: dict[str, dict[str, Any]], settings: Config
) -> None:
    """Raises UserError, with the command, where one of the runs, or a member of one, was made of something else.

    `now`: fingerprints of the train reports, test files, folds and noisy copies (None: not compared) that are there
    now; `words`: the settings of folds and noisy copies, by the first part of their keys.
    """
    found = list(found)
    every = {one.name: one for run in found for one in (run, *run.all_members())}.values()
    named = {"train": "on other train files", "folds": "on other folds", "tests": "for other test files"}
    named["shift"] = f"with other validation sets (./run.sh {command('shift', settings)})"
    for key, what in named.items():
        unlike = [run for run in every if now[key] is not None and run.record.get(key) != now[key]]
        if unlike:
            parts = ("shift",) if key == "shift" else ("folds", "domains")
            values = {f"{part}.{name}": value for part in parts for name, value in words.get(part, {}).items()}
            changed = [f"{name}={value}".replace(" ", "") for name, value in values.items()]
            raise OutOfDate(
                _("run {name} was made {what} than are there now. Run: ./run.sh {command}").format(
                    name=unlike[0].name, what=what, command=_makers(unlike, shlex.join(changed), settings)
                )
            )
    for run in found:
        run.check_members()


def _makers(found: Sequence[RunFolder], words: str, settings: Config) -> str:
    """The commands, joined by &&, that make runs again, members before their blends; the pipeline where it makes all of
    them."""
    made_with = {(run.record["preset"], *run.record["overrides"]) for run in found}
    is_one = len(made_with) == 1 and found[0].record["preset"] == settings.preset
    if len(found) > 1 and is_one and {run.name for run in found} <= {BLEND, *settings.runs}:
        return f"{found[0].repeated(['pipeline'])} {words}"
    blends_last = sorted(found, key=lambda run: len(run.ancestors()))
    return " && ./run.sh ".join(f"{run.remedy} {words}" for run in blends_last)


def maker(record: dict[str, Any], name: str) -> list[str]:
    """Words of the command that makes a run of this run.json; score.json notes them too, under `made_by`."""
    if record["kind"] == "blend":
        return ["blend", *record["members"], "--name", name]
    if record["kind"] == "imported":
        tests = [word for test, path in record["files"].items() for word in ("--test", f"{test}={path}")]
        return ["import", name, *tests, *(["--oof", record["oof"]] if record["oof"] else [])]
    if "teacher" in record:
        return ["compress", record["teacher"]]
    return train_words(name, record.get("like"))


def train_words(name: str, like: str | None = None) -> list[str]:
    """Words of the command that trains a run; `like`: the run whose settings it starts from (train --name)."""
    return ["train", "--model", name] if like is None else ["train", "--model", like, "--name", name]


def _maker_of(path: Path, settings: Config) -> str:
    """The command that makes the run in a folder, whose run.json may be damaged."""
    usual = ["blend"] if path.name == BLEND else ["train", "--model", path.name]
    verb, *words = made_by(path / "score.json") or usual
    return command(verb, settings, *words)


def check_settings(config: Config, parts: Iterable[RunFolder]) -> None:
    """Raises UserError, with the command, for a run of the preset that was trained with other settings."""
    parts = list(parts)
    for part in parts:
        if part.is_model and part.settings != config.runs[part.name]:
            raise OutOfDate(
                _(
                    "run {run} was made with preset {preset} or other settings than these. Train it again: "
                    "./run.sh {train}. Or blend what is there, by name: ./run.sh {blend}"
                ).format(
                    run=part.name,
                    preset=part.record["preset"],
                    train=command("train", config, "--model", part.name),
                    blend=command("blend", config, *config.runs),
                )
            )
    check_averages(config, [part for part in parts if part.is_model])


def check_averages(config: Config, parts: Iterable[RunFolder]) -> None:
    """Raises UserError, with the command, for a run whose models are averaged otherwise than `average` says."""
    for model in {leaf.name: leaf for part in parts for leaf in part.leaves() if leaf.is_model}.values():
        if model.averages != config.average:
            raise OutOfDate(
                _(
                    "run {run} is a mean of {its}, and average={average} is set. Make it anew, which trains nothing: "
                    "./run.sh {train}. Or blend with average={its}"
                ).format(
                    run=model.name,
                    its=model.averages,
                    average=config.average,
                    train=f"{model.remedy} average={config.average}",
                )
            )


def test_path(run: Path, test_file: str) -> Path:
    """Path of a run's logits of a test file."""
    return run / f"test_{Path(test_file).stem}.npy"


def copies_path(run: Path, test_file: str) -> Path:
    """Path of a run's out-of-fold logits of the noisy copies."""
    return run / f"copies_{Path(test_file).stem}.npy"


def folds_path(run: Path, test_file: str) -> Path:
    """Path of each fold's own logits of a test file."""
    return run / f"folds_{Path(test_file).stem}.npy"


def files(test_files: list[str], *more: str, has_copies: bool = True) -> list[str]:
    """Names of what a finished run has beside its score.json."""
    paths = (test_path, copies_path, folds_path) if has_copies else (test_path, folds_path)
    tests = [path(Path(), test).name for test in test_files for path in paths]
    return ["config.yaml", "run.json", "environment.json", "oof.npy", *tests, *more]


def command(verb: str, config: Config, *words: str) -> str:
    """A command line with the preset and the settings of `config`."""
    return f"{shlex.join([verb, *words])} {options(config)}"


def options(config: Config) -> str:
    """Words of a command line that stand for the preset and the settings of `config`."""
    return shlex.join(["--preset", config.preset, *config.overrides])


def make_record(workspace: Workspace, kind: str, name: str | None = None) -> dict[str, Any]:
    """The part of run.json that every run has; check_fits() reads it."""
    settings, dataset = workspace.settings, workspace.dataset
    return {
        "kind": kind,
        "preset": settings.preset,
        # Where the files lie does not matter to a run, and two places should give the same bytes.
        "overrides": [
            word
            for word in settings.overrides
            if not word.startswith("paths.")
            # Words for all runs do not reach a teacher that --model brought.
            and (name is None or name in settings.models or word.split(".")[0] not in PARTS)
        ],
        "task": workspace.task.name,
        "data": (settings.grid if settings.is_clinical else settings.data).model_dump(),
        "inputs": dataset.manifest["inputs"],
        **dataset.made_of(workspace.splits),
        "train_files": [file["sha256"] for file in dataset.manifest["files"] if file["role"] == "train"],
        "shift": workspace.validation_sets.fingerprint,
        **averaged_by(settings.average),
    }


def score_oof(workspace: Workspace, logits: np.ndarray, how: str, optimistic: bool = False) -> dict[str, Any]:
    """The content of a score.json: every metric of out-of-fold logits (N, n_labels), and `how` they came about.

    `optimistic`: something, such as the number of epochs, was chosen on the rows that are scored.
    """
    splits, task = workspace.splits, workspace.task
    rows = splits.scored
    predictions = task.decode(logits[rows])
    fold_of_row = None if splits.scheme == "holdout" else splits.first[rows]
    return {
        "how": how,
        "optimistic": optimistic,
        "rows": int(rows.sum()),
        "train": workspace.dataset.manifest["train"],
        "folds_table": storage.array_hash(splits.table),
        **metrics.score_report(
            task, workspace.labels[rows], predictions, fold_of_row, operating=workspace.settings.operating
        ),
    }


def score_run(workspace: Workspace, logits: np.ndarray, how: str, optimistic: bool = False) -> dict[str, Any]:
    """The content of a run's score.json: score_oof() and, of a broken run, its `fault`."""
    rows = workspace.splits.scored
    fault = broken_runs.fault(workspace.task, workspace.labels[rows], logits[rows], workspace.splits.table[rows])
    return {**score_oof(workspace, logits, how, optimistic), **({"fault": fault} if fault else {})}


def judged_by(workspace: Workspace) -> dict[str, Any]:
    """Entry, for the fingerprint of a score.json, of the settings that its figures depend on."""
    is_binary = workspace.task.kind == "binary"
    return {"operating": workspace.settings.operating.model_dump()} if is_binary else {}


def averaged_by(average: str) -> dict[str, Any]:
    """Entry, for run.json and fingerprints, of what is averaged; none for logits."""
    return {"average": average} if average != "logits" else {}


def ordered_by(workspace: Workspace) -> dict[str, Any]:
    """Entry, for the fingerprint of what is chosen by the score, of the figure that runs are ordered by; none for the
    task's own score."""
    return {"metric": workspace.task.metric} if workspace.task.metric else {}


def figure_of(score: dict[str, Any], metric: str = "auto") -> dict[str, float | None]:
    """Value and standard error of the figure of a score.json that runs are ordered by, under settings.metric."""
    return metrics.ordering_figure(get_task(score["task"], metric), score["overall"])


COLUMNS = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "sensitivity": "sens.", "specificity": "spec."}
"""Figures of each label of a multilabel task that tables show."""
MOST_CLASSES = 20
"""Classes of which a confusion matrix is shown."""


def headline(score: dict[str, Any], metric: str = "auto") -> str:
    """The score of a score.json, its standard error and how it came about."""
    task, figure = get_task(score["task"], metric), figure_of(score, metric)
    named = "" if task.kind == "multilabel" else joined("", [word(task.score_name), " "])
    return _("{named}{score} on {rows:,} {noun} ({how})").format(
        named=named, score=_with_error(figure), rows=score["rows"], noun=word(task.noun), how=message_of(score["how"])
    )


def ordered(scores: dict[str, dict[str, Any]], metric: str = "auto") -> list[str]:
    """Names of the runs with these score.json, by the figure that settings.metric names, the best last."""
    figures = {name: figure_of(score, metric)["value"] for name, score in scores.items()}
    return sorted(figures, key=lambda name: -math.inf if figures[name] is None else figures[name])


def show_scores(scores: dict[str, dict[str, Any]], metric: str = "auto") -> None:
    """One line for each run's score.json, best first."""
    columns, rows, heading = [], [], "score"
    for name in reversed(ordered(scores, metric)):
        score, task = scores[name], get_task(scores[name]["task"], metric)
        figures = metrics.table_figures(task, score["overall"])
        columns, heading = list(figures), "score" if task.kind == "multilabel" else task.score_name
        cells = [_cell(figure["value"]) for figure in figures.values()]
        marks = (" *" if score.get("optimistic") else "") + (" !" if score.get("fault") else "")
        rows.append([name + marks, _with_error(figure_of(score, metric)), *cells])
    show_table(_("Score of each run, with its standard error"), [_("run"), heading, *columns], rows, best=0)
    if any(score.get("optimistic") for score in scores.values()):
        result(_("* optimistic: its epochs were chosen on the rows that are scored"))
    for name, score in scores.items():
        if score.get("fault"):
            result(f"! {name} {score['fault']}")


def show_details(run: RunFolder) -> None:
    """Every figure of a run with its standard error, then what its kind of task has besides."""
    score, task = run.score, run.task
    overall = score["overall"]
    if task.kind == "multilabel":
        figures = {key: overall[key] for key in ("score", "mlogloss", "exact_match", "calibration_error")}
        figures |= {f"{group}: mlogloss": part["mlogloss"] for group, part in overall["groups"].items()}
        figures |= {f"mean {name}": overall["macro"][key] for key, name in COLUMNS.items()}
    else:
        figures = {task.score_name: metrics.ordering_figure(task, overall)}
        figures |= {name.replace("_", " "): figure for name, figure in overall["figures"].items()}
    rows = [[name, *(_cell(figure[key]) for key in ("value", "standard_error"))] for name, figure in figures.items()]
    show_table(joined("", [run.name, ": ", message_of(score["how"])]), ["", _("value"), _("s.e.")], rows)
    {"multilabel": _show_labels, "binary": _show_binary, "regression": _show_regression, "multiclass": _show_classes}[
        task.kind
    ](run.name, score)
    if score["folds"]:
        figures = {name: metrics.ordering_figure(task, part)["value"] for name, part in score["folds"].items()}
        values = [f"{fold}: {_cell(value)}" for fold, value in figures.items()]
        result(
            _("{score} of each fold: {values}").format(
                score=_("score") if task.kind == "multilabel" else task.score_name, values=", ".join(values)
            )
        )


def _show_labels(name: str, score: dict[str, Any]) -> None:
    labels = score["overall"]["labels"]
    losses = {label: figures["log_loss"]["value"] for label, figures in labels.items()}
    total = sum(loss or 0.0 for loss in losses.values())
    rows = []
    for label, found in labels.items():
        share = f"{losses[label] / total:.0%}" if losses[label] is not None and total else "–"
        figures = [_cell(found[key]["value"]) for key in ("log_loss", *COLUMNS)]
        rows.append([label, f"{found['positives']:,}", share, *figures])
    show_table(
        _("{name}, label by label").format(name=name),
        [_("label"), _("positives"), _("share"), _("logloss"), *COLUMNS.values()],
        rows,
    )


def _show_binary(name: str, score: dict[str, Any]) -> None:
    overall, operating = score["overall"], score["settings"]["operating"]
    rule = f"a sensitivity of {operating['sensitivity']:g} (operating.sensitivity)"
    if operating["cost_ratio"] is not None:
        rule = f"the lowest cost, a miss costing {operating['cost_ratio']:g} false alarms (operating.cost_ratio)"
    result(
        _(
            "sensitivity, specificity, precision and flagged: threshold for {rule}; min se p: "
            "threshold of the largest min(sensitivity, precision). Each is chosen on other "
            "folds; for new rows: {operating:.4f} and {min_se_p:.4f}"
        ).format(rule=rule, operating=overall["thresholds"]["operating"], min_se_p=overall["thresholds"]["min_se_p"])
    )
    _show_curve(f"{name}: calibration, {overall['positives']:,} of {overall['rows']:,} are positive", overall)
    excess = overall["figures"]["excess"]
    if excess["standard_error"] is not None and abs(excess["value"]) > 3 * excess["standard_error"]:
        result(
            _(
                "predictions are too {direction} by {size:.3f} on average: probabilities are not "
                "calibrated (train.pos_weight=balanced does that)"
            ).format(direction=_("high") if excess["value"] > 0 else _("low"), size=abs(excess["value"]))
        )


def _show_regression(name: str, score: dict[str, Any]) -> None:
    overall, unit = score["overall"], get_task(score["task"]).unit
    percents = list(overall["intervals"]["quantiles"])
    rows = [
        [f"{percent}%", *(_with_error(overall["figures"][f"{key}_{percent}"]) for key in ("coverage", "width"))]
        for percent in percents
    ]
    columns = ["interval", "share of rows inside", f"mean width ({unit})"]
    show_table(_("{name}: prediction intervals, fitted on other folds").format(name=name), columns, rows)
    rows = [
        [
            f"{part['low']:.2f}–{part['high']:.2f}",
            f"{part['rows']:,}",
            f"{part['predicted']:.2f}",
            f"{part['observed']['value']:.2f}",
            *(_cell(figure["value"]) for figure in part["coverage"].values()),
        ]
        for part in overall["calibration"]
    ]
    columns = [
        f"prediction ({unit})",
        "rows",
        "mean",
        "mean truth",
        *(f"in {percent}%" for percent in percents),
    ]
    show_table(_("{name}: by size of the prediction").format(name=name), columns, rows)


def _show_classes(name: str, score: dict[str, Any]) -> None:
    labels, confusion = score["overall"]["labels"], score["overall"]["confusion"]
    keys = ("recall", "precision", "log_loss", "roc_auc")
    rows = [
        [label, f"{found['positives']:,}", f"{found['predicted']:,}", *(_cell(found[key]["value"]) for key in keys)]
        for label, found in labels.items()
    ]
    show_table(
        _("{name}, class by class").format(name=name),
        [_("class"), _("rows"), _("predicted"), _("recall"), _("prec."), _("logloss"), "AUROC"],
        rows,
    )
    if len(labels) <= MOST_CLASSES:
        rows = [[label, *map(str, counts)] for label, counts in zip(labels, confusion, strict=True)]
        short = [label.removeprefix("class_") for label in labels]
        show_table(
            _("{name}: rows by true class (line) and most likely class (column)").format(name=name),
            [_("class"), *short],
            rows,
        )
    _show_curve(f"{name}: calibration of the most likely class", score["overall"])


def _show_curve(title: str, overall: dict[str, Any]) -> None:
    rows = [
        [
            f"{part['low']:.2f}–{part['high']:.2f}",
            f"{part['rows']:,}",
            _cell(part["predicted"]),
            _with_error(part["observed"]),
        ]
        for part in overall["calibration_curve"]
    ]
    show_table(title, [_("probability"), _("rows"), _("mean prediction"), _("observed")], rows)


def _with_error(figure: dict[str, float | None]) -> str:
    return f"{_cell(figure['value'])} ± {_cell(figure['standard_error'])}"


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
