"""The filter language (§18, A.13, A-14), rule by rule; then against a naive interpreter, and against upstream's."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import re
import warnings
from collections import OrderedDict, UserDict, deque
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, get_args
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iii import filter as upstream  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field

from iii_anyio import IIIError
from iii_anyio._protocol.messages import ABSENT
from iii_anyio.filter import MATCH_ALL, CompiledFilter, FilterError, FilterErrorCode, compile_filter
from tests.naming import shown

ROOTS = ("input", "output", "error", "caller", "metadata")
NAN, INF = math.nan, math.inf
SURROGATE = "\ud800"


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    A = "a"


class Mixed(str, Enum):  # noqa: UP042 - unlike a StrEnum's, its str() is not its value
    A = "a"


class Order(BaseModel):
    total: int | None = None
    user_id: Any = Field(default=None, serialization_alias="userId")


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")

    a: Any = None


@dataclasses.dataclass
class Point:
    a: Any = None


class Hostile:
    """Raises whatever is done with it."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError(name)


class HostileMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> NoReturn:
        raise RuntimeError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(ROOTS)

    def __len__(self) -> int:
        return 5


class HostileKey:
    """Has the hash of a key that is looked for, and cannot be compared."""

    def __init__(self, like: object) -> None:
        self.like = like

    def __hash__(self) -> int:
        return hash(self.like)

    def __eq__(self, other: object) -> NoReturn:
        raise RuntimeError


def matches(source: dict[str, Any], **roots: Any) -> bool:
    return compile_filter(source).matches(roots)


def refusal(source: Any, *, trusted: bool = False) -> FilterError:
    with pytest.raises(FilterError) as caught:
        compile_filter(source, trusted=trusted)
    return caught.value


def nested(times: int, key: str, innermost: Any) -> Any:
    """``innermost`` in so many ``$or``, ``$and``, ``$not``, ``$any``, or (no key) arrays."""
    for _ in range(times):
        innermost = [innermost] if key == "" else {key: [innermost] if key in {"$or", "$and"} else innermost}
    return innermost


