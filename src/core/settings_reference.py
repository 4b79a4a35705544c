"""Reference of every setting: type, default, range, meaning, and what a change costs. Made of their classes.

entries()                 all, in the order of their classes
./run.sh config --explain train.epochs
python -m tests.settings_reference        writes docs/settings.md
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from src.core.run_settings import AnyModel, Run
from src.core.setting_types import Settings
from src.core.settings import ROOT, Config
from src.core.settings_loader import MADE

NO_WORDS = MADE | {"preset", "runs"}
"""Fields of Config that are no key=value word: the loader sets them, or they are the runs."""
COSTS = {
    "data.max_len": "time and memory of every stage grow with the length of the longest reports",
    "grid.step": "half the step is twice the time of training",
    "folds.k": "training time and disk grow in proportion; so does what each model learns from, up to all rows",
    "folds.seeds": "training time and disk grow in proportion to their number",
    "sample.rows": "time of the whole pipeline grows in proportion",
    "shift.max_rows": "time of shift grows faster than in proportion",
    "shift.draws": "time of validation, and disk, grow in proportion",
    "model.embedding_size": "time of training grows about in proportion; of a Transformer with the square",
    "model.hidden_size": "time of training grows in proportion up to some 128, with the square above",
    "model.layers": "time of training grows in proportion",
    "model.feedforward_size": "time of training grows about in proportion",
    "model.filters": "time of training grows in proportion",
    "model.size": "time of training grows about in proportion",
    "model.blocks": "time of training grows in proportion",
    "model.dropout_samples": "little: the head alone is computed several times",
    "model.max_iter": "time of the fit grows in proportion",
    "model.members": "time of the fit grows in proportion",
    "train.epochs": "training time grows in proportion",
    "train.seeds": "training time and disk grow in proportion to their number",
    "train.batch_size": "larger batches take more memory and less time an epoch",
    "train.precision": "fp32 takes about one and a half times as long where the processor has bfloat16",
    "train.patience": "saves epochs, and makes the out-of-fold score optimistic",
    "train.compile": "on a CPU half a minute a model",
    "train.attack": "twice the training time",
    "train.consistency": "twice the training time",
    "train.join": "training time grows by that share",
    "train.extra_weight": "training time grows with the extra rows",
    "train.regime": "maml takes five times, reptile and fomaml three times as long as pooled; the others little more",
    "regime.noise": "several times the training time: a gradient a row",
    "regime.inner_steps": "training time grows in proportion",
    "regime.unlabelled": "training time grows with the test rows",
    "train.teachers": "the teachers are trained first; training time grows with the test and extra rows",
    "pretrain.epochs": "minutes an epoch: all text is read once",
    "pretrain.batch_size": "larger batches take more memory and less time an epoch",
    "pretrain.precision": "fp32 takes about one and a half times as long where the processor has bfloat16",
    "denoise.by": "pretraining of that run, and twice the time of training",
    "denoise.in_training": "false halves the training time",
    "denoise.views": "a further view is a further prediction",
    "baselines": "seconds each; tfidf grows with the rows",
    "explain.per_label": "time of explain grows in proportion",
    "alarms.hours": "time of alarms grows in proportion to their number",
    "adapt.draws": "time of domains adapt grows in proportion",
    "adapt.epochs": "time of domains adapt grows in proportion",
    "executor.workers": "each further worker takes a core, and 0.5 to 1 GB of memory",
    "executor.threads": "other threads change the last bits of results",
    "device": "`standard` takes 3 minutes on an H200 with 16 cores, 38 on two cores",
    "predict.shard": "memory of the command and of each worker grows in proportion",
    "compress.epochs": "time of compress grows in proportion",
    "compress.prune_epochs": "time of compress grows in proportion",
    "serve.threads": "each takes a core",
}
"""Time, memory and disk that a larger value of a setting costs; of the others, a change costs no time to speak of."""
REMADE = {
    "paths": "nothing; other files are other results",
    "task": "everything",
    "data": "everything",
    "grid": "everything",
    "sample": "the sample data, and everything",
    "folds": "the folds, and all that is measured or trained on them",
    "shift": "shift, predictions of the noisy copies, and the blend",
    "select_on": "blend, submissions, leaderboard",
    "target": "blend, submissions, leaderboard",
    "metric": "blend, leaderboard",
    "operating": "figures of the scores",
    "average": "what runs are made of their models, which stay; blend, submissions, leaderboard",
    "model": "the models of the runs that have it",
    "domains": "the models of runs with another train.regime than pooled; under folds.scheme=domains the folds",
    "adapt": "what ./run.sh domains adapt makes",
    "features": "the models of the runs that have it",
    "pretrain": "the encoder, and the models of the runs that have it",
    "denoise": "the models of the runs that have it",
    "train": "the models of the runs that have it",
    "regime": "the models of the runs that have it",
    "baselines": "baselines that are new",
    "blend": "blend, submissions, leaderboard",
    "submit": "submissions",
    "explain": "explanations",
    "alarms": "alarms",
    "compress": "small models",
    "device": "models: another device computes other last bits",
    "executor": "nothing; with other threads, models",
}
"""Results that a changed setting makes anew, by the first part of its key; none where it is not named."""


FAMILIES = {"recurrent": "lstm, gru, rnn, han"}
"""Models of an encoder that is not called like its model."""


OTHER_NAMES = {
    "lr": "learning_rate", "batch": "batch_size", "bs": "batch_size", "wd": "weight_decay", "hidden": "hidden_size",
    "epoch": "epochs", "seed": "seeds", "n_folds": "k", "kfold": "k", "max_length": "max_len",
    "embedding_dim": "embedding_size", "early_stopping": "patience",
}  # fmt: skip
"""Names that other programs give to settings."""


@dataclass(frozen=True)
class Entry:
    key: str
    """As on the command line, such as train.epochs."""
    kind: str
    """Type in words, such as whole number."""
    default: str
    limits: str
    """Range or choices in words; empty where anything of the type goes."""
    meaning: str
    """Text below the field."""
    of: str
    """Models that have the setting, for keys below model; empty for all."""
    cost: str
    """Time, memory or disk of a larger value; empty where there is none to speak of."""
    remade: str
    """Results that a change makes anew."""


@functools.cache
def entries() -> list[Entry]:
    found = list(_of_class(Config, "", ""))
    kinds = typing.get_args(typing.get_args(AnyModel)[0])
    below_model: dict[str, tuple[Entry, list[str]]] = {}
    for kind in kinds:
        for entry in _of_class(kind, "model.", ""):
            first, names = below_model.setdefault(entry.key + entry.default, (entry, []))
            names.append(FAMILIES.get(encoder := kind.model_fields["encoder"].default, encoder))
    for entry, names in below_model.values():
        if entry.key != "model.encoder":
            of = "" if len(names) == len(kinds) else ", ".join(names)
            found.append(Entry(**{**vars(entry), "of": of}))
    for name, field in Run.model_fields.items():
        if name != "model":
            found += _of_class(field.annotation, f"{name}.", "")
    return found


def find(key: str) -> list[Entry]:
    """Entries of a key, or of all keys below it; of runs.NAME.KEY those of KEY."""
    parts = key.split(".")
    parts = parts[2:] if parts[0] == "runs" and len(parts) > 2 else parts
    key = ".".join(["executor", *parts] if parts[0] == "ray" else parts)
    return [entry for entry in entries() if entry.key == key or entry.key.startswith(f"{key}.")]


def suggested(name: str, nearest: bool = True) -> list[str]:
    """Keys that a name may stand for: those whose last part it is, of train where one is, or else the `nearest`."""
    name = name.replace("-", "_")
    last = OTHER_NAMES.get(name.rpartition(".")[2], name.rpartition(".")[2])
    keys = list(dict.fromkeys(entry.key for entry in entries()))
    same = [key for key in keys if key.rpartition(".")[2] == last]
    first = [key for key in same if key.startswith("train.")]
    if same:
        return first or same
    if not nearest:
        return []
    names = {key.rpartition(".")[2]: key for key in [*keys, *(key for key in keys if key.startswith("train."))]}
    return [names[near] for near in difflib.get_close_matches(last, names, n=1, cutoff=0.75)]


def _of_class(kind: Any, prefix: str, of: str) -> Iterator[Entry]:
    texts = _texts(kind)
    for name, field in kind.model_fields.items():
        key = f"{prefix}{name}"
        if kind is Config and name in NO_WORDS:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _of_class(field.annotation, f"{key}.", of)
            continue
        text = " ".join((texts.get(name) or "").split())
        cost, remade = COSTS.get(key, ""), REMADE.get(key.partition(".")[0], "nothing")
        yield Entry(key, _kind(field.annotation), _default(field), _limits(field), text, of, cost, remade)


@functools.cache
def _texts(kind: Any) -> dict[str, str]:
    """The text behind each field of a class and of the classes that it rests on."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not issubclass(one, Settings):
            continue
        (definition,) = ast.parse(inspect.getsource(one)).body
        for field, text in zip(definition.body, definition.body[1:], strict=False):
            is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and is_text:
                found[field.target.id] = text.value.value
    return found


