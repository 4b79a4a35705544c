"""Front desk: finds the command and the settings of a command line and runs the command.

python -m src VERB [options] [key=value …]        ./run.sh does the same and sets up first

Answers come at once where nothing is computed: torch, scikit-learn, SciPy, pandas and matplotlib take a second each, so
the functions that need them import them, or the modules that stand on them. tests/test_architecture.py keeps it so.
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

STARTED = time.monotonic()
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below: nothing is begun, and no traceback

from src.core import interrupts, language, settings_loader, temporaries, terminal
from src.core.errors import UserError, explained, unknown
from src.core.language import _, joined
from src.core.settings import PARTS, Config
from src.core.settings_loader import check_effects, load_config
from src.core.terminal import info
from src.pipeline.command import COMMANDS, Command, get_command

if TYPE_CHECKING:
    from src.evaluation.workspace import Workspace

KEYS = _("key=value sets any setting (docs/settings.md), such as train.epochs=6 paths.input=DIR paths.output=DIR.")
CLINICAL_TASKS = _("icu: death in hospital, los: length of stay, frames: images read row by row")
OF_ARGPARSE = {
    "options": _("options"),
    "positional arguments": _("positional arguments"),
    "show this help message and exit": _("show this help message and exit"),
}
"""Texts that argparse adds itself."""


NAMING_RUNS = ("pipeline", "train", "pretrain", "status", "config")
"""Verbs that take the names of runs without --model, too; the others have words of their own, or concern all runs."""


def main(arguments: list[str], began: float | None = None) -> int:
    """Runs one command; returns its exit status: 0 done, 2 the user can put it right, 130 after Ctrl-C, 128 and
    the signal's number after another one. `began`: its start, of time.monotonic() (default: now)."""
    arguments, language_named = _without_language(arguments)
    as_json = "--json" in arguments and not {"-h", "--help"} & set(arguments)
    started = time.perf_counter()
    try:
        with (
            language.shown_in(language_named),
            interrupts.raised(),
            temporaries.collected(),
            terminal.output_mode("--quiet" in arguments, as_json, began) as transcript,
        ):
            status, error = _tried(arguments, as_json)
        if as_json:
            _print_document(arguments, status, error, time.perf_counter() - started, transcript)
    except BrokenPipeError:
        # The reader of a pipe (head, less) has left; nothing more can be told to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as end:  # before the command began, or after it ended
        return _ended_by(end)[0]
    return status


def _tried(arguments: list[str], as_json: bool) -> tuple[int, str | None]:
    """The exit status of a command, and what went wrong."""
    try:
        run(arguments)
        return 0, None
    except BrokenPipeError:
        raise
    except UserError as error:
        terminal.error(str(error))
        return 2, str(error)
    except KeyboardInterrupt as end:
        interrupts.received()
        return _ended_by(end)
    except Exception as fault:
        if told := explained(fault):
            terminal.error(told)
            return 2, told
        if not as_json:
            raise
        _show_fault(*sys.exc_info())  # a fault of ours; the script gets its document all the same
        return 1, f"{type(fault).__name__}: {fault}"


def _ended_by(end: KeyboardInterrupt) -> tuple[int, str]:
    """Tells the signal that ends a command; returns the exit status and what was told."""
    number = end.number if isinstance(end, interrupts.Terminated) else signal.SIGINT
    told = f"ended by {signal.Signals(number).name}: what is finished is kept, and the same command goes on from there"
    print(told, file=sys.stderr)
    return 128 + number, told


def _print_document(
    arguments: list[str], status: int, error: str | None, seconds: float, transcript: terminal.Transcript
) -> None:
    """All that a command has to say, for scripts."""
    document = {
        "verb": verb_of(arguments),
        "exit_status": status,
        **({"error": error} if error is not None else {}),
        "seconds": round(seconds, 3),
        **transcript.values,
        "tables": transcript.tables,
        "lines": transcript.lines,
        "warnings": transcript.warnings,
        "written": [str(path) for path in transcript.written if path.exists()],
    }
    print(terminal.json_text(document), flush=True)


def _show_fault(*fault: Any) -> None:
    """Prints the traceback of a fault of the program; takes what sys.excepthook does."""
    print(terminal.printable("".join(traceback.format_exception(*fault))), file=sys.stderr, end="", flush=True)


