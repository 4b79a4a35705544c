"""./run.sh: every stage in order, each of which does only what is missing."""

from __future__ import annotations

import contextlib
import time

from src.core import storage
from src.core.errors import UserError
from src.core.settings import Config, Sample
from src.core.storage import Output
from src.core.terminal import dependency, duration, info, result
from src.data import input_files, synthetic
from src.data.input_files import InputFiles
from src.evaluation.runs import command
from src.pipeline.stages import sample as sample_stage

ENDS = ("submit", "score", "leaderboard", "online", "report")
"""What a pipeline is asked for; the others are the way there."""


def run(config: Config) -> None:
    from src.pipeline.stages import (
        baselines,
        blend,
        explain,
        folds,
        leaderboard,
        online,
        pretrain,
        report,
        score,
        shift,
        submit,
        train,
    )

    info(f"preset {config.preset}: {', '.join(config.runs)}; input {config.paths.input}, output {config.paths.output}")
    started, output = time.perf_counter(), Output(config.paths.output)
    made = {"command": f"./run.sh {command('pipeline', config)}", "seconds": {}}
    stages = [folds, shift, baselines, pretrain, train, blend, submit, score, leaderboard, online, explain, report]
    by_name = {stage.__name__.removeprefix("src.pipeline.stages."): stage.run for stage in stages}
    for name, stage in {"prepare": prepare, **by_name}.items():
        stage_started = time.perf_counter()
        with contextlib.nullcontext() if name in ENDS else dependency():
            stage(config)
        made["seconds"][name] = round(time.perf_counter() - stage_started, 3)
        if name in ("explain", "report"):  # the report, which is last, tells of the command
            storage.write_json(output.seconds, made)
    result(f"pipeline: done in {duration(time.perf_counter() - started)}")


def prepare_and_fold(config: Config) -> None:
    """The two stages that take seconds and that all others need."""
    from src.pipeline.stages import folds

    with dependency():
        prepare(config)
    folds.run(config)


def measure_shift(config: Config) -> None:
    """The stages before training, half a minute on the competition's files."""
    from src.pipeline.stages import shift

    with dependency():
        prepare_and_fold(config)
    shift.run(config)


def prepare_and_pretrain(config: Config) -> None:
    from src.pipeline.stages import pretrain

    with dependency():
        prepare(config)
    pretrain.run(config)


def prepare(config: Config) -> None:
    from src.pipeline.stages import prepare

    prepare.run(config, files(config))


def files(config: Config) -> InputFiles:
    """The user's files; where the project's own input folder holds none, sample data, made if need be."""
    found = input_files.find_files(config.paths)
    if found is not None:
        return found
    if not input_files.is_default(config.paths):
        raise UserError(
            f"no file in {config.paths.input} matches {config.paths.train} or {config.paths.test} "
            "(paths.train, paths.test)"
        )
    folder = config.paths.input / "sample"
    usual = config.sample == Sample() and config.task == "auto"
    if not synthetic.is_complete(folder) or not (
        usual or synthetic.was_made_with(folder, **sample_stage.arguments(config))
    ):
        info(f"no competition files in {config.paths.input}: making sample data")
        sample_stage.run(config)
    elif not synthetic.was_made_with(folder, **sample_stage.arguments(config)):
        info(f"sample data of other settings is in {folder} and is used; ./run.sh sample makes the usual")
    return input_files.find_files(config.paths.model_copy(update={"input": folder}))
