"""Token noise like that of the descriptions: random replacement, insertion and deletion.

In the competition's train file about one token in six is replaced by another word; in the test files more tokens are.
The replacing words (intruders) are nearly uniform over the vocabulary.

    noisy_tokens, noisy_offsets = corrupt(tokens, offsets, NoiseRates(replacement=0.1), rng, alphabet)
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from src.core.errors import UserError
from src.core.language import _


@dataclass(frozen=True)
class NoiseRates:
    """Probabilities that a token is replaced, deleted, or gets an inserted neighbour.

    The three events exclude each other. Raises UserError for a rate outside [0, 1], for a sum of the three above 1, and
    for a dispersion of 1.
    """

    replacement: float = 0.0
    """Probability per token that another token replaces this token."""
    insertion: float = 0.0
    """Probability per token that an intruder is inserted before or behind this token."""
    deletion: float = 0.0
    """Probability per token that this token is deleted."""
    dispersion: float = 0.0
    """Intra-class correlation in [0, 1) of the event "token changed" within a report; 0: all reports have one rate."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:  # also refuses NaN
                raise UserError(
                    _("noise {name} must be a probability between 0 and 1, not {value}").format(
                        name=field.name, value=value
                    )
                )
        if self.dispersion == 1:
            raise UserError(_("noise dispersion must be below 1: at 1 a report would change at every token or at none"))
        if self.total > 1 + 1e-9:
            raise UserError(
                _("replacement, insertion and deletion must not sum to more than 1, not {total:g}").format(
                    total=self.total
                )
            )

    @property
    def total(self) -> float:
        """Probability that a token is replaced, deleted, or gets an inserted neighbour."""
        return self.replacement + self.insertion + self.deletion


def corrupt(
    tokens: np.ndarray, offsets: np.ndarray, rates: NoiseRates, rng: np.random.Generator, alphabet: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns new (tokens, offsets) with some tokens replaced, inserted and deleted; the arguments are not changed.

    `tokens` (sum of lengths,) of any integer type, `offsets` (N + 1,) int64 as in Reports. Intruders are drawn
    uniformly from the values in `alphabet` (V,). A replacement always differs from the replaced token, so the share of
    changed tokens is `rates.replacement`. An inserted intruder stands before or behind its token with equal
    probability, and may equal that token.

    Where `alphabet` has one value alone there is no intruder: tokens are deleted at most.

    A report never loses all its tokens: one token, drawn at random, is kept. The deletion rate of very short reports is
    therefore a little lower. An empty report stays empty.

    Raises ValueError if the arrays do not fit together.
    """
    offsets = np.asarray(offsets, dtype=np.int64)
    alphabet = _checked_alphabet(tokens, offsets, alphabet)
    if len(alphabet) < 2:
        rates = replace(rates, replacement=0.0, insertion=0.0)
    lengths = np.diff(offsets)
    rates_of_token = np.repeat(_rates_of_report(rates, len(lengths), rng), lengths)
    hit = np.flatnonzero(rng.random(len(tokens), dtype=np.float32) < rates_of_token)
    del rates_of_token  # the largest array here: four bytes a token
    kind = rng.random(len(hit)) * rates.total
    replaced = hit[kind < rates.replacement]
    deleted = hit[(kind >= rates.replacement) & (kind < rates.replacement + rates.deletion)]
    inserted = hit[kind >= rates.replacement + rates.deletion]

    changed = tokens.copy()
    changed[replaced] = _others(tokens[replaced], alphabet, rng)

    copies = np.ones(len(tokens), dtype=np.int8)  # number of new tokens for each old token: 0, 1 or 2
    copies[deleted] = 0
    copies[_survivors(deleted, offsets, rng)] = 1
    copies[inserted] = 2
    ends = np.zeros(len(tokens) + 1, dtype=np.int64)
    np.cumsum(copies, out=ends[1:])
    # An insertion makes two places: the intruder takes the first or the second place.
    places = ends[inserted + 1] - rng.integers(1, 3, size=len(inserted))
    result = np.repeat(changed, copies)
    result[places] = rng.choice(alphabet, size=len(inserted))
    return result, ends[offsets]


def _checked_alphabet(tokens: np.ndarray, offsets: np.ndarray, alphabet: np.ndarray) -> np.ndarray:
    """Returns the distinct values of `alphabet`, sorted; raises ValueError if arguments of `corrupt` do not fit."""
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens must be a flat array of integers, not {tokens.dtype} of shape {tokens.shape}")
    if offsets.ndim != 1 or len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(tokens):
        raise ValueError(f"offsets must run from 0 to the number of tokens, {len(tokens)}")
    if (np.diff(offsets) < 0).any():
        raise ValueError("offsets must not decrease")
    alphabet = np.unique(alphabet)
    if not np.array_equal(alphabet, alphabet.astype(tokens.dtype)):
        raise ValueError(f"the alphabet holds values that tokens of type {tokens.dtype} cannot hold")
    return alphabet.astype(tokens.dtype)


def _rates_of_report(rates: NoiseRates, n_reports: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the probability that a token changes, for each report: float32 (N,) with mean `rates.total`.

    With m = rates.total and r = rates.dispersion the probability of a report is Beta(a, b) distributed with mean
    a / (a + b) = m and a + b = 1 / r - 1. The number of hits in a report is then beta-binomial (Skellam 1948, J. Royal
    Statistical Society B 10, 257-261), r is the intra-class correlation 1 / (a + b + 1) of its tokens, and the
    variance of the probability between reports is r * m * (1 - m). A report has one draw for all three events, so a
    report with many replacements also has many deletions. This fits a source that recorded whole reports worse, and
    keeps the sum of the three rates at most 1.
    """
    mean, correlation = min(rates.total, 1.0), rates.dispersion
    if correlation == 0 or mean in (0.0, 1.0):  # the Beta distribution has no parameters at these ends
        return np.full(n_reports, mean, dtype=np.float32)
    concentration = 1 / correlation - 1
    return rng.beta(mean * concentration, (1 - mean) * concentration, size=n_reports).astype(np.float32)


def _others(tokens: np.ndarray, alphabet: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws, for each of `tokens` (K,), a value of the sorted `alphabet` other than the token, uniformly: (K,)."""
    if len(tokens) == 0:
        return tokens
    rank = np.searchsorted(alphabet, tokens)
    in_alphabet = alphabet[np.minimum(rank, len(alphabet) - 1)] == tokens
    choice = rng.integers(0, len(alphabet) - in_alphabet)  # one value fewer where the token itself is in the alphabet
    return alphabet[choice + (in_alphabet & (choice >= rank))]  # step over the token's own place


def _survivors(deleted: np.ndarray, offsets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws one token of each report that would lose all its tokens; returns the tokens' positions."""
    lengths = np.diff(offsets)
    report = np.searchsorted(offsets, deleted, side="right") - 1
    lost_all = np.flatnonzero((np.bincount(report, minlength=len(lengths)) == lengths) & (lengths > 0))
    return offsets[lost_all] + rng.integers(0, lengths[lost_all])
