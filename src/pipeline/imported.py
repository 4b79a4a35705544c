"""Runs of predictions that were made elsewhere: a submission of each test file and, for a score, out-of-fold ones."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, locks, storage, versions
from src.core.errors import UserError, unknown
from src.core.language import _, word
from src.core.names import check_name
from src.core.settings import fingerprint
from src.core.settings_loader import model_names
from src.core.targets import Target, made_by
from src.core.terminal import result, warn
from src.data.corpus import Corpus
from src.data.submission_files import read_submission
from src.ensemble.submission_log import SubmissionLog
from src.evaluation import runs
from src.evaluation.workspace import Workspace
from src.pipeline import replaced
from src.pipeline.online_scores import AS_IT_IS
from src.pipeline.stage import get_stage, run_lock

HOW = "imported; out of fold as whoever made it says"
SUM_TOLERANCE = 1e-3
"""Largest difference from 1 of the sum of a row's class probabilities."""


def import_run(workspace: Workspace, name: str, tests: Mapping[str, Path], oof: Path | None) -> None:
    """Makes the run `name` of the submissions `tests`, by test file, and of out-of-fold predictions.

    Raises UserError for a name that is taken, for a test file that is unknown or has no submission, and for files whose
    ids or numbers are not those of the test file or of the train rows.
    """
    _check_free(workspace, name)
    files = _by_test_file(workspace, tests)
    reads = get_stage("train").reads(workspace)
    with locks.hold(workspace.output.locks, [run_lock(name)], reads, workspace.command("import", name)):
        workspace.refresh()  # another command may have written before the locks were held
        _write(workspace, name, files, oof)


def _check_free(workspace: Workspace, name: str) -> None:
    """Raises UserError where the name is that of a run that was not imported, or of one of the preset."""
    folder, settings = workspace.output.run(check_name("run", name)), workspace.settings
    maker = made_by(folder / "score.json")
    is_taken = name in {*model_names(), *settings.runs, *settings.denoisers, "blend"}
    if is_taken or any(folder.glob("fold_*")) or (maker and maker[0] != "import"):
        raise UserError(
            _("{name} is the name of a model, of a blend or of a trained run. Take another name").format(
                name=repr(name)
            )
        )


def _by_test_file(workspace: Workspace, tests: Mapping[str, Path]) -> dict[str, Path]:
    """The submissions by the names of the test files, which may have been given without their ending."""
    known = workspace.dataset.test_files
    names = {**{Path(test).stem: test for test in known}, **{test: test for test in known}}
    for test in tests:
        if test not in names:
            raise unknown("test file", test, known)
    files = {names[test]: path for test, path in tests.items()}
    if missing := [test for test in known if test not in files]:
        words = " ".join(f"--test {shlex.quote(test)}=SUBMISSION" for test in missing)
        raise UserError(
            _("a run predicts all test files; {missing} has no submission. Add {words}").format(
                missing=", ".join(missing), words=words
            )
        )
    return {test: files[test] for test in known}


def _write(workspace: Workspace, name: str, files: Mapping[str, Path], oof: Path | None) -> None:
    dataset, shift, task = workspace.dataset, workspace.validation_sets, workspace.task
    folder = workspace.output.run(name)
    predicted = {test: _test_outputs(workspace, test, path) for test, path in files.items()}
    out_of_fold = None if oof is None else _train_outputs(workspace, oof)
    has_copies = not any(test.noised for test in shift.tests)
    record = {
        **runs.make_record(workspace, "imported"),
        "files": {test: str(path) for test, path in files.items()},
        "oof": None if oof is None else str(oof),
        "scored": oof is not None,
        **({} if has_copies else {"copies": False}),
    }
    stamp = fingerprint(
        {
            "predictions": {test: storage.array_hash(outputs) for test, outputs in predicted.items()},
            "oof": None if out_of_fold is None else storage.array_hash(out_of_fold),
            **dataset.made_of(workspace.splits),
            "shift": shift.fingerprint,
            **runs.judged_by(workspace),
            "version": versions.SCORE,
        }
    )
    names = runs.files(dataset.test_files, has_copies=has_copies and oof is not None)
    kept = [file for file in names if file != "config.yaml" and (oof is not None or file != "oof.npy")]
    last, other = ("score.json", "imported.json") if oof is not None else ("imported.json", "score.json")
    target = Target(name, folder / last, stamp, tuple(folder / file for file in kept))
    if target.is_current():
        result(_("import: {name} is up to date ({folder})").format(name=name, folder=folder))
        return
    before = replaced.find(workspace, Target(name, folder / "score.json", stamp))
    for path in (target.result, folder / other):
        path.unlink(missing_ok=True)
    storage.write_json(folder / "run.json", record)
    storage.write_json(folder / "environment.json", storage.environment("elsewhere", "unknown"))
    folds = len({split.fold for split in workspace.splits.splits()})
    for test in shift.tests:
        outputs = predicted[test.name]
        array_files.write_npy(runs.test_path(folder, test.name), outputs)
        # One prediction stands for those of each fold's models, which are not known.
        by_fold = np.repeat(outputs[test.array("test_rows")][None], folds, axis=0)
        array_files.write_npy(runs.folds_path(folder, test.name), by_fold)
        if has_copies and oof is not None:
            none = np.empty((0, len(shift.rows), task.n_labels), dtype=np.float32)
            array_files.write_npy(runs.copies_path(folder, test.name), none)
    made = {"made_by": runs.maker(record, name)}
    if out_of_fold is None:
        target.write({"how": "imported without out-of-fold predictions: no score", **made})
    else:
        array_files.write_npy(folder / "oof.npy", out_of_fold)
        target.write({**runs.score_run(workspace, out_of_fold, HOW), **made})
    _note(workspace, name, files)
    _tell(workspace, name, before)


