"""Words that summaries of all kinds of files share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.core.language import _

APART = 0.6
"""AUC from which train and test are reported as different."""


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Returns each file name's stem without the prefix that all stems share."""
    stems = {name: Path(name).stem for name in names}
    common = os.path.commonprefix(list(stems.values())) if len(stems) > 1 else ""
    return {name: stem[common.rfind("_") + 1 :] for name, stem in stems.items()}


def two_digits(value: float | None) -> str:
    return _("unknown") if value is None else f"{value:.2f}"


def auc_with_error(test: dict[str, Any]) -> str:
    """Words the AUC of a test file with its standard error."""
    if test["adversarial"]["auc"] is None:
        return "–"
    return f"{test['adversarial']['auc']:.3f} ± {test['adversarial']['standard_error']:.3f}"
