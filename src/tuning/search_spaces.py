"""Search spaces: settings that a study may change, and their ranges. A space is a YAML file, one line a setting.

    train.learning_rate: {type: float, low: 0.002, high: 0.02, log: true}
    train.epochs: {type: int, low: 4, high: 10}
    train.attack: {type: categorical, choices: [none, fgm]}
    train.attack_size: {type: float, low: 0.1, high: 2.0, log: true, when: {train.attack: fgm}}

src/presets/spaces/ has a space for every model, and further ones for pretraining, for augmentation and for blends;
those in its folder series/ replace them where a task reads series. A study also takes a file of the user's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from src.core.errors import UserError, unknown
from src.core.language import _
from src.core.setting_types import Settings
from src.core.settings_loader import PRESETS, sentences
from src.core.yaml_reader import read_yaml

if TYPE_CHECKING:
    import optuna

SPACES = PRESETS / "spaces"
Value = bool | int | float | str | list[Any] | dict[str, Any] | None


class Dimension(Settings):
    when: dict[str, Any] = {}
    """Conditions: other settings of the space, each with the value, or the list of values, that it must have. Without
    them this setting is not drawn."""


class Range(Dimension):
    """Dimension of numbers from `low` to `high`."""

    def has(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


class FloatDimension(Range):
    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    """Log-uniform: as likely between 0.001 and 0.01 as between 0.01 and 0.1."""

    @model_validator(mode="after")
    def _range(self) -> FloatDimension:
        return _ordered(self)

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def distribution(self) -> BaseDistribution:
        return FloatDistribution(self.low, self.high, log=self.log)

    @property
    def ends(self) -> list[Value]:
        return [self.low, self.high]


class IntDimension(Range):
    type: Literal["int"]
    low: int
    high: int
    step: int = Field(1, ge=1)
    log: bool = False

    @model_validator(mode="after")
    def _range(self) -> IntDimension:
        if self.log and self.step != 1:
            raise ValueError("log and step exclude each other")
        if (self.high - self.low) % self.step:
            raise ValueError(f"high {self.high} is not a whole number of steps of {self.step} from low {self.low}")
        return _ordered(self)

    def has(self, value: Any) -> bool:
        return super().has(value) and (value - self.low) % self.step == 0

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)

    def distribution(self) -> BaseDistribution:
        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    @property
    def ends(self) -> list[Value]:
        return [self.low, self.high]


class CategoricalDimension(Dimension):
    type: Literal["categorical"]
    choices: list[Value] = Field(min_length=1)

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        # JSON texts, because a study stores scalars only, and takes 1 and true for the same choice.
        return from_study(trial.suggest_categorical(name, list(map(json.dumps, self.choices))))

    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution(list(map(json.dumps, self.choices)))

    def has(self, value: Any) -> bool:
        return value in self.choices

    @property
    def ends(self) -> list[Value]:
        return self.choices


AnyDimension = Annotated[FloatDimension | IntDimension | CategoricalDimension, Field(discriminator="type")]


@dataclass(frozen=True)
class Space:
    dimensions: dict[str, AnyDimension]
    """Key of each setting, such as train.learning_rate, and its range. A setting stands after those of its `when`."""

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """Draws a value for each setting whose conditions hold."""
        chosen: dict[str, Value] = {}
        for name, dimension in self.dimensions.items():
            if all(name_ in chosen and chosen[name_] in _several(want) for name_, want in dimension.when.items()):
                chosen[name] = dimension.suggest(trial, name)
        return chosen

    def in_use(self, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """Parameters of a trial that stand for the values in `settings`, nested mappings, and their distributions. A
        value that the space does not have is left out."""
        chosen: dict[str, Value] = {}
        params: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}
        for name, dimension in self.dimensions.items():
            value = _value(settings, name)
            if all(name_ in chosen and chosen[name_] in _several(want) for name_, want in dimension.when.items()) and (
                dimension.has(value)
            ):
                chosen[name], params[name], distributions[name] = value, value, dimension.distribution()
                if isinstance(dimension, CategoricalDimension):  # as it is written there: 0 and 0.0 are equal
                    params[name] = json.dumps(dimension.choices[dimension.choices.index(value)])
        return params, distributions

    def without(self, typed: Iterable[str], settings: dict[str, Any]) -> Space:
        """Returns the space of the settings that the user has not chosen: `typed` are keys, each with all keys below it
        and above it, of `settings`, nested mappings. Conditions on what is chosen are met or leave a setting out."""
        typed = list(typed)

        def is_typed(name: str) -> bool:
            return any(f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.") for key in typed)

        kept: dict[str, AnyDimension] = {}
        for name, dimension in self.dimensions.items():
            open_ones = {other: want for other, want in dimension.when.items() if other in kept}
            closed = [other for other in dimension.when if other not in kept]
            if not is_typed(name) and all(
                is_typed(other) and _value(settings, other) in _several(dimension.when[other]) for other in closed
            ):
                kept[name] = dimension.model_copy(update={"when": open_ones})
        return Space(kept)

    def check(self, build: Callable[[list[str]], object]) -> None:
        """Calls `build` with key=value words for both ends of each range. Raises the UserError of `build`, with the
        setting."""
        for name, dimension in self.dimensions.items():
            given = {other: _several(want)[0] for other, want in dimension.when.items()}
            for value in dimension.ends:
                try:
                    build(words({**given, name: value}))
                except UserError as error:
                    raise UserError(
                        _("the search space has {name} up to {value}, but {error}").format(
                            name=name, value=value, error=error
                        )
                    ) from None

    def to_json(self) -> dict[str, Any]:
        return {name: dimension.model_dump(mode="json") for name, dimension in self.dimensions.items()}


def words(chosen: dict[str, Value]) -> list[str]:
    """Returns key=value words for the command line that set the chosen values."""
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in chosen.items()]


def from_study(value: bool | int | float | str) -> Value:
    """Returns the value of a setting from a trial's parameter, where text is the JSON of a choice."""
    return json.loads(value) if isinstance(value, str) else value


