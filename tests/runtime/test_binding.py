"""How handlers are read at registration: what is published, how they are called, what is checked (A.8, A.10)."""

from __future__ import annotations

import functools
import inspect
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from enum import Enum
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar
from unittest.mock import AsyncMock, Mock

import anyio
import iii_helpers.http
import iii_helpers.stream
import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PlainSerializer, computed_field, field_serializer
from typing_extensions import TypedDict

from iii_anyio._protocol.codec import from_json, to_json
from iii_anyio._protocol.messages import ABSENT
from iii_anyio._runtime.binding import Binding, bind
from iii_anyio.errors import InvocationError
from iii_anyio.functions import RegisterFunctionFormat, python_type_to_format
from iii_anyio.http import ApiRequest, ApiResponse, HttpRequest, HttpResponse
from tests.naming import shown

T = TypeVar("T")


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sku: str
    qty: int = Field(default=1, gt=0)


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    items: list[Item]
    customer_name: str = Field(default="Ada", alias="customerName")


class Point(TypedDict):
    x: int


@dataclass
class Pair:
    left: int
    day: date


class Colour(Enum):
    RED = "red"


ITEM = {"sku": "a", "qty": 2}
ORDER = {"items": [ITEM], "customerName": "Bob"}


def call(binding: Binding, data: Any = None, metadata: Any = ABSENT) -> Any:
    """What the handler does with this, sync or async."""
    args, kwargs = binding.call_args(data, metadata)
    result = binding.handler(*args, **kwargs)
    if binding.is_async:

        async def wait() -> Any:
            return await result

        result = anyio.run(wait)
    return binding.outcome(result)


def refusal(code: str, function: Callable[[], Any]) -> str:
    with pytest.raises(InvocationError) as caught:
        function()
    assert caught.value.code == code
    assert caught.value.function_id == "shop::f"
    return caught.value.message


def payload_refusal(handler: Any, data: Any) -> str:
    binding = bind("shop::f", handler)
    return refusal("invalid_payload", lambda: binding.call_args(data, ABSENT))


def result_refusal(handler: Any, result: Any) -> str:
    return refusal("invalid_result", lambda: bind("shop::f", handler).outcome(result))


def accepting(annotation: Any) -> Callable[[Any], Any]:
    """A handler with this annotation that returns what it got."""

    def handler(data: Any) -> Any:
        return data

    handler.__annotations__["data"] = annotation
    return handler


def returning(annotation: Any) -> Callable[[Any], Any]:
    def handler(data: Any) -> Any:
        return data

    handler.__annotations__["return"] = annotation
    return handler


# -- what can be a handler -------------------------------------------------------------------------------------------


async def coroutine_function(data): ...
def plain_function(data): ...


class AsyncCallable:
    async def __call__(self, data: Item) -> Item:
        return data

    async def method(self, data: Item) -> Item:
        return data

    def plain(self, data): ...


class PlainCallable:
    def __call__(self, data): ...


@functools.wraps(coroutine_function)
def hiding_wrapper(*args, **kwargs):
    return coroutine_function(*args, **kwargs)


@pytest.mark.parametrize(
    ("handler", "is_async"),
    [
        (coroutine_function, True),
        (functools.partial(coroutine_function), True),
        (functools.partial(functools.partial(coroutine_function)), True),
        (AsyncCallable(), True),
        (functools.partial(AsyncCallable()), True),
        (AsyncCallable().method, True),
        (AsyncMock(), True),
        (plain_function, False),
        (functools.partial(plain_function), False),
        (PlainCallable(), False),
        (AsyncCallable().plain, False),
        (AsyncCallable, False),
        (Mock(), False),
        (print, False),
        (lambda data: data, False),
        (hiding_wrapper, False),
    ],
    ids=shown,
)
def test_coroutine_functions_are_found_behind_partials_and_call(handler: Any, is_async: bool) -> None:
    """A.10."""
    assert bind("f", handler).is_async is is_async