def _kind(annotation: Any) -> str:
    """Words a type."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return "choice"
    if origin in (typing.Union, types.UnionType):
        names = [_kind(one) for one in inner if one is not type(None)]
        return " or ".join(names) + (" or null" if type(None) in inner else "")
    if origin is list:
        return f"list of {_kind(inner[0])}s"
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return ""
    if isinstance(value, Path):
        return str(value.relative_to(ROOT)) if value.is_relative_to(ROOT) else str(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


def _limits(field: FieldInfo) -> str:
    parts = [*_choices(field.annotation), *_bounds(field.metadata)]
    for one in _annotated(field.annotation):
        parts += _bounds(one)
    return "; ".join(dict.fromkeys(parts))


def _choices(annotation: Any) -> list[str]:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return [", ".join(map(str, inner))]
    return [text for one in inner if one is not type(None) for text in _choices(one)] if origin else []


def _annotated(annotation: Any) -> Iterator[list[Any]]:
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        for one in inner[1:]:
            yield list(one.metadata) if isinstance(one, FieldInfo) else [one]
    for one in inner:
        if typing.get_origin(one) is not None:
            yield from _annotated(one)


def _bounds(metadata: list[Any]) -> list[str]:
    """Words limits such as ge=1, le=100: 1 to 100."""
    found = {name: getattr(one, name) for one in metadata for name in ("ge", "gt", "le", "lt") if hasattr(one, name)}
    lengths = {n: getattr(one, n) for one in metadata for n in ("min_length", "max_length") if hasattr(one, n)}
    low, high = found.get("ge", found.get("gt")), found.get("le", found.get("lt"))
    texts = []
    above = f"above {low:,g}" if "gt" in found else f"{_number(low)} or more" if low is not None else ""
    if low is not None and high is not None:
        start = f"above {_number(low)}" if "gt" in found else _number(low)
        texts.append(f"{start} to {'below ' if 'lt' in found else ''}{_number(high)}")
    elif low is not None:
        texts.append(above)
    elif high is not None:
        texts.append(f"{'below ' if 'lt' in found else 'at most '}{_number(high)}")
    if lengths.get("min_length"):
        texts.append(f"at least {lengths['min_length']} of them")
    return texts


def _number(value: float) -> str:
    if isinstance(value, int) or abs(value) >= 1e4:
        return f"{value:,.0f}"
    return f"{value:.3g}"