def run(arguments: list[str]) -> None:
    """Runs a command. Raises UserError for what the user can put right."""
    if arguments[:1] in (["-h"], ["--help"], ["help"]):
        print(_overview())
        return
    command, parsed, overrides = parse(arguments)
    settings, reason = _load(parsed.preset, overrides, parsed.model)
    if settings.paths.output.exists() and not settings.paths.output.is_dir():
        raise UserError(_("paths.output: {folder} is not a folder").format(folder=settings.paths.output))
    from src.evaluation.workspace import Workspace

    if verb_of(arguments) != "tune":  # what a study searches may turn on what a word needs
        check_effects(settings)
    if settings.track != "none":
        from src.training import tracking

        tracking.check(settings)
    if settings.executor.kind == "ray":
        from src.core import ray_cluster

        ray_cluster.check(settings.executor)
    for name, file in settings.tuned.items():
        if name in (*settings.runs, "blend"):
            info(_("{name}: settings of {file} (tune.use)").format(name=name, file=file))
    command.run(Workspace(settings, force=getattr(parsed, "force", False), preset_reason=reason), parsed)


def workspace_of(arguments: list[str]) -> Workspace:
    """The workspace under the settings of a command line, of which nothing is run."""
    from src.evaluation.workspace import Workspace

    _, parsed, overrides = parse(arguments)
    return Workspace(_load(parsed.preset, overrides, parsed.model)[0])


def _without_language(arguments: list[str]) -> tuple[list[str], str | None]:
    """The words without `--lang zh` or `--lang=zh`, and the language; one that is not known stays, for the parser."""
    for at, word in enumerate(arguments):
        length = 2 if word == "--lang" else 1
        named = "".join(arguments[at : at + length]).removeprefix("--lang").removeprefix("=")
        if word.partition("=")[0] == "--lang" and named in language.LANGUAGES:
            return arguments[:at] + arguments[at + length :], named
    return arguments, None


def verb_of(arguments: list[str]) -> str:
    """The verb, which may follow --quiet and --json; pipeline where there is none."""
    arguments = [word for word in arguments if word not in ("--quiet", "--json")]
    return "pipeline" if not arguments or arguments[0].startswith("-") or "=" in arguments[0] else arguments[0]


def parse(arguments: list[str]) -> tuple[Command, argparse.Namespace, list[str]]:
    """The command, its options, and the key=value words. Raises UserError for what is not understood."""
    name = verb_of(arguments)
    if name not in COMMANDS:
        raise _unknown_verb(name)
    command, entry = get_command(name), COMMANDS[name]
    parser = _Parser(
        prog=f"./run.sh {name}",
        description=str(entry.summary),
        epilog="\n".join(
            map(str, filter(None, [KEYS, entry.example and _("Example: {command}").format(command=entry.example)]))
        ),
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    presets, models = ", ".join(settings_loader.preset_names()), ", ".join(settings_loader.model_names())
    parser.add_argument(
        "--task",
        metavar="NAME",
        help=_("round1 and round2: reports (default: recognised); {others}").format(others=CLINICAL_TASKS),
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=_("one of {presets}, or a file; tasks have presets of their own").format(presets=presets),
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help=_("only this model of the preset and what it needs, or another of {models}; may be given again").format(
            models=models
        ),
    )
    # Read by main(), before anything is said.
    parser.add_argument("--quiet", action="store_true", help=_("only results, warnings and errors"))
    parser.add_argument("--lang", choices=language.LANGUAGES, help=_("language; without it, that of the locale"))
    parser.add_argument("--json", action="store_true", help=_("one JSON document on stdout, all else on stderr"))
    command.arguments(parser)
    if name in NAMING_RUNS:
        parser.add_argument("named_runs", nargs="*", metavar="RUN", help=_("the same as --model RUN"))
    first = next((i for i, word in enumerate(arguments) if word not in ("--quiet", "--json")), None)
    named = first is not None and arguments[first] == name
    overrides, rest = parser.split(arguments[:first] + arguments[first + 1 :] if named else arguments)
    parsed = parser.parse_args(rest)
    parsed.model += [run for run in getattr(parsed, "named_runs", []) if run not in parsed.model]
    if parsed.task is not None:
        if settings_loader.task_of(overrides) not in (None, parsed.task):
            raise UserError(
                _("--task {task} and task={other} name two tasks").format(
                    task=parsed.task, other=settings_loader.task_of(overrides)
                )
            )
        overrides.append(f"task={parsed.task}")
    # An option whose destination is a key stands for key=value.
    overrides += [f"{key}={value}" for key, value in vars(parsed).items() if "." in key and value is not None]
    return command, parsed, overrides


def _unknown_verb(name: str) -> UserError:
    """A UserError for a word that is no verb; it may be the name of a model."""
    if name in settings_loader.model_names():
        told = _("{name} is no verb, but a model. Did you mean: ./run.sh train {model}")
        return UserError(told.format(name=repr(name), model=name))
    return unknown("verb", name, [*COMMANDS, "test"])


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Formatter that shows messages, and argparse's own words, in the chosen language."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help and str(OF_ARGPARSE.get(action.help, action.help))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return super()._split_lines(text, width // 2 if language.chosen() == "zh" else width)  # a sign has two columns

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and str(OF_ARGPARSE.get(heading, heading)))

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, str(_("usage: ")))


