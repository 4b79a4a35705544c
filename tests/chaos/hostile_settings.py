# ruff: noqa: E501 - whole files in a line each
"""Hostile settings: words of a command line, presets, search spaces and best.yaml, drawn at random.

case = draw_case(random.Random(seed))        # write case.files into the folder in which case.arguments are run
"""

from __future__ import annotations

import copy
import random
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import yaml

from src.core.settings import Config
from src.core.settings_loader import PRESETS, _settings_in, load_config

VERBS = ("config", "status", "prepare", "folds", "shift", "train", "tune", "blend", "submit", "score")
WORDS = [
    "", " ", "null", "~", "nan", "-nan", "inf", "-inf", "1e999", "-1", "0", "-0", "0.0", "1e-320", "1e308", "9" * 5000,
    "1_000", "0x10", "007", "1e3", "1.5", "0.5", "2", "100000000000", str(2**31), str(2**63), str(10**30), "1,2",
    "true", "no", "[]", "{}", "[[]]", "[null]", "[.nan]", "{a: 1}", "{? [a] : 1}", "[1, 1]", "[a, b]", "[0, 1, 2]",
    "{a: {a: {a: {a: {}}}}}", "[" * 1000, "{a: " * 1000, "[&a [*a]]", "[*a]", "[!!python/object:os.system x]", "[!!int x]",
    "../../../evil", "/etc/passwd", "/dev/zero", "/etc/*", "a/b", "..", ".", "*", "**", "**/**", "a**b", "[", "{", "]",
    "\n", "a\nb", "\x1b[31m\x07", "\udcff", "数据", "$(id)", "`id`", "%s%n", "'", '"', "\\", "@", "x" * 100_000,
    "blend", "lstm", "transformer", "last", "auto", "none", "mean", "holdout", "families", "hard", "1e-3", "0.999999",
    "{encoder: transformer}", "{encoder: [1]}", "{epochs: 1}", "{lstm: {}}", "{lstm: hello}", "[lstm, lstm]", "/proc/self/mem",
    "- 1", "? a", "1:30", "2021-01-01", "-", "--help", "|,|", "{0}", "$HOME",
]  # fmt: skip
"""Values of key=value words."""
VALUES = [
    None, True, False, 0, -1, 1, 2, 0.5, 2**31, 2**63 - 1, 10**30, 1e308, -1e-320, float("nan"), float("inf"), "", "x",
    "1", "nan", [], {}, [None], [[]], {"a": 1}, {"encoder": "linear"}, {"like": "lstm"}, [1, 1], ["a", "b"],
    [[[[[[1]]]]]], list(range(2000)), {str(i): i for i in range(2000)}, "x" * 10_000, b"\x00\xff", "2020-01-01",
    "../../../evil", "/dev/zero", "\x1b[31m", "a\0b", "a\nb", "blend", "lstm", "数据",
]  # fmt: skip
"""Values inside YAML files."""
TEXTS = [
    b"", b"\0", b"\xff\xfe", b"\x7fELF\x02\x01", b"PK\x03\x04", b"<html>", b"version https://git-lfs.github.com/spec/v1\n",
    b"[" * 100_000, b"{a: " * 10_000, b"- " * 50_000, b"a: [", b"a: 1\na: 2", b"runs: &a {lstm: *a}", b"runs: {<<: *x}",
    b"runs: hello", b"runs: [lstm]", b"runs: {lstm: hello}", b"runs: {lstm: [1]}", b"runs: {lstm: {model: 1}}",
    b"runs: {lstm: {like: [1]}}", b"runs: {1: {like: lstm}}", b"runs: {on: {like: lstm}}", b"runs: {blend: {like: lstm}}",
    b"runs: {'../x': {like: lstm}}", b"runs: {'': {like: lstm}}", b"runs: {'a/b': {like: lstm}}", b"runs: {lstm: {}}\ntune: [1]",
    b'runs: {"a\\0b": {like: lstm}}', b"runs: {lstm: {}}\nmodels: [x]", b"runs: {lstm: {}}\npaths: [1]", b"--- {}\n--- {}",
    b"runs: {lstm: {}}\ntask: [icu]", b"runs: {lstm: {}}\ntask: icu", b"runs: {lstm: {train: {teachers: [lstm]}}}",
    b"runs: {lstm: {train: {teachers: lstm}}}", b"runs: {a: {like: lstm, train: {teachers: [b]}}, b: {like: lstm, train: {teachers: [a]}}}",
    b"runs: {lstm: {denoise: {by: lstm}}}", b"runs: {lstm: {}}\nblend: {members: [x]}", b"runs: {lstm: {}}\nblend: [x]",
    b"a0: &a0 [x]\n" + b"\n".join(b"a%d: &a%d [%s]" % (i, i, b",".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 9)),
    b"runs: {" + b", ".join(b"r%d: {like: lstm}" % i for i in range(3000)) + b"}", b"!!python/object/apply:os.system [id]",
    b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 42)) + b"runs: {lstm: {}}",
    b"null", b"17", b"hello", b"runs:", b"runs: {}", b"a: b: c", b"runs: {17: {}}", b"runs: {null: {}}", b"? [a]\n: b",
    b"runs: {lstm: {like: nothing}}", b"runs: {lstm: {}}\npaths: {output: 17}", b"runs: {lstm: {}}\nruns: {gru: {}}",
    b"runs: {lstm: {}}\n\tfolds: 1", "\ufeffruns: {lstm: {}}".encode(), b"%YAML 9.9\n---\n", b"runs: !!set {lstm}",
    b"runs: {lstm: {}}\ntask: frames", b"<<: 1", b"runs: {lstm: {}}\nfolds: {k: 1e400}", b"runs: 2021-01-01",
    b"runs: {lstm: {}}\nseed: !!binary aGVsbG8=", b"runs: {lstm: {}}\nfolds: {k: !!float nan}",
    b"runs: {lstm: {train: {seeds: [" + b"1, " * 9999 + b"1]}}}",
    b"#" * 300_000, "runs: {lstm: {}}".encode("utf-16"), "runs: {模型: {like: lstm}}".encode("gbk"), b"runs: {lstm: {train: {}}}\ntrain: 5",
]  # fmt: skip
"""Whole files."""
SPACE = "train.learning_rate: {type: float, low: 0.002, high: 0.02, log: true}\ntrain.epochs: {type: int, low: 1, high: 2}\n"
SPACE += "train.attack: {type: categorical, choices: [none, fgm]}\n"
SPACE += "train.attack_size: {type: float, low: 0.1, high: 1.0, when: {train.attack: fgm}}\n"