@pytest.mark.parametrize("handler", [None, 5, "greet", {"id": "f"}, Item(sku="a")], ids=shown)
def test_what_cannot_be_called_is_a_type_error_that_names_it(handler: Any) -> None:
    with pytest.raises(TypeError, match="'shop::f' must be callable, not") as caught:
        bind("shop::f", handler)
    assert repr(handler) in str(caught.value)


def generator(data: Any) -> Iterator[int]:
    yield 1


async def async_generator(data: Any) -> AsyncIterator[int]:
    yield 1


class GeneratorCallable:
    def __call__(self, data: Any) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    "handler", [generator, async_generator, functools.partial(generator), GeneratorCallable()], ids=shown
)
def test_a_generator_is_a_type_error_with_a_hint(handler: Any) -> None:
    with pytest.raises(TypeError, match=r"'f' is a generator.*return a list"):
        bind("f", handler)


def test_a_sync_handler_can_be_run_on_the_loop() -> None:
    on_the_loop = bind("f", lambda data: data + 1, execution="async")
    assert on_the_loop.is_async
    assert call(on_the_loop, 1) == 2


def test_a_sync_handler_that_returns_an_awaitable_is_awaited_on_the_loop() -> None:
    """A decorator that is no coroutine function hides that the handler is one."""

    async def handler(data: int) -> str:
        return f"got {data}"

    def hiding(data: int) -> Awaitable[str]:
        return handler(data)

    pending = bind("f", hiding).handler(1)
    assert inspect.iscoroutine(pending)
    pending.close()
    assert call(bind("f", hiding, execution="async"), 1) == "got 1"


def test_an_async_handler_stays_itself_on_the_loop_and_cannot_run_in_a_thread() -> None:
    assert bind("f", coroutine_function, execution="async").handler is coroutine_function
    assert bind("f", plain_function, execution="thread").is_async is False
    with pytest.raises(TypeError, match="'f' is async and cannot run in a thread"):
        bind("f", coroutine_function, execution="thread")


# -- what is published -----------------------------------------------------------------------------------------------


async def typed(order: Order) -> Item: ...  # type: ignore[empty-body]


@pytest.mark.parametrize("validate", [None, True, False])
def test_formats_come_from_the_annotations(validate: bool | None) -> None:
    binding = bind("f", typed, validate=validate)
    assert binding.request_format == python_type_to_format(Order)
    assert binding.response_format == python_type_to_format(Item)


def test_an_explicit_format_wins_over_the_annotation() -> None:
    binding = bind(
        "f", typed, request_format={"type": "string"}, response_format=RegisterFunctionFormat(name="r", type="map")
    )
    assert binding.request_format == {"type": "string"}
    assert binding.response_format == {"name": "r", "type": "map", "required": False}
    assert bind("f", plain_function, request_format=Item).request_format == python_type_to_format(Item)


def test_pydantic_describes_what_upstreams_table_leaves_out() -> None:
    def handler(data: Pair) -> Literal["a", "b"]: ...  # type: ignore[empty-body]

    binding = bind("f", handler)
    assert binding.request_format is not None
    assert set(binding.request_format["properties"]) == {"left", "day"}
    assert binding.response_format is not None
    assert binding.response_format["enum"] == ["a", "b"]
    assert "$schema" in binding.response_format


@pytest.mark.parametrize("handler", [plain_function, print, AsyncCallable, Mock(), lambda: None], ids=shown)
def test_handlers_without_annotations_have_no_formats(handler: Any) -> None:
    binding = bind("f", handler)
    assert binding.request_format is None
    assert binding.response_format is None


def with_prefix(prefix: str, order: Order) -> Item: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("handler", "request_type"),
    [(AsyncCallable(), Item), (AsyncCallable().method, Item), (functools.partial(with_prefix, "x"), Order)],
    ids=shown,
)
def test_objects_methods_and_partials_are_read_as_the_function_they_call(handler: Any, request_type: Any) -> None:
    """More than upstream, which reads functions and methods only; the table of A.8 is about ``extract_*``."""
    binding = bind("f", handler)
    assert binding.request_format == python_type_to_format(request_type)
    assert binding.response_format == python_type_to_format(Item)
    assert isinstance(binding.call_args(ORDER if request_type is Order else ITEM, ABSENT)[0][0], request_type)


