"""Version of each kind of result. It is part of the result's fingerprint: a result of an older version is made again.

Raise a number when the code changes what that kind of result holds. Rewording a message or moving code needs no new
number. tests/test_versions.py compares the code with the hash that was noted for each version, and says what to do.
"""

from __future__ import annotations

PREPARE = 5
FOLDS = 1
"""Array of folds that is kept beside the corpus. folds.csv itself is made once, and users may edit it."""
MISSINGNESS = 1
SHIFT = 2
BASELINES = 2
VECTORS = 1
"""Start vectors of embeddings."""
PRETRAIN = 3
DENOISE = 1
TRAIN = 8
"""Weights and logits of a fold."""
SCORE = 2
"""Files that a run puts together from its folds, and the figures in its score.json."""
BLEND = 3
SUBMIT = 2
LEADERBOARD = 2
EXPLAIN = 2
ALARMS = 2
DOMAINS = 2
"""Differences between domains, and figures by domain."""
ADAPT = 1
"""Outputs of models that were adapted to a domain."""
REPORT = 2
DEVICE = 3
"""Which device and precision are used, and how a GPU computes."""


def computed_on(device: str) -> str:
    """Returns the name of a device for fingerprints: of a GPU with the version of how it computes."""
    return device if device == "cpu" else f"{device} {DEVICE}"
