"""Hostile settings, presets, names and logs: whatever a user, an editor or a script may write into them.

A command may answer or refuse; it may not end in a traceback, hang, write outside the output folder or lose a line of
the log.
"""

from __future__ import annotations

import json
import random
import shlex
from pathlib import Path
from typing import Any

from src.core.settings import Config
from src.core.settings_loader import load_config
from tests.chaos.campaign import Verdict
from tests.chaos.scenes import Scene, outside
from tests.chaos.verdicts import faults

KINDS = ("settings", "preset", "name", "log")
"""Kinds of hostile texts."""
VALUES = (
    "", "null", "true", "-1", "0", "1", "2", "0.5", "1e9", "inf", "-inf", "nan", "100000000000", "9" * 400, "1e-320",
    "[]", "{}", "[1]", "[[1]]", "{a: 1}", "hello", "../../../evil", "/etc/*", "/dev/zero", "/proc/self/mem", "~", "*",
    "&a [*a]", "!!python/object/apply:os.system [echo]", "[" * 5000, "{a: " * 5000, "x" * 100_000, "数据", "\x1b[31m",
    "a\nb", "'", '"', "%s", "{0}", "$HOME", "`id`", "@", "- 1", "? a", "1_000", "0x10", "1:30", "2021-01-01", "lstm",
    "[lstm, lstm]", "[nan]", "[1, 1]", "{lstm: hello}", "\udce9", "a/b", "..", ".", "-", "--help", "|,|", "auto",
)  # fmt: skip
"""Values of key=value words."""
DOUBLED = "".join(f"a{number + 1}: &a{number + 1} [*a{number}, *a{number}]\n" for number in range(40))
BOMB = f"a0: &a0 [x, x]\n{DOUBLED}runs: {{lstm: {{}}}}"
"""Aliases of aliases: 2 ** 41 items in a thousand bytes."""
YAMLS = (
    "", "null", "[]", "17", "hello", "runs:", "runs: []", "runs: {}", "runs: {lstm: hello}", "runs: {lstm: [1]}",
    "a: b: c", "runs: {lstm: {model: hello}}", "runs: {../evil: {like: lstm}}", "runs: {blend: {like: lstm}}",
    "runs: {'': {}}", "runs: {17: {}}", "runs: {null: {}}", "runs: {lstm: {like: [lstm]}}",
    "runs: {lstm: {like: nothing}}", "? [a]\n: b", "runs: {lstm: {}}\ntune: [1]",
    "runs: {lstm: {}}\npaths: {output: 17}", "runs: {lstm: {}}\nblend: {members: [1]}",
    "runs: {lstm: {}}\nruns: {gru: {}}", "runs: {lstm: {}}\n\tfolds: 1", "\0", "\ufeffruns: {lstm: {}}",
    "%YAML 9.9\n---\n", "runs: {lstm: {}}\n---\nruns: {gru: {}}", "runs: {lstm: {}}\ntask: 17",
    "runs: {lstm: {}}\ntask: frames", "<<: 1", "runs: {lstm: {train: {teachers: lstm}}}",
    "runs: {lstm: {denoise: {by: lstm}}}", "runs: &a {lstm: *a}", "- " * 20_000, "[" * 100_000, "{a: " * 20_000,
    BOMB, "runs: {" + ", ".join(f"r{i}: {{like: lstm}}" for i in range(3000)) + "}",
    "runs: {lstm: {}}\nfolds: {k: 1e400}",
    "runs: {lstm: {}}\nseed: !!binary aGVsbG8=", "runs: !!set {lstm}", "runs: 2021-01-01",
    "runs: {lstm: {}}\nfolds: {k: !!float nan}", "runs: {lstm: {train: {seeds: [" + "1, " * 9999 + "1]}}}",
)  # fmt: skip
"""Presets."""
NAMES = (
    "../../../evil", "..", ".", "", "a/b", "/tmp/evil", "blend", "lstm\n", "a\0b", "x" * 300, "数据", "\x1b[31mred",
    "-x", "lstm ", "CON", "con.txt", "*", "~", "$(id)", "a|,|b", "%2e%2e%2f", "LSTM", "runs/lstm", "\udce9", "nul",
    "lstm.", ".hidden", "None",
)  # fmt: skip
NAMING = (
    "submit {}", "blend {} transformer", "blend lstm transformer --name {}", "bundle {}", "explain {}",
    "explain blend --id {}", "explain blend --id 3 --file {}", "predict {} input/sample_testA.csv", "predict lstm {}",
    "predict --bundle {} input/sample_testA.csv", "tune {} --trials 1", "tune lstm --trials 2 --name {}",
    "tune lstm --trials 2 --space {}", "leaderboard {}", "leaderboard tell {} 0.9", "leaderboard tell s1 {}",
    "leaderboard add {} 0.9", "leaderboard tell s1 0.9 --board {}", "leaderboard tell s1 0.9 --note {}", "score {}",
    "score --labels {} output/submission_sample_testA.csv", "score --labels input/answers_A.csv {}",
    "config --preset {}", "config --model {}", "config --task {}", "status --task {}", "clean {}",
    "explain blend --id 3 --label {}", "report {}", "{}",
)  # fmt: skip
"""Commands that take a name, a number or a file."""
LOG_VERBS = ("leaderboard", "leaderboard ask", "leaderboard tell s1 0.91", "status", "submit", "score", "report")
WRONG = (
    None,
    True,
    17,
    -1,
    1e308,
    "",
    "s",
    "s-1",
    "s999999999999999999999999",
    "s1",
    "x",
    [],
    {},
    [[]],
    "\x1b[31m",
    "../..",
    "NaN",
)
"""Values of the keys of a log's event."""
LINES = (
    b"", b"null", b"17", b"[]", b"{}", b"\xff\xfe", b"{", b"[" * 100_000, b'{"a":' * 100_000, b'"s1"', b"\0" * 100,
    b"9" * 10_000, b"NaN", b"\xef\xbb\xbf{}", b"<<<<<<< HEAD", b" ", b"\x1a",
)  # fmt: skip
"""Lines of a log that are no events."""


