"""Recorded conversations: reading them, and comparing others with them.

A difference is one line of text: where it is and what it is. ``unexplained`` holds a list of them against a table of
patterns with reasons; what is in only one of both is a failure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeGuard

__all__ = (
    "CLIENT",
    "ENGINE",
    "Entry",
    "Ids",
    "Texts",
    "compare_clients",
    "differences",
    "load",
    "requests",
    "said",
    "unexplained",
)

FOLDER = Path(__file__).with_name("transcripts")
CLIENT, ENGINE = "c>e", "e>c"
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|00-[0-9a-f]{32}-[0-9a-f]{16}-01")
"""UUIDs, and W3C trace parents."""
MACHINE = frozenset({"actual_time", "connected_at_ms", "os", "pid", "scheduled_time", "stacktrace", "timestamp"})
"""Keys whose values say when and where."""
ROW_KEYS = ("function_id", "id", "name")
"""What rows of a list are told apart by, best first."""

Texts = dict[int, list[dict[str, Any]]]
"""What each connection said, in order. A close frame is ``{"type": "close", "code": …}``; of a data channel an item is
``{"type": "binary" or "note", "data": …}``, and its beginning ``{"type": "channel", "id": …, "key": …, "dir": …}``."""


@dataclass(frozen=True)
class Entry:
    """One line of a recording."""

    where: str
    conn: int
    direction: str
    message: dict[str, Any]
    """As in ``Texts``; of an HTTP request and of a telemetry frame its text."""


def load(name: str) -> list[Entry]:
    """Read a recording."""
    entries: list[Entry] = []
    for number, line in enumerate((FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines(), 1):
        fields = json.loads(line)
        where = f"{name}:{number}"
        if "http" in fields:
            entries.append(Entry(where, 0, "http", {"type": "http", "text": fields["http"]}))
        elif "otel" in fields:
            entries.append(Entry(where, 0, "otel", {"type": "otel", "text": fields["otel"]}))
        else:
            entries.append(Entry(where, fields["conn"], fields["dir"], _message(fields)))
    return entries


def _message(fields: dict[str, Any]) -> dict[str, Any]:
    for kind, key in (("close", "code"), ("binary", "data"), ("note", "data")):
        if kind in fields:
            return {"type": kind, key: fields[kind]}
    return {"type": "channel", **fields["channel"]} if "channel" in fields else dict(fields["text"])


def requests(entries: Iterable[Entry]) -> list[str]:
    """The HTTP requests of a recording."""
    return [entry.message["text"] for entry in entries if entry.direction == "http"]


# -- comparing -------------------------------------------------------------------------------------------------------


class Ids:
    """Which of our ids stands for which recorded one. Who made an id is free to choose it, but only once."""

    def __init__(self) -> None:
        self._ours: dict[str, str] = {}

    def same(self, recorded: str, ours: str) -> bool:
        """Whether these two ids are the same as far as is known."""
        return len(recorded) == len(ours) and self._ours.setdefault(recorded, ours) == ours

    def is_other(self, recorded: str, ours: str) -> bool:
        """Whether the recorded id is known to be another of ours."""
        return self._ours.get(recorded, ours) != ours

    def keep(self, recorded: Any) -> None:
        """The ids in a message that is sent as it was recorded are the same on both sides."""
        for text in _strings(recorded):
            if _is_id(text):
                self._ours.setdefault(text, text)

    def call(self, recorded: str, ours: str) -> None:
        """What was recorded under one name has another here."""
        self._ours[recorded] = ours

    def translate(self, recorded: Any) -> Any:
        """A recorded message with our ids."""
        if isinstance(recorded, dict):
            return {key: self.translate(value) for key, value in recorded.items()}
        if isinstance(recorded, list):
            return [self.translate(value) for value in recorded]
        return self._ours.get(recorded, recorded) if isinstance(recorded, str) else recorded


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def differences(recorded: Any, ours: Any, ids: Ids, path: str = "") -> Iterator[str]:
    """What is not alike in two values, a line each; ids, times, machines and the order of keys aside."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        for key in sorted(recorded.keys() | ours.keys()):
            here = f"{path}/{key}"
            if key not in ours:
                yield f"{here} is missing"
            elif key not in recorded:
                yield f"{here} is added"
            elif key in MACHINE:
                if type(recorded[key]) is not type(ours[key]):
                    yield f"{here} is of another type"
            else:
                yield from differences(recorded[key], ours[key], ids, here)
    elif isinstance(recorded, list) and isinstance(ours, list):
        rows = _by_key(recorded), _by_key(ours)
        if rows[0] and rows[1]:
            yield from differences(*rows, ids, path)
        elif len(recorded) != len(ours):
            yield f"{path} has {len(ours)} items, not {len(recorded)}"
        else:
            for number, (left, right) in enumerate(zip(recorded, ours, strict=True)):
                yield from differences(left, right, ids, f"{path}/{number}")
    elif not (ids.same(recorded, ours) if _is_id(recorded) and _is_id(ours) else _is_equal(recorded, ours)):
        yield f"{path}: {json.dumps(ours, ensure_ascii=False)}, not {json.dumps(recorded, ensure_ascii=False)}"


