"""Summary: what the closing lines of the pipeline, `status` and the first card of the report tell.

    summary = Summary.of(workspace)        nothing is printed, written or computed anew

Parts that do not exist yet, such as the blend of a pipeline that was interrupted, are None or empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from src.core import storage
from src.core.errors import Damaged, UserError
from src.core.language import _
from src.core.names import BLEND
from src.data import sources
from src.data.tasks import Task, get_task
from src.ensemble.submission_log import SubmissionLog
from src.evaluation import runs
from src.evaluation.figures import number_text
from src.evaluation.runs import RunFolder
from src.evaluation.score_estimation import Expectation
from src.evaluation.stored_sentences import message_of
from src.evaluation.workspace import Workspace

LITTLE = 0.05
"""Share of the loss of a constant prediction that a model must save to have learned more than next to nothing."""
CONSTANT = ("prior", "median", "zeros")
"""Baselines that predict the same for every row."""


@dataclass(frozen=True)
class Data:
    """Input files of the present settings."""

    noun: str
    """Name of the rows: reports, stays or images."""
    folder: Path
    sample: str
    """Says that the files are sample data, and which, such as SYNTHETIC reports; empty for the user's own files."""
    train: list[str]
    """Names of the files."""
    test: list[str]
    extra: list[str]
    rows: dict[str, int]
    """Rows of each file, by its name; empty before ./run.sh prepare."""


@dataclass(frozen=True)
class Standing:
    """Scores of a run, all in the task's own score, whatever metric orders the runs."""

    run: str
    members: list[str]
    """Members of a blend; empty for a model."""
    expected: dict[str, Expectation]
    """Expected score on each test file with its 95% interval; empty before ./run.sh leaderboard."""
    out_of_fold: dict[str, float | None]
    """Value and standard error."""
    rows: int
    """Rows that were scored out of fold."""
    how: str
    """Origin of the scored predictions, such as: out of fold, epochs fixed beforehand."""
    is_optimistic: bool
    """A choice was made on the rows that were scored."""


@dataclass(frozen=True)
class Upload:
    """Submission file of the blend as it is now."""

    test: str
    path: Path
    id: str
    """Short name in the log of submissions, such as s3."""
    online: float | None
    """Last score that was entered for it."""


@dataclass(frozen=True)
class Step:
    """Next thing to do."""

    why: str
    command: str
    """Words behind ./run.sh; empty where there is no command for it."""


