"""Reader of YAML files of settings, and of YAML on the command line, with limits and with errors that name the line.

Keys are text, also `on` and `1`. A key that stands twice, a tag, and a number that is none or infinite are errors.
Aliases may repeat what they name as often as MOST_VALUES allows: a file of a kilobyte can stand for a terabyte.
"""

from __future__ import annotations

import copy
import functools
import math
import stat
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from src.core.errors import UserError
from src.core.language import _

MOST_BYTES = 1 << 18
"""Size of a file; the settings of a study of forty runs take a third of it."""
MOST_VALUES = 50_000
"""Keys and values, those that aliases repeat included."""
DEEPEST = 20
"""Lists and mappings inside each other; settings have five."""
TOO_DEEP = f"more than {DEEPEST} levels of nesting"
LARGEST = 2**63
"""Size of an integer."""
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """SafeLoader that stops at DEEPEST, before Python's stack does."""

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.depth > DEEPEST:
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem=TOO_DEEP, problem_mark=event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def read_yaml(path: Path) -> Any:
    """Returns the content of a YAML file, None for an empty one. Raises UserError, with the path, for what is no file,
    cannot be read, is larger than MOST_BYTES, is not UTF-8 or not YAML within the limits."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise UserError(
                _("{path} is {kind}; want a YAML file").format(
                    path=path, kind=_("a folder") if stat.S_ISDIR(found.st_mode) else _("no file")
                )
            )
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MOST_BYTES:
        raise UserError(
            _("{path} has more than {most:,} bytes: no file of settings is so large").format(path=path, most=MOST_BYTES)
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            _("{path}, line {line}: byte {content:#04x} is not UTF-8. Save it as UTF-8").format(
                path=path, line=line, content=content[error.start]
            )
        ) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Returns the value of a YAML text. Raises UserError, which begins with `where` and names the line, for what is not
    YAML within the limits."""
    return copy.deepcopy(_parsed(text, where))


@functools.lru_cache(maxsize=256)  # a command reads the settings of each run many times, and YAML is slow to parse
def _parsed(text: str, where: str) -> Any:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        raise UserError(
            _("{where}: YAML error: it holds the character {character}").format(
                where=where, character=repr(chr(error.character))
            )
        ) from None
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(loader, node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        told = ": ".join(filter(None, (error.context, error.problem)))
        raise UserError(_("{where}{line}: YAML error: {told}").format(where=where, line=line, told=told)) from None
    finally:
        loader.dispose()


def _check(loader: _Loader, top: Node) -> None:
    """Makes the keys of all mappings text. Raises MarkedYAMLError for what settings never hold."""
    sizes: dict[int, tuple[int, int] | None] = {}
    """Number of values and of levels of each node, by id; None while they are being counted."""

    def size(node: Node) -> tuple[int, int]:
        if id(node) not in sizes:
            sizes[id(node)] = None
            parts = [size(part) for part in _parts(loader, node)]
            found = 1 + sum(count for count, _ in parts), 1 + max((levels for _, levels in parts), default=0)
            if found[0] > MOST_VALUES:
                raise _error(node, f"more than {MOST_VALUES:,} values (an alias repeats what it names)")
            if found[1] > DEEPEST + 1:
                raise _error(node, TOO_DEEP)
            sizes[id(node)] = found
        if (found := sizes[id(node)]) is None:
            raise _error(node, "it contains itself")
        return found

    size(top)


def _parts(loader: _Loader, node: Node) -> list[Node]:
    """Returns the values inside a node, after a check of its keys, or of the scalar that it is."""
    if isinstance(node, ScalarNode):
        _check_scalar(loader, node)
        return []
    is_mapping = isinstance(node, MappingNode)
    if node.tag != f"{_TAG}{'map' if is_mapping else 'seq'}":
        raise _error(node, f"the tag {node.tag} is not for settings")
    if not is_mapping:
        return node.value
    _check_keys(node)
    return [value for _, value in node.value]


def _check_keys(node: MappingNode) -> None:
    seen = set()
    for key, _value in node.value:
        if not isinstance(key, ScalarNode):
            raise _error(key, "a key is one word")
        if key.tag == f"{_TAG}merge":
            continue
        key.tag = f"{_TAG}str"
        if key.value in seen:
            raise _error(key, f"the key {key.value!r} stands twice")
        seen.add(key.value)


def _check_scalar(loader: _Loader, node: ScalarNode) -> None:
    if node.tag in (f"{_TAG}timestamp", f"{_TAG}value", f"{_TAG}merge"):
        node.tag = f"{_TAG}str"  # settings have no dates
    try:
        value = loader.construct_object(node)
    except (ValueError, LookupError):  # of a tag, such as !!bool for what is none, or of too many digits
        raise _error(node, f"{node.value[:40]!r} is not what its tag or its digits say") from None
    if isinstance(value, int) and not -LARGEST <= value < LARGEST:
        raise _error(node, f"{node.value[:40]!r} is too large a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise _error(node, f"{node.value[:40]!r} is no finite number")
    if not (value is None or isinstance(value, str | int | float)):
        raise _error(node, f"the tag {node.tag} is not for settings")


def _error(node: Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