def unresolvable(order: Missing, metadata: Any) -> Item: ...  # type: ignore[name-defined,empty-body]  # noqa: F821


def test_annotations_that_do_not_resolve_publish_and_check_nothing() -> None:
    """A.8."""
    binding = bind("f", unresolvable)
    assert (binding.request_format, binding.response_format) == (None, None)
    assert binding.call_args({"a": 1}, {"m": 1}) == (({"a": 1}, {"m": 1}), {})
    assert binding.outcome({"a": 1}) == {"a": 1}
    with pytest.raises(TypeError, match="'f' do not resolve"):
        bind("f", unresolvable, validate=True)


class Unfinished(BaseModel):
    later: Later  # type: ignore[name-defined]  # noqa: F821


def test_a_model_that_does_not_resolve_publishes_and_checks_nothing() -> None:
    binding = bind("f", accepting(Unfinished))
    assert binding.request_format is None
    assert binding.call_args({"a": 1}, ABSENT) == (({"a": 1},), {})


# -- data and metadata (A.10, A-20) ----------------------------------------------------------------------------------

DATA = {"a": 1}
META = {"m": 1}


def first_only(data): ...
def second_positional(data, metadata): ...
def second_with_default(data, metadata=None): ...
def positional_only(data, metadata, /): ...
def keyword_only(data, *, metadata): ...
def keyword_only_behind_others(data, other=0, *, more=0, metadata=None): ...
def after_many(*data, metadata): ...
def third(data, other=0, metadata=None): ...
def first(metadata): ...
def another_second(data, context=None): ...
def many(*args): ...
def keywords(data, **kwargs): ...


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (first_only, ((DATA,), {})),
        (second_positional, ((DATA, META), {})),
        (second_with_default, ((DATA, META), {})),
        (positional_only, ((DATA, META), {})),
        (keyword_only, ((DATA,), {"metadata": META})),
        (keyword_only_behind_others, ((DATA,), {"metadata": META})),
        (after_many, ((DATA,), {"metadata": META})),
        (third, ((DATA,), {})),
        (first, ((DATA,), {})),
        (another_second, ((DATA,), {})),
        (many, ((DATA,), {})),
        (keywords, ((DATA,), {})),
        (max, ((DATA,), {})),  # cannot be inspected
        (AsyncCallable().plain, ((DATA,), {})),
        (functools.partial(third, other=1), ((DATA,), {"metadata": META})),  # what follows is keyword-only then
    ],
    ids=shown,
)
def test_metadata_is_passed_to_a_second_or_keyword_parameter_of_that_name(handler: Any, expected: Any) -> None:
    assert bind("f", handler).call_args(DATA, META) == expected


@pytest.mark.parametrize("handler", [second_with_default, keyword_only], ids=shown)
def test_metadata_that_was_not_sent_is_none(handler: Any) -> None:
    args, kwargs = bind("f", handler).call_args(DATA, ABSENT)
    assert [*args[1:], *kwargs.values()] == [None]


def no_parameters(): ...
def metadata_alone(*, metadata): ...
def data_by_keyword(*, order: Order): ...
def both_by_keyword(*, metadata: dict[str, str], data): ...
def only_keywords(**kwargs): ...


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (no_parameters, ((), {})),
        (metadata_alone, ((), {"metadata": META})),
        (data_by_keyword, ((), {"order": Order(items=[])})),
        (both_by_keyword, ((), {"metadata": META, "data": {"items": []}})),
        (only_keywords, (({"items": []},), {})),
    ],
)
def test_handlers_that_take_no_positional_argument_are_called_all_the_same(handler: Any, expected: Any) -> None:
    """Upstream passes the data by position, so each of these calls fails there; the last still does."""
    assert bind("f", handler).call_args({"items": []}, META) == expected