@dataclass(frozen=True)
class Summary:
    task: Task
    """The task with its own score."""
    preset: str
    data: Data | None
    """None where the input folder holds no files."""
    best: Standing | None
    """Best trained model by settings.select_on."""
    blend: Standing | None
    """The pipeline's blend, which submissions are made of."""
    left_out: dict[str, str]
    """Runs of the preset that are not in the blend, with the reason."""
    uploads: list[Upload]
    page: Path | None
    """The report, where it is written."""
    warnings: list[str]
    steps: list[Step]
    """Most sensible first."""
    ranking: list[str]
    """Blend and best run, the one with the highest expected score on the target first (without test files, the highest
    out of fold); empty where one of them is broken or has no finite figure for it."""

    @classmethod
    def of(cls, workspace: Workspace) -> Summary:
        warnings: list[str] = []
        try:
            files = workspace.input_files
        except UserError as error:
            files, warnings = None, [error.message]
        try:
            task = get_task(workspace.task.name)
            fitting = workspace.ranked_runs()[0]
        except UserError:
            # The stages say what is missing; without it no run can be told to be of these files.
            fitting, task = [], get_task("round1" if workspace.settings.task == "auto" else workspace.settings.task)
        data = _data(workspace) if files else None
        blend = next((run for run in fitting if run.name == BLEND), None)
        models = [run for run in fitting if not run.is_blend and not run.fault]
        left_out = {}
        if blend is not None:
            names = [name for name in runs.members_of(workspace.settings) if name not in blend.record["members"]]
            left_out = _faults(workspace, [name for name in names if name in workspace.output.run_names()])
            warnings += _stale(workspace, blend)
            if unscored := blend.record.get("unscored"):
                told = _("all scores of {run} are without {members}, imported without out-of-fold predictions")
                warnings.append(told.format(run=blend.name, members=", ".join(unscored)))
        uploads: list[Upload] = []
        try:
            uploads = _uploads(workspace, blend) if blend is not None else []
        except UserError as error:
            warnings.append(error.message)
        warnings += _own_rows(workspace)
        standings = [
            _standing(workspace, run) if run is not None else None for run in (models[-1] if models else None, blend)
        ]
        told = _("{run} is left out of the blend: it {fault}")
        warnings += [told.format(run=name, fault=fault) for name, fault in left_out.items() if fault]
        best = next((run for run in (blend, *reversed(models)) if run is not None), None)
        weak = _weak(workspace, best, task) if best is not None else []
        warnings += weak
        if best is not None and best.score["optimistic"]:
            sentence = _("the out-of-fold score of {run} is optimistic: {how}")
            warnings.append(sentence.format(run=best.name, how=message_of(best.score["how"])))
        steps = _steps(workspace, data, blend, models, uploads)
        if weak:
            steps.insert(0, Step(_("see what to check: docs/guide.md#what-a-score-means"), ""))
        page = workspace.output.report
        return cls(
            task,
            workspace.settings.preset,
            data,
            *standings,
            left_out,
            uploads,
            page if page.exists() else None,
            warnings,
            steps,
            _ranking(workspace, fitting, [one for one in standings if one is not None]),
        )


def _data(workspace: Workspace) -> Data:
    settings, files = workspace.settings, workspace.input_files
    source = sources.source_of(settings)
    synthetic, folder = source.synthetic, files.train[0].parent
    named = {role: [source.name(path) for path in files.roles[role]] for role in ("train", "test", "extra")}
    is_sample = synthetic.is_complete(folder) and {path.name for path in files.train} <= set(synthetic.FILES)
    try:
        rows = {file["name"]: file["rows"] for file in workspace.dataset.manifest["files"] if "rows" in file}
    except UserError:
        rows = {}
    return Data(source.noun, folder, synthetic.ORIGIN if is_sample else "", **named, rows=rows)


def _ranking(workspace: Workspace, ranked: list[RunFolder], standings: list[Standing]) -> list[str]:
    """Names of the standings, the best first; `ranked`: all runs."""
    try:
        target = workspace.target
    except UserError:
        target = None
    values: dict[str, float] = {}
    for one in standings:
        expected = one.out_of_fold["value"] if target is None else getattr(one.expected.get(target.name), "value", None)
        if expected is None or not math.isfinite(expected):
            return []
        values[one.run] = expected
    if any(run.fault for run in ranked if run.name in values):
        return []
    return sorted(values, key=lambda name: -values[name])


def _own_rows(workspace: Workspace) -> list[str]:
    """Sentences on the rows that the user leaves out or weighs."""
    try:
        manifest = workspace.dataset.manifest
    except UserError:
        return []  # the stages say what is missing
    told, rows = [], workspace.input_files.rows if workspace.input_files else {}
    if "exclude" in rows and "excluded" in manifest:
        sentence = _("no score counts the {n:,} training rows that {file} leaves out (paths.exclude)")
        told.append(sentence.format(n=manifest["excluded"], file=rows["exclude"].name))
    if "weights" in rows:
        sentence = _("training weighs rows by {file} (paths.weights); scores do not")
        told.append(sentence.format(file=rows["weights"].name))
    return told


def _faults(workspace: Workspace, names: Iterable[str]) -> dict[str, str]:
    """Faults of finished runs, by name; damaged ones are left out, with a warning."""
    found = {}
    for name in names:
        try:
            found[name] = workspace.run(name).fault
        except UserError as error:
            workspace.leave_out(f"run {name}", error)
    return found


