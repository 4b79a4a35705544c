"""The HTTP service: answers, limits, errors, faults, and an orderly end."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi", reason="pip install -r docs/requirements-serve.txt")

from src.serving import request_models
from src.serving.errors import Refused
from src.serving.events import HELD, Events
from src.serving.packages import require_packages
from tests.conftest import error_of


def refusal(content, kind: str = "reports") -> str:
    with pytest.raises(Refused) as caught:
        request_models.read_rows(content, kind)
    assert caught.value.status == 422
    return caught.value.sentence


def test_tokens_are_a_text_or_a_list_and_ids_are_kept():
    one = request_models.read_rows({"tokens": " 0 12  65535 "}, "reports")
    assert [(row.id, row.tokens) for row in one] == [("", [0, 12, 65535])]
    many = request_models.read_rows({"reports": [{"id": "007", "tokens": [3]}, {"id": 7, "tokens": "3"}]}, "reports")
    assert [(row.id, row.tokens) for row in many] == [("007", [3]), ("7", [3])]
    (stay,) = request_models.read_rows({"series": "Time,Parameter,Value\n"}, "stays")
    assert stay.content == "Time,Parameter,Value\n"


@pytest.mark.parametrize(
    "content, sentence",
    [
        ([1, 2], "the body is a list, expected an object with id, tokens, or reports"),
        (None, "the body is null, expected an object with id, tokens, or reports"),
        ({}, "tokens is missing"),
        ({"tokens": ""}, "tokens: an empty description, expected at least one token"),
        ({"tokens": []}, "tokens: an empty description, expected at least one token"),
        ({"tokens": "1 x7"}, "tokens: token 'x7', expected an integer from 0 to 65535"),
        ({"tokens": "1\t2"}, r"tokens: token '1\t2', expected an integer from 0 to 65535"),
        ({"tokens": "٣"}, r"tokens: token '\\u0663', expected an integer from 0 to 65535"),
        ({"tokens": "65536"}, "tokens: token 1 is out of range, expected an integer from 0 to 65535"),
        ({"tokens": [1, -1]}, "tokens: token 2 is out of range, expected an integer from 0 to 65535"),
        ({"tokens": [1, 2.0]}, "tokens: token 2 is a number, expected an integer from 0 to 65535"),
        ({"tokens": [True]}, "tokens: token 1 is true or false, expected an integer from 0 to 65535"),
        ({"tokens": 5}, "tokens: a number, expected integers: a text with blanks between them, or a list"),
        ({"tokens": "1", "id": ""}, "id: an empty id"),
        ({"tokens": "1", "id": "a b"}, "id: whitespace in the id 'a b'"),
        ({"tokens": "1", "id": "a\n"}, "id: expected printable ASCII"),
        ({"tokens": "1", "id": 1.5}, "id: a number, expected a text or a whole number"),
        ({"tokens": "1", "text": 1}, "the key 'text' is unknown, expected id, tokens, or reports"),
        ({"reports": []}, "reports: none, expected at least one"),
        (
            {"reports": [{"tokens": "1"}, {"tokens": "x"}, {"id": 3}]},
            "report 2, tokens: token 'x', expected an integer from 0 to 65535; report 3: tokens is missing",
        ),
        ({"reports": [{"tokens": "1", "a": 1}]}, "report 1: the key 'a' is unknown, expected id, tokens"),
        ({"stays": []}, "tokens is missing; the key 'stays' is unknown, expected id, tokens, or reports"),
    ],
)
def test_an_error_of_a_body_says_where_and_what_is_expected(content, sentence):
    assert refusal(content) == sentence


def test_a_body_with_many_errors_lists_the_first_ones():
    told = refusal({"reports": [{"tokens": ""}] * 9})
    assert told.startswith("report 1, tokens: an empty") and told.endswith("; and 4 further errors")


def test_a_listener_gets_events_from_then_on_and_a_slow_one_the_newest():
    async def listen() -> list[bytes]:
        events = Events()
        events.publish("prediction", {"id": "nobody listens"})
        messages = events.subscribe()
        assert (await anext(messages)).startswith(b":") and events.listeners == 1
        for place in range(HELD + 10):
            events.publish("alarm", {"id": place, "label": "région"})
        events.close()
        found = [message async for message in messages]
        assert events.listeners == 0
        return found

    found = asyncio.run(listen())
    assert found[-1] == f'event: alarm\ndata: {{"id":{HELD + 9},"label":"région"}}\n\n'.encode()


def test_missing_packages_are_one_error_with_the_command():
    told = error_of(require_packages, "./run.sh serve", "json", "no_such_module")
    assert told == (
        "./run.sh serve needs docs/requirements-serve.txt (no_such_module is not installed): "
        ".venv/bin/pip install -r docs/requirements-serve.txt"
    )