@dataclass
class Case:
    """A command and the files that it names."""

    arguments: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    """Content by path in the folder of the command."""


def keys(settings: Any = Config, start: str = "") -> Iterator[str]:
    """Yields the key of every setting, those of all kinds of models included."""
    for name, info in settings.model_fields.items():
        if not start and name in ("preset", "overrides", "models", "denoisers", "tuned", "runs"):
            continue
        yield f"{start}{name}"
        for inner in _settings_in(info.annotation):
            yield from keys(inner, f"{start}{name}.")


@cache
def all_keys() -> list[str]:
    run = typing.get_args(Config.model_fields["runs"].annotation)[1]
    of_runs = list(keys(run, ""))
    return sorted({*keys(), *of_runs, *(f"runs.lstm.{key}" for key in of_runs), *ODD})


def extremes(schema: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """Returns the smallest, largest and every named value that a JSON schema accepts, as words."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if kinds := schema.get("anyOf"):
        return [word for kind in kinds for word in extremes(kind, definitions)]
    if "enum" in schema or "const" in schema:
        return [str(one) for one in schema.get("enum", [schema.get("const")])]
    kind = schema.get("type")
    if kind == "array":
        inner = extremes(schema["items"], definitions)
        return ["[]", *(f"[{one}]" for one in inner), f"[{', '.join(inner)}]"]
    if kind in ("integer", "number"):
        step = 1 if kind == "integer" else 1e-9
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1e308) + step)
        high = schema.get("maximum", schema.get("exclusiveMaximum", 1e308) - step)
        return [str(low), str(high), str(min(low + step, high)), str(max(high - step, low))]
    return {"boolean": ["true", "false"], "null": ["null"], "string": ["x", "数据", "lstm", "last"]}.get(kind, [])


@cache
def extreme_words() -> dict[str, list[str]]:
    """Returns the extreme values of each setting, by key."""
    found: dict[str, list[str]] = {}
    schema = Config.model_json_schema()
    definitions = schema["$defs"]

    def walk(part: dict[str, Any], start: str) -> None:
        for name, one in part["properties"].items():
            if not start and name in ("preset", "overrides", "models", "denoisers", "tuned", "runs", "paths", "track"):
                continue
            for ref in [one.get("$ref"), *(kind.get("$ref") for kind in one.get("oneOf", ()))]:
                if ref and "properties" in (inner := definitions[ref.rpartition("/")[2]]):
                    walk(inner, f"{start}{name}.")
            if words := extremes(one, definitions):
                found.setdefault(f"{start}{name}", []).extend(words)

    walk(schema, "")
    walk(definitions["Run"], "")
    walk(definitions["Run"], "runs.lstm.")
    return {key: sorted(set(words)) for key, words in sorted(found.items())}


ODD = ("runs", "runs.lstm", "runs.lstm.model", "runs.x.train.epochs", "preset", "models", "tuned", "overrides", "", ".", "a..b",
       "train.epochs.x", "paths.output.x", "folds.k.k.k", "task", "TASK", "数据", "\x1b[31m", "x" * 1000, "a." * 500)  # fmt: skip


@cache
def presets() -> list[dict[str, Any]]:
    """Presets that are mutated: a shipped one, one with every part, and one with runs alone."""
    whole = load_config("sample").model_dump(mode="json")
    run = {name: whole["runs"][name] for name in ("lstm", "transformer")}
    parts = {name: whole[name] for name in ("folds", "blend", "tune", "shift", "executor")}
    small = yaml.safe_load((PRESETS / "quick.yaml").read_text(encoding="utf-8"))
    return [small, {**parts, "runs": run}, {"runs": run}]


def draw_case(draw: random.Random) -> Case:
    kind = draw.choice(("word", "words", "preset", "text", "space", "best", "option", *["extreme"] * 4))
    verb = draw.choice(VERBS)
    start = [verb, "lstm"] if verb == "tune" else [verb]
    if kind in ("word", "words"):
        count = 1 if kind == "word" else draw.randint(2, 4)
        return Case([*start, *(f"{draw.choice(all_keys())}={draw.choice(WORDS)}" for _ in range(count))])
    if kind == "extreme":
        extreme = extreme_words()
        chosen = draw.sample(sorted(extreme), draw.choice((1, 1, 1, 2, 3)))
        return Case([*start, *(f"{key}={draw.choice(extreme[key])}" for key in chosen)])
    if kind == "preset":
        return Case([*start, "--preset", "p.yaml"], {"p.yaml": _dumped(_mutated(draw, draw.choice(presets())))})
    if kind == "text":
        text = draw.choice(TEXTS) if draw.random() < 0.7 else _damaged(draw, _dumped(presets()[-1]))
        return Case([*start, "--preset", "p.yaml"], {"p.yaml": text})
    if kind == "space":
        if draw.random() < 0.6:
            text = _dumped(_mutated(draw, yaml.safe_load(SPACE)))
        else:
            text = _damaged(draw, SPACE.encode() if draw.random() < 0.8 else draw.choice(TEXTS))
        return Case(["tune", draw.choice(["lstm", "blend"]), "--space", "s.yaml"], {"s.yaml": text})
    if kind == "best":
        tree = _dumped(_mutated(draw, presets()[1]))
        text = tree if draw.random() < 0.6 else draw.choice([*TEXTS, _damaged(draw, tree)])
        return Case([*start, "tune.use=true"], {f"output/tune/{draw.choice(['lstm', 'blend'])}/best.yaml": text})
    return Case(_option(draw, start))


def _option(draw: random.Random, start: list[str]) -> list[str]:
    word = draw.choice([word for word in WORDS if "\0" not in word])
    return draw.choice(
        [
            [*start, "--model", word],
            [*start, "--preset", word],
            [*start, "--preset", f"{word}.yaml"],
            [*start, "--task", word],
            ["tune", "lstm", "--name", word],
            ["tune", "lstm", "--space", word],
            ["tune", "lstm", "--trials", word],
            ["tune", "lstm", "--hours", word],
            ["tune", "lstm", "--jobs", word],
            ["tune", "lstm", "--storage", word],
            ["tune", word],
            ["blend", "lstm", "transformer", "--name", word],
            ["blend", "lstm", word],
            ["submit", word],
            [word],
            [*start, word],
            [*start, f"--{word}"],
        ]
    )


def _mutated(draw: random.Random, tree: Any) -> Any:
    """Returns a copy in which one to three values or keys are hostile."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            return draw.choice(VALUES)
        holder, key = draw.choice(places)
        if isinstance(holder, dict) and draw.random() < 0.2:
            value = holder.pop(key)
            holder[draw.choice([key, str(key) + "x", *(v for v in VALUES if isinstance(v, str | int | None))])] = value
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items)[:100]:
        yield tree, key
        yield from _places(value)


def _dumped(tree: Any) -> bytes:
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


def _damaged(draw: random.Random, text: bytes) -> bytes:
    """Returns text with bytes changed, inserted, removed, repeated or cut off."""
    content = bytearray(text)
    for _ in range(draw.randint(1, 4)):
        at, size = draw.randrange(len(content) + 1), draw.randint(1, 20)
        content[at:at] = draw.choice(
            [b"", b"[", b"{", b"&a ", b"*a", b": ", b"\t", b"\n", b"\0", b"\xff", b"!!x ", b"<<: ", b"? "]
        )
        if draw.random() < 0.5:
            del content[at : at + size]
        else:
            content[at:at] = content[at : at + size]
    return bytes(content)