def test_metadata_goes_beside_a_validated_payload() -> None:
    def handler(item: Item, metadata: dict[str, Any] | None = None) -> Any: ...

    assert bind("f", handler).call_args(ITEM, META) == ((Item(sku="a", qty=2), META), {})


# -- payloads that are not checked -----------------------------------------------------------------------------------

RAW: list[Any] = [
    Any,
    object,
    dict,
    list,
    dict[str, Any],
    dict[str, object],
    list[Any],
    Mapping,
    Mapping[str, Any],
    dict | None,
    dict[str, Any] | list[Any] | None,
    T,
    Callable[[], Awaitable[int]] | anyio.Event,  # pydantic has nothing for the second
    anyio.Event,
    Unfinished,
]


@pytest.mark.parametrize("annotation", RAW, ids=shown)
def test_annotations_that_say_nothing_leave_the_payload_as_it_came(annotation: Any) -> None:
    binding = bind("f", accepting(annotation))
    for data in ({"a": {"b": [1, None]}, "_caller_worker_id": "w"}, [1], "text", 5, None):
        assert binding.call_args(data, ABSENT)[0][0] is data


@pytest.mark.parametrize("annotation", [Order, int, dict[str, int], Pair])
def test_validate_false_passes_everything_raw(annotation: Any) -> None:
    binding = bind("f", accepting(annotation), validate=False)
    data = {"_caller_worker_id": "w", "whatever": object()}
    assert binding.call_args(data, ABSENT)[0][0] is data
    assert bind("f", returning(annotation), validate=False).outcome(data) is data


@pytest.mark.parametrize(
    "annotation",
    [
        iii_helpers.http.HttpRequest,
        iii_helpers.http.HttpRequest[Item],
        iii_helpers.http.HttpRequest | None,
        iii_helpers.stream.StreamSetInput,
        list[iii_helpers.stream.StreamSetInput],
    ],
    ids=shown,
)
def test_handlers_that_name_upstreams_models_get_upstreams_dict(annotation: Any) -> None:
    """A.10: no upstream handler ever saw such a model; ``Model(**data)`` is the first line of all of them."""
    data = {"body": 1}
    assert bind("f", accepting(annotation)).call_args(data, ABSENT)[0][0] is data


def test_validate_true_wants_every_annotation_to_be_usable() -> None:
    with pytest.raises(TypeError, match=r"cannot validate .*Event.* of the handler of 'f'"):
        bind("f", accepting(anyio.Event), validate=True)
    with pytest.raises(TypeError, match=r"cannot validate .*Event.* of the handler of 'f'"):
        bind("f", returning(anyio.Event), validate=True)
    assert bind("f", typed, validate=True).call_args(ORDER, ABSENT)[0][0].customer_name == "Bob"
    assert bind("f", plain_function, validate=True).call_args(DATA, ABSENT)[0][0] is DATA


# -- payloads that are -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "data", "expected"),
    [
        (Order, ORDER, Order(items=[Item(sku="a", qty=2)], customerName="Bob")),
        (Item | None, None, None),
        (Item | None, {"sku": "a"}, Item(sku="a")),
        (list[Item], [ITEM], [Item(sku="a", qty=2)]),
        (Pair, {"left": 1, "day": "2026-01-31"}, Pair(1, date(2026, 1, 31))),
        (Point, {"x": 1}, {"x": 1}),
        (Colour, "red", Colour.RED),
        (date, "2026-01-31", date(2026, 1, 31)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 1], {1}),
        (Literal["a"], "a", "a"),
        (Annotated[int, Field(gt=0)], 5, 5),
        (dict[str, date], {"a": "2026-01-31"}, {"a": date(2026, 1, 31)}),
        (int | str, "5", "5"),
        (type(None), None, None),
    ],
    ids=shown,
)
def test_a_payload_arrives_as_its_annotation_says(annotation: Any, data: Any, expected: Any) -> None:
    value = bind("f", accepting(annotation)).call_args(data, ABSENT)[0][0]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "data"),
    [
        (str, ""),
        (int, 5),
        (float, 0.5),
        (bool, False),
        (list[int], [1]),
        (dict[str, bool], {"a": True}),
        (int | None, None),
    ],
    ids=shown,
)
def test_jsons_own_types_pass_unchanged(annotation: Any, data: Any) -> None:
    value = bind("f", accepting(annotation)).call_args(data, ABSENT)[0][0]
    assert value == data
    assert type(value) is type(data)