def keys_of(value: Any, above: str = "") -> list[str]:
    """Dotted keys of nested settings."""
    found = [above] if above else []
    if isinstance(value, dict):
        for key, below in value.items():
            found += keys_of(below, f"{above}.{key}" if above else str(key))
    return found


def known_keys() -> list[str]:
    """Every key of the settings, and of one run."""
    settings: Config = load_config("quick")
    keys = keys_of(settings.model_dump(mode="json"))
    parts = [key.partition(".lstm.")[2] for key in keys if key.startswith("runs.lstm.")]
    return sorted({*keys, *parts})


def settings_case(rng: random.Random, keys: list[str]) -> str:
    words = [f"{rng.choice(keys)}={rng.choice(VALUES)}" for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.1:
        words.append(rng.choice(VALUES))
    verb = rng.choice(("config", "config", "config", "status", "prepare", "folds", "shift", "score"))
    return shlex.join([verb, *words])


def event_line(events: list[bytes], rng: random.Random) -> bytes:
    """A line of a log with one wrong value or key, or none at all."""
    if rng.random() < 0.4:
        return rng.choice(LINES)
    event = json.loads(rng.choice(events))
    key = rng.choice(list(event))
    event[key] = rng.choice(WRONG)
    if rng.random() < 0.2:
        del event[key]
    return json.dumps(event).encode()


def judge(scene: Scene, case: str, scratch: Path, keys: list[str]) -> Verdict:
    """Tries one of four kinds of hostile texts on a copy of a scene: `settings 17`, `preset 3`, `name 5`, `log 8`."""
    kind, rng, folder = case.partition(" ")[0], random.Random(case), scene.copy(scratch)
    log, before_log = folder / "output" / "submissions.jsonl", b""
    if kind == "settings":
        command = settings_case(rng, keys)
    elif kind == "preset":
        (folder / "hostile.yaml").write_bytes(rng.choice(YAMLS).encode())
        command = (
            f"{rng.choice(('config', 'status', 'folds'))} --preset hostile.yaml paths.input=input paths.output=output"
        )
    elif kind == "name":
        command = rng.choice(NAMING).format(shlex.quote(rng.choice(NAMES)))
    else:
        events = log.read_bytes().splitlines()
        for _ in range(rng.choice((1, 1, 3))):
            events.insert(rng.randrange(len(events) + 1), event_line(log.read_bytes().splitlines(), rng))
        before_log = b"\n".join(events) + rng.choice((b"\n", b""))
        log.write_bytes(before_log)
        command = rng.choice(LOG_VERBS)
    before = outside(folder)
    outcome = scene.run(command, folder)
    if found := faults(outcome, folder, before):
        return Verdict(found.kind, f"{command[:500]}\n{before_log[:500]!r}\n{found.told}")
    whole, _, _ = before_log.rpartition(b"\n")  # a line that was cut off may go
    if not log.read_bytes().startswith(whole):
        return Verdict("wrong in silence", f"{command}: lines of submissions.jsonl are gone")
    return Verdict("fine" if outcome.status == 0 else "refused")