def _is_id(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and ID.fullmatch(value) is not None


def _is_equal(left: Any, right: Any) -> bool:
    return type(left) is type(right) and left == right  # 1 is not true


def _by_key(rows: list[Any]) -> dict[str, Any] | None:
    """The rows of a list of objects by their name; ids are no names. None when that does not tell them apart."""
    named: dict[str, Any] = {}
    for row in rows:
        if not isinstance(row, dict):
            return None
        names = [row[key] for key in ROW_KEYS if isinstance(row.get(key), str) and not _is_id(row[key])]
        if not names or names[0] in named:
            return None
        named[names[0]] = row
    return named


def said(entries: Iterable[Entry]) -> Texts:
    """What the clients of a recording said."""
    texts: Texts = {}
    for entry in entries:
        if entry.direction == CLIENT:
            texts.setdefault(entry.conn, []).append(entry.message)
    return texts


def compare_clients(recorded: Texts, ours: Texts) -> list[str]:
    """What our workers said differently, connection by connection."""
    found: list[str] = []
    ids = Ids()
    for conn in sorted(recorded.keys() | ours.keys()):
        theirs, mine = _numbered(recorded.get(conn, [])), _numbered(ours.get(conn, []))
        for name in [*theirs, *(name for name in mine if name not in theirs)]:
            where = f"conn {conn} {name}"
            if name not in mine:
                found.append(f"{where} is missing")
            elif name not in theirs:
                found.append(f"{where} is added")
            else:
                found += [f"{where}{line}" for line in differences(theirs[name], mine[name], ids)]
        common = [name for name in theirs if name in mine]
        if common != (order := [name for name in mine if name in theirs]):
            found.append(f"conn {conn} in another order: {', '.join(order)}")
    return found


def _numbered(messages: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Messages by what they are about, and which of that it is."""
    named: dict[str, dict[str, Any]] = {}
    for message in messages:
        about = [message.get(key) for key in ("trigger_type", "function_id", "id")]
        base = " ".join([message["type"], *(word for word in about if word and not _is_id(word))])
        number = 1
        while (name := f"{base} #{number}") in named:
            number += 1
        named[name] = message
    return named


def unexplained(found: Iterable[str], known: Mapping[str, str]) -> list[str]:
    """Differences without a reason, and reasons without a difference."""
    lines = list(found)
    explained = {pattern: [line for line in lines if fnmatchcase(line, pattern)] for pattern in known}
    hit = {line for hits in explained.values() for line in hits}
    return [
        *(f"not listed: {line}" for line in lines if line not in hit),
        *(f"does not occur: {pattern}" for pattern, hits in explained.items() if not hits),
    ]
