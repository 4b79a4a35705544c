"""Loader of settings: from a preset and key=value words to a Config, with errors in terms of the command line.

    defaults of settings.py <- presets/models/NAME.yaml <- presets/PRESET.yaml (task=icu: presets/icu/PRESET.yaml; with
        `like: OTHER`, laid over the preset OTHER)
        <- output/tune/NAME/best.yaml (tune.use) <- key=value on the command line

On the command line `model.*`, `features.*`, `pretrain.*`, `denoise.*`, `train.*`, `regime.*` apply to all selected runs
that have the key, `runs.NAME.train.*` to the run NAME.
"""

from __future__ import annotations

import copy
import operator
import re
import shlex
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ValidationError

from src.core.errors import UserError, shortened, unknown
from src.core.language import _, joined
from src.core.names import BLEND, check_model
from src.core.run_settings import AnyModel, Run
from src.core.setting_types import Settings
from src.core.settings import CLINICAL, PARTS, ROOT, Config, Paths, Ray, Tune
from src.core.yaml_reader import parse_yaml, read_yaml

PRESETS = ROOT / "src" / "presets"
MADE = {"overrides", "models", "named", "denoisers", "tuned"}
"""Fields of Config that only this module sets."""
UNNOTED = {"track", "track_uri"}
"""Keys without influence on results, which are not recorded."""
SHORT = {"executor": ["executor", "kind"], "ray": ["executor", "ray"]}
"""Keys that words may be shorter for: executor=ray, ray.address=auto."""
NEEDED = {
    "train.attack_size": ["train.attack"],
    "train.teacher_weight": ["train.teachers"],
    "train.noise.dispersion": [f"train.noise.{kind}" for kind in ("replacement", "insertion", "deletion")],
    **{f"denoise.{key}": ["denoise.by"] for key in ("prior", "confidence", "in_training", "views")},
}
"""Settings of a run that have an effect only with another one, each with those that it needs one of."""
SECRET = {"executor.ray.store"}
"""Keys whose wrong values may hold a password, and are not shown."""
MOST_RUNS = 500
"""Runs of a preset."""
MOST_ERRORS = 10
"""Errors of settings that are told."""


TASK_BASELINES = {
    "icu": ["prior", "saps", "linear", "boosting"],
    "los": ["prior", "median", "linear", "boosting"],
    "frames": ["prior", "linear"],
}


def preset_names(task: str = "auto") -> list[str]:
    """Names of the presets of a task."""
    return sorted(path.stem for path in _preset_folder(task).glob("*.yaml"))


def _preset_folder(task: str) -> Path:
    return PRESETS / task if task in CLINICAL else PRESETS


def task_of(overrides: Iterable[str]) -> str | None:
    """The task that key=value words choose, None where they choose none."""
    return next((word.removeprefix("task=") for word in reversed(list(overrides)) if word.startswith("task=")), None)


def _task_layers(task: str) -> dict[str, Any]:
    """Settings of a task that its presets rest on."""
    if task not in CLINICAL:
        return {}
    paths = {"input": str(ROOT / "input" / CLINICAL[task]), "output": str(ROOT / "output" / task)}
    if CLINICAL[task] == "icu":
        paths |= {"train": "set-a", "test": "set-*"}
    return {"task": task, "paths": paths, "baselines": TASK_BASELINES[task], "sample": {"rows": 1500, "test_rows": 500}}


def model_names() -> list[str]:
    return sorted(path.stem for path in (PRESETS / "models").glob("*.yaml"))


def model_settings(name: str) -> dict[str, Any]:
    """Returns the settings of a model in presets/models/, as of a Run."""
    return read_yaml(PRESETS / "models" / f"{name}.yaml")


