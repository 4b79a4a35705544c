"""What each verb does with the settings and with the words behind it, as stages in their order.

Stages are imported by the verb that runs them, so that the list of verbs is there at once.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from src.core.errors import UserError
from src.core.settings import Config
from src.core.settings_loader import with_words
from src.core.terminal import add_json, dependency


@dataclass(frozen=True)
class Verb:
    summary: str
    run: Callable[[Config, argparse.Namespace], None]
    arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None
    example: str = ""


def _pipeline(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import pipeline

    pipeline.run(settings)


def _sample(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import sample

    sample.run(settings)


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", dest="sample.rows", metavar="N", help="labelled reports")
    parser.add_argument("--test-rows", dest="sample.test_rows", metavar="N", help="reports of each test file")
    parser.add_argument("--seed", dest="sample.seed", metavar="N", help="other seed, other reports")


def _prepare(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import pipeline

    pipeline.prepare(settings)


def _folds(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import pipeline

    pipeline.prepare_and_fold(settings)


def _baselines(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import baselines, pipeline

    with dependency():
        pipeline.prepare_and_fold(settings)
    baselines.run(settings)


def _shift(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import pipeline

    pipeline.measure_shift(settings)


def _standin(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import pipeline, standin

    standin.check(parsed.to)
    with dependency():
        pipeline.measure_shift(settings)
    standin.run(settings, pipeline.files(settings), parsed.file, parsed.to)


def _standin_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="labelled reports of another pool, such as round 2's train file")
    parser.add_argument("--to", type=Path, metavar="DIR", required=True, help="new input folder to make")


def _leaderboard(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import leaderboard, online

    action, *words = parsed.runs or [""]
    if action in ("add", "ask", "tell") and parsed.against is not None:
        raise UserError(f"--against is not for ./run.sh leaderboard {action}")
    if action == "ask":
        if parsed.note is not None:
            raise UserError("--note is for ./run.sh leaderboard add and tell")
        online.ask(settings, words, parsed.board)
        return
    if action not in ("add", "tell"):
        if parsed.board is not None or parsed.note is not None:
            raise UserError("--board and --note are for ./run.sh leaderboard add, ask and tell")
        leaderboard.run(settings, parsed.runs, parsed.against)
        online.run(settings)
        return
    if len(words) != 2:
        raise UserError(f"./run.sh leaderboard {action} wants {'a FILE' if action == 'add' else 'an ID'} and a SCORE")
    try:
        score = float(words[1])
    except ValueError:
        raise UserError(f"./run.sh leaderboard {action}: {words[1]!r} is not a score") from None
    if action == "add":
        online.add(settings, Path(words[0]), score, parsed.board, parsed.note or "")
    else:
        online.tell(settings, words[0], score, parsed.board, parsed.note or "")


def _leaderboard_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="runs to show in detail; or `add FILE SCORE`, `tell ID SCORE`: what a submission scored online; or "
        "`ask [RUN …]`: a variation of runs to submit next",
    )
    parser.add_argument("--against", metavar="RUN", help="also what each other run gains over this one")
    parser.add_argument("--board", metavar="NAME", help="of add, ask and tell: where it is scored (leaderboard.board)")
    parser.add_argument("--note", metavar="TEXT", help="of add and tell: what to remember of it")


def _pretrain(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import pipeline

    pipeline.prepare_and_pretrain(settings)


def _train(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import pipeline, pretrain, train

    with dependency():
        pipeline.measure_shift(settings)
        pretrain.run(settings)
    train.run(settings)


def _tune(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import pipeline, pretrain, train, tune

    options = tune.Options(
        trials=parsed.trials,
        hours=parsed.hours,
        jobs=parsed.jobs,
        spaces=parsed.space,
        storage=parsed.storage,
        name=parsed.name,
        release=parsed.release,
    )
    if parsed.release and not parsed.storage:
        raise UserError("--release is for --storage")
    if parsed.run == "blend":
        if parsed.jobs:
            raise UserError("--jobs is for trials that train; those of blend take a second each, one after the other")
        tune.run_blend(settings, options)
        return
    if parsed.model:
        raise UserError(f"./run.sh tune takes one RUN: leave --model {parsed.model[0]} out")
    config = with_words(settings, models=[parsed.run])
    with dependency():
        pipeline.measure_shift(config)
        if config.denoisers:
            pretrain.run(config.model_copy(update={"runs": {}}))
        if teachers := config.runs[parsed.run].train.teachers:
            teaching = config.model_copy(update={"runs": {name: config.runs[name] for name in teachers}})
            pretrain.run(teaching)
            train.run(teaching)
    tune.run(config, parsed.run, options)


def _tune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run of the preset, a model, or blend")
    parser.add_argument(
        "--trials", type=_count, default=30, metavar="N", help="trials of the study in all (default: 30)"
    )
    parser.add_argument("--hours", type=_hours, metavar="H", help="time limit in hours; a running trial is finished")
    parser.add_argument("--jobs", type=_count, metavar="J", help="trials side by side (default: one a core)")
    parser.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="NAME",
        help="a search space of src/presets/spaces, or a YAML file; may be given again (default: the model's)",
    )
    parser.add_argument("--storage", metavar="URL", help="postgresql://…, to share the study between machines")
    parser.add_argument("--name", metavar="NAME", help="name of the study (default: the run's)")
    parser.add_argument("--release", action="store_true", help="end the trials of machines that are gone (--storage)")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"want a whole number above 0, not {text}")
    return int(text)


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not hours > 0:
        raise argparse.ArgumentTypeError(f"want a number of hours above 0, not {text}")
    return hours


def _blend(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import blend

    blend.run(settings, parsed.runs, parsed.name)


def _submit(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import submit

    submit.run(settings, parsed.run)


def _report(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import report

    report.run(settings)


def _explain(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import explain

    if parsed.id is not None:
        explain.run_one(settings, parsed.run, parsed.id, parsed.label, parsed.file)
        return
    if parsed.label or parsed.file is not None:
        raise UserError("--label and --file are for one report: name it with --id ID")
    explain.run(settings, parsed.run)


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="a trained run or a blend (default: blend, or the best)")
    parser.add_argument("--id", metavar="ID", help="one report, token by token")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME",
        help="name or number of a label; may be given again (default: those that it has or is said to have)",
    )
    parser.add_argument(
        "--file", metavar="NAME", help="the train or test file that the report is in, where several have its id"
    )


def _eda(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import pipeline, report

    with dependency():
        pipeline.prepare(settings)
    report.run_eda(settings)


def _predict(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import pipeline, predict

    if not parsed.shifted:
        if parsed.replacement is not None:
            raise UserError("--replacement is for --shifted")
        if parsed.against is not None:
            raise UserError("--against is for --shifted")
        predict.run(settings, parsed.runs, parsed.file, parsed.to)
    elif parsed.to is not None:
        raise UserError("--shifted writes scores, no predictions: leave --to out")
    else:
        predict.score_shifted(
            settings, pipeline.files(settings), parsed.runs, parsed.file, parsed.replacement, parsed.against
        )


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="trained runs or blends, such as lstm or blend")
    parser.add_argument("file", type=Path, help="reports, with or without labels")
    parser.add_argument("--to", type=Path, metavar="FILE", help="default: output/prediction_RUN_FILE")
    parser.add_argument(
        "--shifted",
        action="store_true",
        help="score the runs on a labelled file, as it is and made like the target test file by weights and noise",
    )
    parser.add_argument(
        "--replacement",
        type=_rate,
        metavar="R",
        help="share of tokens to replace for it (default: what the file lacks to the target)",
    )
    parser.add_argument("--against", metavar="RUN", help="for --shifted: also what each run gains over this one")


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 <= rate < 1:
        raise argparse.ArgumentTypeError(f"want a share of 0 or more and less than 1, not {text}")
    return rate


def _score(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import score

    if parsed.labels is None:
        score.run(settings, parsed.what)
    elif len(parsed.what) == 1:
        score.score_submission(Path(parsed.what[0]), parsed.labels)
    else:
        raise UserError("--labels takes one submission: ./run.sh score --labels FILE SUBMISSION")


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="*", help="runs to show label by label; with --labels, a submission")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="labelled reports to score a submission against")


def _bench(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import bench

    bench.run(settings, parsed.parts, parsed.rows, parsed.repeats, parsed.check)


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all timings; an unknown one lists them")
    parser.add_argument(
        "--rows",
        type=int,
        default=1_000_000,
        metavar="N",
        help="reports to read, most of scale (default 1000000)",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="turns of each contender, seeds of agree (default 3)"
    )
    parser.add_argument("--check", action="store_true", help="fail where a ratio fell below the committed ones")


def _status(settings: Config, parsed: argparse.Namespace) -> None:
    from src.pipeline.stages import status

    status.run(settings, parsed.model)


def _config(settings: Config, parsed: argparse.Namespace) -> None:
    import yaml

    found = settings.model_dump(mode="json")
    add_json("settings", found)
    print(yaml.safe_dump(found, sort_keys=False), end="")


VERBS = {
    "pipeline": Verb("the whole pipeline on what is in input/, or on sample data", _pipeline),
    "sample": Verb(
        "make synthetic reports in input/sample", _sample, _sample_arguments, "./run.sh sample --rows 1000000"
    ),
    "prepare": Verb("read and check the input files, number their tokens", _prepare),
    "folds": Verb("decide which report is validated by which model", _folds, example="./run.sh folds folds.k=10"),
    "shift": Verb("how the test files differ from train: noise, words, what tells them apart", _shift),
    "baselines": Verb("score the ladder: zeros, prior, random, TF-IDF + logistic regression", _baselines),
    "pretrain": Verb(
        "let encoders read all text, without labels, before training",
        _pretrain,
        example="./run.sh pretrain --model transformer pretrain.epochs=10",
    ),
    "train": Verb(
        "train the models of the preset, fold by fold", _train, example="./run.sh train --model lstm train.epochs=6"
    ),
    "blend": Verb(
        "several runs into one; the quoted score is cross-fitted",
        _blend,
        lambda parser: (
            parser.add_argument("runs", nargs="*", metavar="RUN", help="default: blend.members, or the whole preset"),
            parser.add_argument("--name", default="blend", help="name of the blend's own run (default: blend)"),
        ),
        "./run.sh blend lstm transformer blend.method=weights",
    ),
    "tune": Verb(
        "search for better settings of a run",
        _tune,
        _tune_arguments,
        "./run.sh tune lstm --preset quick --trials 30",
    ),
    "submit": Verb(
        "write the submission of each test file",
        _submit,
        lambda parser: parser.add_argument("run", nargs="?", metavar="RUN", help="default: the pipeline's blend"),
        "./run.sh submit lstm",
    ),
    "predict": Verb(
        "trained runs on any report file", _predict, _predict_arguments, "./run.sh predict blend new_reports.csv"
    ),
    "score": Verb(
        "show all scores; with --labels, score a submission file",
        _score,
        _score_arguments,
        "./run.sh score --labels answers.csv output/submission_test.csv",
    ),
    "leaderboard": Verb(
        "what each run will score on each test file, and what submissions did",
        _leaderboard,
        _leaderboard_arguments,
        "./run.sh leaderboard add output/submission_lstm_sample_testB.csv 0.9032",
    ),
    "explain": Verb(
        "which tokens make a run say what it says; with --id, of one report",
        _explain,
        _explain_arguments,
        "./run.sh explain blend --id 42 --label region_3",
    ),
    "report": Verb("all that the output folder tells, as one HTML page", _report),
    "eda": Verb("the reports themselves as one HTML page, before any training", _eda),
    "standin": Verb(
        "make test files with known answers of a labelled file, to check what is expected",
        _standin,
        _standin_arguments,
        "./run.sh standin round2/train.csv --to input/proof",
    ),
    "bench": Verb(
        "measure the speed beside plain code and the machine's limits",
        _bench,
        _bench_arguments,
        "./run.sh bench read train_lstm --repeats 5",
    ),
    "status": Verb("what is done, running, out of date and missing, and how to make it", _status),
    "config": Verb("print the settings as they would be used", _config, example="./run.sh config --preset quick"),
}
