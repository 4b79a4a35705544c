"""Input layer of series: hourly values with gaps -> named columns without gaps -> vectors.

Every step of the way is a named transform that the section `features` of the settings switches (settings.Features).
All but the interpolation are causal: the columns of an hour depend on that hour and the ones before. Means, scales and
donors are fitted on training rows by fit() and saved with the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from src.core.errors import UserError
from src.core.language import _
from src.core.run_settings import GRUD, Features, Model
from src.data.inputs import InputShape
from src.models.completion import Completion
from src.models.layers import SpatialDropout
from src.models.scaling import Fitted, Scaler
from src.models.summaries import hidden_statics, summarise, without_statics

DAY = 24
"""Steps in which an unobserved value decays by one unit of its learned rate; a step of a stay is an hour."""

RECENCY = 12.0
"""Time constant, in steps, of the weight of an examination's last value."""

FIT_ROWS = 10_000
"""Largest number of training rows that are fitted to, evenly spaced among them: quantiles of more change nothing."""

FEW = 20
"""Training rows of a group (features.standardise_by) below which it gets the means and scales of all rows."""

DONORS, CANDIDATES, NEIGHBOURS = 256, 20, 10
"""Nearest-neighbour imputation: number of donor hours, candidates for each (the ones with most observed parameters
are taken), and donors that a value is the mean of."""


