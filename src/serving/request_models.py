"""Bodies of requests and answers, checked as strictly as files of reports are, with the reader's words in errors.

Sentences quote what is wrong, for the client that sent it; they are not for logs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from src.data.file_kinds import show
from src.data.line_parser import LARGEST_TOKEN, LONGEST_ID, read_name
from src.data.stay_files import LARGEST_FILE
from src.serving.errors import Refused

LARGEST_ID = 10**15
"""Numbers below are exact in every JSON parser."""
DIGITS_AND_BLANKS = re.compile("[0-9 ]*")
SHOWN = 5
"""Number of errors in an answer; further ones are counted."""


def _tokens(value: Any) -> list[int]:
    """Token ids of a text `1 2 3` or a list of integers. Raises ValueError with a message for the client."""
    if isinstance(value, str):
        words = value.split(" ")
        if not DIGITS_AND_BLANKS.fullmatch(value) or max(map(len, words)) > 5:
            for word in words:
                # int() refuses thousands of digits.
                if word and not (word.isascii() and word.isdigit() and len(word.lstrip("0")) <= 5):
                    raise ValueError(f"token {_shown(word)}, expected an integer from 0 to {LARGEST_TOKEN}")
        found = [int(word) for word in words if word]
    elif isinstance(value, list):
        for place, word in enumerate(value, 1):
            if not _is_whole(word):
                raise ValueError(f"token {place} is {_named(word)}, expected an integer from 0 to {LARGEST_TOKEN}")
        found = [int(word) for word in value]
    else:
        raise ValueError(f"{_named(value)}, expected integers: a text with blanks between them, or a list")
    if not found:
        raise ValueError("an empty description, expected at least one token")
    if min(found) < 0 or max(found) > LARGEST_TOKEN:
        place = next(place for place, word in enumerate(found, 1) if not 0 <= word <= LARGEST_TOKEN)
        raise ValueError(f"token {place} is out of range, expected an integer from 0 to {LARGEST_TOKEN}")
    return found


def _id(value: Any) -> str:
    """An id as in a file of reports; a whole number is its decimal digits."""
    if _is_whole(value) and 0 <= value < LARGEST_ID:
        return str(int(value))
    if not isinstance(value, str):
        raise ValueError(f"{_named(value)}, expected a text or a whole number")
    if not (value.isascii() and value.replace("\t", " ").isprintable()):
        raise ValueError("expected printable ASCII")
    messages: list[str] = []
    read_name(value.encode(), messages)
    if messages:
        raise ValueError(messages[0])
    return value


def _is_whole(value: Any) -> bool:
    """True for a whole number; JSON knows no difference between 2 and 2.0."""
    return type(value) is int or type(value) is float and value.is_integer()


def _shown(text: str) -> str:
    return show(text[:64].encode("ascii", "backslashreplace"))


INTEGER = {"type": "integer", "minimum": 0, "maximum": LARGEST_TOKEN}
DIGITS = "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})"
"""Regular expression of the integers up to LARGEST_TOKEN."""
Tokens = Annotated[
    list[int],
    BeforeValidator(_tokens),
    WithJsonSchema(
        {
            "description": "token ids, as in a file of reports: a text `12 345 6` or a list",
            "anyOf": [
                {"type": "string", "pattern": f"^ *{DIGITS}( +{DIGITS})* *$"},
                {"type": "array", "items": INTEGER, "minItems": 1},
            ],
            "examples": ["12 345 6", [12, 345, 6]],
        }
    ),
]
Id = Annotated[
    str,
    BeforeValidator(_id),
    WithJsonSchema(
        {
            "description": "any name of the row, which the answer repeats; its place, from 1, if it is left out",
            "anyOf": [
                {"type": "string", "pattern": f"^[!-~]{{1,{LONGEST_ID}}}$"},
                {"type": "integer", "minimum": 0, "exclusiveMaximum": LARGEST_ID},
            ],
            "examples": ["17"],
        }
    ),
]
Series = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LARGEST_FILE,
        description="text of a stay's file: the header `Time,Parameter,Value` and its lines",
        examples=["Time,Parameter,Value\n00:00,RecordID,1\n00:00,Age,61\n00:07,HR,88\n"],
    ),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Report(_Model):
    """One report."""

    id: Id = ""
    """Empty: the place of the row in the request, from 1."""
    tokens: Tokens

    @property
    def content(self) -> list[int]:
        return self.tokens


class Reports(_Model):
    """Several reports."""

    reports: list[Report] = Field(min_length=1)

    @property
    def rows(self) -> Sequence[Report]:
        return self.reports


class Stay(_Model):
    """One ICU stay."""

    id: Id = ""
    """Empty: the place of the row in the request, from 1."""
    series: Series

    @property
    def content(self) -> str:
        return self.series


class Stays(_Model):
    """Several ICU stays."""

    stays: list[Stay] = Field(min_length=1)

    @property
    def rows(self) -> Sequence[Stay]:
        return self.stays


class ExplainReport(_Model):
    """A report, and the label to explain."""

    tokens: Tokens
    label: str = Field(description="name of a label, see GET /info", examples=["region_3"])

    @property
    def content(self) -> list[int]:
        return self.tokens


class ExplainStay(_Model):
    """A stay, and the label to explain."""

    series: Series
    label: str = Field(description="name of a label, see GET /info", examples=["death"])

    @property
    def content(self) -> str:
        return self.series


class BundleName(_Model):
    name: str
    version: str = Field(description="first 12 hexadecimal digits of the content's sha256")


class Predicted(_Model):
    id: str
    values: dict[str, float] = Field(description="probability, or number in the task's unit, of each label")
    spread: dict[str, float] = Field(description="standard deviation of the models' predictions")


class Answer(_Model):
    """Predictions, in the order of the rows."""

    bundle: BundleName
    predictions: list[Predicted]


class Explanation(_Model):
    """Contribution of each token, or parameter of a stay, to a label's output, which a probability is computed of."""

    label: str
    value: float
    tokens: list[str] = Field(description="those that the models read of a report, or names of parameters")
    weights: list[float]


