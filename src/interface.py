"""Pipeline: the commands as a Python object, for notebooks and scripts.

from src import Pipeline
pipeline = Pipeline("output")                                   # any folder that can be written
pipeline.fit("train.csv", "testB.csv", preset="quick")          # as ./run.sh --preset quick
pipeline.scores                                                 # a table of all runs
pipeline.predict(["12 345 6", "78 9"])                          # a table of probabilities
pipeline.explain("42")                                          # a report, token by token
pipeline.submission()                                           # the files to upload

It makes the files that ./run.sh makes. Commands go on from there, and `Pipeline(folder)` opens what commands made.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import __main__ as front_desk
from src.core import packages, storage, temporaries, terminal
from src.core.errors import UserError
from src.core.language import _
from src.core.terminal import info

if TYPE_CHECKING:
    import pandas as pd

    from src.evaluation.workspace import Workspace
    from src.reporting.html_page import Section

ROLES = ("train", "test")
INPUT = ("paths.input=", "paths.train=", "paths.test=")
"""Settings that name the input files."""
COPIES = "copies.json"
"""Note of the files that were copied, in the folder of the links."""
Files = str | Path | Sequence[str | Path]


class Pipeline:
    def __init__(self, output: str | Path = "output"):
        """`output`: folder of everything that is made. Where a pipeline was made in it before, its settings hold."""
        self.output = Path(output).resolve()
        self._words = self._words_of_before()

    def __repr__(self) -> str:
        return f"Pipeline({str(self.output)!r})"

    def fit(
        self,
        train: Files | None = None,
        test: Files = (),
        preset: str | None = None,
        time: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Pipeline:
        """Runs the pipeline, of which only what is missing is made, and returns itself.

        train: one or several files of labelled rows, or a folder of train and test files; without it, the project's own
            input folder, which gets sample data if it is empty. Input files may lie in folders that cannot be written.
        test: one or several files to predict.
        preset: name of a preset or a YAML file; without it `standard`, or `sample` on sample data.
        time: time in all, such as "30m" or "2h", in which preset, folds, epochs and seeds are chosen so that a
            submission is there.
        settings: further settings by their keys, such as {"train.epochs": 3} or {"task": "icu"}.

        Without preset, time and settings, those of the pipeline that was made in the output folder before hold, and
        without files its input.

        Raises UserError for what the user can put right.
        """
        before = self._words if (preset, time, settings) == (None, None, None) else _places(self._words)
        if inputs := self._input_words(train, test):
            before = [word for word in before if not word.startswith(INPUT)]
        options = [*(["--preset", preset] if preset else []), *(["--time", time] if time else [])]
        own = [
            f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in (settings or {}).items()
        ]
        words = [*options, *before, *inputs, *own]
        if others := [one for one in packages.packages() if one.found and one.found != one.wanted]:
            told = ", ".join(f"{one.name} {one.found} (tried with {one.wanted})" for one in others)
            info(_("packages in other versions than those of requirements.txt: {told}").format(told=told))
        self._run("pipeline", *words)
        self._words = words if time is None else self._words_of_before()
        return self

    @property
    def scores(self) -> pd.DataFrame:
        """Scores of all runs, the best first: out of fold with the standard error, and expected on each test file with
        the limits of the 95% interval."""
        import pandas as pd

        runs, _ = self.workspace.ranked_runs()
        rows = {}
        for run in reversed(runs):
            score = run.score["overall"]["score"]
            rows[run.name] = {"out of fold": score["value"], "standard error": score["standard_error"]}
            for test, board in self.workspace.boards(run).items():
                expected = board["expected"]
                rows[run.name] |= {f"expected on {test}": expected["value"], f"{test} low": expected["low"]}
                rows[run.name] |= {f"{test} high": expected["high"]}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")

    def predict(self, rows: str | Path | Sequence[str | Sequence[int]], run: str = "blend") -> pd.DataFrame:
        """Predictions of a run, a row for each report and a column for each label, by id.

        rows: a file, whose predictions are also written to prediction_RUN_FILE in the output folder; or a list of
            texts, each a string of token numbers with blanks between them or a list of numbers, with ids from 0 on.
        """
        if not isinstance(rows, (str, Path)):
            # What the command tells of its files is of no use: they are gone when it ends.
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                file = Path(folder) / "texts.csv"
                file.write_text("".join(map(_line, range(len(rows)), rows)), encoding="utf-8")
                return self._predict(file, run, Path(folder) / "predictions.csv")
        file = Path(rows)
        if not file.exists():
            raise UserError(
                _('there is no file {file}. Texts are given as a list: predict(["12 345 6"])').format(file=file)
            )
        return self._predict(file, run)

    def explain(
        self, row: str | int, run: str | None = None, labels: Sequence[str] = (), file: str | None = None
    ) -> Section:
        """Explains one row of the train or test files by its id: which tokens, or parameters and hours, speak for a
        label and which against it; a notebook shows it in colours. It is also written as a page.

        run: a trained run or a blend (default: the blend, or the best). labels: names of labels (default: those that
        the row has or is predicted). file: name of the file, where several have the id.
        """
        from src.pipeline.commands.explain import explain_report
        from src.pipeline.stage import reading, run_lock

        workspace = self.workspace
        # The terminal's own picture is left out.
        with (
            self._commanded(quiet=True),
            contextlib.redirect_stdout(io.StringIO()),
            reading(workspace, "explain", [run_lock(run or "blend")]),
        ):
            return explain_report(workspace, run, str(row), labels, file)

    def submission(self, run: str | None = None) -> dict[str, Path]:
        """Writes and checks the submission of each test file, and returns its path by the name of the test file.

        run: a trained run or a blend (default: the pipeline's blend).
        """
        from src.pipeline.stages.submit import Submit

        self._run("submit", *([run] if run else []), *self._words)
        return Submit(run).files(self.workspace)

    @property
    def report(self) -> Path:
        """The page with everything that the output folder holds."""
        return storage.require(self.workspace.output.report, self.workspace.command("report"))

    @property
    def workspace(self) -> Workspace:
        """Dataset, splits and runs, for those who want to go on from there; see src/evaluation/workspace.py."""
        return front_desk.workspace_of(["status", *self._words])

    @staticmethod
    def packages() -> pd.DataFrame:
        """Packages that the pipeline imports: the version of requirements.txt, and that which is installed."""
        import pandas as pd

        return pd.DataFrame(packages.packages()).set_index("name")

    def _predict(self, file: Path, run: str, to: Path | None = None) -> pd.DataFrame:
        import pandas as pd

        from src.data.submission_files import read_submission

        self._run("predict", run, str(file), *(["--to", str(to)] if to else []), *self._words)
        workspace = self.workspace
        task = workspace.run(run).task
        ids, values = read_submission(to or workspace.output.prediction(run, file), task)
        index = pd.Index([name.decode(errors="replace") for name in ids.tolist()], name="id")
        return pd.DataFrame(values, index=index, columns=task.label_names)

    def _run(self, *words: str) -> None:
        with self._commanded():
            front_desk.run(list(words))

    @contextlib.contextmanager
    def _commanded(self, quiet: bool = False) -> Iterator[None]:
        """First words of each command. Signals stay the notebook's own."""
        with temporaries.collected(), terminal.output_mode(quiet, False):
            yield

    def _words_of_before(self) -> list[str]:
        """Words of the settings of the pipeline that was made in the output folder."""
        output = storage.Output(self.output)
        made = storage.read_json(output.seconds)["command"] if output.seconds.exists() else ""
        words = [word for word in shlex.split(made)[2:] if not word.startswith("paths.output=")]
        if "--time" in words:  # what it chose and trained is a preset
            words = ["--preset", str(output.time / "plan.yaml"), *_places(words)]
        return [*words, f"paths.output={self.output}"]

    def _input_words(self, train: Files | None, test: Files) -> list[str]:
        """Settings that name the input. Files become links in the output folder, by role; those of before stay until
        the new ones are there. Raises UserError for files that cannot be taken."""
        files = {"train": _paths(train), "test": _paths(test)}
        if not files["train"] and not files["test"]:
            return []
        if [path.is_dir() for path in files["train"]] == [True] and not files["test"]:
            return [f"paths.input={files['train'][0]}"]
        folder, made = self.output / "input", self.output / "input.new"
        _check_files(files)
        _check_links(folder)
        shutil.rmtree(made, ignore_errors=True)
        copies = []
        for role, paths in files.items():
            (made / role).mkdir(parents=True)
            copies += [f"{role}/{path.name}" for path in paths if not _link(path, made / role / path.name)]
        folder.mkdir(exist_ok=True)
        for role in files:
            shutil.rmtree(folder / role, ignore_errors=True)
            os.replace(made / role, folder / role)
        made.rmdir()
        storage.write_json(folder / COPIES, {"copies": copies})
        return [f"paths.input={folder}", *(f"paths.{role}={role}/*" for role in ROLES)]


def _check_files(files: Mapping[str, Sequence[Path]]) -> None:
    """Raises UserError for a file that is not there and for two of one role and name."""
    for role, paths in files.items():
        names = [path.name for path in paths]
        for path in paths:
            if not path.is_file():
                raise UserError(_("{role}: there is no file {path}").format(role=role, path=path))
            if names.count(path.name) > 1:
                raise UserError(_("two files have the name {name}; rename one").format(name=path.name))


def _check_links(folder: Path) -> None:
    """Raises UserError where something else than links, and copies that were made in their place, lies among them."""
    note = folder / COPIES
    copies = storage.read_json(note)["copies"] if note.exists() else []
    for path in (path for role in ROLES for path in sorted(folder.glob(f"{role}/*"))):
        if not path.is_symlink() and f"{path.parent.name}/{path.name}" not in copies:
            raise UserError(
                _(
                    "{path} is a file of your own, and what lies in {folder} is replaced. Move it to another folder"
                ).format(path=path, folder=folder)
            )


def _places(words: Sequence[str]) -> list[str]:
    """The words that say where files lie and how the machine is used."""
    return [word for word in words if word.startswith(("paths.", "executor.", "executor=", "ray.", "device="))]


def _paths(files: Files | None) -> list[Path]:
    if files is None:
        return []
    return [Path(path).resolve() for path in ([files] if isinstance(files, (str, Path)) else files)]


def _link(path: Path, link: Path) -> bool:
    """Makes a link, or a copy on file systems without links; returns False for a copy."""
    try:
        os.symlink(path, link)
    except OSError:
        shutil.copyfile(path, link)
        return False
    return True


def _line(number: int, text: str | Sequence[int]) -> str:
    """The line of a report in a test file."""
    return f"{number}|,|{text if isinstance(text, str) else ' '.join(map(str, text))}\n"
