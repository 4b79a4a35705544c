"""./run.sh explain [RUN]: which tokens, or which parameters of series, make a run say what it says.

./run.sh explain                              the pipeline's blend, or the best run: what carries each label, and the
                                              hardest and some typical reports, for ./run.sh report
./run.sh explain blend --id 42 --label 3      one report, token by token, in the terminal and as a page
./run.sh explain blend --task icu --id 132539 one stay, by parameter and hour
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import UserError, unknown
from src.core.language import _, word

if TYPE_CHECKING:
    import numpy as np

    from src.data.corpus import Corpus
    from src.data.dataset import Dataset
    from src.data.tasks import Task
    from src.evaluation.workspace import Workspace
    from src.reporting.explanations import Explanation
    from src.reporting.html_page import Section


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help=_("a trained run or a blend (default: blend, or the best)")
    )
    parser.add_argument("--id", metavar="ID", help=_("one report, token by token, or one series by parameter and step"))
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME",
        help=_("name or number of a label; may be given again (default: labels that the row has or is predicted)"),
    )
    parser.add_argument(
        "--file", metavar="NAME", help=_("the train or test file that the row is in, where several have its id")
    )


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import make, reading, run_lock
    from src.pipeline.stages.explain import Explain

    if parsed.id is not None:
        with reading(workspace, "explain", [run_lock(parsed.run or "blend")]):
            explain_report(workspace, parsed.run, parsed.id, parsed.label, parsed.file)
        return
    if parsed.label or parsed.file is not None:
        raise UserError(_("--label and --file are for one report: name it with --id ID"))
    make(workspace, Explain(parsed.run))


def explain_report(
    workspace: Workspace, name: str | None, report: str, wanted: Sequence[str], file: str | None
) -> Section:
    """Explains one report or series, in the terminal and as output/explain_RUN_FILE_ID.html; returns the page's
    section."""
    import numpy as np

    from src.core import storage
    from src.core.terminal import result
    from src.data.corpus import Corpus
    from src.pipeline.stages.explain import STEPS, explain_executor, source_of
    from src.pipeline.stages.report import title_of
    from src.reporting.explanations import explain
    from src.reporting.html_page import render

    dataset = workspace.dataset
    source = source_of(workspace, name)
    names = dataset.task.label_names
    labels = [_label(names, label) for label in wanted]
    where, folder, row = _find(dataset, report, file)
    corpus = Corpus.load(folder)
    is_train = folder == dataset.train_folder
    if is_train and not workspace.splits.scored[row]:
        raise UserError(
            _("{one} {report}: every model has learned from it (folds.scheme=holdout); name another").format(
                one=word(dataset.task.one), report=report
            )
        )
    said = workspace.task.decode((source.oof() if is_train else source.test_logits(where))[row])
    truth = np.asarray(corpus.labels)[row] if is_train else None
    if not labels:
        told = said >= (0.5 if dataset.task.has_classes else 0)  # a number is there for every row
        told = told if truth is None else told | (truth == 1)
        labels = [int(k) for k in np.argsort(-said, kind="stable") if told[k]] or [int(said.argmax())]
    executor = explain_executor(workspace, source)
    found = explain(executor, source, folder, [(row, k) for k in labels], is_train, 2 * STEPS, occlude=True)
    how = "by models that have not learned from it" if is_train else "by the mean of all folds"
    show = _show_tokens if dataset.shape.kind == "tokens" else _show_series
    section = show(dataset, corpus, found, _titles(dataset.task, found, said, truth), f"By {source.name}, {how}.")
    section.title = f"{dataset.task.one.capitalize()} {report} of {where}"
    subtitle = f"What {'tokens' if dataset.shape.kind == 'tokens' else 'parameters'} add to a prediction"
    path = workspace.output.explanation(source.name, where, report)
    storage.write_text(path, render(title_of(dataset.task), subtitle, [section]))
    result(_("explain: {path}").format(path=path))
    return section


def _titles(task: Task, found: Sequence[Explanation], said: np.ndarray, truth: np.ndarray | None) -> list[str]:
    """Label, prediction and, where it is known, truth of each explanation."""
    titles = []
    for one in found:
        unit = f" {task.unit}" if task.unit else ""
        title = f"{task.label_names[one.label]}: {said[one.label]:.{1 if unit else 3}f}{unit}"
        if truth is not None:
            title += ", in truth " + (
                f"{truth[one.label]:g}{unit}" if unit else "there" if truth[one.label] else "not there"
            )
        titles.append(title)
    return titles


def _show_tokens(
    dataset: Dataset, corpus: Corpus, found: Sequence[Explanation], titles: Sequence[str], how: str
) -> Section:
    """Prints the explanations of a report and returns them as a section."""
    import numpy as np

    from src.core.terminal import result, show_heat
    from src.pipeline.stages.explain import noise_marks, word_indices
    from src.reporting.html_page import Section, Text
    from src.reporting.sections.explanations import LEGEND, heat

    (row,) = {one.row for one in found}
    tokens = dataset.vocabulary.words[word_indices(corpus, row)].tolist()
    noise = noise_marks(dataset, corpus, found)[row]
    section = Section("", [Text(f"{how} {LEGEND}")])
    for title, one in zip(titles, found, strict=True):
        drawn = heat(title, tokens, one.contributions, noise)
        section.parts += [drawn, Text(_check(one))]
        if one.attention is not None:
            name = dataset.task.label_names[one.label]
            looked = f"{name}: where the pooling looks (attention), which is no measure of what counts"
            section.parts.append(heat(looked, tokens, one.attention, np.zeros(len(tokens), dtype=bool)))
        show_heat(title, [(token.word, token.strength, token.noise) for token in drawn.tokens])
        result(_check(one))
    result(_("explain: {legend}").format(legend=LEGEND))
    return section


STRONGEST, STRONGEST_STEPS = 10, 3
"""Parameters and windows of steps in the tables of one series."""


def _show_series(
    dataset: Dataset, corpus: Corpus, found: Sequence[Explanation], titles: Sequence[str], how: str
) -> Section:
    """Prints the explanations of a series as tables and returns them, with pictures, as a section."""
    from src.core.terminal import result, show_table
    from src.pipeline.stages.explain import series_of
    from src.reporting import series_findings as findings
    from src.reporting.html_page import Section, Table, Text
    from src.reporting.sections.series_explanations import legend, method, row_parts

    shape, task = dataset.shape, dataset.task
    section = Section("", [Text(f"{how} {method(task, shape)} {legend(task, shape)}")])
    steps = findings.steps_name(shape)
    columns = ["parameter", "contribution", f"strongest {steps}", "there", "values there", "fall without"]
    for title, one in zip(titles, found, strict=True):
        values, statics = series_of(corpus, one.row)
        table = findings.strongest(one, values, statics, shape, STRONGEST)
        windows = findings.strongest_steps(one, shape, STRONGEST_STEPS)
        check = (
            f"The average training {task.one} has the {findings.quantity(task)} {one.start:+.2f}; this "
            f"one {one.logit:+.2f}; {findings.agreement(one, values, statics, shape)}."
        )
        section.parts += row_parts(task.one, title, findings.row_record(one, values, shape), shape)
        section.parts += [Text(check), Table(columns, table, f"{title}: strongest parameters")]
        section.parts.append(Table([steps, "contribution", "most of it"], windows, f"{title}: strongest {steps}"))
        show_table(title, columns, table)
        show_table(
            _("Strongest {steps}").format(steps=steps), [steps, "contribution", "most of it"], windows, ["most of it"]
        )
        result("\n" + check)
    return section


def _label(names: list[str], wanted: str) -> int:
    """Column of a label, from its name or its number."""
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise unknown("label", wanted, names)


def _find(dataset: Dataset, report: str, file: str | None) -> tuple[str, Path, int]:
    """Name of the file, folder of its corpus, row; of several files that have the id the first, and train is before
    tests. Train files are one corpus."""
    import numpy as np

    from src.core.terminal import info, warn
    from src.data.corpus import Corpus

    train_files = [one["name"] for one in dataset.manifest["files"] if one["role"] == "train"]
    places = {name: dataset.test_folder(name) for name in dataset.test_files}
    places = {**dict.fromkeys(train_files, dataset.train_folder), **places}
    if file is not None:
        file = next((name for name in places if file in (name, Path(name).stem)), file)
    if file is not None and file not in places:
        raise unknown("file", file, places)
    found = []
    for name, folder in places.items():
        if file in (None, name):
            corpus = Corpus.load(folder)
            rows = np.flatnonzero(np.asarray(corpus.ids) == report.encode(errors="replace"))
            if name in train_files:
                rows = rows[np.asarray(corpus.sources)[rows] == train_files.index(name)]
            found += [(name, folder, int(row)) for row in rows]
    for name in dataset.test_files if not found else ():
        if report.encode(errors="replace") in dataset.empty_reports(name).ids:
            raise UserError(
                _("report {report} of {name} has no description: there is nothing to explain").format(
                    report=report, name=name
                )
            )
    if not found:
        raise UserError(
            _("no {one} has the id {report} in {places}").format(
                one=word(dataset.task.one), report=report, places=file or ", ".join(places)
            )
        )
    others = [f"--file {shlex.quote(name)}" for name, _, _ in found[1:] if name != found[0][0]]
    if others:
        info(
            _("explain: {one} {report} of {file}; {others} has one too").format(
                one=word(dataset.task.one), report=report, file=found[0][0], others=" or ".join(others)
            )
        )
    if len(found) - len(others) > 1:
        warn(
            _("{file} has {n} {noun} {report}; this is the first").format(
                file=found[0][0], n=len(found) - len(others), noun=word(dataset.task.noun), report=report
            )
        )
    return found[0]


def _check(one: Explanation) -> str:
    """Agreement of the two methods, and the remainder of integrated gradients, in words."""
    from scipy.stats import spearmanr

    parts = [f"a report that says nothing has the logit {one.start:+.2f}", f"this one {one.logit:+.2f}"]
    parts.append(f"of the difference the tokens make {one.contributions.sum():+.2f}")
    if one.falls is not None and len(one.falls) > 2:
        rank = spearmanr(one.contributions, one.falls).statistic
        top = int(one.falls.argmax())
        place = int((-one.contributions).argsort(kind="stable").tolist().index(top)) + 1
        parts.append(
            f"leaving tokens out ranks them alike with a correlation of {rank:.2f}, and the one that is missed most is "
            f"number {place} here"
        )
    return "; ".join(parts) + "."