def sized(size: int, character: str = "x") -> dict[str, Any]:
    """A filter of so many bytes of compact JSON."""
    return {"input": {"$eq": character * ((size - len('{"input":{"$eq":""}}')) // len(character.encode()))}}


# ---------------------------------------------------------------- the grammar

ACCEPTED: list[dict[str, Any]] = [
    {},
    {"input": {"$eq": 1}},
    {"output.a.0": {"$ne": None}, "error.code": {"$exists": True}, "caller": {"$exists": False}},
    {"metadata.a\\.b\\\\c": {"$prefix": ""}},
    {"input.$x": {"$eq": 1}, "input.@": {"$eq": 1}, "input. a": {"$eq": 1}},
    {"$and": [{}, {"$and": [{}]}], "$or": [{}], "$not": {}},
    {"$and": ({"input": {"$in": ()}},)},
    {"input": {"$gt": "a", "$gte": 1, "$lt": -0.5, "$lte": "é"}},
    {"input": {"$any": {}}},
    {"input": {"$any": {"$gt": 1, "$lt": 3}}},
    {"input": {"$any": {"$any": {"$any": {}}}}},
    {"input": {"$any": {"@": {"$eq": 1}, "@.a.b": {"$any": {"@": {"$eq": 1}}}}}},
    {"input": {"$any": {"$and": [{"@": {"$eq": 1}}], "$or": [{"@": {"$eq": 1}}], "$not": {"@": {"$eq": 1}}}}},
    {"input": {"$in": [2**53, -(2**53), 2.0**53]}},
    OrderedDict({"input": {"$eq": [Word.A, Mixed.A, Level.LOW, OrderedDict(a=())]}}),
]

REFUSED: list[tuple[Any, str | None, str]] = [
    (None, None, "not null"),
    ([], None, "not an empty array"),
    ("x", None, "not a string"),
    (True, None, "not a boolean"),
    (1, None, "not a number"),
    (MappingProxyType({}), None, "mappingproxy is no JSON"),
    ({"input.a": 1}, "input.a", 'Write {"$eq": ...}'),
    ({"input.a": {"b": 1}}, "input.a", 'Write {"$eq": ...}'),
    ({"input.a": {}}, "input.a", "empty"),
    ({"input.a": {"$regex": "x"}}, "input.a", "unknown operator `$regex`"),
    ({"input": {"$not": {"$eq": 1}}}, "input", "around the path"),
    ({"$eq": 1}, "$eq", "needs a path"),
    ({"$nor": [{}]}, "$nor", "unknown operator"),
    ({"$and": []}, "$and", "not an empty array"),
    ({"$or": []}, "$or", "not an empty array"),
    ({"$and": {}}, "$and", "not an object"),
    ({"$or": [1]}, "$or", "not a number"),
    ({"$not": []}, "$not", "not an empty array"),
    ({"": {"$eq": 1}}, "", "segment is empty"),
    ({"input..a": {"$eq": 1}}, "input..a", "segment is empty"),
    ({"input.": {"$eq": 1}}, "input.", "segment is empty"),
    ({".input": {"$eq": 1}}, ".input", "segment is empty"),
    ({"other.a": {"$eq": 1}}, "other.a", "unknown root `other`"),
    ({" input": {"$eq": 1}}, " input", "unknown root"),
    ({"input\\.a": {"$eq": 1}}, "input\\.a", "unknown root `input.a`"),
    ({"input.a\\n": {"$eq": 1}}, "input.a\\n", "invalid escape `\\n`"),
    ({"input.a\\": {"$eq": 1}}, "input.a\\", "invalid escape"),
    ({"@": {"$eq": 1}}, "@", "inside $any"),
    ({"@x": {"$eq": 1}}, "@x", "unknown root"),
    ({"input": {"$any": {"input": {"$eq": 1}}}}, "input", "inside $any a path starts at the element"),
    ({"input": {"$any": {"@x": {"$eq": 1}}}}, "@x", "inside $any a path starts at the element"),
    ({"input": {"$any": {"$eq": 1, "@": {"$eq": 1}}}}, "$eq", "needs a path"),
    ({"input": {"$any": {"$and": [{"$eq": 1}]}}}, "$eq", "needs a path"),
    ({"input.a": {"$any": 1}}, "input.a", "not a number"),
    ({"input": {"$in": 1}}, "input", "$in takes a list"),
    ({"input": {"$nin": {}}}, "input", "$nin takes a list"),
    ({"input": {"$gt": None}}, "input", "a number or a string, not null"),
    ({"input": {"$lte": True}}, "input", "a number or a string, not a boolean"),
    ({"input": {"$exists": 1}}, "input", "true or false, not a number"),
    ({"input": {"$prefix": 1}}, "input", "a string, not a number"),
    ({"input": {"$eq": NAN}}, "input.$eq", "±2^53"),
    ({"input": {"$eq": -INF}}, "input.$eq", "±2^53"),
    ({"input": {"$gt": 2**53 + 1}}, "input.$gt", "±2^53"),
    ({"input": {"$in": [2.0**53 + 2]}}, "input.$in", "±2^53"),
    ({"input": {"$eq": {"a": SURROGATE}}}, "input.$eq.a", "lone surrogate"),
    ({f"input.{SURROGATE}": {"$eq": 1}}, f"input.{SURROGATE}", "lone surrogate"),
    ({1: {"$eq": 1}}, None, "Keys are strings"),
    ({"input": {"$eq": {1: 1}}}, "input.$eq", "Keys are strings"),
    *(
        ({"input": {"$eq": value}}, "input.$eq", f"{type(value).__name__} is no JSON")
        for value in (b"x", {1}, Decimal(1), date(2026, 1, 1), Color.RED, Point(), Order(), object())
    ),
]


@pytest.mark.parametrize("source", ACCEPTED, ids=shown)
def test_a_filter_of_the_grammar_is_accepted(source: dict[str, Any]) -> None:
    assert compile_filter(source).source == json.loads(json.dumps(source))


@pytest.mark.parametrize(("source", "path", "part"), REFUSED, ids=lambda value: shown(value)[:60])
def test_any_other_is_refused_with_the_place_and_a_remedy(source: Any, path: str | None, part: str) -> None:
    error = refusal(source)
    assert (error.code, error.path) == ("INVALID_FILTER", path)
    assert part in str(error)
    assert str(error) == error.message
    assert ". " in error.message, "what is wrong, then what to write"
    if path is not None:
        shown = path.replace(SURROGATE, "\\ud800")
        assert error.message.startswith(f"`{shown}`: ")


def test_a_message_can_be_sent_and_is_not_as_long_as_the_filter() -> None:
    assert len(str(refusal({"input." + "é" * 9000: 1}))) < 400
    assert str(refusal({f"input.{SURROGATE}": 1})).encode()
    assert "±2^53" in str(refusal({"input": {"$eq": 10**5000}}))


# ---------------------------------------------------------------- limits

NODE: dict[str, Any] = {"input": {"$eq": 1}}

LIMITS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (nested(7, "$or", {}), nested(8, "$or", {})),
    (nested(7, "$not", NODE), nested(8, "$not", NODE)),
    ({"input": nested(7, "$any", {"$eq": 1})}, {"input": nested(8, "$any", {"$eq": 1})}),
    (nested(6, "$or", {"input": {"$any": {}}}), nested(7, "$or", {"input": {"$any": {}}})),
    ({"$and": [NODE] * 64}, {"$and": [NODE] * 65}),
    ({"$or": [NODE] * 63}, {"$or": [NODE] * 64}),
    ({"$and": [{"$not": NODE}] * 32}, {"$and": [{"$not": NODE}] * 33}),
    ({"$and": [{"input": {"$any": {"$eq": 1}}}] * 32}, {"$and": [{"input": {"$any": {"$eq": 1}}}] * 33}),
    ({"input": {"$in": [1] * 256}}, {"input": {"$in": [1] * 257}}),
    ({"input": {"$nin": list(range(256))}}, {"input": {"$nin": list(range(257))}}),
    ({"input" + ".a" * 16: {"$eq": 1}}, {"input" + ".a" * 17: {"$eq": 1}}),
    ({"input": {"$any": {"@" + ".a" * 16: {"$eq": 1}}}}, {"input": {"$any": {"@" + ".a" * 17: {"$eq": 1}}}}),
    ({"input": {"$eq": nested(32, "", 1)}}, {"input": {"$eq": nested(33, "", 1)}}),
    ({"input": {"$in": [nested(31, "", {})]}}, {"input": {"$in": [nested(32, "", {})]}}),
    (nested(59, "$and", NODE), nested(59, "$and", {"input": {"$eq": []}})),
    (sized(8192), sized(8193)),
    (sized(8192, "é"), sized(8194, "é")),
]


@pytest.mark.parametrize(("inside", "beyond"), LIMITS, ids=lambda source: shown(source)[:40])
def test_a_limit_is_inclusive(inside: dict[str, Any], beyond: dict[str, Any]) -> None:
    compile_filter(inside)
    assert re.search(r"\d", str(refusal(beyond)))


def test_and_does_not_count() -> None:
    """Neither as a level nor as a node."""
    compile_filter(nested(40, "$and", nested(7, "$or", {})))
    compile_filter({"$and": [{}] * 500})


def test_trusted_skips_only_the_limit_of_bytes() -> None:
    assert compile_filter(sized(20_000), trusted=True).matches({"input": "x"}) is False
    for source in (nested(8, "$or", {}), {"$and": [NODE] * 65}, {"input": {"$in": [1] * 257}}, {"a": {"$eq": 1}}):
        refusal(source, trusted=True)


def test_a_filter_that_contains_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["$and"] = [loop]
    assert "120" in str(refusal(loop))


# ---------------------------------------------------------------- what a compiled filter says of itself


def test_match_all_is_a_filter_without_conditions() -> None:
    source: dict[str, Any]
    for source in ({}, {"$and": [{}]}, {"$and": [{"$and": [{}, {}]}]}):
        assert compile_filter(source).match_all
    for source in ({"$or": [{}]}, {"$not": {}}, NODE):
        assert not compile_filter(source).match_all
    assert MATCH_ALL.match_all
    assert MATCH_ALL.source == {}
    assert MATCH_ALL.matches({})
    assert MATCH_ALL.matches(Hostile())  # type: ignore[arg-type]


def test_roots_are_those_its_paths_start_at() -> None:
    source = {
        "$or": [{"input.a": {"$any": {"@.output": {"$eq": 1}}}}, {"$not": {"caller": {"$exists": True}}}],
        "$and": [{"metadata.k": {"$eq": "error.code"}}],
    }
    assert compile_filter(source).roots == {"input", "caller", "metadata"}
    assert MATCH_ALL.roots == frozenset()


def test_the_source_is_a_plain_copy() -> None:
    source: dict[str, Any] = {"input": {"$in": (Level.LOW, Mixed.A)}}
    compiled = compile_filter(source)
    source["input"]["$in"] = ()
    assert compiled.source == {"input": {"$in": [1, "a"]}}
    assert [type(item) for item in compiled.source["input"]["$in"]] == [int, str]
    assert compiled.matches({"input": "a"})
    assert repr(compiled) == "CompiledFilter({'input': {'$in': [1, 'a']}})"


def test_errors_pickle_with_their_facts() -> None:
    error = refusal({"input.a": 1})
    same = pickle.loads(pickle.dumps(error))
    assert type(same) is FilterError
    assert (same.code, same.message, same.path, same.args) == (error.code, error.message, error.path, error.args)
    assert isinstance(error, ValueError)
    assert isinstance(error, IIIError)
    assert FilterError("INVALID_FILTER", "text").path is None
    assert get_args(FilterErrorCode) == get_args(upstream.FilterErrorCode)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_compiled_filter_can_be_copied_and_pickled(again: Any) -> None:
    """Also one of the engine's normal form, over the limit of bytes."""
    same: CompiledFilter = again(compile_filter({**sized(20_000), "output.a": {"$gt": 1}}, trusted=True))
    assert same.roots == {"input", "output"}
    assert same.matches({"input": same.source["input"]["$eq"], "output": {"a": 2}})
    assert not same.matches({"input": same.source["input"]["$eq"], "output": {"a": 1}})


# ---------------------------------------------------------------- the operators

MEANING: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    # Equality: JSON's; no coercion, numbers as doubles.
    ({"$eq": 1}, [1, 1.0, Level.LOW], [True, "1", None, [1], ABSENT]),
    ({"$eq": 0}, [0, -0.0], [False, None, ABSENT]),
    ({"$eq": True}, [True], [1, "true", ABSENT]),
    ({"$eq": None}, [None], [ABSENT, False, 0, "", []]),
    ({"$eq": "é"}, ["é"], ["e\u0301", ABSENT]),
    ({"$eq": 2**53}, [2**53, 2**53 + 1, 2.0**53], [2**53 + 2, 2**53 - 1]),
    ({"$eq": [1, {"a": None}]}, [[1, {"a": None}], (1.0, {"a": None})], [[{"a": None}, 1], [1], [1, {}], {}, ABSENT]),
    ({"$eq": {"a": 1, "b": [2]}}, [{"b": [2], "a": 1.0}], [{"a": 1}, {"a": 1, "b": [2], "c": None}, [1], ABSENT]),
    ({"$eq": {"a": None}}, [{"a": None}], [{}, {"b": None}]),
    ({"$ne": 1}, [ABSENT, None, True, "1", 2], [1, 1.0]),
    ({"$ne": None}, [ABSENT, 0], [None]),
    ({"$in": [1, "a", None, [1], True]}, [1.0, "a", None, [1], True], [0, "b", False, [], ABSENT]),
    ({"$in": [0]}, [-0.0], [False]),
    ({"$in": []}, [], [None, 1, "", ABSENT]),
    ({"$nin": [1, None]}, [ABSENT, 2, True], [1.0, None]),
    ({"$nin": []}, [ABSENT, None], []),
    # Order: within a type.
    ({"$gt": 1}, [2, 1.5, 10**300], [1, 0, "2", True, None, [2], ABSENT]),
    ({"$gte": 1}, [1, 2], [0.5, True, ABSENT]),
    ({"$lt": 1}, [0.5, -1e308], [1, False, None, "0", ABSENT]),
    ({"$lte": 1}, [1, 0], [2, False, ABSENT]),
    ({"$gt": 2**53}, [2**53 + 2], [2**53 + 1]),
    ({"$gt": "\uffff"}, ["\U00010000"], ["\ufffe", "", 1]),  # code points, not UTF-16 units
    ({"$gte": "b", "$lt": "c"}, ["b", "bz"], ["a", "c", "B"]),
    ({"$lte": ""}, [""], ["a", None]),
    # The others.
    ({"$exists": True}, [None, 0, [], {}], [ABSENT]),
    ({"$exists": False}, [ABSENT], [None, 0, []]),
    ({"$prefix": "ab"}, ["ab", "abc", Word.A + "b"], ["a", "Ab", 1, ["ab"], None, ABSENT]),
    ({"$prefix": ""}, ["", "x"], [None, ABSENT]),
    ({"$any": {}}, [[1], [None], (0,), [[]]], [[], (), {}, {"0": 1}, "x", None, 1, ABSENT]),
    ({"$any": {"$gt": 1, "$lt": 3}}, [[0, 2], [2]], [[0, 4], [], 2, ABSENT]),
    ({"$any": {"@.a": {"$eq": 1}, "@.b": {"$exists": False}}}, [[{"a": 1}]], [[{"a": 1, "b": 2}, {"c": 1}], {"a": 1}]),
    ({"$any": {"@": {"$ne": 1}}}, [[1, 2], [None]], [[1, 1], []]),
    ({"$any": {"$not": {"@.a": {"$exists": True}}}}, [[{}], [1]], [[{"a": None}]]),
    ({"$any": {"$or": [{"@": {"$eq": 1}}, {"@.0": {"$eq": 1}}]}}, [[1], [[1]]], [[2], [[2]]]),
    ({"$any": {"$any": {"$eq": 1}}}, [[[1]], [2, [3, 1]]], [[1], []]),
    ({"$any": {"@": {"$any": {"@": {"$eq": 1}}}}}, [[[1]]], [[1]]),
]


@pytest.mark.parametrize(("operators", "yes", "no"), MEANING, ids=lambda value: shown(value)[:40])
def test_an_operator_means_what_the_language_says(operators: dict[str, Any], yes: list[Any], no: list[Any]) -> None:
    """A root, a member, an element: what is absent is left out, as ABSENT stands for nothing."""
    root = compile_filter({"input": operators})
    member = compile_filter({"output.a.b": operators})
    for expected, values in ((True, yes), (False, no)):
        for value in values:
            is_absent = value is ABSENT
            assert root.matches({} if is_absent else {"input": value}) is expected, value
            assert member.matches({"output": {"a": {} if is_absent else {"b": value}}}) is expected, value


def test_entries_and_operators_must_all_hold() -> None:
    assert matches({"input": {"$gt": 1}, "output": {"$eq": 2}}, input=2, output=2)
    assert not matches({"input": {"$gt": 1}, "output": {"$eq": 2}}, input=2, output=3)
    assert matches({"$and": [{"input": {"$gt": 1}}, {"input": {"$lt": 3}}]}, input=2)
    assert not matches({"$and": [{"input": {"$gt": 1}}, {"input": {"$lt": 3}}]}, input=3)


def test_or_needs_one_and_not_turns_it_round() -> None:
    either = {"$or": [{"input": {"$eq": 1}}, {"input": {"$eq": 2}, "output": {"$eq": 3}}]}
    assert matches(either, input=1)
    assert matches(either, input=2, output=3)
    assert not matches(either, input=2)
    assert not matches({"$not": either}, input=1)
    assert matches({"$not": either})
    assert matches({"$or": [{}]})
    assert not matches({"$not": {}})


# ---------------------------------------------------------------- paths


def test_a_canonical_decimal_is_an_index_of_an_array_and_a_key_of_an_object() -> None:
    assert matches({"input.1": {"$eq": 7}}, input=[0, 7])
    assert matches({"input.0.a.1": {"$eq": 7}}, input=[{"a": (0, 7)}])
    assert matches({"input.10": {"$eq": 7}}, input=[*range(10), 7])
    assert matches({"input.1": {"$eq": 7}}, input={"1": 7})
    assert not matches({"input.2": {"$exists": True}}, input=[0, 7])
    for segment in ("01", "-1", "+1", "1\\.0", " 1", "1e0", "\u0661", "length", "9" * 5000):
        assert matches({f"input.{segment}": {"$exists": False}}, input=[7, 7]), segment
    assert matches({"input.01": {"$eq": 7}}, input={"01": 7})
    assert matches({f"input.{'9' * 5000}": {"$eq": 7}}, input={"9" * 5000: 7})


def test_a_step_into_what_has_no_members_is_absent() -> None:
    value: Any
    for value in (None, True, 1, "abc", [], {}, Point()):
        assert matches({"input.0": {"$exists": False}, "input.b.c": {"$exists": False}}, input=value)
    for attribute in ("keys", "__class__", "__len__"):  # own keys only
        assert matches({f"input.{attribute}": {"$exists": False}}, input={})


def test_escapes_are_for_dots_and_backslashes_inside_a_segment() -> None:
    assert matches({"input.a\\.b": {"$eq": 1}}, input={"a.b": 1})
    assert matches({"input.a\\\\.b": {"$eq": 1}}, input={"a\\": {"b": 1}})
    assert matches({"input.\\.": {"$eq": 1}}, input={".": 1})
    assert matches({"input.$eq": {"$eq": 1}}, input={"$eq": 1})


# ---------------------------------------------------------------- host values


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *[(1, "1"), (-1, "-1"), (True, "true"), (False, "false"), (None, "null"), (1.0, "1\\.0"), (-0.0, "-0\\.0")],
        *[(1e16, "1e+16"), (NAN, "NaN"), (INF, "Infinity"), (-INF, "-Infinity"), (10**400, f"1{'0' * 400}")],
        *[(Level.LOW, "1"), (Word.A, "a"), (Mixed.A, "a")],
    ],
)
def test_a_key_is_what_json_makes_of_it(key: Any, text: str) -> None:
    assert matches({f"input.{text}": {"$eq": 7}}, input={key: 7})
    assert matches({"input": {"$eq": {text.replace("\\", ""): 7}}}, input={key: 7})
    assert matches({f"input.{text}": {"$exists": False}, "input": {"$ne": {}}}, input={"other": 7})
    assert matches({f"input.{text}": {"$exists": False}}, input=[7, 7] if text != "1" else [7])