def _standing(workspace: Workspace, run: RunFolder) -> Standing:
    score, expected = run.score, {}
    for test, found in workspace.boards(run).items():
        ends = {name: math.nan if value is None else value for name, value in found["expected"].items()}
        expected[test] = Expectation(**ends)
    members = list(run.record.get("members", ()))
    figure = score["overall"]["score"]
    return Standing(run.name, members, expected, figure, score["rows"], score["how"], score["optimistic"])


def _uploads(workspace: Workspace, blend: RunFolder) -> list[Upload]:
    """Submission files that hold what the log notes as made of the blend as it is now; files that hold nothing of what
    it notes are left out, with a warning."""
    found, fingerprint = [], blend.score["fingerprint"]
    noted = SubmissionLog(workspace.output.submissions).submissions_for(workspace.dataset.test_texts)
    for test, path in workspace.submission_files().items():
        sha256 = storage.file_sha256(path)
        of_file = [one for one in noted if (one.test, one.sha256) == (test, sha256)]
        of_blend = [one for one in of_file if any(maker["fingerprint"] == fingerprint for maker in one.makers())]
        if of_blend:
            found.append(Upload(test, path, of_blend[0].id, of_blend[0].score(workspace.settings.leaderboard.board)))
        elif not of_file and any(one.test == test for one in noted):
            why = _("it holds no submission that {log} notes").format(log=workspace.output.submissions.name)
            workspace.leave_out(path.name, Damaged(path, why, workspace.command("submit")))
    return found


def _stale(workspace: Workspace, blend: RunFolder) -> list[str]:
    try:
        runs.check_settings(workspace.settings, [one for one in blend.members() if one.name in workspace.settings.runs])
    except UserError as error:
        return [error.message]
    return []


def _weak(workspace: Workspace, run: RunFolder, task: Task) -> list[str]:
    """A sentence where a run scores no better than a baseline, or hardly better than a constant prediction."""
    score, told = run.score, []
    own = score["overall"]["score"]["value"]
    values = {name: one["overall"]["score"]["value"] for name, one in workspace.baselines(score["folds_table"]).items()}
    baselines = {name: value for name, value in values.items() if value is not None}
    if baselines and own is not None:
        best = max(baselines, key=lambda name: baselines[name])
        constant = max((value for name, value in baselines.items() if name in CONSTANT), default=None)
        perfect = 1.0 if task.has_classes else 0.0
        if own <= baselines[best]:
            sentence = _(
                "{run} scores {score} out of fold, no more than the baseline {baseline} ({other}): it has learned too "
                "little to be of use"
            )
            numbers = {"score": number_text(own), "other": number_text(baselines[best])}
            told.append(sentence.format(run=run.name, baseline=best, **numbers))
        elif constant is not None and own - constant < LITTLE * (perfect - constant):
            sentence = _(
                "{run} scores {score} out of fold, and a constant prediction {other}: it has learned next to nothing"
            )
            told.append(sentence.format(run=run.name, score=number_text(own), other=number_text(constant)))
    return told


def _steps(
    workspace: Workspace, data: Data | None, blend: RunFolder | None, models: list[RunFolder], uploads: list[Upload]
) -> list[Step]:
    settings = workspace.settings
    if blend is None:
        return [Step(_("make what is missing"), workspace.command("pipeline"))]
    if data is not None and data.sample:
        folder, described = settings.paths.input, sources.source_of(settings).described(settings)
        why = _("put your own files into {folder} and run the same command. It reads {files}")
        return [Step(why.format(folder=folder, files=described), "")]
    steps = []
    if waiting := [upload for upload in uploads if upload.online is None]:
        words = ("add", str(waiting[-1].path), "SCORE")
        steps.append(Step(_("upload, then note the score"), workspace.command("leaderboard", *words)))
    if trained := [run.name for run in models if run.is_model]:
        steps.append(Step(_("search for better settings"), workspace.command("tune", trained[-1])))
    return steps
