"""Every way to write a handler, called through an engine; and what its caller hears of a payload that does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from iii_anyio import InvocationError
from tests.api.workers import two_workers

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    item: str
    qty: int = 1


@dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict):
    colour: Literal["red", "green"]


def plain(data):  # as scripts have it
    return data


def of_dict(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if not key.startswith("_")}


async def of_model(order: Order) -> Order:
    return Order(item=order.item.upper(), qty=order.qty)


def of_dataclass(point: Point) -> int:
    return point.x + point.y


def of_typed_dict(options: Options) -> str:
    return options["colour"]


def of_annotated(amount: Annotated[int, Field(ge=1, description="how many")]) -> int:
    return amount


def of_list(orders: list[Order]) -> list[str]:
    return [order.item for order in orders]


def of_date(day: date) -> date:
    return day.replace(year=day.year + 1)


def with_default(amount: int = 7) -> int:
    return amount


def without_parameters() -> str:
    return "called"


def with_metadata(order: Order, metadata: dict[str, Any] | None = None) -> list[Any]:
    return [order.item, metadata]


def keyword_only(*, order: Order, metadata: Any = None) -> list[Any]:
    return [order.item, metadata]


class Service:
    """A method, and a callable object."""

    def total(self, order: Order) -> int:
        return order.qty * 2

    async def __call__(self, order: Order) -> str:
        return order.item


SHAPES: list[tuple[Callable[..., Any], Any, Any]] = [
    (plain, [1, None], [1, None]),
    (of_dict, {"a": 1}, {"a": 1}),
    (of_model, {"item": "pen"}, {"item": "PEN", "qty": 1}),
    (of_model, Order(item="ink", qty=2), {"item": "INK", "qty": 2}),
    (of_dataclass, {"x": 2}, 2),
    (of_dataclass, Point(2, 3), 5),
    (of_typed_dict, {"colour": "red"}, "red"),
    (of_annotated, 3, 3),
    (of_list, [{"item": "a"}, {"item": "b", "qty": 2}], ["a", "b"]),
    (of_date, "2024-01-31", "2025-01-31"),
    (with_default, 3, 3),
    (with_default, None, 7),
    (without_parameters, None, "called"),
    (with_metadata, {"item": "pen"}, ["pen", {"tenant": "a"}]),
    (keyword_only, {"item": "pen"}, ["pen", {"tenant": "a"}]),
    (Service().total, {"item": "pen", "qty": 3}, 6),
    (Service(), {"item": "pen"}, "pen"),
    (lambda data: data, "x", "x"),
]


async def test_a_handler_of_every_shape_gets_its_payload() -> None:
    async with two_workers() as (caller, callee):
        for number, (handler, _, _) in enumerate(SHAPES):
            callee.register_function(f"shape::{number}", handler)
        await callee.wait_ready()
        for number, (_, payload, expected) in enumerate(SHAPES):
            result = await caller.trigger_async(f"shape::{number}", payload, metadata={"tenant": "a"})
            assert result == expected, SHAPES[number][0]


REFUSED: list[tuple[Callable[..., Any], Any, str]] = [
    (of_model, {"qty": 1}, "item"),
    (of_model, {"item": "pen", "qty": "many"}, "qty"),
    (of_dataclass, {"x": "left"}, "x"),
    (of_typed_dict, {"colour": "blue"}, "colour"),
    (of_annotated, 0, "greater than or equal to 1"),
    (of_list, [{"item": "a"}, {"qty": 2}], "[1].item"),
    (of_date, "tomorrow", "date"),
    (with_default, "seven", "integer"),
    (with_metadata, {}, "item"),
    (keyword_only, {}, "item"),
    (Service().total, {}, "item"),
]


async def test_a_payload_that_does_not_fit_is_refused_with_the_name_of_the_field() -> None:
    async with two_workers() as (caller, callee):
        for number, (handler, _, _) in enumerate(REFUSED):
            callee.register_function(f"shape::{number}", handler)
        await callee.wait_ready()
        for number, (_, payload, field) in enumerate(REFUSED):
            with pytest.raises(InvocationError) as refusal:
                await caller.trigger_async(f"shape::{number}", payload)
            assert refusal.value.code == "invalid_payload"
            assert field in refusal.value.message, REFUSED[number]
            assert f"shape::{number}" in refusal.value.message