def load_config(
    preset: str, overrides: Iterable[str] = (), models: Iterable[str] = (), name: str | None = None
) -> Config:
    """Loads `preset` (a name, or a YAML file of the same form) with key=value `overrides`.

    `models` selects runs; those whose trained models they need are kept, too. A run has the settings of the model of
    its name, or of the model named by `like`. A model that is no run of the preset is taken from presets/models/.
    `name` makes another run of the one that `models` selects, which key=value words for all runs reach in its place.
    Raises UserError for an unknown preset, model or key (listing the known names), and for an invalid value.
    """
    overrides = list(overrides)
    task = task_of(overrides)
    layers = _read_preset(preset, task or "auto")
    task = task or str(layers.get("task", "auto"))  # a file of the user's may name its task
    layers = _merge(_task_layers(task), layers)
    shared = {key: layers.pop(key) for key in PARTS if key in layers}
    specs = layers.pop("runs")
    for model in models:
        if model not in specs and model not in model_names():
            if "." in model:
                raise UserError(
                    _(
                        "{word} is no model. To set a value: {word}=VALUE; to read what it means: ./run.sh config "
                        "--explain {word}"
                    ).format(word=model)
                )
            raise unknown("model", model, {*specs, *model_names()})
    chosen = list(dict.fromkeys(models)) or list(specs)
    built = {}
    for run in dict.fromkeys([*chosen, *specs]):
        spec = dict(specs.get(run) or {})
        base = {} if _is_whole(spec) else model_settings(spec.pop("like", run))
        # A copy, because runs share mappings, and an override of one run must not change the others.
        built[run] = copy.deepcopy(_merge(_merge(base, shared), spec))
    tree: dict[str, Any] = {**layers, "preset": preset, "models": chosen}
    tree["overrides"] = [text for text in overrides if text.split("=")[0] not in UNNOTED]
    files = _tuned_files(tree, overrides, [*built, BLEND])
    for run, file in files.items():
        if (seal := file.with_name("study.json")).exists():
            from src.core.targets import check_files, made_by  # NumPy, for which --help need not wait

            words = [word for word in tree["overrides"] if not word.startswith("tune.use")]
            check_files(seal, shlex.join([*(made_by(seal) or ["tune", run]), "--preset", preset, *words]))
        study = _read_preset_file(file, "tune.use: ")
        part, key = (study, "blend") if run == BLEND else (study["runs"], run)
        if not isinstance(part.get(key), dict):
            raise UserError(
                _("tune.use: {file} has no settings of {run}. Delete it, or run: ./run.sh tune {run}").format(
                    file=file, run=run
                )
            )
        (tree if run == BLEND else built)[key] = part[key]
    used = "".join(f" (tune.use reads settings from {file})" for file in files.values())
    if preset.endswith((".yaml", ".yml")):
        used += f" (--preset {preset})"
    tree["tuned"] = {run: str(file) for run, file in files.items()}
    copies = {}
    if name is not None:
        (model,) = chosen
        built[name], copies, chosen = copy.deepcopy(built[model]), {model: name}, [name]
        tree |= {"models": chosen, "named": {name: model}}
    for text in overrides:
        key, value = _parse_override(text)
        if key == ["preset"]:
            raise UserError(_("{text}: choose a preset with --preset {name}").format(text=shortened(text), name=value))
        if key[0] in MADE:
            raise unknown("key", key[0], Config.model_fields.keys() - MADE)
        if key[0] in PARTS:
            for run in _having(key, chosen, built):
                _set(built[run], key, value, text)
        elif key[0] == "runs" and len(key) < 3:
            raise UserError(
                _("{text}: name a setting of a run, such as runs.lstm.train.epochs=6").format(text=shortened(text))
            )
        elif key[0] == "runs":
            # Runs that --model does not select are accepted, so that the words of an experiment work for parts of it.
            if key[1] not in built:
                raise unknown("run", key[1], built)
            for run in filter(None, (key[1], copies.get(key[1]))):
                _set(built[run], key[2:], value, text)
        else:
            _set(tree, key, value, text)
    tree["runs"], tree["denoisers"] = _with_dependencies(chosen, built)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(sentences(error)) + used) from None
    for key in ("members", "stack"):
        for run in getattr(config.blend, key):
            if run not in built:
                error = unknown("run", run, built)
                raise UserError(_("blend.{key}: {error}{used}").format(key=key, error=error, used=used))
    return config