def test_an_integer_is_a_number() -> None:
    value = bind("f", accepting(float)).call_args(5, ABSENT)[0][0]
    assert (value, type(value)) == (5.0, float)
    assert bind("f", accepting(list[float])).call_args([1, 0.5], ABSENT)[0][0] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("annotation", "data"),
    [
        (int, "5"),
        (int, 5.0),
        (int, True),
        (int, None),
        (float, "0.5"),
        (float, True),
        (bool, 1),
        (bool, "true"),
        (str, 5),
        (str, None),
        (list[int], ["5"]),
        (list[int], {"0": 5}),
        (dict[str, int], {"a": "5"}),
        (dict[str, int], []),
        (int | None, "5"),
        (Annotated[int, Field(gt=0)], 0),
        (type(None), 0),
    ],
    ids=shown,
)
def test_jsons_own_types_are_not_converted(annotation: Any, data: Any) -> None:
    """What the published schema refuses is refused."""
    assert payload_refusal(accepting(annotation), data)


@pytest.mark.parametrize("annotation", [Item, dict[str, str | int]], ids=shown)
def test_the_callers_worker_id_is_taken_out_before_validation(annotation: Any) -> None:
    """§7.2: the engine adds it; ``Item`` forbids extra keys and the other one would keep it."""
    sent = {**ITEM, "_caller_worker_id": "w"}
    value = bind("f", accepting(annotation)).call_args(sent, ABSENT)[0][0]
    assert value in (Item(sku="a", qty=2), ITEM)
    assert "_caller_worker_id" in sent, "the payload itself is not changed: others may look at it"


class KnowsCaller(BaseModel):
    caller: str = Field(alias="_caller_worker_id")


class KnowsCallerToo(BaseModel):
    caller: str = Field(validation_alias=AliasChoices("caller", "_caller_worker_id"))


@pytest.mark.parametrize("model", [KnowsCaller, KnowsCallerToo])
def test_a_model_with_a_field_for_the_caller_gets_it(model: Any) -> None:
    value = bind("f", accepting(model)).call_args({"_caller_worker_id": "w"}, ABSENT)[0][0]
    assert value.caller == "w"


def test_a_null_payload_gives_a_parameter_its_default() -> None:
    """``trigger("f")`` sends null: the wire has no other form of "nothing"."""

    def handler(name: str = "world", metadata: Any = None) -> str: ...  # type: ignore[empty-body]
    def optional(name: str | None = "world") -> str: ...  # type: ignore[empty-body]

    assert bind("f", handler).call_args(None, META) == (("world", META), {})
    assert bind("f", handler).call_args("Ada", META) == (("Ada", META), {})
    assert bind("f", optional).call_args(None, ABSENT) == ((None,), {})


async def http_handler(request: ApiRequest[Item]) -> ApiResponse[Item]:
    return ApiResponse(status_code=201, body=request.body)


def test_an_http_handler_gets_a_request_that_is_a_mapping_too() -> None:
    """Design §4: ``HttpRequest(**data)`` and ``data["body"]`` go on working."""
    data = {"body": ITEM, "path_params": {"id": "1"}, "path": "/x", "trigger": {"type": "http"}}
    ((request,), _) = bind("f", http_handler).call_args(data, ABSENT)
    assert request.body == request["body"] == HttpRequest(**request).body == Item(sku="a", qty=2)
    assert request["trigger"] == {"type": "http"}
    assert (
        "_caller_worker_id" not in bind("f", http_handler).call_args({**data, "_caller_worker_id": "w"}, ABSENT)[0][0]
    )


# -- what the caller of a bad payload is told ------------------------------------------------------------------------

SECRET = "hunter2"