def _tell(workspace: Workspace, name: str, before: replaced.Replaced | None) -> None:
    run = workspace.run(name, scored=False)
    if not run.is_scored:
        result(
            _(
                "import: {name} has no out-of-fold predictions (--oof), and so no score. It can be "
                "submitted, and averaged with fixed weights: ./run.sh {command} blend.fixed.RUN=0.7 "
                "blend.fixed.{name}=0.3"
            ).format(name=name, command=workspace.command("blend", "RUN", name, "--name", "NAME"))
        )
        return
    result(
        _("import: {name} {headline}").format(name=name, headline=runs.headline(run.score, workspace.settings.metric))
    )
    if run.fault:
        warn(_("run {name} {fault}").format(name=name, fault=run.fault))
    if not run.has_copies:
        result(
            _(
                "import: the test files are noisier than train, and nothing is known of predictions "
                "for noisy rows: the run is judged on clean and weighted rows alone, and so are "
                "blends with it"
            )
        )
    replaced.tell(workspace, before)
    result(
        _("import: blend it with: ./run.sh {command} --name NAME").format(
            command=workspace.command("blend", *_best(workspace, name), name)
        )
    )


def _best(workspace: Workspace, name: str) -> list[str]:
    """The best other run that is no blend, to blend with."""
    others = [run.name for run in workspace.ranked_runs()[0] if run.is_model and run.name != name and not run.fault]
    return others[-1:] or ["RUN"]


def _note(workspace: Workspace, name: str, files: Mapping[str, Path]) -> None:
    """Notes the submissions in the log, by which a score that is entered for one of them is known to be of the run."""
    run, log = workspace.run(name, scored=False), SubmissionLog(workspace.output.submissions)
    for test, path in files.items():
        about: dict[str, Any] = {"test": test, "test_text": workspace.dataset.test_texts[test], "run": name}
        sha = storage.file_sha256(path)
        noted = log.made(path, sha, **about, fingerprint=run.fingerprint, how=AS_IT_IS, made_from=None)
        result(_("import: {path} is noted as {id}, a submission of {test}").format(path=path, id=noted.id, test=test))


def _test_outputs(workspace: Workspace, test: str, path: Path) -> np.ndarray:
    """Outputs (n, L) float32 of a submission, in the order of the encoded test file."""
    ids = np.asarray(Corpus.load(workspace.dataset.test_folder(test)).ids)
    given, outputs = _read(workspace, path)
    strange = ~np.isin(given, workspace.test_ids(test))
    if strange.any():
        raise UserError(
            _(
                "{path} has {count:,} ids that {test} has not, such as {example}: it is of another "
                "test file. Name the test file that it predicts"
            ).format(path=path, count=strange.sum(), test=test, example=given[strange][0].decode())
        )
    return _in_order(path, test, given, outputs, ids, workspace.task.noun)


def _train_outputs(workspace: Workspace, path: Path) -> np.ndarray:
    """Outputs (N, L) float32 of out-of-fold predictions in the order of the train rows, NaN where none is judged."""
    ids, noun = np.asarray(workspace.dataset.train.ids), workspace.task.noun
    if len(np.unique(ids)) < len(ids):
        raise UserError(
            _("train files share ids, by which out-of-fold {noun} are not told apart. Give each its own").format(
                noun=word(noun)
            )
        )
    given, outputs = _read(workspace, path)
    if strange := int((~np.isin(given, ids)).sum()):
        warn(
            _("{path}: {strange:,} ids are of no train row that is used here; they are left out").format(
                path=path, strange=strange
            )
        )
    found = _in_order(path, "the train files", given, outputs, ids, noun)
    found[workspace.splits.first < 0] = np.nan
    return found


def _read(workspace: Workspace, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) and outputs (n, L) float32 of a file of predictions. Raises UserError for ones of another task."""
    task = workspace.task
    ids, predictions = read_submission(path, task)
    if predictions.shape[1] != task.n_labels:
        raise UserError(
            _("{path} has {n} numbers a row; {title} wants {n_labels}").format(
                path=path, n=predictions.shape[1], title=word(task.title), n_labels=task.n_labels
            )
        )
    if task.kind == "multiclass" and (wrong := np.abs(predictions.sum(axis=1) - 1) > SUM_TOLERANCE).any():
        raise UserError(
            _("{path}: the probabilities of {example} do not sum to 1").format(
                path=path, example=ids[wrong][0].decode()
            )
        )
    return ids, task.encode(predictions).astype(np.float32)


def _in_order(path: Path, where: str, given: np.ndarray, outputs: np.ndarray, ids: np.ndarray, noun: str) -> np.ndarray:
    """The `outputs` (n, L) of the ids `given` (n,), in the order of `ids` (m,), all of which must be there."""
    order = np.argsort(given)
    at = np.minimum(np.searchsorted(given[order], ids), len(given) - 1)
    lacking = given[order][at] != ids
    if lacking.any():
        raise UserError(
            _("{path} lacks {count:,} of the {n:,} {noun} of {where}, such as {example}. Add them").format(
                path=path,
                count=lacking.sum(),
                n=len(ids),
                noun=word(noun),
                where=where,
                example=ids[lacking][0].decode(),
            )
        )
    return outputs[order][at]