def check_effects(config: Config) -> None:
    """Raises UserError for a word of the command line that has no effect, because the setting that it needs is off, of
    a run in all runs of the preset. Words that turn it off are no fault, nor are files: a study's have all settings."""
    keys = [_parse_override(text)[0] for text in config.overrides]
    typed = {".".join(key[2:] if key[0] == "runs" else key) for key in keys}
    if chosen := typed & NEEDED.keys():
        runs = [*config.runs.values(), *_runs_of_preset(config)]
        for key in sorted(chosen):
            of_run, needed = operator.attrgetter(key), NEEDED[key]
            is_set = any(of_run(run) != of_run(Run()) for run in config.runs.values())
            is_off = all(operator.attrgetter(other)(run) in (None, "none", 0, []) for run in runs for other in needed)
            if is_set and is_off and typed.isdisjoint(needed):
                raise UserError(
                    _("{key} has no effect without {needed}: set that, too, or leave {key} out").format(
                        key=key, needed=needed[0]
                    )
                )
    if config.executor.kind == "local" and config.executor.ray != Ray() and "executor.kind" not in typed:
        for key in sorted(typed):
            if key.startswith("executor.ray."):
                told = _("{key} is for executor=ray: set that, too, or leave {key} out")
                raise UserError(told.format(key=key.removeprefix("executor.")))


def _runs_of_preset(config: Config) -> list[Run]:
    """Returns all runs of the preset as it is, so that the words of an experiment work for parts of it."""
    try:
        whole = load_config(config.preset, [text for text in config.overrides if text.startswith("task=")])
    except UserError:  # of a run that is not selected
        return []
    return list(whole.runs.values())


def _having(key: list[str], names: list[str], built: Mapping[str, Any]) -> list[str]:
    """Returns the runs whose kind of model has the key `model.…`; all, for other keys and where none has it."""
    kinds = {kind.model_fields["encoder"].default: kind for kind in _settings_in(AnyModel)}

    def has(name: str) -> bool:
        model = built[name].get("model")
        kind = kinds.get(str(model.get("encoder"))) if isinstance(model, Mapping) else None
        return kind is None or key[1] in kind.model_fields

    return (key[0] == "model" and len(key) > 1 and [name for name in names if has(name)]) or names


def with_words(config: Config, words: Iterable[str] = (), models: Iterable[str] | None = None) -> Config:
    """Returns the same configuration with further key=value words, or of other `models`. Tracking is as before."""
    overrides = [*config.overrides, *words]
    if models is None and config.named:
        ((name, model),) = config.named.items()
        found = load_config(config.preset, overrides, [model], name)
    else:
        found = load_config(config.preset, overrides, config.models if models is None else models)
    return found.model_copy(update={name: getattr(config, name) for name in UNNOTED})


def with_name(config: Config, name: str) -> Config:
    """Returns the configuration of another run, `name`, of the one run that --model selects. Raises UserError for more
    or fewer runs, and for the name of a run of the preset or of a model."""
    if len(config.models) != 1:
        raise UserError(
            _("--name {name} wants the run whose settings it starts from, as --model RUN; one alone").format(name=name)
        )
    if name in {*config.runs, *config.denoisers, *model_names(), BLEND}:
        raise UserError(
            _("{name} is the name of a run of the preset, of a model or of the blend. Take another --name").format(
                name=repr(name)
            )
        )
    found = load_config(config.preset, config.overrides, config.models, check_model(name))
    return found.model_copy(update={key: getattr(config, key) for key in UNNOTED})


