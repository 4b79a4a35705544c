"""./run.sh prepare: read and check the input files, number their tokens, write them as arrays to output/data."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from src.core import array_files, storage, versions
from src.core.errors import UserError
from src.core.language import _, joined, word
from src.core.settings import Config, fingerprint
from src.core.targets import Target
from src.core.terminal import duration, info, result, warn
from src.data import input_files, label_maps, sources
from src.data.corpus import Corpus, Losses, Vocabulary, encode, token_counts
from src.data.image_reader import read_images
from src.data.input_files import InputFiles
from src.data.inputs import InputShape, token_shape
from src.data.report_reader import Reports, read_reports
from src.data.row_files import read_excluded, read_weights
from src.data.series_dataset import TARGETS, encode_images, encode_stays, image_shape, stay_shape
from src.data.series_reader import KNOWN_OUTCOMES, Facts, Outcomes, describe_known, read_outcomes
from src.data.tasks import Task, frames, get_task
from src.evaluation.stored_sentences import message_of
from src.evaluation.workspace import Workspace
from src.pipeline.stage import Progress, Stage


class Prepare(Stage):
    name = "prepare"
    needs = ("sample",)
    is_automatic = True

    def result(self, workspace: Workspace, name: str) -> Path:
        return workspace.output.data / "manifest.json"

    def targets(self, workspace: Workspace) -> list[Target]:
        """Raises UserError where the input folder has no train file."""
        settings, files = workspace.settings, workspace.input_files
        if files is None:
            source, folder = sources.source_of(settings), settings.paths.input
            if sources.is_default(settings):
                raise UserError(
                    _("no {noun} in {folder}: sample data is made first").format(noun=word(source.noun), folder=folder)
                )
            told = _("no file in {folder} matches {settings}")
            told = told.format(folder=folder, settings=source.described(settings))
            if source.synthetic.is_complete(sample := sources.sample_folder(settings)):
                told = joined("; ", [told, _("sample data is read with paths.input={folder}").format(folder=sample)])
            raise UserError(told)
        stamp = fingerprint(
            {
                "task": settings.task,
                "data": (settings.grid if settings.is_clinical else settings.data).model_dump(),
                "files": workspace.input_checksums,
                "version": versions.PREPARE,
                # Of outputs without extra files nothing is made anew.
                **({"extra": EXTRA} if files.extra else {}),
                **({"labels": label_maps.checksum(map_)} if (map_ := settings.domains.labels) else {}),
            }
        )
        return [Target("", self.result(workspace, ""), stamp)]

    def progress(self, workspace: Workspace, target: Target) -> Progress:
        return Progress(message_of(storage.read_json(target.result)["summary"]) if target.is_current() else "")

    def current(self, workspace: Workspace, targets: Sequence[Target]) -> str:
        _warn_of_overlooked(workspace.input_files)
        summary = message_of(storage.read_json(targets[0].result)["summary"])
        return _("prepare: up to date ({summary})").format(summary=summary)

    def run(self, workspace: Workspace, missing: Sequence[Target]) -> None:
        _prepare(workspace, missing[0])


STAGE = Prepare()
EXTRA = 3
"""Version of extra files, beside versions.PREPARE: labels of the other round train too, and normal reports have no
types."""


def _files(data: Path, manifest: dict[str, Any]) -> list[Path]:
    """All files of the dataset but its manifest."""
    shape = InputShape.from_json(manifest["inputs"])
    folders = [data / "train"]
    folders += [data / file["role"] / Path(file["name"]).stem for file in manifest["files"] if file["role"] != "train"]
    arrays = [path for folder in folders for path in sorted(folder.glob("*.npy"))]
    arrays += [
        data / "extra" / f"{Path(file['name']).stem}.rows.npy" for file in manifest["files"] if file.get("labels")
    ]
    arrays += [data / name for name, key in _PARTS if key in manifest]
    return [*arrays, *([data / "vocabulary.json"] if shape.kind == "tokens" else [])]


_PARTS = (("outcomes.npz", "outcomes"), ("weights.npy", "weights"))
"""Files of a dataset that only some have, with their key in the manifest."""


def _warn_of_overlooked(files: InputFiles | None) -> None:
    for sentence in files.overlooked if files else ():
        warn(sentence)


def _prepare(workspace: Workspace, target: Target) -> None:
    started, output, files = time.perf_counter(), workspace.output, workspace.input_files
    paths = [path for group in files.roles.values() for path in group]
    size = sum(storage.size_of(path) for path in paths) / 1e6
    told = _("prepare: reads 1 file, {size:,.1f} MB")
    if len(paths) != 1:
        told = _("prepare: reads {n} files, {size:,.1f} MB")
    info(told.format(n=len(paths), size=size))
    for sentence in files.told:
        info(sentence)
    _warn_of_overlooked(files)
    encode_files = {"reports": _encode_reports, "stays": _encode_sets, "images": _encode_images}
    manifest = encode_files[sources.source_of(workspace.settings).noun](workspace, target)
    manifest |= _describe_rows(workspace, manifest)
    known = workspace.input_checksums
    if sources.checksums(workspace.settings, files) != known:
        raise UserError(_("prepare: an input file was changed while it was read. Run the same command again"))
    target.write({"input": known, **manifest}, _files(output.data, manifest))
    result(
        _("prepare: {summary}, in {data} ({time})").format(
            summary=message_of(manifest["summary"]), data=output.data, time=duration(time.perf_counter() - started)
        )
    )


def _encode_reports(workspace: Workspace, target: Target) -> dict[str, Any]:
    """Encodes reports and returns the manifest."""
    settings, output, files = workspace.settings, workspace.output, workspace.input_files
    train, test, extra = _read_all(files)
    if settings.domains.labels:
        named = label_maps.renumbered(settings.domains.labels, [*train, *extra])
        train, extra = named[: len(train)], named[len(train) :]
    task = _recognise(settings.task, train)
    _compare(train, test, extra)
    n_read = sum(map(len, train))
    train = _without_excluded(files, train)
    labels = np.concatenate([file.labels_for(task) for file in train])
    if not labels.any():
        names = ", ".join(str(file.path) for file in train)
        raise UserError(
            _("the label field of every report of {names} is empty: there is nothing to learn from them").format(
                names=names
            )
        )
    vocabulary = Vocabulary(np.flatnonzero(token_counts(train + test + extra)))
    target.result.unlink(missing_ok=True)  # from here on the folder is neither the old data nor the new
    vocabulary.save(output.data / "vocabulary.json")
    keep, max_len = settings.data.keep, settings.data.max_len
    corpus, losses = encode(train, vocabulary, labels, max_len, keep, output.data / "train")
    _tell(train, "train", losses, max_len, keep)
    texts = {}
    for file in test:
        encoded, losses = encode([file], vocabulary, None, max_len, keep, output.data / "test" / file.path.stem)
        texts[file.path.name] = encoded.fingerprint
        _tell([file], "test", losses, max_len, keep)
    further = [_encode_extra(file, vocabulary, task, corpus, settings, output.data / "extra") for file in extra]
    tests = " + ".join(f"{len(file):,}" for file in test) or "no"
    more = f", {' + '.join(f'{len(file):,}' for file in extra)} extra reports" if extra else ""
    summary = f"{task.title}; {len(corpus):,} train reports, {tests} test reports{more}, {len(vocabulary.words)} words"
    return {
        "summary": summary,
        "task": task.name,
        "inputs": token_shape(len(vocabulary)).to_json(),
        **_counted(files, n_read - len(corpus)),
        "vocabulary": vocabulary.fingerprint,
        "train": storage.array_hash(corpus.tokens, corpus.labels),
        "files": [{"role": "train", "name": file.path.name, "rows": len(file), "sha256": file.sha256} for file in train]
        + [
            {
                "role": "test",
                "name": name,
                "text": texts[name],
                "rows": len(file),
                "sha256": file.sha256,
                **_empty(file),
            }
            for name, file in ((file.path.name, file) for file in test)
        ]
        + further,
    }


def _encode_sets(workspace: Workspace, target: Target) -> dict[str, Any]:
    """Encodes sets of stays and returns the manifest."""
    settings, output, files = workspace.settings, workspace.output, workspace.input_files
    task = get_task(settings.task)
    outcomes = [read_outcomes(files.outcomes[path]) for path in files.train]
    outcomes, n_excluded = _unknown_where_excluded(files, outcomes, TARGETS[task.name])
    target.result.unlink(missing_ok=True)  # from here on the folder is neither the old data nor the new
    made = encode_stays(files.train, outcomes, settings.grid, task, output.data / "train")
    if not len(made.corpus):
        raise UserError(
            _("{train}: {targets} of every stay is unknown (-1): there is none to learn").format(
                train=files.train[0], targets=TARGETS[task.name]
            )
        )
    _refuse_repeated(made.corpus, files.train)
    array_files.write_npz(output.outcomes, **made.outcomes)
    entries = []
    for path, known, facts in zip(files.train, outcomes, made.facts, strict=True):
        rows = int((np.asarray(made.corpus.sources) == len(entries)).sum())
        entries.append({"role": "train", "name": sources.source_of(settings).name(path), "rows": rows, **_facts(facts)})
        deaths, origin = np.nansum(known.columns["In-hospital_death"]), describe_known(known.sha256, KNOWN_OUTCOMES)
        info(
            _("train: {name}: {described}; {deaths:,.0f} deaths; {origin}").format(
                name=path.name, described=facts.describe(), deaths=deaths, origin=origin
            )
        )
    if n_unknown := made.n_unlabelled - n_excluded:
        info(
            _("train: {n:,} stays are left out, as their {targets} is unknown (-1)").format(
                n=n_unknown, targets=TARGETS[task.name]
            )
        )
    for path in files.test:
        name = sources.source_of(settings).name(path)
        test = encode_stays([path], [None], settings.grid, task, output.data / "test" / name)
        entry = {"role": "test", "name": name, "text": test.corpus.fingerprint, "rows": len(test.corpus)}
        entries.append({**entry, **_facts(test.facts[0])})
        info(_("test: {name}: {described}").format(name=path.name, described=test.facts[0].describe()))
        if len(common := np.intersect1d(made.corpus.ids, test.corpus.ids)):
            warn(
                _(
                    "test: {name}: {n:,} of its stays are train stays too ({example} is one), so "
                    "predictions of it look better than they are"
                ).format(name=path.name, n=len(common), example=common[0].decode())
            )
    for name, count in sum((facts.implausible for facts in made.facts), Counter()).most_common(5):
        info(
            _("train: {count:,} values of {name} are outside its plausible range and become missing").format(
                count=count, name=name
            )
        )
    shape = stay_shape(settings.grid, task)
    size = f"{len(shape.parameters)} parameters x {shape.steps} steps"
    return {
        **_series_manifest(task, shape, made.corpus, entries, size),
        **_counted(files, n_excluded),
        "outcomes": storage.array_hash(*made.outcomes.values()),
    }


def _unknown_where_excluded(files: InputFiles, outcomes: list[Outcomes], target: str) -> tuple[list[Outcomes], int]:
    """Returns outcomes in which the target of the stays that paths.exclude names is unknown, as stays without it are
    left out, and the number of stays of which it was known."""
    start, left, n_excluded = 0, [], 0
    is_excluded = _excluded(files, np.concatenate([one.ids for one in outcomes]), "stay")
    for one in outcomes:
        own = is_excluded[start : start + len(one)]
        start += len(one)
        n_excluded += int((own & ~np.isnan(one.columns[target])).sum())
        column = np.where(own, np.nan, one.columns[target])
        left.append(replace(one, columns={**one.columns, target: column}))
    return left, n_excluded


def _refuse_repeated(corpus: Corpus, paths: Sequence[Path]) -> None:
    """Raises a UserError for a stay in several of the sets that a corpus was encoded from."""
    ids, counts = np.unique(corpus.ids, return_counts=True)
    if (counts > 1).any():
        record = ids[counts > 1][0]
        names = " and ".join(paths[source].name for source in corpus.sources[corpus.ids == record].tolist())
        raise UserError(
            _(
                "{count:,} stays are in several training sets, such as {example} in {names}: folds "
                "would train on stays that they validate on. Remove these files from one of the sets."
            ).format(count=(counts > 1).sum(), example=record.decode(), names=names)
        )


def _encode_images(workspace: Workspace, target: Target) -> dict[str, Any]:
    """Encodes images and returns the manifest. Those of a file's val part are training images too."""
    output, (path, *others) = workspace.output, workspace.input_files.train
    if others:
        names = ", ".join(other.name for other in (path, *others))
        raise UserError(
            _("{folder} holds {names}: leave one .npz file there, or set paths.input to another folder").format(
                folder=path.parent, names=names
            )
        )
    parts = read_images(path)
    train = [part for name, part in parts.items() if name != "test"]
    if train[0].labels is None:
        raise UserError(_("{path} has no train_labels").format(path=path))
    if "exclude" in workspace.input_files.rows:
        raise UserError(_("paths.exclude is for reports and stays: leave images out of the .npz file itself"))
    sha256 = storage.file_sha256(path)
    target.result.unlink(missing_ok=True)  # from here on the folder is neither the old data nor the new
    corpus = encode_images(train, output.data / "train")
    entries: list[dict[str, Any]] = [{"role": "train", "name": path.stem, "rows": len(corpus), "sha256": sha256}]
    if "test" in parts:
        name = f"{path.stem}_test"
        test = replace(parts["test"], labels=None)
        made = encode_images([test], output.data / "test" / name)
        entries.append({"role": "test", "name": name, "text": made.fingerprint, "rows": len(made), "sha256": sha256})
    shape, task = image_shape(train[0]), frames(train[0].n_classes)
    info(
        _("train: {name}: {n:,} images of {n_labels} classes; sha256 {sha256}…").format(
            name=path.name, n=len(corpus), n_labels=task.n_labels, sha256=sha256[:8]
        )
    )
    size = f"{shape.steps} rows x {len(shape.parameters)} columns"
    return _series_manifest(task, shape, corpus, entries, size)