def test_a_refusal_names_the_function_and_every_field() -> None:
    message = payload_refusal(typed, {"items": [{"sku": "a", "qty": 0}, {}], "more": 1})
    assert message == (
        "the payload does not fit 'shop::f': items[0].qty: Input should be greater than 0; "
        "items[1].sku: Field required; more: Extra inputs are not permitted"
    )


def test_a_refusal_of_the_whole_payload_names_the_payload() -> None:
    assert payload_refusal(accepting(int), "5") == (
        "the payload does not fit 'shop::f': payload: Input should be a valid integer"
    )


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


@pytest.mark.parametrize(
    ("annotation", "data"),
    [
        (Order, {"items": [{"sku": "a", "qty": SECRET}]}),
        (int, SECRET),
        (Literal["a", "b"], SECRET),
        (Colour, SECRET),
        (uuid.UUID, SECRET),
        (date, SECRET),
        (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": SECRET}),
        (Annotated[str, Field(pattern="^a$")], SECRET),
        (Annotated[str, Field(max_length=2)], SECRET),
    ],
    ids=shown,
)
def test_a_refusal_quotes_no_value(annotation: Any, data: Any) -> None:
    binding = bind("shop::f", accepting(annotation))
    with pytest.raises(InvocationError) as caught:
        binding.call_args(data, ABSENT)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert "`" not in caught.value.message.replace("`urn", ""), "not even one character of it"


def test_a_refusal_is_short_however_much_is_wrong() -> None:
    message = payload_refusal(accepting(list[int]), ["x"] * 1000)
    assert message.count("Input should be") == 10
    assert message.endswith("; and 990 more")


# -- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("annotation", [Order, int, list[Item], None, ApiResponse[Item], Item | None], ids=shown)
def test_none_stays_none(annotation: Any) -> None:
    """H-51: a handler that streams its answer returns nothing, whatever it declares."""
    assert bind("f", returning(annotation)).outcome(None) is None


@pytest.mark.parametrize("result", [5, "text", True, 0.5, [1], (1, 2), {"a": 1}, Item(sku="a"), object()], ids=shown)
@pytest.mark.parametrize("handler", [plain_function, returning(Any), returning(object), returning(anyio.Event)])
def test_results_without_an_annotation_to_check_are_left_alone(handler: Any, result: object) -> None:
    assert bind("f", handler).outcome(result) is result


def test_a_dict_becomes_the_declared_model_and_a_model_stays_itself() -> None:
    binding = bind("f", returning(Item))
    assert binding.outcome({"sku": "a"}) == Item(sku="a")
    item = Item(sku="b")
    assert binding.outcome(item) is item


def test_a_subclass_of_the_declared_model_keeps_its_fields() -> None:
    class Special(Item):
        gift: bool = True

    assert from_json(to_json(bind("f", returning(Item)).outcome(Special(sku="a")))) == {
        "sku": "a",
        "qty": 1,
        "gift": True,
    }


@pytest.mark.parametrize(
    ("annotation", "result", "wire"),
    [
        (Order, Order(items=[], customerName="Bob"), {"items": [], "customerName": "Bob"}),
        (list[Order], [{"items": []}], [{"items": [], "customerName": "Ada"}]),
        (dict[str, Item] | None, {"a": {"sku": "x"}}, {"a": {"sku": "x", "qty": 1}}),
        (Pair, Pair(1, date(2026, 1, 31)), {"left": 1, "day": "2026-01-31"}),
        (Pair, {"left": 1, "day": "2026-01-31"}, {"left": 1, "day": "2026-01-31"}),
        (date, date(2026, 1, 31), "2026-01-31"),
        (Colour, Colour.RED, "red"),
        (set[int], {1}, [1]),
        (tuple[int, date], (1, date(2026, 1, 31)), [1, "2026-01-31"]),
        (Point, {"x": 1}, {"x": 1}),
        (float, 5, 5.0),
        (list[str], ("a", "b"), ["a", "b"]),
    ],
    ids=shown,
)
def test_a_result_goes_out_as_its_annotation_says(annotation: Any, result: Any, wire: Any) -> None:
    assert from_json(to_json(bind("f", returning(annotation)).outcome(result))) == wire


@pytest.mark.parametrize(
    ("annotation", "result", "expected"),
    [
        (Item, {"qty": 1}, "sku: Field required"),
        (list[Item], [{"sku": "a"}, {"sku": "a", "qty": SECRET}], "[1].qty: Input should be a valid integer"),
        (int, SECRET, "result: Input should be a valid integer"),
        (None, 5, "result: Input should be None"),
        (Item, Cat(kind="cat"), "sku: Field required"),
        (Item, Item, "result: Input should be a valid dictionary or instance of Item"),
    ],
    ids=shown,
)
def test_a_result_that_its_annotation_forbids_is_refused(annotation: Any, result: Any, expected: str) -> None:
    message = result_refusal(returning(annotation), result)
    assert message.startswith("'shop::f' returned what its annotation forbids: ")
    assert expected in message
    assert SECRET not in message


# -- HTTP answers (A.15, H-37) ---------------------------------------------------------------------------------------

ANSWER = {"status_code": 201, "body": {"sku": "a", "qty": 1}, "headers": {"x-a": "b"}}


def wire(result: object, handler: Any = plain_function) -> Any:
    return from_json(to_json(bind("f", handler).outcome(result)))


@pytest.mark.parametrize(
    "handler",
    [
        plain_function,
        http_handler,
        returning(HttpResponse),
        returning(HttpResponse[Any] | None),
        returning(iii_helpers.http.HttpResponse[Any]),
        returning(dict[str, Any]),
    ],
    ids=["bare", "ApiResponse[Item]", "HttpResponse", "optional", "upstreams", "dict"],
)
@pytest.mark.parametrize(
    "response",
    [
        HttpResponse(status_code=201, body=Item(sku="a"), headers={"x-a": "b"}),
        ApiResponse[Item](statusCode=201, body=Item(sku="a"), headers={"x-a": "b"}),
        iii_helpers.http.HttpResponse(statusCode=201, body=Item(sku="a"), headers={"x-a": "b"}),
        iii_helpers.http.HttpResponse[Item](statusCode=201, body={"sku": "a", "qty": 1}, headers={"x-a": "b"}),
    ],
    ids=["ours", "ours generic", "upstreams", "upstreams generic"],
)
def test_a_response_reaches_the_engine_with_status_code(handler: Any, response: BaseModel) -> None:
    assert wire(response, handler) == ANSWER


@pytest.mark.parametrize("handler", [plain_function, returning(dict), returning(dict[str, Any])])
def test_a_dict_with_the_alias_gets_status_code_added(handler: Any) -> None:
    """The card's idiom: ``return ApiResponse(...).model_dump(by_alias=True)``."""
    dumped = HttpResponse(status_code=404).model_dump(by_alias=True)
    assert wire(dumped, handler) == {"statusCode": 404, "body": None, "headers": {}, "status_code": 404}
    assert "status_code" not in dumped, "the handler's dict is its own"


def test_a_dict_is_made_the_declared_response() -> None:
    for result in ({"statusCode": 404}, {"status_code": 404}):
        assert wire(result, http_handler) == {"status_code": 404, "body": None, "headers": {}}
    assert "status_code: Input should be" in result_refusal(http_handler, {"status_code": "gone"})


@pytest.mark.parametrize(
    "result",
    [
        {"statusCode": True},
        {"statusCode": "404"},
        {"statusCode": 404.0},
        {"statusCode": None},
        {"statusCode": 404, "status_code": 500},
        {"status_code": 404},
        {"nested": {"statusCode": 404}},
    ],
    ids=shown,
)
def test_other_dicts_are_left_alone(result: dict[str, Any]) -> None:
    assert bind("f", plain_function).outcome(result) is result


def test_a_subclass_of_dict_gets_status_code_too() -> None:
    class Answer(dict[str, Any]):
        pass

    assert wire(Answer(statusCode=HTTPStatus.NOT_FOUND)) == {"statusCode": 404, "status_code": 404}


class ForeignAnswer(BaseModel):
    model_config = ConfigDict(extra="allow")

    statusCode: int


class Shipment(BaseModel):
    status_code: str = Field(alias="statusCode")


class PlainAnswer(BaseModel):
    status_code: int


class OtherAlias(BaseModel):
    status_code: int = Field(serialization_alias="httpStatus")


def test_models_of_any_package_with_an_http_status_are_answers() -> None:
    assert wire(ForeignAnswer.model_validate({"statusCode": 404, "body": 1})) == {
        "statusCode": 404,
        "body": 1,
        "status_code": 404,
    }
    assert wire(OtherAlias(status_code=404)) == {"status_code": 404}
    for model in (Shipment(statusCode="shipped"), PlainAnswer(status_code=404)):
        assert bind("f", plain_function).outcome(model) is model


class OwnSerializer(HttpResponse[Any]):
    @field_serializer("body")
    def shout(self, body: Any) -> str:
        return f"{body}!"


class WithComputed(HttpResponse[Any]):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def family(self) -> int:
        return self.status_code // 100


class WithExcluded(HttpResponse[Any]):
    note: str = Field(default="internal", exclude=True)


class WithAnnotated(HttpResponse[Any]):
    day: Annotated[date, PlainSerializer(lambda value: value.year)] = date(2026, 1, 31)


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (OwnSerializer, {"body": "hi!"}),
        (WithComputed, {"body": "hi", "family": 4}),
        (WithExcluded, {"body": "hi"}),
        (WithAnnotated, {"body": "hi", "day": 2026}),
    ],
)
def test_a_response_keeps_its_own_way_of_serialising(cls: type[HttpResponse[Any]], expected: dict[str, Any]) -> None:
    assert wire(cls(status_code=404, body="hi")) == {"status_code": 404, "headers": {}, **expected}


