"""Parts of the service beside prediction, such as drift, shadow mode and alarms, which see what is answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import APIRouter

    from src.serving.events import Events
    from src.serving.predictor import Prediction, Predictor, Rows


class Part:
    """Base of a part, which does nothing."""

    name = ""
    """Key of the part's figures in /info."""
    is_of_bundle = False
    """True: figures are of the bundle that answers now; answers of one that was replaced meanwhile are not seen."""

    def check(self, predictor: Predictor) -> None:
        """Called before the service starts. Raises UserError where the part does not fit the bundle."""

    def started(self, predictor: Predictor, events: Events) -> None:
        """Called in the event loop before the first request."""

    def seen(
        self,
        reports: Sequence[Sequence[int]] | Sequence[str],
        rows: Rows,
        prediction: Prediction,
        ids: Sequence[str | None],
    ) -> None:
        """Receives what was asked, token ids of reports or texts of stays, the answer, and ids (None: none was
        sent).

        Called in the event loop after each request: it must return at once.
        """

    def replaced(self, predictor: Predictor) -> None:
        """Called in the event loop after another bundle took over."""

    def figures(self) -> dict[str, Any] | None:
        """Content of the part's key in /info; called in a thread."""
        return None

    def gauges(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """Name, labels and value of each figure on /metrics, where names get a prefix; called in a thread."""
        return ()

    def routes(self) -> APIRouter | None:
        """Paths of the part's own."""
        return None

    async def close(self) -> None:
        """Called after the last request."""
