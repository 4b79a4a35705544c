"""Closing summary of the pipeline: which data, what to expect, what to upload, where to look and what to do next."""

from __future__ import annotations

from src.core.terminal import result
from src.data import sources
from src.data.tasks import Task, get_task
from src.evaluation.figures import estimate_text, number_text
from src.evaluation.runs import RunFolder
from src.evaluation.workspace import Workspace
from src.pipeline.stages.blend import members_of
from src.pipeline.stages.submit import Submit


def show(workspace: Workspace) -> None:
    """Prints the summary; figures are those of the blend, of which each submission is made."""
    run = workspace.run("blend")
    own = get_task(workspace.task.name)  # scores are expected of the task's own score, whatever metric orders runs
    lines = [f"data: {_data(workspace)}"]
    boards = run.boards()
    for test in workspace.dataset.test_files:
        if (expected := boards.get(test, {}).get("expected")) is not None:
            between = " to ".join(number_text(expected[end]) for end in ("low", "high"))
            lines.append(f"expected on {test}: {expected['value']:.4f} ({between}), {own.score_name}")
    lines.append(f"out of fold: {_out_of_fold(run, own)}")
    left_out = [name for name in members_of(workspace.settings) if name not in run.record["members"]]
    lines += [f"left out of the blend: {name}, which {workspace.run(name).fault}" for name in left_out]
    submissions = Submit().files(workspace).values()
    lines += [f"to upload: {path}" for path in submissions]
    lines.append(f"page: {workspace.output.report}")
    lines.append(f"next: {_next(workspace)}")
    result("\n".join(lines))


def _data(workspace: Workspace) -> str:
    settings, files = workspace.settings, workspace.input_files
    source = sources.source_of(settings)
    names = [path.name for path in [*files.train, *files.test, *files.extra]] if files else []
    origin = source.synthetic.ORIGIN if _is_sample(workspace) else f"{source.noun} of {settings.paths.input}"
    return f"{origin}: {', '.join(names)}"


def _is_sample(workspace: Workspace) -> bool:
    files = workspace.input_files
    return files is not None and files.train[0].parent == sources.sample_folder(workspace.settings)


def _out_of_fold(run: RunFolder, own: Task) -> str:
    score = run.score["overall"]["score"]
    return f"{estimate_text(score)} {own.score_name}, blend of {', '.join(run.record['members'])}"


def _next(workspace: Workspace) -> str:
    settings = workspace.settings
    if _is_sample(workspace):
        source = sources.source_of(settings)
        return f"put your own files into {settings.paths.input} ({source.described(settings)}) and run the same command"
    first = next(iter(settings.runs))
    return f"./run.sh {workspace.command('tune', first)} (better settings), ./run.sh {workspace.command('leaderboard')}"
