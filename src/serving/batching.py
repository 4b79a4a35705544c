"""Micro-batching: rows of several requests are predicted together, by one thread beside the event loop.

A batch starts when it is full, or when its oldest row has waited for the deadline; while a batch is predicted, the rows
of the next one gather, so that under load nobody waits for a deadline. A batch holds the oldest rows that wait and
those of the most similar length, for a model's time grows with the longest row of its batch. The number of rows that
wait is bounded: what comes beyond it is refused at once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from src.core.settings import Serve
from src.serving.errors import Refused
from src.serving.predictor import Prediction, Predictor, Rows

Found = TypeVar("Found")
MEMORY = 0.8
"""Weight of the past in the running mean of the rate of prediction."""


class QueueFull(Refused):
    """The rows of a request do not fit into the queue."""

    def __init__(self, retry_after: int):
        """`retry_after`: seconds until the rows that wait now are probably predicted, at least 1."""
        super().__init__(429, f"the queue is full: try again in {retry_after} s", {"Retry-After": str(retry_after)})


@dataclass(frozen=True)
class BatchFigures:
    """Size and times of a batch that was predicted."""

    rows: int
    waited: float
    """Seconds that its oldest row waited."""
    seconds: float
    """Seconds of its prediction."""


@dataclass(eq=False, slots=True)
class _Piece:
    """Rows of one request that are predicted in one batch."""

    rows: Rows
    length: int
    """Longest of its rows."""
    since: float
    answer: asyncio.Future[Prediction]


class Batcher:
    """Queue and prediction thread of one predictor, in one event loop.

        async with Batcher(predictor, settings.serve) as batcher:
            prediction = await batcher.submit(predictor.encode([[12, 345, 6]]))

    Leaving the block predicts what was accepted, then ends the thread.
    """

    def __init__(
        self, predictor: Predictor, settings: Serve, observe: Callable[[BatchFigures], None] = lambda figures: None
    ):
        """`observe` is called in the event loop after each batch."""
        self._predictor = predictor
        self._largest, self._delay, self._room = settings.batch, settings.delay / 1000, settings.queue
        self._observe = observe
        self._pieces: list[_Piece] = []
        self._waiting = 0
        self.running = 0
        """Rows that are being predicted."""
        self._rate = 0.0
        self._closing = False
        self._some, self._full = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Batcher:
        self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def start(self) -> None:
        """Begins to predict; call it in the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Refuses further rows, predicts those that were accepted, and ends the thread."""
        self._closing = True
        self._some.set()
        self._full.set()
        if self._task is not None:
            await self._task
        await asyncio.to_thread(self._thread.shutdown)

    @property
    def waiting(self) -> int:
        """Rows in the queue, without those that are being predicted."""
        return self._waiting

    def check_room(self) -> None:
        """Raises QueueFull if not a single row fits."""
        if self._waiting >= self._room:
            raise QueueFull(self._retry_after())

    async def submit(self, rows: Rows) -> Prediction:
        """Predicts rows of one request, as many as the queue has room for; raises QueueFull if they do not fit, and
        Refused after close().

        The prediction of a row does not depend on the rows it is predicted with. Rows whose request gives up leave the
        queue. A fault of the predictor is raised
        here.
        """
        count = len(rows.lengths)
        if self._closing:
            raise Refused(503, "the service is shutting down")
        if self._waiting + count > self._room:
            raise QueueFull(self._retry_after())
        if count == 1:
            return await self._enqueue(rows)
        order = np.argsort(rows.lengths, kind="stable")
        parts = [order[start : start + self._largest] for start in range(0, count, self._largest)]
        found = await asyncio.gather(*[self._enqueue(_chosen(rows, part)) for part in parts])
        back = np.argsort(order, kind="stable")
        return Prediction(*[np.concatenate(arrays)[back] for arrays in zip(*found, strict=True)])

    async def between_batches(self, function: Callable[..., Found], *arguments: object) -> Found:
        """Calls `function` in the prediction thread: for what must not run beside a prediction."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _enqueue(self, rows: Rows) -> asyncio.Future[Prediction]:
        loop = asyncio.get_running_loop()
        piece = _Piece(rows, int(rows.lengths.max()), loop.time(), loop.create_future())
        self._pieces.append(piece)
        self._waiting += len(rows.lengths)
        piece.answer.add_done_callback(lambda answer: self._given_up(piece) if answer.cancelled() else None)
        self._some.set()
        if self._waiting >= self._largest:
            self._full.set()
        return piece.answer

    def _given_up(self, piece: _Piece) -> None:
        if piece in self._pieces:
            self._pieces.remove(piece)
            self._waiting -= len(piece.rows.lengths)

    def _retry_after(self) -> int:
        return max(1, math.ceil(self._waiting / self._rate)) if self._rate else 1

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._pieces:
                if self._closing:
                    return
                self._some.clear()
                await self._some.wait()
                continue
            left = self._pieces[0].since + self._delay - loop.time()
            if self._waiting < self._largest and left > 0 and not self._closing:
                self._full.clear()
                try:
                    async with asyncio.timeout(left):
                        await self._full.wait()
                except TimeoutError:
                    pass
            if not (pieces := self._take()):
                continue  # all were given up meanwhile
            self.running = sum(len(piece.rows.lengths) for piece in pieces)
            await self._predict(pieces)
            self.running = 0

    def _take(self) -> list[_Piece]:
        """Takes the pieces of the next batch out of the queue: the oldest and those of the most similar lengths."""
        if self._waiting <= self._largest:
            taken, self._pieces = self._pieces, []
        else:
            oldest = self._pieces[0].length
            taken, kept, size = [], [], 0
            for piece in sorted(self._pieces, key=lambda piece: abs(piece.length - oldest)):
                count = len(piece.rows.lengths)
                fits = size + count <= self._largest
                (taken if fits else kept).append(piece)
                size += count * fits
            self._pieces = sorted(kept, key=lambda piece: piece.since)
        self._waiting -= sum(len(piece.rows.lengths) for piece in taken)
        return taken

    async def _predict(self, pieces: Sequence[_Piece]) -> None:
        loop = asyncio.get_running_loop()
        waited = loop.time() - min(piece.since for piece in pieces)
        try:
            rows = pieces[0].rows if len(pieces) == 1 else _joined([piece.rows for piece in pieces])
            prediction, seconds = await loop.run_in_executor(self._thread, self._timed, rows)
        except Exception as fault:
            for piece in pieces:
                if not piece.answer.done():
                    piece.answer.set_exception(fault)
            return
        start = 0
        for piece in pieces:
            stop = start + len(piece.rows.lengths)
            if not piece.answer.done():  # its request was given up
                piece.answer.set_result(Prediction(*[array[start:stop] for array in prediction]))
            start = stop
        rate = start / max(seconds, 1e-6)
        self._rate = MEMORY * self._rate + (1 - MEMORY) * rate if self._rate else rate
        self._observe(BatchFigures(start, waited, seconds))

    def _timed(self, rows: Rows) -> tuple[Prediction, float]:
        started = time.perf_counter()
        return self._predictor.predict(rows), time.perf_counter() - started


def _chosen(rows: Rows, which: np.ndarray) -> Rows:
    return Rows({name: array[which] for name, array in rows.inputs.items()}, rows.lengths[which])


def _joined(several: Sequence[Rows]) -> Rows:
    """Rows of several requests, padded to the longest; what stands behind a row's length is read by no model."""
    lengths = np.concatenate([rows.lengths for rows in several])
    inputs = {}
    for name, first in several[0].inputs.items():
        arrays = [rows.inputs[name] for rows in several]
        width = max(array.shape[1] for array in arrays)
        whole = np.zeros((len(lengths), width, *first.shape[2:]), first.dtype)
        start = 0
        for array in arrays:
            whole[start : start + len(array), : array.shape[1]] = array
            start += len(array)
        inputs[name] = whole
    return Rows(inputs, lengths)