class Rows(Protocol):
    """Array of which rows are taken by their numbers: in memory, memory-mapped, or several behind each other."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray) -> np.ndarray: ...


def series_columns(shape: InputShape, features: Features) -> list[str]:
    """Names of the columns of SeriesInput.features(), in their order."""
    return [name for name, _source in _columns(shape, features)]


def column_sources(shape: InputShape, features: Features) -> list[int]:
    """Place, among parameters and then statics, of what each column of SeriesInput.features() is made of."""
    return [source for _name, source in _columns(shape, features)]


def _columns(shape: InputShape, features: Features) -> list[tuple[str, int]]:
    sources = [*shape.parameters, *shape.statics]
    every, given = list(range(len(shape.parameters))), places(shape, "drug", "device")
    parts = [("", every)]
    if features.observed:
        parts.append((" observed", every))
    if features.elapsed:
        parts.append((" elapsed", every))
    if features.smooth:
        parts.append((f" mean of {features.smooth}", places(shape, "vital")))
    if features.dose:
        parts += [(" given", given), (" cumulative", given)]
    if features.recency:
        parts.append((" recency", places(shape, "examination")))
    statics = list(range(len(shape.parameters), len(sources)))
    parts += [("", statics), (" unknown", statics)]
    return [(sources[i] + suffix, i) for suffix, chosen in parts for i in chosen]


def places(shape: InputShape, *kinds: str) -> list[int]:
    """Places of the parameters of these kinds."""
    return [i for i, kind in enumerate(shape.kinds) if kind in kinds]


def latest_of(observed: Tensor) -> tuple[Tensor, Tensor]:
    """Mask (B, T, P) -> step (1, T, 1) of each place, and step of the last observation until then, -1 before the
    first: int64 (B, T, P)."""
    time = torch.arange(observed.shape[1], device=observed.device)[None, :, None]
    return time, torch.where(observed, time, -1).cummax(dim=1).values


class SeriesInput(Fitted):
    """Inputs {"values": (B, T, P), "statics": (B, 1, S)} with NaN where unknown -> (B, T, embedding_size).

    A GRU-D gets the columns as they are. Hours beyond a series' length are NaN and never read: columns look back, and
    an interpolation ends at the last observation.
    """

    sized = ("donors",)

    def __init__(self, settings: Model, shape: InputShape, features: Features):
        super().__init__()
        self.shape, self.options = shape, features
        self.columns = series_columns(shape, features)
        n_parameters = len(shape.parameters)
        self.scaler, self.static_scaler = Scaler(n_parameters), Scaler(len(shape.statics))
        self.groups = _groups_of(shape, features.standardise_by)
        self.group_scalers = nn.ModuleList(Scaler(n_parameters) for _group in self.groups)
        self.hidden = hidden_statics(shape, features.hidden)
        self.vitals = places(shape, "vital")
        self.given = places(shape, "drug", "device")
        self.examinations = places(shape, "examination")
        if features.imputer == "knn":
            self.register_buffer("donors", torch.zeros(0, n_parameters))
        if features.imputer == "decay":
            self.decay = nn.Parameter(torch.ones(n_parameters))
            self.decay_bias = nn.Parameter(torch.zeros(n_parameters))
        if features.dose:
            self.register_buffer("unit_dose", torch.ones(len(self.given)))
        self.dropout = SpatialDropout(settings.spatial_dropout)
        self.project = (
            nn.Identity()
            if isinstance(settings, GRUD)
            else nn.Sequential(self.dropout, nn.Linear(len(self.columns), settings.embedding_size), nn.GELU())
        )
        self.context_size = settings.embedding_size if features.summary else 0
        if features.summary:
            self.complete = Completion(shape)
            self.wide = nn.Sequential(
                nn.Dropout(settings.spatial_dropout),
                nn.Linear(self.complete.size, self.context_size),
                nn.GELU(),
            )

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.project(self.features(inputs))

    def computed(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes once what forward() and context() would compute in every epoch: returns the inputs with the columns
        (B, T, F), unless they depend on chance or on learned numbers, and with the summary features (B, 1, C)."""
        found = dict(inputs)
        if not self.options.drop and self.options.imputer != "decay":
            found["columns"] = self.features(inputs)
        if self.context_size:
            found["summary"] = self.complete(summarise(self.visible(inputs), self.shape))[:, None]
        return found

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Computes the columns (B, T, F) that `columns` names; none is NaN."""
        if "columns" in inputs:
            return inputs["columns"]
        values = self._thinned(inputs["values"])  # (64, 48, 37)
        observed = ~values.isnan()
        time, latest = latest_of(observed)
        # Never observed counts as the whole series, however wide the batch is.
        elapsed = torch.where(latest >= 0, time - latest, self.shape.steps).clamp_max(self.shape.steps)
        scaled = self.scaled(values, inputs)
        zeroed = scaled.nan_to_num(0)  # the mean is 0
        carried = zeroed.gather(1, latest.clamp_min(0)) * (latest >= 0)
        filled = self._imputed(scaled, zeroed, observed, carried, latest, elapsed)
        parts = [filled]
        if self.options.observed:
            parts.append(observed.to(filled.dtype))
        if self.options.elapsed:
            longest = math.log1p(self.shape.steps)
            parts.append(elapsed.to(filled.dtype).log1p() / longest)
        if self.options.smooth:
            parts.append(self._smoothed(zeroed, observed, filled))
        if self.options.dose:
            raw = values[:, :, self.given].nan_to_num(0)
            parts += [(raw > 0).to(filled.dtype), (raw.cumsum(dim=1) / self.unit_dose).clamp_min(0).log1p()]
        if self.options.recency:
            kept = self.examinations
            parts.append(carried[:, :, kept] * (-elapsed[:, :, kept] / RECENCY).exp())
        if self.shape.statics:
            statics = self.static_scaler(self.visible(inputs)["statics"])
            steady = torch.cat([statics.nan_to_num(0), statics.isnan().to(filled.dtype)], dim=2)
            parts.append(steady.expand(-1, values.shape[1], -1))
        return torch.cat(parts, dim=2)  # (64, 48, 37 to 200)

    def scaled(self, values: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Standardises values (B, T, P) of rows with these inputs, by the scales of their groups. NaN remains."""
        return self._by_group(lambda scaler: scaler(values), inputs)

    def unscaled(self, scaled: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Computes the values that scaled() maps to (B, T, P), in their unit."""
        return self._by_group(lambda scaler: scaler.inverse(scaled), inputs)

    def _by_group(self, apply: Callable[[Scaler], Tensor], inputs: dict[str, Tensor]) -> Tensor:
        found = apply(self.scaler)
        for (place, value), scaler in zip(self.groups, self.group_scalers, strict=True):
            of_group = inputs["statics"][:, :, place : place + 1] == value  # (B, 1, 1)
            found = torch.where(of_group, apply(scaler), found)
        return found

    def context(self, inputs: dict[str, Tensor]) -> Tensor:
        """Computes what stands beside the pooled features: (B, context_size)."""
        if not self.context_size:
            return inputs["values"].new_zeros(len(inputs["values"]), 0)
        if "summary" in inputs:
            return self.wide(inputs["summary"][:, 0])
        return self.wide(self.complete(summarise(self.visible(inputs), self.shape)))

    def fit(self, values: Rows, statics: Rows | None = None) -> None:
        """Fits means, scales and donors to training rows: values (n, T, P), statics (n, 1, S), with NaN."""
        self.fit_to([self.statistics(values, statics)])
        if self.options.imputer == "knn":
            values = np.asarray(values[_fitted_rows(len(values))])
            self.put("donors", self._chosen_donors(values.reshape(-1, values.shape[2])))

    def statistics(self, values: Rows, statics: Rows | None = None) -> dict[str, Tensor]:
        """Computes what fit_to() needs to know of training rows: values (n, T, P), statics (n, 1, S), with NaN."""
        rows = _fitted_rows(len(values))
        values = np.asarray(values[rows])
        hours = values.reshape(-1, values.shape[2])
        parts = {"scaler": self.scaler.statistics(hours)}
        sizes = []
        for i, (place, value) in enumerate(self.groups):
            of_group = np.asarray(statics[rows])[:, 0, place] == value
            parts[f"group_{i}"] = Scaler.statistics(values[of_group].reshape(-1, values.shape[2]))
            sizes.append(of_group.sum())
        if self.groups:
            parts["groups"] = {"rows": np.array(sizes)}
        inputs = {"values": torch.from_numpy(values)}
        if self.shape.statics:
            inputs["statics"] = torch.from_numpy(np.asarray(statics[rows]))
            inputs = self.visible(inputs)
            parts["static_scaler"] = self.static_scaler.statistics(inputs["statics"][:, 0].numpy())
        if self.options.dose:
            doses = np.where(hours[:, self.given] > 0, hours[:, self.given], 0).astype(np.float64)
            parts["doses"] = {"total": doses.sum(axis=0), "count": (doses > 0).sum(axis=0)}
        if self.options.summary:
            parts["summary"] = self.complete.scaler.statistics(summarise(inputs, self.shape).numpy())
        found = {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}
        return {name: torch.from_numpy(np.asarray(array, dtype=np.float64)) for name, array in found.items()}

    def fit_to(self, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Fits means and scales to rows in several places, by the statistics() of each; see Scaler.fit_to()."""

        def of(layer: str) -> list[dict[str, np.ndarray]]:
            start = f"{layer}."
            return [
                {name.removeprefix(start): tensor.numpy() for name, tensor in part.items() if name.startswith(start)}
                for part in parts
            ]

        self.scaler.fit_to(of("scaler"))
        sizes = sum(part["rows"] for part in of("groups")) if self.groups else []
        for i, scaler in enumerate(self.group_scalers):
            scaler.load_state_dict(self.scaler.state_dict())  # what the group has no value of is that of all rows
            if sizes[i] >= FEW:
                scaler.fit_to(of(f"group_{i}"))
        self.static_scaler.fit_to(of("static_scaler"))
        if self.options.dose:
            total = sum(part["total"] for part in of("doses"))
            total = total / np.maximum(sum(part["count"] for part in of("doses")), 1)
            self.put("unit_dose", np.where(total > 0, total, 1))
        if self.options.summary:
            self.complete.scaler.fit_to(of("summary"))

    def visible(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the inputs without what features.hidden names."""
        return without_statics(inputs, self.hidden)

    def _thinned(self, values: Tensor) -> Tensor:
        """Hides observations at random in training, each series at a rate of its own."""
        if not self.training or not self.options.drop:
            return values
        rate = torch.rand(len(values), 1, 1, device=values.device) * self.options.drop
        return values.masked_fill(torch.rand(values.shape, device=values.device) < rate, torch.nan)

    def _imputed(
        self, scaled: Tensor, zeroed: Tensor, observed: Tensor, carried: Tensor, latest: Tensor, elapsed: Tensor
    ) -> Tensor:
        kind = self.options.imputer
        if kind == "mean":
            return zeroed
        if kind == "linear":
            return interpolated(zeroed, observed, carried, latest)
        if kind == "knn":
            return nearest_mean(scaled, self.donors)
        if kind == "decay":
            rate = (-functional.relu(self.decay * (elapsed / DAY) + self.decay_bias)).exp()
            return torch.where(observed, carried, rate * carried)
        return carried

    def _smoothed(self, zeroed: Tensor, observed: Tensor, filled: Tensor) -> Tensor:
        """Mean of each vital sign's observations in a trailing window; where it holds none, the imputed value."""
        total, count = (
            trailing_sum(x[:, :, self.vitals].to(filled.dtype), self.options.smooth) for x in (zeroed, observed)
        )
        return torch.where(count > 0, total / count.clamp_min(1), filled[:, :, self.vitals])

    def _chosen_donors(self, hours: np.ndarray) -> Tensor:
        """Training hours (DONORS, P), standardised, with most observed parameters among evenly spaced candidates."""
        counts = (~np.isnan(hours)).sum(axis=1)
        possible = np.flatnonzero(counts)
        spaced = np.linspace(0, max(len(possible) - 1, 0), min(len(possible), DONORS * CANDIDATES)).round().astype(int)
        possible = possible[np.unique(spaced)]
        best = possible[np.argsort(-counts[possible], kind="stable")[:DONORS]]
        return self.scaler(torch.from_numpy(hours[np.sort(best)]).to(self.scaler.mean))


def _groups_of(shape: InputShape, descriptor: str | None) -> list[tuple[int, float]]:
    """Place among the statics, and value there, of each value of a descriptor; none for no descriptor. Raises UserError
    where the inputs do not have it."""
    if descriptor is None:
        return []
    names = list(shape.statics)
    if descriptor == "Gender" and descriptor in names:
        return [(names.index(descriptor), 0.0), (names.index(descriptor), 1.0)]
    hot = [(i, 1.0) for i, name in enumerate(names) if name.startswith(f"{descriptor}_")]
    if not hot:
        raise UserError(
            _("features.standardise_by={name}: these inputs have no such descriptor").format(name=descriptor)
        )
    return hot


def _fitted_rows(n: int) -> np.ndarray:
    """Rows, of n, that are fitted to."""
    return np.unique(np.linspace(0, n - 1, min(n, FIT_ROWS)).round().astype(int))


def trailing_sum(x: Tensor, window: int) -> Tensor:
    """Sums (B, T, P) over the last `window` steps, of which there are fewer at the start."""
    padded = functional.pad(x, (0, 0, window - 1, 0))
    return padded.unfold(1, window, 1).sum(dim=3)


def interpolated(zeroed: Tensor, observed: Tensor, carried: Tensor, latest: Tensor) -> Tensor:
    """Lines between neighbouring observations of (B, T, P); before the first and after the last, these themselves.

    A series without observations is 0. It reads observations that come later, so that an early hour knows more than
    it could have at the time.
    """
    steps = observed.shape[1]
    time = torch.arange(steps, device=observed.device)[None, :, None]
    following = torch.where(observed, time, steps).flip(1).cummin(dim=1).values.flip(1)  # `steps` after the last
    is_last, is_first = following == steps, latest < 0
    coming = zeroed.gather(1, following.clamp_max(steps - 1))
    share = (time - latest) / (following - latest).clamp_min(1)
    between = torch.lerp(carried, coming, share.to(zeroed.dtype))
    return torch.where(is_last, carried, torch.where(is_first, coming, between))


def nearest_mean(scaled: Tensor, donors: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Fills what is NaN in standardised (B, T, P) by the mean of the nearest donors (D, P) that have the parameter.

    The distance is the mean squared difference of the parameters that both have, as in scikit-learn's KNNImputer;
    matrix products compute it. Where no donor has the parameter, and both in common another one, the value is 0: the
    mean.
    """
    known, theirs = (~scaled.isnan()).to(scaled.dtype), (~donors.isnan()).to(scaled.dtype)
    ours, given = scaled.nan_to_num(0), donors.nan_to_num(0)
    with torch.autocast(scaled.device.type, enabled=False):  # differences of large sums: bfloat16 would lose them
        squares = ours.square() @ theirs.T + known @ given.square().T - 2 * ours @ given.T
        common = known @ theirs.T
    distances = torch.where(common > 0, squares / common.clamp_min(1), torch.inf)  # (B, T, D)
    filled = ours.clone()
    for i in range(scaled.shape[2]):
        having = theirs[:, i].nonzero()[:, 0]
        missing = scaled[:, :, i].isnan()
        if not len(having) or not missing.any():
            continue
        near, chosen = distances[missing][:, having].topk(min(neighbours, len(having)), dim=1, largest=False)
        counted = near.isfinite().to(scaled.dtype)
        mean = (given[having, i][chosen] * counted).sum(dim=1) / counted.sum(dim=1).clamp_min(1)
        filled[:, :, i] = filled[:, :, i].masked_scatter(missing, mean)
    return filled
