"""Vectorised parser of the `|,|` format: some forty NumPy operations for a whole block of lines.

`parse_block` returns None for a block with anything unusual, valid or not; line_parser.parse_lines then parses that
block. line_parser.py defines the format, and the tests check that both parsers agree.
"""

from __future__ import annotations

import numpy as np

from src.data.line_parser import LONGEST_ID, TASK_OF_FORM, Errors, Part

MARKS = {2: {b"|,|\n": 0}, 3: {b"|,||,|" + b"," * (n - 1) + b"\n": n for n in TASK_OF_FORM}}
"""Number of label groups for each form of a line (the line without digits and blanks); by number of fields."""


def parse_block(block: bytes, n_fields: int) -> Part | None:
    """Parses the lines of a block; returns None if a line is not of the common kind, valid or not.

    Lines of the common kind have ids of digits only, single blanks, and tokens of at most four digits.
    """
    block = block.replace(b"\r\n", b"\n") if b"\r" in block else block
    text = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
    # before[k] at `at` is digits[at - k], so that no array of positions has to be shifted.
    padded = np.empty(5 + len(text), np.uint8)
    padded[:5] = 255
    before = [padded[5 - k :] for k in range(5)]
    digits = np.subtract(text, ord("0"), out=before[0])  # (bytes,) 0..9; other bytes wrap to larger values
    # Every byte that is no digit is a stop: the end of the number before the byte, if there is a number.
    stops = np.flatnonzero(digits > 9)  # (S,) places in text
    stop_bytes = text.take(stops)
    is_token = stop_bytes == ord(" ")  # (S,) True if this stop ends a token; corrected below
    # Stops other than blanks must form the same marks in every line.
    marks = np.flatnonzero(~is_token)
    spelt = stop_bytes.take(marks)
    width = spelt[:16].tobytes().find(b"\n") + 1
    form = MARKS[n_fields].get(spelt[:width].tobytes())
    if form is None or len(marks) % width or not np.array_equal(spelt[width:], spelt[:-width]):
        return None
    marks = np.ascontiguousarray(marks.reshape(-1, width).T)  # (width, n) places in stops, one row a mark
    places = stops[marks]  # (width, n) places in text
    for bar in range(0, 3 * (n_fields - 1), 3):
        if (places[bar + 2] - places[bar] != 2).any():
            return None

    # Ids: from the beginning of a line to its first mark, without a stop between.
    starts = np.concatenate(([0], places[-1, :-1] + 1))
    id_lengths = places[0] - starts
    if marks[0, 0] or (marks[0, 1:] - marks[-1, :-1] != 1).any():
        return None
    if id_lengths.min() < 1 or id_lengths.max() > LONGEST_ID:
        return None
    ids = _cut(text, starts, id_lengths)
    # Digits not yet accounted for. 0 at the end: no number is longer than was assumed.
    left = len(text) - len(stops) - int(id_lengths.sum())

    # Descriptions: a blank ends a token, and so does the next mark if it follows a digit.
    bare_end = digits[places[3] - 1] < 10
    lengths = marks[3] - marks[2] - 1 + bare_end
    is_token[marks[3]] = bare_end

    # Labels: the k-th label of all lines at once, for k = 0, 1, …
    labels = np.zeros((len(ids), TASK_OF_FORM[form].n_labels if form else 0), np.uint8)
    n_labels, column = 0, 0
    for at, group in enumerate(TASK_OF_FORM[form].groups if form else ()):
        stop = marks[5 + at] + 1
        last = marks[6 + at] - (digits[places[6 + at] - 1] > 9)
        rows = np.flatnonzero(stop <= last)
        stop, last = stop[rows], last[rows]
        if (last - stop).max(initial=0) >= group.size:  # more labels than there are: one is repeated
            return None
        while len(rows):
            is_token[stop] = False
            place = stops[stop]
            units, tens = before[1].take(place), before[2].take(place)
            has_tens = tens < 10
            values = units + 10 * tens * has_tens
            if units.max() > 9 or values.max() >= group.size:
                return None
            labels[rows, column + values] = 1
            n_labels += len(rows)
            left -= len(rows) + np.count_nonzero(has_tens)
            more = np.flatnonzero(stop < last)
            rows, stop, last = rows[more], stop[more] + 1, last[more]
        column += group.size
    if np.count_nonzero(labels) != n_labels:  # a repeated label
        return None

    ends = stops[is_token]  # (T,) places in text just after a token
    digit = before[1].take(ends)
    if lengths.min() < 1 or digit.max() > 9:
        return None
    tokens = digit.astype(np.uint16)
    left -= len(tokens)
    inside = True  # (T,) True while the byte still belongs to the token
    for k in (2, 3, 4):
        if not left:
            break
        digit = before[k].take(ends)
        inside &= digit < 10
        left -= np.count_nonzero(inside)
        digit *= inside
        tokens += np.multiply(digit, 10 ** (k - 1), dtype=np.uint16)
    if left:
        return None
    return Part(ids, tokens, lengths, labels, np.full(len(ids), form, np.int8), Errors())


def _cut(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns `lengths` bytes of `text` from each of `starts`, (n,) bytes; strings of one length are copied at once."""
    cut = np.zeros(len(starts), f"S{lengths.max()}")
    for length in np.flatnonzero(np.bincount(lengths)).tolist():
        rows = np.flatnonzero(lengths == length)
        windows = np.ndarray(len(text) - length + 1, f"S{length}", text, strides=(1,))  # a window from every byte
        cut[rows] = windows[starts[rows]]
    return cut