def test_a_body_is_encoded_as_the_same_value_is_anywhere_else() -> None:
    """The body stays an object until the codec sees it: dates are written, NaN is refused there."""
    response = ApiResponse(status_code=200, body={"day": date(2026, 1, 31)})
    assert wire(response)["body"] == {"day": "2026-01-31"}
    with pytest.raises(ValueError, match="NaN"):
        wire(ApiResponse(status_code=200, body={"x": float("nan")}))


class Dumps:
    """Not pydantic's, but with its method."""

    def model_dump(self, *, by_alias: bool = False) -> dict[str, Any]:
        return {"statusCode" if by_alias else "status_code": 404}


def test_objects_with_model_dump_are_dumped_by_alias() -> None:
    assert wire(Dumps()) == {"statusCode": 404, "status_code": 404}
    assert wire(Dumps(), http_handler) == {"status_code": 404, "body": None, "headers": {}}
    assert bind("f", plain_function).outcome(Dumps) is Dumps


# -- the whole -------------------------------------------------------------------------------------------------------


def test_a_handler_is_called_and_answers() -> None:
    async def add(pair: list[int], metadata: Any) -> dict[str, int]:
        return {"sum": sum(pair), "factor": metadata["factor"]}

    assert call(bind("math::add", add), [1, 2], {"factor": 2}) == {"sum": 3, "factor": 2}
    assert call(bind("shop::create", http_handler), {"body": ITEM}) == {
        "status_code": 201,
        "body": Item(sku="a", qty=2),
        "headers": {},
    }


def test_models_defined_in_the_registering_function_are_found() -> None:
    class Local(BaseModel):
        n: int

    def handler(data: Local) -> int:
        return data.n

    assert bind("f", handler).call_args({"n": 1}, ABSENT) == ((Local(n=1),), {})


def test_annotations_that_do_not_resolve_are_said_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def handler(data: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    assert bind("f", handler).call_args({"n": 1}, ABSENT) == (({"n": 1},), {})
    assert "'f' do not resolve" in caplog.text
    caplog.clear()
    bind("f", handler, validate=False)
    assert not caplog.text
