"""Shape of what a model reads: token reports, or series of values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class InputShape:
    """Shape of a corpus's inputs and names of their columns; it lies in the manifest and beside a model's weights.

    tokens: {"tokens": (N, max_len)} indices below `size`. series: {"values": (N, steps, parameters)} with NaN where
    nothing was observed, and, where there are statics, {"statics": (N, 1, statics)} with NaN where unknown.
    """

    kind: Literal["tokens", "series"]
    size: int = 0
    """Vocabulary with its reserved indices (tokens)."""
    steps: int = 0
    """Longest series, in time steps: those of the grid of a stay, rows of an image."""
    parameters: tuple[str, ...] = ()
    """Names of the columns of `values`."""
    kinds: tuple[str, ...] = ()
    """Kind of each parameter: vital, examination, drug, device or pixel."""
    statics: tuple[str, ...] = ()
    """Names of the columns of `statics`."""
    outcomes: tuple[str, ...] = ()
    """Further outcomes that are known of train rows, which a model may learn to predict beside the label."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        if self.kind == "tokens":
            return ("tokens",)
        return ("values", "statics") if self.statics else ("values",)

    def to_json(self) -> dict[str, Any]:
        """Returns only what the kind has."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items() if value
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> InputShape:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in content.items()})


def token_shape(size: int) -> InputShape:
    """Shape of reports with a vocabulary of `size` words and reserved indices."""
    return InputShape("tokens", size)
