"""./run.sh prepare: read and check the input files, number their tokens, write them as arrays to output/data."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from src import artifacts, inputs
from src.artifacts import Output
from src.config import Config, fingerprint
from src.console import duration, say, warn
from src.corpus import Losses, Vocabulary, encode, token_counts
from src.errors import UserError
from src.inputs import InputFiles
from src.reports import Reports, read_reports
from src.task import Task, get_task

CODE = (__name__,)


def run(config: Config, files: InputFiles) -> None:
    output = Output(config.paths.output)
    manifest = output.data / "manifest.json"
    stamp = fingerprint(
        {
            "task": config.task,
            "data": config.data.model_dump(),
            "files": [[path.name, artifacts.file_sha256(path)] for path in files.train + files.test],
            "code": artifacts.code_version(CODE),
        }
    )
    folders = ["train", *(f"test/{path.stem}" for path in files.test)]
    arrays = [f"{folder}/{name}.npy" for folder in folders for name in ("tokens", "lengths", "ids", "sources")]
    if artifacts.is_current(manifest, stamp, ["vocabulary.json", "train/labels.npy", *arrays]):
        say(f"prepare: up to date ({artifacts.read_json(manifest)['summary']})")
        return
    started = time.perf_counter()
    train, test = _read_all(files)
    task = _recognise(config.task, train)
    labels = np.concatenate([file.labels_for(task) for file in train])
    vocabulary = Vocabulary(np.flatnonzero(token_counts(train + test)))
    manifest.unlink(missing_ok=True)  # from here on the folder is neither the old data nor the new
    vocabulary.save(output.data / "vocabulary.json")
    keep, max_len = config.data.keep, config.data.max_len
    corpus, losses = encode(train, vocabulary, labels, max_len, keep, output.data / "train")
    _tell(train, "train", losses, max_len, keep)
    texts = {}
    for file in test:
        encoded, losses = encode([file], vocabulary, None, max_len, keep, output.data / "test" / file.path.stem)
        texts[file.path.name] = encoded.text_fingerprint
        _tell([file], "test", losses, max_len, keep)
    tests = " + ".join(f"{len(file):,}" for file in test) or "no"
    summary = f"{task.title}; {len(corpus):,} train reports, {tests} test reports, {len(vocabulary.words)} words"
    artifacts.write_json(
        manifest,
        {
            "fingerprint": stamp,
            "summary": summary,
            "task": task.name,
            "vocabulary": vocabulary.fingerprint,
            "train": artifacts.array_hash(corpus.tokens, corpus.labels),
            "files": [
                {"role": "train", "name": file.path.name, "rows": len(file), "sha256": file.sha256} for file in train
            ]
            + [
                {"role": "test", "name": name, "text": texts[name], "rows": len(file), "sha256": file.sha256}
                for name, file in ((file.path.name, file) for file in test)
            ],
        },
    )
    say(f"prepare: {summary} ({duration(time.perf_counter() - started)})")


def _read_all(files: InputFiles) -> tuple[list[Reports], list[Reports]]:
    """Every file, or one error with the complaints about all of them."""
    read: dict[Path, Reports] = {}
    complaints = []
    for path in files.train + files.test:
        try:
            read[path] = read_reports(path, labelled=path in files.train)
        except UserError as error:
            complaints.append(str(error))
    if complaints:
        raise UserError("\n".join(complaints))
    return [read[path] for path in files.train], [read[path] for path in files.test]


def _recognise(wanted: str, train: list[Reports]) -> Task:
    if wanted != "auto":
        return get_task(wanted)
    found = {file.task.name: file.path for file in train}
    if len(found) > 1:
        told = ", ".join(f"{path.name} is {name}" for name, path in found.items())
        raise UserError(f"the train files are of different rounds ({told}). Say which to predict, such as task=round1.")
    return train[0].task


def _tell(files: list[Reports], role: str, losses: Losses, max_len: int, keep: str) -> None:
    for file in files:
        form = f"labels of {file.task.title}" if file.task else "no labels"
        say(f"{role}: {file.path.name}: {len(file):,} reports, {form}; {inputs.describe_known(file.path, file.sha256)}")
    if losses.truncated:
        warn(f"{role}: {losses.truncated:,} reports are longer than data.max_len={max_len}: their {keep} is kept")
