"""Table A.8, row by row, with upstream's ``format_utils`` as the judge (A-10)."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Dict, Generic, List, Literal, NewType, Optional, TypeVar  # noqa: UP035 - rows of it

import pytest
from iii import format_utils as upstream  # type: ignore[import-untyped]
from iii_helpers.http import HttpResponse as UpstreamHttpResponse
from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypedDict

from iii_anyio._runtime.formats import as_format, shape_of
from iii_anyio.functions import (
    RegisterFunctionFormat,
    extract_request_format,
    extract_response_format,
    python_type_to_format,
)
from tests.naming import shown

T = TypeVar("T")
DRAFT = "https://json-schema.org/draft/2020-12/schema"


class Item(BaseModel):
    sku: str


class Order(BaseModel):
    """An order."""

    items: list[Item]
    customer_name: str = Field(default="", alias="customerName")


class Page(BaseModel, Generic[T]):
    entries: list[T]


class Node(BaseModel):
    children: list[Node] = []


class Ids(RootModel[list[int]]):
    pass


class Anything(RootModel[Any]):
    pass


class Point(TypedDict):
    x: int


@dataclasses.dataclass
class Pair:
    left: int


class Colour(enum.Enum):
    RED = "red"


UserId = NewType("UserId", int)

ROWS: list[Any] = [
    str,
    int,
    float,
    bool,
    type(None),
    None,
    list,
    List,  # noqa: UP006
    list[Any],
    list[int],
    List[str],  # noqa: UP006
    list[datetime],
    list[list[int]],
    dict,
    Dict,  # noqa: UP006
    dict[str, Any],
    dict[str, int],
    dict[int, str],
    Dict[str, bool],  # noqa: UP006
    dict[str, datetime],
    dict[str, list[float]],
    str | None,
    Optional[int],  # noqa: UP045
    list[int] | None,
    dict[str, int] | None,
    datetime | None,
    Item,
    Order,
    Item | None,
    Order | None,
    list[Item],
    dict[str, Item],
    list[Item | None],
    Page[Item],
    Page[int],
    Node,
    Node | None,
    Ids,
    Ids | None,
    Anything,
    Anything | None,
    UpstreamHttpResponse[Any] | None,
    Any,
    int | str,
    int | str | None,
    Literal["a"],
    Annotated[int, 1],
    tuple[int, str],
    set[int],
    Point,
    Pair,
    Colour,
    datetime,
    bytes,
    object,
    Sequence[int],
    Mapping[str, int],
    UserId,
    T,
    Awaitable[int],
    "Order",
    42,
]


@pytest.mark.parametrize("annotation", ROWS, ids=shown)
def test_a_type_has_upstreams_format(annotation: Any) -> None:
    assert python_type_to_format(annotation) == upstream.python_type_to_format(annotation)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (str, {"type": "string"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (int | None, {"type": ["integer", "null"]}),
        (type(None), {"type": "null"}),
    ],
    ids=shown,
)
def test_a_format_is_json_schema_of_the_current_draft(annotation: Any, expected: dict[str, Any]) -> None:
    assert python_type_to_format(annotation) == {**expected, "$schema": DRAFT}


def test_models_are_described_by_alias() -> None:
    schema = python_type_to_format(Order)
    assert schema is not None
    assert set(schema["properties"]) == {"items", "customerName"}
    assert schema["description"] == "An order."


@pytest.mark.parametrize(
    "annotation", [list[Order], dict[str, Order], list[Node], dict[str, list[Order]] | None], ids=shown
)
def test_references_of_a_model_in_a_container_lead_somewhere(annotation: Any) -> None:
    """Upstream leaves ``$defs`` where the model is, out of reach of its ``#/$defs/...``."""
    schema = python_type_to_format(annotation)
    assert schema is not None

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [found for inner in value.values() for found in references(inner)]
        return [found for inner in value for found in references(inner)] if isinstance(value, list) else []

    found = references(schema)
    assert found
    assert all(reference.removeprefix("#/$defs/") in schema["$defs"] for reference in found)


def test_each_caller_gets_a_schema_of_its_own() -> None:
    first = python_type_to_format(Item)
    assert first is not None
    first["title"] = "changed"
    assert python_type_to_format(Item) != first


def test_a_model_without_a_schema_has_no_format() -> None:
    class Callback(BaseModel):
        call: Callable[[], None]

    assert python_type_to_format(Callback) is None
    assert python_type_to_format(list[Callback]) == {"type": "array", "$schema": DRAFT}


def test_a_default_that_json_cannot_show_is_left_out_without_a_warning() -> None:
    class Model(BaseModel):
        model_config = {"arbitrary_types_allowed": True}
        x: Any = object()

    schema = python_type_to_format(Model)
    assert schema is not None
    assert schema["properties"] == {"x": {"title": "X"}}


# -- from functions --------------------------------------------------------------------------------------------------


