"""The one JSON of the project (protocol §4): two libraries, one text; nothing that the engine would drop."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import enum
import json
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import orjson
import pydantic
import pydantic_core
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_anyio._protocol.jsontext import MAX_DEPTH, from_json, to_json
from iii_anyio.errors import DecodeError, EncodeError

NAN, INFINITY = float("nan"), float("inf")
FILLER = base64.b64encode(bytes(range(256)) * 100).decode()
"""34 kB of plain ASCII: what makes a text large, and says nothing about the rest."""

text = st.text(max_size=12) | st.text('[]{}"\\,:', max_size=6)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | text,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5),
    max_leaves=30,
)
wild = st.recursive(
    scalars | text | st.floats(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5),
    max_leaves=30,
)


class Color(enum.Enum):
    RED = "red"
    DEEP = 3


class Level(enum.IntEnum):
    LOW = 1


class Name(str):
    __slots__ = ()


class Order(pydantic.BaseModel):
    order_id: int = pydantic.Field(serialization_alias="orderId")
    when: dt.datetime | None = None
    price: float = pydantic.Field(default=1.5, serialization_alias="unitPrice")


@dataclasses.dataclass
class Point:
    x: float
    label: Any = "p"


class Pair(NamedTuple):
    left: int
    right: int


# ---------------------------------------------------------------- one text for one value


@given(values)
def test_json_comes_back_as_it_was(value: object) -> None:
    encoded = to_json(value)
    assert from_json(encoded) == json.loads(encoded) == value


@given(values)
def test_both_libraries_write_the_same_text(value: object) -> None:
    # The integer needs the other library, for all of the list.
    assert to_json([value, 2**64]) == b"[" + to_json(value) + b",18446744073709551616]"


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (Order(order_id=7), '{"orderId":7,"when":null,"unitPrice":1.5}'),
        (Order(order_id=7, when=dt.datetime(2025, 1, 2, 3, 4, 5, tzinfo=dt.UTC)).when, '"2025-01-02T03:04:05Z"'),
        (pydantic.RootModel[list[int]]([1, 2]), "[1,2]"),
        (Point(0.5), '{"x":0.5,"label":"p"}'),
        (dt.datetime(2025, 1, 2, 3, 4, 5), '"2025-01-02T03:04:05"'),
        (dt.date(2025, 1, 2), '"2025-01-02"'),
        (dt.time(3, 4, 5, 6), '"03:04:05.000006"'),
        (dt.timedelta(hours=1), '"PT1H"'),
        (Decimal("1.50"), '"1.50"'),
        (b"raw", '"raw"'),
        ({"a"}, '["a"]'),
        (frozenset([1]), "[1]"),
        (deque([1, 2]), "[1,2]"),
        (Pair(1, 2), "[1,2]"),
        ((1, (2,)), "[1,[2]]"),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (Color.RED, '"red"'),
        (Color.DEEP, "3"),
        (Level.LOW, "1"),
        (Name("n"), '"n"'),
        ({Name("k"): Name("v")}, '{"k":"v"}'),
        ({1: "a", False: "b", None: "c", 1.5: "d"}, '{"1":"a","false":"b","None":"c","1.5":"d"}'),
        ({Color.RED: 1, dt.date(2025, 1, 2): 2}, '{"red":1,"2025-01-02":2}'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (2**64, "18446744073709551616"),
        (-(2**63) - 1, "-9223372036854775809"),
        (10**308, "1" + "0" * 308),
        (-0.0, "-0.0"),
        (1e16, "1e+16"),
        (5e-324, "5e-324"),
        ("é\u2028\x7f\x00/", '"é\u2028\x7f\\u0000/"'),
        (None, "null"),
    ],
)
def test_a_value_has_one_text_alone_and_among_others(value: object, encoded: str) -> None:
    assert to_json(value).decode() == encoded
    assert (
        to_json([None, "null", "NaN", value, 2**64]).decode() == f'[null,"null","NaN",{encoded},18446744073709551616]'
    )
    assert to_json({"a": value, "filler": FILLER}).decode() == f'{{"a":{encoded},"filler":"{FILLER}"}}'


# ---------------------------------------------------------------- what is refused, and where it is


class Loose(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    x: Any = None


class Failing(pydantic.BaseModel):
    x: int = 1

    @pydantic.field_serializer("x")
    def _x(self, value: int) -> int:
        raise KeyError("boo")


class Typed(pydantic.BaseModel):
    x: float = NAN
    note: str | None = None


@pydantic.dataclasses.dataclass
class Checked:
    x: float = NAN


class Bad(enum.Enum):
    NOTHING = NAN


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (NAN, "the value is nan"),
        ([0, NAN], r"\[1\] is nan"),
        ((-INFINITY,), r"\[0\] is -inf"),
        ({"a b": {"c": INFINITY}}, r"\['a b'\]\.c is inf"),
        ({"a": None, "b": "null", "c": NAN}, "c is nan"),
        (Bad.NOTHING, "the value is nan"),
        # What needs the other library.
        ({NAN}, r"\[0\] is nan"),
        (deque([NAN]), r"\[0\] is nan"),
        ({1: NAN}, r"\[1\] is nan"),
        (Decimal("NaN"), "the value is NaN"),
        ([Decimal("-Infinity")], r"\[0\] is -Infinity"),
        ({"d": Decimal("sNaN")}, "d is sNaN"),
        (Point(NAN), "x is nan"),
        ([Typed()], r"\[0\]\.x is nan"),
        (Order(order_id=1, price=NAN), "unitPrice is nan"),
        (Loose(x=NAN), "x is nan"),
        (Loose.model_validate({"y": {"z": NAN}}), r"y\.z is nan"),
        (Loose(x=Decimal("Infinity")), "x is Infinity"),
        (Checked(), "x is nan"),
        (pydantic.RootModel[list[float]]([1.0, NAN]), r"\[1\] is nan"),
        (Loose(x=Point(NAN)), r"x\.x is nan"),
        ({"d": {"x": dt.date(2025, 1, 2), "y": [NAN]}}, r"d\.y\[0\] is nan"),
        # Integers the engine would take for infinity.
        (18 * 10**307, "the value is an integer that no double can hold"),
        ([1, -(10**400)], r"\[1\] is an integer"),
        # Not UTF-8.
        ("a\ud800", "the value holds a lone surrogate"),
        ({"a": ["\udc00"]}, r"a\[0\] holds a lone surrogate"),
        ({"a": {"\ud800": 1}}, "a key of a holds a lone surrogate"),
        ({"when": dt.date(2025, 1, 2), "x": "\ud800"}, "x holds a lone surrogate"),
        ([b"\xff"], r"\[0\] is of type bytes, which JSON cannot carry as it is"),
        # Nothing JSON knows.
        ({"a": object()}, "a is of type object"),
        ([Order], r"\[0\] is of type pydantic.*ModelMetaclass"),
        ({"f": len}, "f is of type builtin_function_or_method"),
        ({object(): 1}, "a key of the value is of type object, which no JSON key can be made of"),
        ([memoryview(b"a")], r"\[0\] is of type memoryview"),
        ({"m": Failing()}, "m cannot be serialized: .*boo"),
    ],
)
def test_what_json_cannot_carry_is_refused_by_path(value: object, where: str) -> None:
    for wrapped in (value, [value, 2**64], {"a": FILLER, "b": value}):
        with pytest.raises(EncodeError):
            to_json(wrapped)
    with pytest.raises(EncodeError, match=f"^{where}"):
        to_json(value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_by_name_are_allowed_as_text(number: str) -> None:
    assert to_json({"x": number, "y": {1: number}, "z": None}).decode() == (
        f'{{"x":"{number}","y":{{"1":"{number}"}},"z":null}}'
    )


def test_a_model_may_hold_none_and_long_digits() -> None:
    assert to_json([Typed(x=1), "1" * 400]).decode() == f'[{{"x":1.0,"note":null}},"{"1" * 400}"]'


@given(wild)
def test_not_a_number_is_found_wherever_it_hides(value: Any) -> None:
    try:
        expected = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError:
        for hidden in (value, [value, dt.date(2025, 1, 2)], [value] * 200):
            with pytest.raises(EncodeError, match=r"is (nan|-?inf); JSON has no NaN or Infinity"):
                to_json(hidden)
    else:
        assert json.loads(to_json(value)) == json.loads(expected)


@pytest.mark.parametrize("parts", [1, 100])
def test_not_a_number_is_found_beside_a_long_text(parts: int) -> None:
    with pytest.raises(EncodeError, match=r"^x\[0\] is nan"):
        to_json({"filler": [FILLER] * parts, "x": [NAN]})


def test_the_caller_can_vouch_for_nulls() -> None:
    # The second look is what costs; a value of which all nulls are known needs none.
    assert to_json({"a": None, "b": 1}, nulls=1) == b'{"a":null,"b":1}'
    with pytest.raises(EncodeError, match=r"^b is nan"):
        to_json({"a": None, "b": NAN}, nulls=1)


def test_an_iterator_is_read_once() -> None:
    assert to_json(n for n in (1, 2)) == b"[1,2]"
    with pytest.raises(EncodeError, match="holds a number that JSON cannot carry"):
        to_json(n for n in (1.0, NAN))


def test_a_fragment_of_orjson_is_refused_where_it_is_looked_at() -> None:
    with pytest.raises(EncodeError, match=r"^a is of type orjson\.Fragment"):
        to_json({"a": orjson.Fragment(b"null")})


def test_an_error_keeps_the_cause() -> None:
    with pytest.raises(EncodeError) as caught:
        to_json(1 / n for n in [0])
    assert isinstance(caught.value.__cause__, ValueError)
    assert "cannot be written as JSON" in str(caught.value)


# ---------------------------------------------------------------- nesting


def arrays(levels: int, inner: Any = None) -> Any:
    value: Any = [] if inner is None else [inner]
    for _ in range(levels - 1):
        value = [value]
    return value


def objects(levels: int, inner: Any = None) -> Any:
    value: Any = {} if inner is None else {"k": inner}
    for _ in range(levels - 1):
        value = {"k": value, "s": "]}"}
    return value


def test_a_list_that_holds_itself_is_refused() -> None:
    value: list[Any] = [1]
    value.append({"again": value})
    with pytest.raises(EncodeError, match=r"^a contains itself; JSON has no references"):
        to_json({"a": value})


def test_a_dict_that_holds_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["a"] = {"b": value}
    with pytest.raises(EncodeError, match=r"^the value contains itself"):
        to_json(value)


def test_objects_that_hold_themselves_are_refused() -> None:
    point = Point(1.0)
    point.label = [point]
    with pytest.raises(EncodeError, match=r"^the value contains itself"):
        to_json(point)
    model = Loose()
    model.x = model
    with pytest.raises(EncodeError, match=r"^m contains itself"):
        to_json({"m": model})


@pytest.mark.parametrize("make", [arrays, objects])
@pytest.mark.parametrize("inner", [None, "", "]" * 300, "[" * 300, '"]}[{\\', [1, 2], dt.date(2025, 1, 2), FILLER])
def test_127_levels_pass_and_128_are_refused(make: Callable[[int, Any], Any], inner: Any) -> None:
    levels = MAX_DEPTH - isinstance(inner, list)
    encoded = to_json(make(levels, inner))
    assert from_json(encoded) == json.loads(encoded)
    with pytest.raises(EncodeError, match=r"^\S{200}… is nested too deep"):
        to_json(make(levels + 1, inner))
    with pytest.raises(DecodeError, match="nested deeper than 127 levels"):
        from_json(pydantic_core.to_json(make(levels + 1, inner)))


def test_depth_counts_in_what_only_an_iterator_showed() -> None:
    with pytest.raises(EncodeError, match="deeper than 127 levels"):
        to_json(value for value in [arrays(127)])


def depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(values, st.integers(90, 130), st.booleans())
def test_depth_is_that_of_the_value_whatever_its_strings_hold(value: Any, levels: int, wide: bool) -> None:
    deep = arrays(levels, [value, FILLER] if wide else [value])
    encoded = json.dumps(deep).encode()
    if depth(deep) <= MAX_DEPTH:
        assert from_json(to_json(deep)) == from_json(encoded) == deep
    else:
        with pytest.raises(EncodeError, match="is nested too deep"):
            to_json(deep)
        with pytest.raises(DecodeError, match="nested deeper than"):
            from_json(encoded)


def test_many_brackets_side_by_side_are_no_depth() -> None:
    rows = [{"id": index, "tags": ["[", "}"], "note": None} for index in range(300)]
    encoded = to_json(rows)
    assert from_json(encoded) == rows


# ---------------------------------------------------------------- reading


@given(values)
def test_a_long_text_is_read_as_orjson_reads_it(value: object) -> None:
    for around in ({"filler": FILLER, "value": value}, {"filler": [FILLER, "é"], "value": value}):
        encoded = orjson.dumps(around)
        assert from_json(encoded) == orjson.loads(encoded)


@pytest.mark.parametrize("filler", ["", FILLER])
@pytest.mark.parametrize(
    ("number", "value"),
    [
        (b"9223372036854775808", 2**63),
        (b"18446744073709551615", 2**64 - 1),
        (b"-9223372036854775808", -(2**63)),
        # As in the engine (§4).
        (b"18446744073709551616", 18446744073709551616.0),
        (b"-9223372036854775809", -9223372036854775808.0),
        (b"1e3", 1000.0),
        (b"1e-999", 0.0),
    ],
)
def test_numbers_are_read_alike_in_short_and_long_texts(filler: str, number: bytes, value: float) -> None:
    (read, _) = from_json(b"[" + number + b',"' + filler.encode() + b'"]')
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("filler", ["", FILLER])
@pytest.mark.parametrize(
    "part",
    [
        b"1e999",
        b"-1e999",
        b"9" * 400,
        b"9" * 5000,
        b"NaN",
        b"-Infinity",
        b'"\\ud800"',
        b'"\xff"',
        b'"\x01"',
        b"01",
        b"1 2",
    ],
)
def test_what_no_json_is_raises_a_decode_error(filler: str, part: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^not JSON: .*line 1 column"):
        from_json(b'["' + filler.encode() + b'",' + part + b"]")


def test_the_last_of_duplicate_keys_wins() -> None:
    # §4
    assert from_json(b'{"a":1,"a":2}') == {"a": 2}
    assert from_json(f'{{"a":1,"a":"{FILLER}","a":2}}') == {"a": 2}


def test_json_is_read_from_any_kind_of_text() -> None:
    encoded = '{"a":"é"}'.encode()
    for given_as in (
        encoded,
        bytearray(encoded),
        memoryview(encoded),
        memoryview(bytearray(encoded)),
        encoded.decode(),
    ):
        assert from_json(given_as) == {"a": "é"}
    with pytest.raises(DecodeError):
        from_json('"\ud800"')