def _series_manifest(
    task: Task, shape: InputShape, corpus: Corpus, entries: list[dict[str, Any]], size: str
) -> dict[str, Any]:
    """Returns the manifest of a train corpus of series and of the files `entries`; `size` words that of one series."""
    tests = " + ".join(f"{entry['rows']:,}" for entry in entries if entry["role"] == "test") or "no"
    return {
        "summary": f"{task.title}; {len(corpus):,} train {task.noun}, {tests} test {task.noun}, {size}",
        "task": task.name,
        "inputs": shape.to_json(),
        "vocabulary": fingerprint(shape.to_json()),
        "train": storage.array_hash(*corpus.input_arrays(), corpus.labels),
        "files": entries,
    }


def _facts(facts: Facts) -> dict[str, Any]:
    """Counts of a set for the manifest."""
    return {
        "sha256": facts.sha256,
        "stays": facts.stays,
        "lines": facts.rows,
        "without_series": facts.without_series,
        "blank": facts.blank,
        "unknown": dict(sorted(facts.unknown.items())),
        "implausible": dict(sorted(facts.implausible.items())),
        "repaired": dict(sorted(facts.repaired.items())),
    }


def _read_all(files: InputFiles) -> tuple[list[Reports], list[Reports], list[Reports]]:
    """Every file, or one error with the complaints about all of them."""
    read: dict[Path, Reports] = {}
    complaints = []
    for path in files.train + files.test + files.extra:
        try:
            labelled = None if path in files.extra else path in files.train
            read[path] = read_reports(path, labelled, may_be_empty=path in files.test)
        except UserError as error:
            complaints.append(str(error))
    if complaints:
        raise UserError("\n".join(complaints))
    return tuple([read[path] for path in paths] for paths in (files.train, files.test, files.extra))


