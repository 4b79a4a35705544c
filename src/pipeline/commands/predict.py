"""./run.sh predict RUN FILE: a trained run on any file of reports, stays or images, in the form of a submission.

    ./run.sh predict blend new_reports.csv --to new_predictions.csv
    ./run.sh predict blend set-c.zip --task icu
    ./run.sh predict lstm gru blend round2/train.csv --shifted --against lstm
    ./run.sh predict --bundle blend.bundle new_reports.csv
    ./run.sh predict --bundle blend.bundle - < new_reports.csv > predictions.csv

A file of reports is predicted in shards (predict.shard), which are resumed after a kill; see file_prediction.py.
Labels in the file, if it has any, are used for nothing but the score that is printed at the end. With --shifted nothing
but scores are made of a labelled file: as it is, and with the noise of the target and as like train as the target is.
A bundle needs no input folder and no output folder.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.core import storage
from src.core.errors import UserError
from src.core.language import _, word
from src.core.settings import CLINICAL, Config
from src.core.terminal import info, result, show_table, warn
from src.data.dataset import Dataset
from src.data.empty_reports import described
from src.data.report_reader import read_reports
from src.evaluation import metrics
from src.evaluation.external_dataset import Pool
from src.evaluation.figures import estimate_text
from src.evaluation.metrics import Estimate
from src.evaluation.runs import RunFolder, options
from src.evaluation.workspace import Workspace
from src.pipeline.command import add_force, existing_file
from src.pipeline.file_prediction import FilePrediction, predicting
from src.pipeline.predicted_files import ReportFile, predicted_file
from src.pipeline.stage import reading, run_lock

SHIFTED = ("plain", "weighted", "noised", "both")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help=_("trained runs or blends, such as lstm or blend"))
    parser.add_argument(
        "file", type=existing_file, help=_("reports, with or without labels; with --task a set of stays or images")
    )
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help=_("default: output/prediction_RUN_FILE; with --bundle - for stdout")
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help=_(
            "predict by this file of ./run.sh bundle instead of runs: one or more files, folders of reports, or - "
            "for stdin, whose predictions go to stdout unless --to names a file"
        ),
    )
    parser.add_argument(
        "--shifted",
        action="store_true",
        help=_("score the runs on a labelled file, as it is and made like the target test file by weights and noise"),
    )
    parser.add_argument(
        "--replacement",
        type=_rate,
        metavar="R",
        help=_("share of tokens to replace for it (default: what the file lacks to the target)"),
    )
    parser.add_argument("--against", metavar="RUN", help=_("for --shifted: also what each run gains over this one"))
    add_force(parser)


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    if parsed.bundle is not None:
        if parsed.shifted or parsed.replacement is not None or parsed.against is not None:
            raise UserError(
                _("--shifted, --replacement and --against compare with train, which a bundle does not hold")
            )
        from src.pipeline.bundled import predict_bundled

        predict_bundled(workspace, parsed.bundle, [*map(Path, parsed.runs), parsed.file], parsed.to)
        return
    if not parsed.runs and not parsed.file.exists() and parsed.file.name in workspace.output.run_names():
        raise UserError(
            _("which file is {run} to predict? Name it after the run: ./run.sh predict {run} FILE").format(
                run=parsed.file.name
            )
        )
    if not parsed.runs:
        raise UserError(
            _(
                "which run is to predict {file}? Name it before the file, such as ./run.sh predict "
                "blend {file}, or a bundle: --bundle FILE"
            ).format(file=parsed.file)
        )
    if parsed.shifted and workspace.settings.is_clinical:
        raise UserError(_("--shifted adds noise to tokens; task {task} has none").format(task=workspace.settings.task))
    if not parsed.shifted:
        if parsed.replacement is not None:
            raise UserError(_("--replacement is for --shifted"))
        if parsed.against is not None:
            raise UserError(_("--against is for --shifted"))
        with reading(workspace, "predict", map(run_lock, parsed.runs)):
            predict(workspace, parsed.runs, parsed.file, parsed.to)
    elif parsed.to is not None:
        raise UserError(_("--shifted writes scores, no predictions: leave --to out"))
    else:
        with reading(workspace, "predict", map(run_lock, parsed.runs)):
            score_shifted(workspace, parsed.runs, parsed.file, parsed.replacement, parsed.against)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 <= rate < 1:
        raise argparse.ArgumentTypeError(f"want a share of 0 or more and less than 1, not {text}")
    return rate


def predict(workspace: Workspace, names: Sequence[str], file: Path, to: Path | None) -> None:
    """Writes the predictions of each run for a file."""
    if to is not None and len(names) > 1:
        raise UserError(
            _("--to {to} is one file for {n} runs; leave it out, and each has one of its own").format(
                to=to, n=len(names)
            )
        )
    runs = [workspace.run(name) for name in names]
    for source in runs:
        _check_task(workspace.settings, source)
    workspace.check_unbroken(runs)
    rows = predicted_file(file, workspace.settings)
    places = [to or workspace.output.prediction(source.name, rows.path) for source in runs]
    for path in places:
        check_place(path, rows.path)
        storage.check_writable(path)
    try:
        workspace.check_input()
    except UserError as error:  # a trained run predicts as it was trained, whatever became of the files
        warn(
            _("predict: by {runs} as trained, whatever the input folder holds now: {error}").format(
                runs=", ".join(names), error=error
            )
        )
    with predicting(workspace, rows, runs, lambda source: _prior(workspace, source)) as made:
        made.predict()
        for path, source in zip(places, runs, strict=True):
            write_prediction(path, source, made)


def _prior(workspace: Workspace, source: RunFolder) -> np.ndarray:
    """Rates of the labels that a run was trained on, (L,), where these count. Raises UserError where other reports are
    prepared now."""
    dataset = Dataset.load(workspace.output, True, options(workspace.settings))
    if dataset.manifest["train"] != source.record["train"]:
        raise UserError(
            _(
                "a report without a description gets the label rates of train, and {data} holds "
                "other train files than those of run {name}. Run: ./run.sh {remedy}"
            ).format(data=workspace.output.data, name=source.name, remedy=source.remedy)
        )
    return dataset.task.rates(np.asarray(dataset.train.labels))


def score_shifted(
    workspace: Workspace,
    names: Sequence[str],
    file: Path,
    replacement: float | None = None,
    against: str | None = None,
) -> None:
    """Scores of each run on a labelled file: plain, weighted (by likeness to train, to be distributed as in the
    target), noised (tokens replaced until as many frames hold another word as in the target, or the share `replacement`
    of them) and both; and what each gains over the run `against`, if there is one.

    Raises UserError for a file without labels, or where train and target are not at hand.
    """
    sources = [workspace.run(name) for name in dict.fromkeys([*([against] if against else []), *names])]
    if against and len({source.task for source in sources}) > 1:
        raise UserError(_("--against compares runs of one task, and these have different labels"))
    pool = Pool.load(workspace, read_reports(file, labelled=True), "predict")
    labels = [pool.reports.truth_for(source.task) for source in sources]
    rate = pool.missing_replacement() if replacement is None else replacement
    info(_("predict: for noised {rate:.1%} of the tokens are replaced").format(rate=rate))
    noisy = pool.replaced(rate)
    plain, noised = (pool.density_ratio(text).weights for text in (pool.text, noisy))
    # Reports as they are for the first, so that their predictions are those of the file itself.
    versions = (("plain", "weighted", pool.reports, plain), ("noised", "both", pool.with_text(noisy), noised))
    logits = {}
    for unweighted, _weighted, reports, _weights in versions:
        with predicting(workspace, ReportFile.of(reports), sources) as made:
            made.predict(lines=False)
            logits |= {(source.name, unweighted): made.logits(source) for source in sources}
    scores: dict[str, dict[str, Estimate]] = {}
    gains: dict[str, dict[str, Estimate]] = {}
    compared: dict[str, np.ndarray] = {}
    for source, truth in zip(sources, labels, strict=True):
        _warn_of_training(source, pool.reports.sha256)
        scores[source.name], gains[source.name] = found, gained = {}, {}
        for unweighted, weighted, _reports, weights in versions:
            probabilities = source.task.decode(logits[source.name, unweighted])
            if source.name == against:
                compared[unweighted] = probabilities
            for name, weigh in ((unweighted, None), (weighted, weights)):
                found[name] = metrics.official_score(source.task, truth, probabilities, weigh)
                if against:
                    gained[name] = metrics.paired_difference(
                        source.task, truth, probabilities, compared[unweighted], weigh
                    )
    gains.pop(against, None)
    sizes = {name: float(len(pool.reports)) for name in ("plain", "noised")}
    sizes |= {"weighted": metrics.effective_size(plain), "both": metrics.effective_size(noised)}
    path = workspace.output.shifted_prediction(file.name)
    storage.write_json(
        path,
        {
            "file": file.name,
            "sha256": pool.reports.sha256,
            "target": pool.target_name,
            "replacement": rate,
            "effective_size": {name: sizes[name] for name in SHIFTED},
            "runs": _as_json(scores),
            **({"against": against, "gains": _as_json(gains)} if against else {}),
        },
    )
    rows = [[name, *(estimate_text(found[key]).replace(" ", "") for key in SHIFTED)] for name, found in scores.items()]
    rows.append(["effective reports", *(f"{sizes[key]:,.0f}" for key in SHIFTED)])
    show_table(
        _("Score on {name}, made like {target_name}").format(name=file.name, target_name=pool.target_name),
        ["run", *SHIFTED],
        rows,
    )
    if against:
        rows = [
            [name, *(metrics.gain_text(sources[0].task, found[key]) for key in SHIFTED)]
            for name, found in gains.items()
        ]
        show_table(_("Gain over {against} on the same reports").format(against=against), ["run", *SHIFTED], rows)
    result(_("predict: {path}").format(path=path))


def _check_task(settings: Config, source: RunFolder) -> None:
    """Raises UserError if a run was trained for a task that reads other files than the task of `settings`."""
    own = next((name for name in CLINICAL if source.task.name.startswith(name)), None)
    if own != (settings.task if settings.is_clinical else None):
        words = f"--task {own}" if own else "no clinical --task"
        raise UserError(
            _("run {name} predicts {title}: it needs {words}").format(
                name=source.name, title=word(source.task.title), words=words
            )
        )


def _as_json(found: dict[str, dict[str, Estimate]]) -> dict[str, dict[str, dict[str, float | None]]]:
    return {name: {key: scores[key].to_json() for key in SHIFTED} for name, scores in found.items()}


def check_place(path: Path, file: Path) -> None:
    """Raises UserError where the predictions of `file` cannot be written to `path`."""
    if path.resolve() == file.resolve():
        raise UserError(_("--to {path} is the input file itself; name another").format(path=path))
    if path.is_dir():
        raise UserError(_("--to {path} is a folder; name a file").format(path=path))


def write_prediction(path: Path, source: RunFolder, made: FilePrediction, place: str = "") -> None:
    """Writes the predictions of a run, and shows their score where the labels of the rows are known. `place`: name of
    what the predictions go to, if it is not `path`."""
    file, facts = made.file, made.facts
    if facts["empty"]:
        warn(
            _("{name}: {described}; there the label rates of train are predicted").format(
                name=file.path.name, described=described(facts["empty"], facts["first"])
            )
        )
    before = storage.file_sha256(path) if path.is_file() else None
    made.write(source, path)
    if before not in (None, storage.file_sha256(path)):
        info(_("predict: {path} held other predictions, which are replaced").format(path=path))
    task, n = source.task, sum(facts["rows"])
    result(
        _("predict: {path} ({n:,} {noun} x {predicted})").format(
            path=place or path, n=n, noun=word(task.one if n == 1 else task.noun), predicted=task.predicted
        )
    )
    try:
        found = made.score(source)
    except UserError as error:
        warn(_("no score: {error}").format(error=error))
        return
    if found is not None:
        score, unknown = found
        _warn_of_training(source, file.sha256)
        told = f"score {estimate_text(score)} against the labels of {file.path.name}"
        result(
            _("predict: {told}").format(told=told)
            + f" ({unknown:,} {source.task.noun} without a known label left out)" * (unknown > 0)
        )


def _warn_of_training(source: RunFolder, sha256: str) -> None:
    for model in source.models():
        if sha256 in [*model.record["train_files"], *model.record.get("extra_files", ())]:
            warn(
                _("{name} was trained on these very {noun}: the score that follows is not out of fold").format(
                    name=model.name, noun=word(model.task.noun)
                )
            )