def typed_keys(config: Config, run: str) -> list[str]:
    """Returns the keys of the key=value words that reach a run: train.epochs also for runs.RUN.train.epochs=6."""
    keys = [text.partition("=")[0] for text in config.overrides]
    return [key.removeprefix(f"runs.{run}.") for key in keys]


def tuned_file(output: Path, run: str) -> Path:
    """Returns the path of a study's best settings of a run."""
    return output / "tune" / run / "best.yaml"


def _tuned_files(layers: Mapping[str, Any], overrides: list[str], names: Iterable[str]) -> dict[str, Path]:
    """Returns the files with the settings that studies found for these runs, by run; none without tune.use."""
    given = {"paths": copy.deepcopy(layers.get("paths", {})), "tune": copy.deepcopy(layers.get("tune", {}))}
    for text in overrides:
        key, value = _parse_override(text)
        if key[0] in given:
            _set(given, key, value, text)
    try:
        output, tune = Paths.model_validate(given["paths"]).output, Tune.model_validate(given["tune"])
    except ValidationError:
        return {}  # Config raises the error
    files = {name: tuned_file(output, name) for name in names}
    return {name: file for name, file in files.items() if tune.use and file.exists()}


def _read_preset(preset: str, task: str) -> dict[str, Any]:
    """Reads a preset by its name, or from a file such as output/tune/lstm/best.yaml."""
    if preset.endswith((".yaml", ".yml")):
        return _read_preset_file(Path(preset), "--preset ", task)
    if preset not in preset_names(task):
        raise unknown("preset", preset, preset_names(task))
    return _read_preset_file(_preset_folder(task) / f"{preset}.yaml", "", task)


def _read_preset_file(path: Path, origin: str, task: str = "auto") -> dict[str, Any]:
    """Reads a preset; one with `like: NAME` is laid over that preset of the task, which has no `like` itself. `origin`:
    start of an error, such as the option that names the file."""
    try:
        content = read_yaml(path)
        if isinstance(content, dict) and "like" in content:
            name, folder = str(content.pop("like")), _preset_folder(str(content.get("task", task)))
            whole = sorted(file.stem for file in folder.glob("*.yaml") if "like" not in read_yaml(file))
            if name not in whole:
                raise UserError(joined(": ", [f"{path}: like", unknown("preset", name, whole).message]))
            content = _merge(read_yaml(folder / f"{name}.yaml"), content)
        _check_shape(content, str(path))
    except UserError as error:
        raise UserError(joined("", [origin, error.message])) from None
    return content


def _check_shape(content: Any, shown: str) -> None:
    """Raises UserError for a preset that has no runs, or text or a list where settings have keys. The keys and values
    themselves are left to Config."""

    def check(value: Any, key: str) -> None:
        if not isinstance(value, dict):
            raise UserError(
                _("{shown}: {key}: want keys and values such as {{epochs: 4}} (got {value})").format(
                    shown=shown, key=key, value=shortened(value)
                )
            )

    if not isinstance(content, dict) or not isinstance(content.get("runs"), dict) or not content["runs"]:
        raise UserError(_("{shown}: the key runs is missing or empty; see src/presets/quick.yaml").format(shown=shown))
    for key in sorted({*MADE, "preset"} & content.keys()):
        raise UserError(
            joined(": ", [shown, unknown("key", key, Config.model_fields.keys() - MADE - {"preset"}).message])
        )
    if len(content["runs"]) > MOST_RUNS:
        raise UserError(
            _("{shown}: {n:,} runs are more than {most}").format(shown=shown, n=len(content["runs"]), most=MOST_RUNS)
        )
    for part in ("paths", "sample", *PARTS):
        check(content.get(part, {}), part)
    for name, spec in content["runs"].items():
        try:
            check_model(name)
        except UserError as error:
            raise UserError(joined(": ", [shown, error.message])) from None
        if spec is None:
            continue
        check(spec, f"runs.{name}")
        for part in PARTS:
            check(spec.get(part, {}), f"runs.{name}.{part}")
        if not _is_whole(spec) and (like := spec.get("like", name)) not in model_names():
            raise UserError(
                _("{shown}: runs.{name}.like: {value}").format(
                    shown=shown, name=name, value=unknown("model", str(like), model_names())
                )
            )


