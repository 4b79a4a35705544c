"""Questions of pretraining: which words of a report are hidden, replaced, or shown as they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from src.core.run_settings import Pretrain
from src.data.corpus import MASK


class Questions(NamedTuple):
    shown: np.ndarray
    """(N, max_len) tokens that the model sees, of the same type"""
    asked: np.ndarray
    """(N, max_len) bool: places where the model predicts the word"""
    replaced: np.ndarray
    """(N, max_len) bool: places where the shown word is another than the report's"""


def ask(
    tokens: np.ndarray, lengths: np.ndarray, settings: Pretrain, alphabet: np.ndarray, rng: np.random.Generator
) -> Questions:
    """Questions about padded tokens (N, max_len): BERT's (Devlin et al. 2019) in spans, as n-gram masking asks them
    (Joshi et al. 2020), with replaced words for the noise that this text has.

    Spans start anywhere, so often that `settings.select` of all tokens are asked for in the mean; a report has one at
    least. All tokens of a span meet the same fate: `settings.masked` of the spans are hidden, `settings.replaced` get
    words drawn uniformly from `alphabet`, the rest is shown.
    """
    n, width = tokens.shape
    shares = np.array(settings.spans) / sum(settings.spans)
    length = int(lengths.max(initial=0))
    inside = np.arange(length) < lengths[:, None]
    # A token stays out if none of the spans that could reach it starts: (1 - start) ** mean_length = 1 - select.
    mean_length = shares @ np.arange(1, len(shares) + 1)
    start = 1 - (1 - settings.select) ** (1 / mean_length)
    starts = (rng.random((n, length), dtype=np.float32) < start) & inside
    lacking = np.flatnonzero(~starts.any(axis=1) & (lengths > 0))
    starts[lacking, rng.integers(0, lengths[lacking])] = True
    rows, columns = np.nonzero(starts)
    sizes = rng.choice(len(shares), size=len(rows), p=shares) + 1
    fates = rng.choice(
        3, size=len(rows), p=[settings.masked, settings.replaced, max(0.0, 1 - settings.masked - settings.replaced)]
    )
    fate = np.full((n, length), -1, dtype=np.int8)
    for step in range(len(shares)):  # where spans overlap, the later stands
        reaching = (sizes > step) & (columns + step < lengths[rows])
        fate[rows[reaching], columns[reaching] + step] = fates[reaching]
    shown, asked, replaced = tokens.copy(), np.zeros(tokens.shape, dtype=bool), np.zeros(tokens.shape, dtype=bool)
    asked[:, :length] = fate >= 0
    shown[:, :length][fate == 0] = MASK
    where = np.nonzero(fate == 1)
    shown[where] = rng.choice(alphabet, size=len(where[0]))
    replaced[where] = shown[where] != tokens[where]
    return Questions(shown, asked, replaced)