def _empty(file: Reports) -> dict[str, Any]:
    """Returns the entry of the manifest about reports without a description, if there are any."""
    return {"empty": file.empty.to_json()} if len(file.empty) else {}


def _compare(train: list[Reports], test: list[Reports], extra: list[Reports]) -> None:
    """Raises UserError for two train files with the same reports; warns of an id in two train files, and of one file
    under two names."""
    _ids, numbers, counts = np.unique(
        np.concatenate([file.ids for file in train]), return_inverse=True, return_counts=True
    )
    is_repeated, start = counts[numbers] > 1, 0
    texts: dict[tuple[bytes, bytes], tuple[int, int]] = {}
    places: dict[bytes, tuple[int, int]] = {}
    doubled, reused = Counter(), []
    for number, file in enumerate(train):
        for row in np.flatnonzero(is_repeated[start : start + len(file)]).tolist():
            name, text = bytes(file.ids[row]), file[row].tobytes()
            if (twin := texts.setdefault((name, text), (number, row))) != (number, row):
                doubled[twin[0], number] += 1
            elif (first := places.setdefault(name, (number, row))) != (number, row):
                reused.append((name, first, (number, row)))
        start += len(file)
    for (one, other), count in doubled.items():
        if 2 * count > min(len(train[one]), len(train[other])):
            raise UserError(
                _(
                    "{path} and {other} hold the same reports ({count:,} with equal id and text), which "
                    "would count twice. Remove one of the files."
                ).format(path=train[one].path, other=train[other].path, count=count)
            )
        names = f"{train[one].path.name} and {train[other].path.name}"
        warn(
            _("train: {count:,} reports are in {names} with the same id and text, and count twice").format(
                count=count, names=names
            )
        )
    if reused:
        name, *two = reused[0]
        found = " and ".join(f"{train[number].path.name}, line {row + 1}" for number, row in two)
        warn(
            _("train: {n:,} ids have two texts, such as {example} in {found}: each line is a report").format(
                n=len(reused), example=name.decode(), found=found
            )
        )
    files = [*train, *test, *extra]
    for digest, count in Counter(file.sha256 for file in files).items():
        if count > 1:
            names = ", ".join(str(file.path) for file in files if file.sha256 == digest)
            warn(_("one file under several names: {names}").format(names=names))