async def both(order: Order) -> Item: ...  # type: ignore[empty-body]
def sync(order: Order) -> list[int]: ...  # type: ignore[empty-body]
def to_none(order: int) -> None: ...
def nothing(data): ...
def no_parameters() -> int: ...  # type: ignore[empty-body]
def second_only(data, order: Order): ...
def many(*orders: int): ...
def keywords(**orders: int): ...
def keyword_only(*, order: int): ...
def with_default(order: Order | None = None): ...
def constrained(order: Annotated[int, Field(gt=0)]) -> Annotated[str, "x"]: ...  # type: ignore[empty-body]
def quoted(order: "Order") -> "Item": ...  # type: ignore[empty-body]  # noqa: UP037 - the row
def unresolvable(order: Order) -> "Missing": ...  # type: ignore[name-defined]  # noqa: F821, UP037 - the row


class Service:
    async def method(self, order: Order) -> Item: ...  # type: ignore[empty-body]
    @staticmethod
    def static(order: Order) -> Item: ...  # type: ignore[empty-body]
    @classmethod
    def of_class(cls, order: Order) -> Item: ...  # type: ignore[empty-body]
    def __call__(self, order: Order) -> Item: ...  # type: ignore[empty-body]


@functools.wraps(both)
async def wrapped(*args: Any, **kwargs: Any) -> Any: ...


FUNCTIONS: list[Any] = [
    both,
    sync,
    to_none,
    nothing,
    no_parameters,
    second_only,
    many,
    keywords,
    keyword_only,
    with_default,
    constrained,
    quoted,
    unresolvable,
    wrapped,
    Service().method,
    Service.method,
    Service.static,
    Service.of_class,
    Service(),
    Service,
    functools.partial(both),
    functools.lru_cache(sync),
    lambda data: data,
    len,
    print,
    None,
    "text",
    42,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=shown)
def test_a_function_has_upstreams_formats(function: Any) -> None:
    assert extract_request_format(function) == upstream.extract_request_format(function)
    assert extract_response_format(function) == upstream.extract_response_format(function)


def test_annotations_that_do_not_resolve_cost_both_formats() -> None:
    assert extract_request_format(unresolvable) is None
    assert extract_response_format(unresolvable) is None


def test_a_builtin_that_cannot_be_inspected_has_no_formats() -> None:
    """Upstream raises."""
    assert extract_request_format(dict) is extract_response_format(dict) is None


def test_a_dataclass_or_its_instance_as_function_has_no_formats() -> None:
    """A.8 says so of classes and objects; upstream takes a dataclass' fields for annotations of the call."""

    @dataclasses.dataclass
    class Handler:
        order: int

        def __call__(self, order: str) -> None: ...

    for function in (Handler, Handler(1)):
        assert extract_request_format(function) is None
        assert extract_response_format(function) is None


# -- beyond the table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Literal["a", "b"], {"enum": ["a", "b"], "type": "string"}),
        (datetime, {"type": "string", "format": "date-time"}),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (str | int, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        (Annotated[int, Field(gt=0)], {"type": "integer", "exclusiveMinimum": 0}),
        (
            Point,
            {
                "type": "object",
                "title": "Point",
                "properties": {"x": {"title": "X", "type": "integer"}},
                "required": ["x"],
            },
        ),
        (Colour, {"type": "string", "title": "Colour", "enum": ["red"]}),
        (UserId, {"type": "integer"}),
        (list[datetime], {"type": "array"}),  # in the table, which goes first
    ],
    ids=shown,
)
def test_pydantic_describes_what_the_table_leaves_out(annotation: Any, expected: dict[str, Any]) -> None:
    published = shape_of(annotation).format
    assert published is not None
    published = {key: value for key, value in published.items() if not (key == "title" and "title" not in expected)}
    assert published == {**expected, "$schema": DRAFT}


@pytest.mark.parametrize("annotation", [Any, object, T, Awaitable[int], Callable[[], int], Service, 42], ids=shown)
def test_what_says_nothing_or_cannot_be_described_has_no_format(annotation: Any) -> None:
    assert shape_of(annotation).format is None


def test_equal_annotations_share_a_shape_and_different_ones_do_not() -> None:
    assert shape_of(dict[str, int]) is shape_of(dict[str, int])
    assert shape_of(int | str) is not shape_of(str | int)
    assert shape_of(Annotated[int, []]) is not shape_of(Annotated[int, []])  # not hashable


def test_formats_are_given_as_schema_model_or_type() -> None:
    assert as_format({"type": "string"}) == {"type": "string"}
    assert as_format(RegisterFunctionFormat(name="a", type="string")) == {
        "name": "a",
        "type": "string",
        "required": False,
    }
    assert as_format(Item) == python_type_to_format(Item)
    assert as_format(list[int]) == python_type_to_format(list[int])


@pytest.mark.parametrize("value", ["string", 5, Service, Any])
def test_other_formats_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"format|JSON Schema"):
        as_format(value)