class Failure(_Model):
    """Why a request was not answered."""

    error: str


ONE = {"reports": Report, "stays": Stay}
MANY = {"reports": Reports, "stays": Stays}
TO_EXPLAIN = {"reports": ExplainReport, "stays": ExplainStay}
"""Models of bodies by the task's input_kind."""


def read_rows(content: Any, kind: str) -> Sequence[Report] | Sequence[Stay]:
    """The rows of a body of /predict, one or many. Raises Refused with status 422 for any other content."""
    if isinstance(content, dict) and kind in content:
        return check(MANY[kind], content).rows
    return [check(ONE[kind], content)]


def check(model: type[_Model], content: Any) -> Any:
    """`content`, as parsed from JSON, as a `model`. Raises Refused with status 422 and the errors in sentences."""
    if not isinstance(content, dict):
        raise Refused(422, f"the body is {_named(content)}, expected an object with {_keys(model)}")
    try:
        return model.model_validate(content, strict=True)
    except ValidationError as error:
        raise Refused(422, sentences(error, model)) from None


def sentences(error: ValidationError, model: type[_Model]) -> str:
    """The first SHOWN errors of a body, each with its place; values are not shown."""
    found = [_sentence(one, model) for one in error.errors(include_url=False, include_input=False)[:SHOWN]]
    rest = error.error_count() - len(found)
    return "; ".join(found) + f"; and {rest:,} further error{'s' * (rest > 1)}" * (rest > 0)


def _place(location: Sequence[int | str]) -> str:
    """`report 3, tokens: ` of ("reports", 2, "tokens")."""
    words: list[str] = []
    for part in location:
        if isinstance(part, int):
            words[-1] = f"{words[-1].removesuffix('s')} {part + 1}"
        else:
            words.append(part)
    return ", ".join(words) + ": " if words else ""


def _sentence(error: Any, model: type[_Model]) -> str:
    if not error["loc"]:  # half of a pair of surrogates
        return "a key is no text in UTF-8"
    *above, last = error["loc"]
    if error["type"] == "extra_forbidden":
        expected = ", ".join(ONE[str(above[0])].model_fields) if above else _keys(model)
        return f"{_place(above)}the key {_shown(last)} is unknown, expected {expected}"
    if error["type"] == "missing":
        return f"{_place(above)}{last} is missing"
    if error["type"] == "too_short":
        return f"{_place(error['loc'])}none, expected at least one"
    reason = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
    return _place(error["loc"]) + reason[0].lower() + reason[1:]


def _keys(model: type[_Model]) -> str:
    """Keys of a body in words."""
    kind = next((kind for kind, one in ONE.items() if one is model), None)
    return ", ".join(model.model_fields) + (f", or {kind}" if kind else "")


def _named(content: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(content), "null")
