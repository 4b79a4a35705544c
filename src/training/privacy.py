"""Accounting of differential privacy: epsilon of DP-SGD at one domain, by Opacus.

Mironov, Talwar and Zhang (2019), "Rényi differential privacy of the sampled Gaussian mechanism". Epsilon is that of one
row of the domain against all that its gradients reach: the weights that it sends and all that is made of them. It does
not cover the number of its rows, nor the statistics that scale series. It holds against those who cannot know the
noise: here noise comes from the seed of the run, so that results can be repeated; a domain that trains for others must
draw a seed of its own and keep it to itself.
"""

from __future__ import annotations

import importlib.util
import math

from src.core.errors import UserError
from src.core.language import _

INSTALL = ".venv/bin/pip install -r docs/requirements-privacy.txt"


def check() -> None:
    """Raises UserError, with the command, where Opacus is not installed."""
    if importlib.util.find_spec("opacus") is None:
        told = _("regime.noise needs Opacus, which tells what privacy is worth. Install it with: {command}")
        raise UserError(told.format(command=INSTALL))


def spent(noise: float, rows: int, batch_size: int, epochs: int) -> dict[str, float]:
    """Returns epsilon and delta, 1 / (10 rows), of epochs of Poisson sampled steps over the rows of a domain."""
    check()
    from opacus.accountants import RDPAccountant

    accountant, delta = RDPAccountant(), 1 / (10 * rows)
    steps = epochs * math.ceil(rows / batch_size)
    accountant.history = [(noise, min(1.0, batch_size / rows), steps)]
    return {"epsilon": float(accountant.get_epsilon(delta=delta)), "delta": delta}
