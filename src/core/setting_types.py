"""Base class of all settings, and kinds of values that several of them have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of all settings: immutable; unknown keys and numbers that are none or infinite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def complete(self) -> dict[str, Any]:
        """All settings as JSON, also those that model_dump() leaves out at their defaults, so that fingerprints stay
        what they were before there was such a setting."""
        found = self.model_dump(mode="json")
        for name, value in self:
            found[name] = value.complete() if isinstance(value, Settings) else found.get(name, value)
        return found


def different(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("values must be different")
    return values


def _path(value: Path) -> Path:
    if "\0" in str(value):
        raise ValueError("a path has no NUL")
    return value


def _glob(value: str) -> str:
    parts = value.split("/")
    if "\0" in value or not value.strip("/.") or ".." in parts or value.startswith("/"):
        raise ValueError("want a glob of files inside paths.input, such as *train*.csv")
    if any("**" in part and part != "**" for part in parts):
        raise ValueError("** stands for whole folders: want it between slashes")
    return value


def _origin(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/*?#@A-Z]+", value):
        raise ValueError(
            "want origins as browsers send them, in small letters, without * and without a path or a slash at the end, "
            "such as https://ward.example or http://10.0.0.7:8080"
        )
    return value


LARGEST_SEED = 2**32 - 1
"""Largest seed of NumPy's and scikit-learn's generators."""
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Seeds = Annotated[list[Seed], Field(min_length=1, max_length=100), AfterValidator(different)]
AnyPath = Annotated[Path, AfterValidator(_path)]
Glob = Annotated[str, AfterValidator(_glob)]
Origin = Annotated[str, AfterValidator(_origin)]


def ascending(values: list[Any]) -> list[Any]:
    if sorted(set(values)) != values:
        raise ValueError("values must ascend")
    return values