def _without_excluded(files: InputFiles, train: list[Reports]) -> list[Reports]:
    """Leaves out the reports that paths.exclude names."""
    start, kept = 0, ~_excluded(files, np.concatenate([file.ids for file in train]), "report")
    left = []
    for file in train:
        left.append(file.only(np.flatnonzero(kept[start : start + len(file)])))
        start += len(file)
    return left


def _counted(files: InputFiles, n_excluded: int) -> dict[str, int]:
    """Returns the entry of the manifest about rows that paths.exclude left out, where it is set."""
    return {"excluded": n_excluded} if "exclude" in files.rows else {}


def _excluded(files: InputFiles, ids: np.ndarray, noun: str) -> np.ndarray:
    """Returns which of the training rows `ids` (N,) paths.exclude names, (N,) bool. Raises UserError where it names
    all."""
    path = files.rows.get("exclude")
    if path is None:
        return np.zeros(len(ids), dtype=bool)
    found = read_excluded(path).mask(ids, noun)
    if found.all():
        raise UserError(
            _("{path} names every training {noun}: none is left to learn from").format(path=path, noun=word(noun))
        )
    return found


def _describe_rows(workspace: Workspace, manifest: dict[str, Any]) -> dict[str, Any]:
    """Writes the weights of paths.weights beside the corpus; returns what the manifest notes of them and of
    paths.exclude."""
    output, rows = workspace.output, workspace.input_files.rows
    found: dict[str, Any] = {}
    told = []
    output.row_weights.unlink(missing_ok=True)
    if path := rows.get("weights"):
        file = read_weights(path)
        ids = np.asarray(Corpus.load(output.data / "train").ids)
        excluded = read_excluded(path) if (path := rows.get("exclude")) else None
        weights = file.weights_of(ids, get_task(manifest["task"]).one, excluded)
        array_files.write_npy(output.row_weights, weights)
        found["weights"] = storage.array_hash(weights)
        told.append(_("{n:,} rows weighted in training by {name}").format(n=len(file.lines), name=file.path.name))
    if path := rows.get("exclude"):
        told.append(
            _("{excluded:,} left out by {name}, so they are in no score").format(
                excluded=manifest["excluded"], name=path.name
            )
        )
    if told:
        info(_("train: {told}").format(told=joined("; ", told)))
        found["summary"] = "; ".join([manifest["summary"], *told])
    return found


