"""./run.sh explain [RUN]: which tokens make a run say what it says.

./run.sh explain                              the pipeline's blend, or the best run: what carries each label, and the
                                              hardest and some typical reports, for ./run.sh report
./run.sh explain blend --id 42 --label 3      one report, token by token, in the terminal and as a page
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import UserError, unknown

if TYPE_CHECKING:
    from src.data.dataset import Dataset
    from src.evaluation.workspace import Workspace
    from src.reporting.explanations import Explanation


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="a trained run or a blend (default: blend, or the best)")
    parser.add_argument("--id", metavar="ID", help="one report, token by token")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME",
        help="name or number of a label; may be given again (default: labels that the report has or is predicted)",
    )
    parser.add_argument(
        "--file", metavar="NAME", help="the train or test file that the report is in, where several have its id"
    )


def run(workspace: Workspace, parsed: argparse.Namespace) -> None:
    from src.pipeline.stage import make, reading, run_lock
    from src.pipeline.stages.explain import Explain

    if parsed.id is not None:
        with reading(workspace, "explain", [run_lock(parsed.run or "blend")]):
            explain_report(workspace, parsed.run, parsed.id, parsed.label, parsed.file)
        return
    if parsed.label or parsed.file is not None:
        raise UserError("--label and --file are for one report: name it with --id ID")
    make(workspace, Explain(parsed.run))


def explain_report(
    workspace: Workspace, name: str | None, report: str, wanted: Sequence[str], file: str | None
) -> None:
    """Explains one report, in the terminal and as output/explain_RUN_FILE_ID.html."""
    import numpy as np

    from src.core import storage
    from src.core.terminal import result, show_heat
    from src.data.corpus import Corpus
    from src.pipeline.stages.explain import STEPS, explain_executor, noise_marks, source_of, word_indices
    from src.reporting.explanations import explain
    from src.reporting.html_page import Section, render
    from src.reporting.html_page import Text as Words
    from src.reporting.sections.explanations import LEGEND, heat

    dataset = workspace.dataset
    source = source_of(workspace, name)
    names = dataset.task.label_names
    labels = [_label(names, label) for label in wanted]
    where, folder, row = _find(dataset, report, file)
    corpus = Corpus.load(folder)
    is_train = folder == dataset.train_folder
    if is_train and not workspace.splits.scored[row]:
        raise UserError(f"report {report}: every model has learned from it (folds.scheme=holdout); name another")
    said = workspace.task.decode((source.oof() if is_train else source.test_logits(where))[row])
    truth = np.asarray(corpus.labels)[row] if is_train else None
    if not labels:
        told = said >= 0.5 if truth is None else (said >= 0.5) | (truth == 1)
        labels = [int(k) for k in np.argsort(-said, kind="stable") if told[k]] or [int(said.argmax())]
    executor = explain_executor(workspace, source)
    found = explain(executor, source, folder, [(row, k) for k in labels], is_train, 2 * STEPS, occlude=True)
    tokens = dataset.vocabulary.words[word_indices(corpus, row)].tolist()
    noise = noise_marks(dataset, corpus, found)[row]
    section = Section(f"Report {report} of {where}")
    how = "by models that have not learned from it" if is_train else "by the mean of all folds"
    section.parts.append(Words(f"By {source.name}, {how}. {LEGEND}"))
    for one in found:
        title = f"{names[one.label]}: {said[one.label]:.3f}"
        if truth is not None:
            title += ", in truth " + ("there" if truth[one.label] else "not there")
        drawn = heat(title, tokens, one.contributions, noise)
        section.parts += [drawn, Words(_check(one))]
        if one.attention is not None:
            looked = f"{names[one.label]}: where the pooling looks (attention), which is no measure of what counts"
            section.parts.append(heat(looked, tokens, one.attention, np.zeros(len(tokens), dtype=bool)))
        show_heat(title, [(token.word, token.strength, token.noise) for token in drawn.tokens])
        result(_check(one))
    result(f"explain: {LEGEND}")
    path = workspace.output.explanation(source.name, where, report)
    storage.write_text(path, render("CT report anomaly detection", "What tokens add to a prediction", [section]))
    result(f"explain: {path}")


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
    if file is not None and file not in places:
        raise unknown("file", file, places)
    found = []
    for name, folder in places.items():
        if file in (None, name):
            corpus = Corpus.load(folder)
            rows = np.flatnonzero(np.asarray(corpus.ids) == report.encode())
            if name in train_files:
                rows = rows[np.asarray(corpus.sources)[rows] == train_files.index(name)]
            found += [(name, folder, int(row)) for row in rows]
    if not found:
        raise UserError(f"no report has the id {report} in {file or ', '.join(places)}")
    others = [f"--file {name}" for name, _, _ in found[1:] if name != found[0][0]]
    if others:
        info(f"explain: report {report} of {found[0][0]}; {' or '.join(others)} has one too")
    if len(found) - len(others) > 1:
        warn(f"{found[0][0]} has {len(found) - len(others)} reports {report}; this is the first")
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