def test_a_key_that_only_equals_the_one_of_the_path_is_another() -> None:
    for key in (True, 1.0, Decimal(1), 1 + 0j):
        assert matches({"input.1": {"$exists": False}}, input={key: 7})
    assert matches({"input.true": {"$exists": False}, "input.1\\.0": {"$exists": False}}, input={1: 7})


def test_a_member_whose_key_has_no_json_is_absent() -> None:
    for key in ((1, 2), Color.RED, date(2026, 1, 1), b"a", 10**5000, Decimal(1)):
        assert matches({"input": {"$eq": {}}}, input={key: 1})
        assert matches({"input": {"$eq": {"1": 2}}}, input={key: 1, "1": 2})
        assert matches({"input.1": {"$eq": 2}}, input={key: 1, "1": 2})


def test_of_keys_that_are_one_in_json_the_last_has_it() -> None:
    assert matches({"input.1": {"$eq": "b"}, "input": {"$eq": {"1": "b"}}}, input={"1": "a", 1: "b"})
    assert matches({"input.1": {"$eq": "b"}, "input": {"$eq": {"1": "b"}}}, input={1: "a", "1": "b"})
    # A last one that JSON drops leaves the member absent.
    assert matches({"input.1": {"$exists": False}, "input": {"$eq": {}}}, input={"1": "a", 1: object()})
    assert matches({"input.1": {"$eq": "a"}, "input": {"$eq": {"1": "a"}}}, input={1: object(), "1": "a"})