def _recognise(wanted: str, train: list[Reports]) -> Task:
    if wanted != "auto":
        return get_task(wanted)
    # Train files of the other round are extra files (data/rounds.py), or give the labels that all files have.
    return min((file.task for file in train), key=lambda task: task.n_labels)


def _encode_extra(
    file: Reports, vocabulary: Vocabulary, task: Task, train: Corpus, settings: Config, folder: Path
) -> dict[str, Any]:
    """Encodes an extra file into `folder`/STEM, writes the rows that can train beside it, and returns its manifest
    entry."""
    labels, arrays = None if file.task is None else file.known_labels(task), folder / file.path.stem
    if labels is None:
        (arrays / "labels.npy").unlink(missing_ok=True)  # of another file of this name
    keep, max_len = settings.data.keep, settings.data.max_len
    encoded, losses = encode([file], vocabulary, labels, max_len, keep, arrays)
    _tell([file], "extra", losses, max_len, keep)
    stands_for_labels = None
    if labels is not None:
        is_known = np.isin(encoded.hashes(), train.hashes())
        if is_known.any():
            # Trained on, these would tell a model the labels of what it is validated on.
            count = f"{is_known.sum():,} of its reports have the text of a train report"
            info(_("extra: {name}: {count}: their labels are not used").format(name=file.path.name, count=count))
        if lacking := [group.name for group in task.groups[len(file.task.groups) :]]:
            told = _(
                "extra: {name}: it has no {groups}: these are unknown; runs with teachers learn what these predict, "
                "others nothing"
            )
            info(told.format(name=file.path.name, groups=", ".join(lacking)))
        rows = np.flatnonzero(~is_known)
        array_files.write_npy(folder / f"{file.path.stem}.rows.npy", rows)
        stands_for_labels = storage.array_hash(rows, labels)
    return {
        "role": "extra",
        "name": file.path.name,
        "text": encoded.fingerprint,
        "labels": stands_for_labels,
        "rows": len(file),
        "sha256": file.sha256,
    }


def _tell(files: list[Reports], role: str, losses: Losses, max_len: int, keep: str) -> None:
    for file in files:
        form = _("labels of {title}").format(title=word(file.task.title)) if file.task else _("no labels")
        origin = input_files.describe_known(file.path, file.sha256)
        info(
            _("{role}: {name}: {n:,} reports, {form}; {origin}").format(
                role=role, name=file.path.name, n=len(file) + len(file.empty), form=form, origin=origin
            )
        )
        if len(file.empty):
            warn(
                _("{role}: {name}: {described}; there the label rates of train are predicted").format(
                    role=role, name=file.path.name, described=file.empty.describe()
                )
            )
    if losses.truncated:
        warn(
            _("{role}: {truncated:,} reports are longer than data.max_len={max_len}: their {keep} is kept").format(
                role=role, truncated=losses.truncated, max_len=max_len, keep=keep
            )
        )
