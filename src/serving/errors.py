"""A request that is not answered: its status and the sentence that says why."""

from __future__ import annotations


class Refused(Exception):
    """Raised where a request is refused; the answer is {"error": sentence} with the status.

    The sentence goes to the client and holds no text of a report.
    """

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers or {}