def test_a_number_that_no_double_can_hold_is_null() -> None:
    for value in (NAN, INF, -INF, 10**400, -(10**400), *map(Decimal, ("1e400", "NaN", "sNaN", "-Infinity"))):
        assert matches({"input": {"$eq": None}, "output": {"$eq": [None]}}, input=value, output=[value])
        assert not matches({"input": {"$gt": -1}}, input=value)


def test_values_are_seen_as_the_json_they_become() -> None:
    host = {
        "decimal": Decimal("1.5"),
        "when": datetime(2026, 1, 1, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "id": UUID(int=0),
        "color": Color.RED,
        "level": Level.LOW,
        "words": (Word.A, Mixed.A),
        "set": {1},
        "queue": deque([1, 2]),
        "bytes": b"a",
        "point": Point(Point(1)),
        "ordered": OrderedDict(a=1),
    }
    seen = {
        "decimal": 1.5,
        "when": "2026-01-01T00:00:00Z",
        "day": "2026-01-02",
        "id": "00000000-0000-0000-0000-000000000000",
        "color": "red",
        "level": 1,
        "words": ["a", "a"],
        "set": [1],
        "queue": [1, 2],
        "bytes": "a",
        "point": {"a": {"a": 1}},
        "ordered": {"a": 1},
    }
    assert matches({"input": {"$eq": seen}}, input=host)
    for name, value in seen.items():
        assert matches({"input": {"$eq": value}, "output": {"$eq": [value]}}, input=host[name], output=[host[name]])
        assert matches({f"input.{name}": {"$eq": value}}, input=host)
    assert matches({"input.when": {"$lt": "2026-06"}, "input.point.a.a": {"$gte": 1}}, input=host)


def test_a_model_is_read_by_its_aliases_and_without_none() -> None:
    order = Order(user_id={"a": None, 1: "x"})
    assert matches({"input": {"$eq": {"userId": {"a": None, "1": "x"}}}}, input=order)
    assert matches({"input.total": {"$exists": False}, "input.user_id": {"$exists": False}}, input=order)
    assert matches({"input.0.userId.a": {"$eq": None}}, input=[order])
    assert matches({"input.order.total": {"$gt": 1}}, input={"order": Order(total=2)})
    assert matches({"input": {"$any": {"@.total": {"$gt": 1}}}}, input=[Order(), Order(total=2)])


def test_a_model_that_starts_several_paths_is_dumped_once() -> None:
    class Counted(BaseModel):
        dumps: ClassVar[int] = 0
        a: int = 1
        b: int = 2

        def model_dump(self, **options: Any) -> dict[str, Any]:
            Counted.dumps += 1
            return super().model_dump(**options)

    document = {"input": (counted := Counted())}
    assert compile_filter({"input.a": {"$eq": 1}, "input.b": {"$eq": 2}}).matches(document)
    assert Counted.dumps == 1
    assert document == {"input": counted}


def test_what_has_no_json_is_absent_and_null_inside_an_array() -> None:
    for value in (object(), b"\xff", HostileMapping(), range(2), lambda: None, MappingProxyType({"a": 1})):
        assert matches({"input": {"$exists": False}}, input=value)
        assert matches({"input.a": {"$exists": False}, "input": {"$eq": {}}}, input={"a": value})
        assert matches({"input": {"$eq": [None]}, "input.0": {"$eq": None}}, input=[value])
        assert not matches({"input": {"$any": {"$exists": False}}}, input=[value])


def test_an_iterator_is_absent_and_not_used_up() -> None:
    items = iter([1])
    assert matches({"input": {"$exists": False}}, input=items)
    assert matches({"input.a.0": {"$exists": False}}, input={"a": items})
    assert next(items) == 1


def test_a_document_may_be_any_mapping_and_what_is_none_has_no_roots() -> None:
    for kind in (dict, OrderedDict, UserDict, MappingProxyType):
        assert compile_filter(NODE).matches(kind({"input": 1}))
        assert not compile_filter(NODE).matches(kind({"input": 2}))
    document: Any
    for document in (None, [], 1, "input", Order(), object()):
        assert not compile_filter(NODE).matches(document)
        assert compile_filter({"input": {"$exists": False}}).matches(document)


def test_a_failing_evaluation_is_a_non_match() -> None:
    document: Any
    for document in (Hostile(), HostileMapping()):
        assert compile_filter(NODE).matches(document) is False
        assert compile_filter({"input": {"$exists": False}}).matches(document) is False
    for source in ({"input.1": {"$exists": False}}, {"$not": {"input.1": {"$eq": 1}}}):
        assert matches(source, input={HostileKey("1"): 1}) is False
        assert matches(source, input={HostileKey(1): 1}) is False
        assert matches(source, input=Hostile()) is False


def test_a_model_of_a_wrong_content_is_read_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert matches({"input.total": {"$eq": "many"}}, input=Order.model_construct(total="many"))


# ---------------------------------------------------------------- generated filters and documents

RARE = ("1", "true", "null", "NaN", "-1", "01", "1.0", "a.b", "\\", "userId", "total")
NAMES = st.sampled_from(("a",) * 8 + ("b", "0") * 3 + RARE)
# Little of everything, so that documents and filters often meet.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-1, 1)
    | st.sampled_from([0.5, 1.0, -0.0, 2**53, 2.0**53])
    | st.sampled_from(["", "a", "b", "ab", "1", "\uffff", "\U00010000"])
)
LITERALS: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)
HOST_LEAVES: st.SearchStrategy[Any] = SCALARS | st.sampled_from(
    [
        *[NAN, INF, 10**400, 2**53 + 1, 0.1, Decimal(1), Decimal("0.5"), Decimal("1e400"), object(), b"\xff", b"a"],
        *[Color.RED, Level.LOW, Word.A, Mixed.A, UUID(int=1), date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC)],
        *[{1}, frozenset(), deque(["a"]), range(2), MappingProxyType({}), SURROGATE, Order()],
    ]
)
HOST_KEYS: st.SearchStrategy[Any] = NAMES | st.sampled_from(
    [1, 0, -1, True, False, None, 1.0, NAN, INF, (1,), Color.RED, Level.LOW, Word.A, Decimal(1), 2**70]
)
HOST_VALUES: st.SearchStrategy[Any] = st.recursive(
    HOST_LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(HOST_KEYS, inner, max_size=4)
        | st.builds(Order, total=st.integers(0, 2) | st.none(), user_id=inner)
        | st.builds(Loose, a=inner, b=inner)
        | st.builds(Point, inner)
    ),
    max_leaves=8,
)
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def documents(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    members = values | st.dictionaries(NAMES, values, min_size=1, max_size=3)
    return st.fixed_dictionaries({"input": members}, optional={"output": members})


def operands(operators: dict[str, Any]) -> list[Any]:
    """Values that an operator object, or the body of ``$any``, asks for or comes near to."""
    found: list[Any] = []
    for operator, operand in operators.items():
        if operator == "$any":
            found.append([*operands(operand)])
        elif operator in {"$in", "$nin"}:
            found += operand
        elif operator.startswith("$") and operator not in {"$and", "$or", "$not"}:
            found.append(operand)
        else:
            found += [{"a": value} for value in operands(operand)] if isinstance(operand, dict) else []
    return found


def paths(source: dict[str, Any]) -> Iterator[tuple[list[str], list[Any]]]:
    """The paths of a filter, split, with the operands of each."""
    for key, body in source.items():
        if key == "$not":
            yield from paths(body)
        elif key in {"$and", "$or"}:
            for part in body:
                yield from paths(part)
        else:
            yield segments(key), copy.deepcopy(operands(body))


def segments(path: str) -> list[str]:
    return [re.sub(r"\\(.)", r"\1", token) for token in re.findall(r"(?:\\.|[^.\\])+", path)]


@st.composite
def cases(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A filter, and documents that have values near to its literals where its paths lead."""
    source = draw(filters())
    found = draw(st.lists(documents(values), min_size=5, max_size=5))
    for document in found:
        for (*names, last), near in paths(source):
            place = document
            for name in names:
                place[name] = place = place[name] if isinstance(place.get(name), dict) else {}
            chance = draw(st.integers(0, 11))
            if chance:
                place[last] = draw(st.sampled_from(near) if near and chance > 3 else values)
    return source, found


def escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace(".", "\\.")


@st.composite
def operator_objects(draw: st.DrawFn, depth: int) -> dict[str, Any]:
    operands: dict[str, st.SearchStrategy[Any]] = {
        "$eq": LITERALS,
        "$ne": LITERALS,
        "$in": st.lists(LITERALS, max_size=3),
        "$nin": st.lists(LITERALS, max_size=3),
        **dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), st.integers(-2, 2) | st.text("ab1\uffff", max_size=1)),
        "$exists": st.booleans(),
        "$prefix": st.text("ab", max_size=1),
    }
    if depth < 3:
        operands["$any"] = operator_objects(depth + 1) | filters(("@",), depth + 1)
    names = draw(st.lists(st.sampled_from(sorted(operands)), min_size=1, max_size=2, unique=True))
    return {name: draw(operands[name]) for name in names}


@st.composite
def filters(draw: st.DrawFn, roots: tuple[str, ...] = ("input", "input", "output"), depth: int = 0) -> dict[str, Any]:
    """Valid ones."""
    source: dict[str, Any] = {}
    for _ in range(draw(st.integers(depth == 0, 2))):
        kind = draw(st.sampled_from(["path"] * 4 + (["$and", "$or", "$not"] if depth < 3 else [])))
        if kind == "path":
            segments = draw(st.lists(NAMES.map(escaped), max_size=2))
            source[".".join([draw(st.sampled_from(roots)), *segments])] = draw(operator_objects(depth))
        elif kind == "$not":
            source[kind] = draw(filters(roots, depth + 1))
        else:
            source[kind] = draw(st.lists(filters(roots, depth + 1), min_size=1, max_size=2))
    return source


JUNK: st.SearchStrategy[Any] = LITERALS | st.sampled_from(
    [NAN, 2**53 + 1, 1e300, SURROGATE, b"x", (), ({},), {1: 2}, object(), Level.LOW, Color.RED, Decimal(1), 10**400]
)
PATHS = ("@", "@.a", "@a", "input.a", "input\\.a", "input.\\", "input.a\\x", "input..a", ".", "", "other", "input.01")
OPERATORS = ("$and", "$or", "$not", "$any", "$eq", "$in", "$nin", "$gt", "$exists", "$prefix", "$regex", "$")
WORDS = st.sampled_from((*ROOTS, *PATHS, *OPERATORS, SURROGATE))
ROUGH_FILTERS: st.SearchStrategy[Any] = st.recursive(
    JUNK, lambda inner: st.dictionaries(WORDS, inner, max_size=3) | st.lists(inner, max_size=2), max_leaves=6
)
LIMIT_FILTERS: st.SearchStrategy[Any] = st.one_of(
    st.builds(nested, st.integers(4, 9), st.sampled_from(["$or", "$not"]), filters()),
    st.builds(nested, st.integers(55, 62), st.just("$and"), filters()),
    st.integers(60, 66).flatmap(lambda n: st.builds(lambda kind: {kind: [NODE] * n}, st.sampled_from(["$or", "$and"]))),
    st.integers(4, 9).map(lambda n: {"input": nested(n, "$any", {})}),
    st.integers(254, 258).map(lambda n: {"input": {"$in": [1] * n}}),
    st.integers(14, 18).map(lambda n: {"input" + ".\\." * n: {"$eq": 1}}),
    st.integers(29, 35).flatmap(
        lambda n: st.builds(lambda kind: {"input": {kind: nested(n, "", [])}}, st.sampled_from(["$eq", "$in"]))
    ),
    st.builds(sized, st.integers(8188, 8196), st.sampled_from(["x", "é", "\U00010000"])),
)


@given(filters(), documents(HOST_VALUES) | HOST_VALUES)
def test_evaluation_is_total(source: dict[str, Any], document: Any) -> None:
    assert compile_filter(source).matches(document) in {True, False}


@given(ROUGH_FILTERS)
def test_compilation_gives_a_filter_or_a_filter_error(source: Any) -> None:
    try:
        compiled = compile_filter(source)
    except FilterError as error:
        message = str(error)
    else:
        message = repr(compile_filter(compiled.source))
    assert message.encode()


# The language again, written to be read: over JSON only, by recursion, nothing prepared.


def naive(source: dict[str, Any], document: Any, root: str | None = None) -> bool:
    return all(naive_entry(key, body, document, root) for key, body in source.items())


def naive_entry(key: str, body: Any, document: Any, root: str | None) -> bool:
    if key == "$and":
        return all(naive(part, document, root) for part in body)
    if key == "$or":
        return any(naive(part, document, root) for part in body)
    if key == "$not":
        return not naive(body, document, root)
    value = {"@": document} if root else document
    for name in segments(key):
        if isinstance(value, dict):
            value = value.get(name, ABSENT)
        elif isinstance(value, list) and re.fullmatch("0|[1-9][0-9]*", name) and int(name) < len(value):
            value = value[int(name)]
        else:
            value = ABSENT
    return naive_operators(body, value)


def naive_operators(operators: dict[str, Any], value: Any) -> bool:
    return all(naive_operator(operator, operand, value) for operator, operand in operators.items())


def naive_operator(operator: str, operand: Any, value: Any) -> bool:
    is_present = value is not ABSENT
    match operator:
        case "$exists":
            return is_present == operand
        case "$eq":
            return is_present and tagged(value) == tagged(operand)
        case "$in":
            return is_present and tagged(value) in [tagged(item) for item in operand]
        case "$ne" | "$nin":
            return not naive_operator({"$ne": "$eq", "$nin": "$in"}[operator], operand, value)
        case "$prefix":
            return isinstance(value, str) and value.startswith(operand)
        case "$any":
            is_filter = not operand or any(not key.startswith("$") or key in {"$and", "$or", "$not"} for key in operand)
            evaluate = (lambda item: naive(operand, item, "@")) if is_filter else lambda i: naive_operators(operand, i)
            return isinstance(value, list) and any(evaluate(item) for item in value)
    if not is_present or tagged(value)[0] != tagged(operand)[0]:
        return False
    if isinstance(value, str):  # UTF-8 sorts by code point
        value, operand = value.encode("utf-8", "surrogatepass"), operand.encode()
    else:
        value, operand = float(value), float(operand)
    return {"$gt": value > operand, "$gte": value >= operand, "$lt": value < operand, "$lte": value <= operand}[
        operator
    ]


def tagged(value: Any) -> Any:
    """A value of which Python's ``==`` is JSON's equality."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", float(value)
    if isinstance(value, list):
        return "array", [tagged(item) for item in value]
    if isinstance(value, dict):
        return "object", {key: tagged(item) for key, item in value.items()}
    return type(value).__name__, value


@settings(max_examples=200)
@given(cases(JSON_VALUES))
def test_it_agrees_with_a_naive_interpreter(case: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    source, several = case
    compiled = compile_filter(source)
    for document in several:
        assert compiled.matches(document) is naive(source, document)


WRITABLE_KEYS = st.sampled_from([1, 0, -1, True, None, 1.0, NAN, INF, Level.LOW, Word.A, 2**70]) | NAMES
WRITABLE: st.SearchStrategy[Any] = st.recursive(
    SCALARS | st.sampled_from([NAN, INF, 2**53 + 1, 10**30, Level.LOW, Word.A]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(WRITABLE_KEYS, inner, max_size=4)
    ),
    max_leaves=8,
)


@given(cases(WRITABLE))
def test_a_json_round_trip_changes_no_match(case: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """Neither of the document nor of the filter."""
    source, several = case
    compiled = compile_filter(source)
    again = compile_filter(json.loads(json.dumps(source)))
    for document in several:
        expected = compiled.matches(document)
        assert compiled.matches(json.loads(json.dumps(document))) is expected
        assert again.matches(document) is expected


# ---------------------------------------------------------------- the official SDK


def theirs(source: Any, *, trusted: bool = False) -> Any:
    try:
        return upstream.compile_filter(source, trusted=trusted)
    except upstream.FilterError:
        return None


def ours(source: Any, *, trusted: bool = False) -> CompiledFilter | None:
    try:
        return compile_filter(source, trusted=trusted)
    except FilterError:
        return None


@settings(max_examples=200)
@given(cases(HOST_VALUES))
def test_matches_agree_with_upstream(case: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    source, several = case
    mine, other = compile_filter(source), upstream.compile_filter(source)
    assert (mine.source, mine.roots, mine.match_all) == (other.source, other.roots, other.match_all)
    for document in several:
        assert mine.matches(document) is other.matches(document)


@settings(max_examples=200)
@given(ROUGH_FILTERS | LIMIT_FILTERS, st.booleans())
def test_upstream_accepts_and_refuses_the_same(source: Any, trusted: bool) -> None:
    mine, other = ours(source, trusted=trusted), theirs(source, trusted=trusted)
    assert (mine is None) is (other is None)
    if mine is not None:
        assert (mine.source, mine.roots, mine.match_all) == (other.source, other.roots, other.match_all)
        for document in ({}, {"input": None}, {"input": [1, {"a": 1}]}, {"input": {"a": 1, "01": "x"}}):
            assert mine.matches(document) is other.matches(document)


@pytest.mark.parametrize(
    "source",
    [*ACCEPTED, *(source for source, _, _ in REFUSED), *(source for pair in LIMITS for source in pair)],
    ids=lambda source: shown(source)[:60],
)
def test_upstream_agrees_on_each_rule_of_the_grammar(source: Any) -> None:
    assert (ours(source) is None) is (theirs(source) is None)


@pytest.mark.parametrize(("operators", "yes", "no"), MEANING, ids=lambda value: shown(value)[:40])
def test_upstream_agrees_on_each_operator(operators: dict[str, Any], yes: list[Any], no: list[Any]) -> None:
    other = upstream.compile_filter({"input": operators})
    for value in (*yes, *no):
        assert other.matches({} if value is ABSENT else {"input": value}) is any(value is item for item in yes), value


class TestUpstreamDefects:
    """Where upstream breaks a rule of the language. Each test shows both sides: it fails when upstream changes."""

    def test_upstream_uses_up_an_iterator_of_the_handler(self) -> None:
        """An observer must not change what a function was given. Here an iterator is absent."""
        source = {"input": {"$any": {"$eq": 1}}}
        items = iter([1, 2])
        assert upstream.compile_filter(source).matches({"input": items})
        assert list(items) == []
        items = iter([1, 2])
        assert not compile_filter(source).matches({"input": items})
        assert list(items) == [1, 2]

    def test_upstream_fails_on_a_literal_of_very_many_digits(self) -> None:
        """It is beyond ±2^53, so INVALID_FILTER; upstream fails where it writes the number into the message."""
        with pytest.raises(ValueError, match="4300") as caught:
            upstream.compile_filter({"input": {"$eq": 10**5000}})
        assert not isinstance(caught.value, upstream.FilterError)
        assert refusal({"input": {"$eq": 10**5000}}).code == "INVALID_FILTER"

    def test_upstream_counts_the_bytes_of_small_numbers_as_python_writes_them(self) -> None:
        """The engine, which has the limit, reads and writes 1e-7; Python's json has 1e-07."""
        source = {"input": {"$in": [1e-7] * 200, "$prefix": "x" * 7100}}
        assert len(json.dumps(source, separators=(",", ":"))) > 8192
        assert theirs(source) is None
        assert ours(source) is not None

    def test_upstream_fails_at_a_key_of_very_many_digits(self) -> None:
        """Its member is absent, since JSON cannot have the key; upstream ends the evaluation of the whole filter."""
        source, document = {"input.1": {"$eq": 7}}, {"input": {"1": 7, 10**5000: 0}}
        assert not upstream.compile_filter(source).matches(document)
        assert compile_filter(source).matches(document)

    def test_upstream_warns_at_a_model_of_a_wrong_content(self) -> None:
        """And sees nothing of it where warnings are errors: what matches would depend on Python's options."""
        source, document = {"input.total": {"$eq": "many"}}, {"input": Order.model_construct(total="many")}
        with pytest.warns(UserWarning, match="serializer"):
            assert upstream.compile_filter(source).matches(document)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not upstream.compile_filter(source).matches(document)
            assert compile_filter(source).matches(document)