def _is_whole(spec: Mapping[str, Any]) -> bool:
    """Returns True if a run of a preset names its own encoder instead of a model, like runs written by a study."""
    return "encoder" in (spec.get("model") or {})


def _with_dependencies(chosen: list[str], built: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the chosen runs with those whose trained models they need, and further denoiser runs; unknown names are
    left to Config."""

    def named(name: str, part: str, key: str) -> Any:
        settings = built[name].get(part)
        return settings.get(key) if isinstance(settings, Mapping) else None

    def known(name: Any) -> bool:
        return isinstance(name, str) and name in built

    wanted = list(chosen)
    for name in wanted:  # grows
        teachers, encoder = named(name, "train", "teachers"), named(name, "pretrain", "by")
        needed = [*(teachers if isinstance(teachers, list) else ()), encoder]
        wanted += [run for run in needed if known(run) and run not in wanted]
    denoisers = {by for name in wanted if known(by := named(name, "denoise", "by")) and by not in wanted}
    return {name: built[name] for name in wanted}, {name: built[name] for name in sorted(denoisers)}


def run_from_yaml(path: Path) -> Run:
    """Reads the Run of a run's config.yaml. Raises UserError if it is invalid."""
    try:
        return Run.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(f"{path}: " + "\n".join(sentences(error, Run))) from None


def as_preset(config: Config, without: set[str]) -> str:
    """Text of a preset with the settings and runs of `config`, but not those of the keys `without`."""
    kept = config.model_dump(mode="json", exclude={*without, *MADE, "preset", "runs"})
    runs = {name: run.model_dump(mode="json") for name, run in {**config.denoisers, **config.runs}.items()}
    return yaml.safe_dump({**kept, "runs": runs}, sort_keys=False, allow_unicode=True)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merges `above` into `below`, mapping by mapping."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def _parse_override(text: str) -> tuple[list[str], Any]:
    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise UserError(_("{text} is not of the form key=value, such as train.epochs=6").format(text=shortened(text)))
    parts = key.split(".")
    if parts == ["executor"] or (parts[0] == "ray" and len(parts) > 1):
        parts = [*SHORT[parts[0]], *parts[1:]]
    # Scalars stay text: pydantic converts them by the field's annotation, where YAML 1.1 would read 1e-3 as a
    # string and 007 as a number.
    if raw.strip() in ("", "~", "null"):
        return parts, None
    value = parse_yaml(raw, shortened(text)) if raw.lstrip().startswith(("[", "{")) else raw
    return parts, value


def _set(tree: dict[str, Any], key: list[str], value: Any, text: str) -> None:
    for part in key[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise UserError(_("{text}: {part} has no keys below it").format(text=shortened(text), part=repr(part)))
    tree[key[-1]] = value


def sentences(error: ValidationError, top: type[Settings] = Config) -> list[str]:
    """Returns pydantic's errors in terms of the command line, one sentence each."""
    sentences: list[str] = []
    known: dict[str, tuple[str, set[str]]] = {}
    errors = error.errors()
    for item in errors[:MOST_ERRORS]:
        where, settings = _locate(top, item["loc"])
        # Of a setting that takes a number or a word, pydantic tells of both, and names which behind the key.
        where = re.sub(r"\.(constrained-\w+|literal\[.*\]|int|float|str|none)$", "", where)
        if item["type"] == "extra_forbidden":
            known.setdefault(where, (str(item["loc"][-1]), set()))[1].update(settings.model_fields)
        else:
            is_keyless = item["type"] in ("model_type", "dict_type", "model_attributes_type")
            message = "want keys and values" if is_keyless else _wanted(where, item)
            is_shown = not isinstance(item["input"], dict) and where not in SECRET
            given = f" (got {shortened(item['input'])})" if is_shown else ""
            sentences.append(f"{where or 'configuration'}: {message}{given}")
    sentences = [*_unknown_keys(known), *sentences]
    if len(errors) > MOST_ERRORS:
        sentences.append(_("and {n:,} further errors").format(n=len(errors) - MOST_ERRORS))
    return _merged(sentences)


OF_A_VALUE = re.compile("(int|float|bool|string)_(parsing|type)|greater_than.*|less_than.*|literal_error|finite_number")
"""Kinds of pydantic's errors that the type and the range of a setting tell in plain words."""


def _wanted(where: str, item: Mapping[str, Any]) -> str:
    """Returns what a setting takes, in the words of the reference; pydantic's message where that does not tell it."""
    from src.core.settings_reference import find

    key = re.sub(r"^(runs|denoisers)\.[^.]+\.|\.\d+$", "", where)
    entries = [entry for entry in find(key) if entry.key == key]
    if not entries or not OF_A_VALUE.fullmatch(item["type"]):
        return item["msg"].removeprefix("Value error, ")
    entry = entries[0]
    kind = entry.kind.replace(" or null", "").removeprefix("list of ")
    if kind in ("choice", "choices"):
        return f"want one of {entry.limits}"
    article = "" if kind == "true or false" or entry.kind.startswith("list") else "a "
    return f"want {article}{kind.replace('choice', 'word')}{f': {entry.limits}' if entry.limits else ''}"


def _unknown_keys(known: Mapping[str, tuple[str, set[str]]]) -> list[str]:
    """A sentence for each unknown key: of one that runs of several kinds lack, and of one that stands elsewhere, such
    as epochs, which is train.epochs. `known`: its last part and the keys that stand beside it, by the whole key."""
    from src.core.settings_reference import suggested

    without_run: dict[str, tuple[str, set[str]]] = {}
    for where, (name, keys) in known.items():
        rest = re.sub(r"^runs\.[^.:]+\.", "", where)
        is_shared = sum(re.sub(r"^runs\.[^.:]+\.", "", one) == rest for one in known) > 1
        without_run.setdefault(rest if is_shared else where, (name, set()))[1].update(keys - MADE)
    found = []
    for where, (name, keys) in without_run.items():
        elsewhere = [] if "." in where else suggested(name, nearest=False)
        if elsewhere:
            found.append(f"{where}: there is no key {name!r}. Did you mean {' or '.join(elsewhere[:3])}?")
        else:
            known_here = keys if "." in where else keys | set(PARTS)  # parts of every run stand at the top, too
            found.append(f"{where}: {unknown('key', name, known_here)}")
    return found


def _merged(sentences: list[str]) -> list[str]:
    """Says once what is wrong alike with several runs: a word for all runs is one word."""
    without_run = [re.sub(r"^runs\.[^.:]+\.", "", one) for one in sentences]
    named = [rest if without_run.count(rest) > 1 else one for one, rest in zip(sentences, without_run, strict=True)]
    return list(dict.fromkeys(named))


def _locate(settings: Any, loc: tuple[str | int, ...]) -> tuple[str, type[Settings]]:
    """Returns the dotted key of a pydantic location, and the settings class of its last part."""
    shown, owner = [], settings
    for part in loc:
        kinds = _settings_in(settings)
        tagged = [
            kind for kind in kinds if "encoder" in kind.model_fields and kind.model_fields["encoder"].default == part
        ]
        if tagged:  # the tag of a discriminated union is part of the location, not of the key
            settings = tagged[0]
            continue
        shown.append(str(part))
        if len(kinds) == 1:
            owner = kinds[0]
            field = owner.model_fields.get(str(part))
            settings = field.annotation if field else None
        elif typing.get_origin(settings) is dict:
            settings = typing.get_args(settings)[1]
    return ".".join(shown), owner


def _settings_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _settings_in(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(annotation) for kind in _settings_in(part)]
    return []