def space_names() -> list[str]:
    return sorted(path.stem for path in SPACES.glob("*.yaml"))


def space_file(name: str, of_series: bool) -> Path:
    """Path of a shipped space, by its name: that of series, if there is one."""
    own = SPACES / "series" / f"{name}.yaml"
    return own if of_series and own.exists() else SPACES / f"{name}.yaml"


def load_space(names: Sequence[str], parts: Iterable[str], of_series: bool = False) -> Space:
    """Merges spaces, each the name of one in src/presets/spaces or a YAML file. If several have a setting, the last
    one's range counts.

    `of_series` takes the spaces for tasks on series. `parts` are the first parts that keys may have. Raises UserError
    for a missing file and for invalid content.
    """
    dimensions: dict[str, AnyDimension] = {}
    for name in names:
        is_file = name.endswith((".yaml", ".yml"))
        if not is_file and name not in space_names():
            raise unknown("search space", name, space_names())
        path = Path(name) if is_file else space_file(name, of_series)
        dimensions |= _read(path, parts)
    for i, (name, dimension) in enumerate(dimensions.items()):
        for other, want in dimension.when.items():
            if other not in list(dimensions)[:i]:
                raise UserError(
                    _("{name}: when names {other}, which is not a setting above it in the space").format(
                        name=name, other=other
                    )
                )
            known = dimensions[other]
            if isinstance(known, CategoricalDimension) and not all(one in known.choices for one in _several(want)):
                raise UserError(
                    _("{name}: when asks for {other}={want}, which is none of {choices}").format(
                        name=name, other=other, want=want, choices=known.choices
                    )
                )
    return Space(dimensions)


def _read(path: Path, parts: Iterable[str]) -> dict[str, AnyDimension]:
    lines = read_yaml(path)
    if not isinstance(lines, dict) or not lines:
        raise UserError(
            _("{path} has no settings. Write lines like train.epochs: {{type: int, low: 4, high: 10}}").format(
                path=path
            )
        )
    for name in lines:
        if not isinstance(name, str) or name.split(".")[0] not in parts or "." not in name:
            raise UserError(
                _("{path}: {name}: a study can change only settings of {parts}").format(
                    path=path, name=name, parts=", ".join(parts)
                )
            )
    try:
        return TypeAdapter(dict[str, AnyDimension]).validate_python(lines)
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {told}" for told in sentences(error, Dimension))) from None


def _ordered(dimension: Any) -> Any:
    if dimension.low > dimension.high:
        raise ValueError(f"low {dimension.low} is above high {dimension.high}")
    if dimension.log and dimension.low <= 0:
        raise ValueError(f"log needs a low above 0 (got {dimension.low})")
    return dimension


def _value(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = settings[part]
    return settings


def _several(want: Any) -> list[Any]:
    return want if isinstance(want, list) else [want]