class _Parser(argparse.ArgumentParser):
    _words: Sequence[str] = ()
    """All words behind the verb."""

    def error(self, message: str) -> None:
        words = message.removeprefix("unrecognized arguments: ").split()
        hint = self._hint(words[0]) if message.startswith("unrecognized arguments: ") else ""
        raise UserError(_("{message}. {hint}See {prog} --help").format(message=message, hint=hint, prog=self.prog))

    def _hint(self, word: str) -> str:
        """A sentence on what a word that is not understood may stand for: an option, or a setting."""
        from src.core.settings_reference import suggested

        option, equals, value = word.partition("=")
        if not option.startswith("-"):
            return ""
        options = [one for one in self._option_string_actions if one.startswith("--")]
        if near := difflib.get_close_matches(option, options, n=1, cutoff=0.7):
            return _("Did you mean {option}? ").format(option=near[0])
        if keys := suggested(option.lstrip("-")):
            behind = self._words[self._words.index(word) + 1 :][:1]
            value = value if equals else next((one for one in behind if not one.startswith("-")), "VALUE")
            meant = joined(_(" or "), [f"{key}={value}" for key in keys[:3]])
            return _("Settings are key=value words. Did you mean {settings}? ").format(settings=meant)
        return ""

    def split(self, words: list[str]) -> tuple[list[str], list[str]]:
        """Key=value words, which may stand anywhere, and the others, in their order.

        The value of an option is no setting, whatever it holds, and neither is the name of a file that is there. Of an
        option with several values, NAME=VALUE is one too where VALUE is a file or NAME no setting.
        """
        settings, others, is_value, has_several = [], [], False, False
        self._words = words
        for word in words:
            if word.startswith("-"):
                has_several = False
            is_value = is_value or (has_several and _names_no_setting(word))
            is_setting = not is_value and not word.startswith("-") and "=" in word and not os.path.exists(word)
            (settings if is_setting else others).append(word)
            option = self._option_string_actions.get(word)
            has_several = has_several or (option is not None and option.nargs == "+")
            is_value = not is_value and option is not None and option.nargs != 0
        return settings, others


def _names_no_setting(word: str) -> bool:
    """Returns True for NAME=VALUE where VALUE is a file, or NAME begins like no setting."""
    name, _, value = word.partition("=")
    return os.path.isfile(value) or name.split(".")[0] not in {*Config.model_fields, *PARTS}


def _load(preset: str | None, overrides: list[str], models: list[str]) -> tuple[Config, str]:
    """The settings, and why their preset was chosen. Without --preset it is that of the sample data or, where real
    files are in the input folder, `standard`; `round2` where they are of round 2."""
    settings = load_config(preset or "standard", overrides, models)
    if preset is not None:
        return settings, ""
    from src.data import sources  # NumPy, for which --help need not wait

    folder = settings.paths.input
    try:
        if (files := sources.find_files(settings)) is not None:
            if sources.round_of(settings, files) == "round2":
                return load_config("round2", overrides, models), f"{folder} holds train files of round 2"
            return settings, f"{folder} holds files of yours"
    except UserError:
        return settings, f"{folder} is no folder of sample data"  # told by the stages that read the input
    reason = f"{folder} holds no files of yours"
    try:
        return load_config("sample", overrides, models), reason
    except UserError as error:
        raise UserError(
            _("{error} (preset sample, as {reason}; --preset NAME takes another)").format(error=error, reason=reason)
        ) from None


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2

    def lines(for_developers: bool) -> str:
        chosen = {name: one for name, one in COMMANDS.items() if one.for_developers == for_developers}
        return joined("\n", [f"  {name:<{width}}" + one.summary for name, one in chosen.items()])

    usage = "./run.sh [VERB] [--task NAME] [--preset NAME] [--model NAME] [--quiet] [--json] [--lang zh] [key=value …]"
    parts = [
        _("usage: ") + usage,
        _("Which body regions does a CT report call abnormal? From token ids to a submission file.")
        + "\n"
        + _("Further tasks of the same pipeline: {tasks}.").format(tasks=CLINICAL_TASKS),
        _("verbs (none: pipeline; ./run.sh VERB --help tells more):") + "\n" + lines(False),
        _("for developers:") + f"\n{lines(True)}\n  {'test':<{width}}" + _("set up and pass the tests"),
        _("presets: {names}").format(names=", ".join(settings_loader.preset_names()))
        + "\n"
        + _("models:  {names}").format(names=", ".join(settings_loader.model_names())),
        KEYS
        + "\n"
        + _("For scripts: --quiet tells only results, warnings and errors; --json prints one JSON document."),
    ]
    return str(joined("\n\n", parts))


if __name__ == "__main__":
    sys.excepthook = _show_fault
    sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a locale may lack a sign
    sys.exit(main(sys.argv[1:], STARTED))
