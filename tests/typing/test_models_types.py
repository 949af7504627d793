"""What type checkers see of the models; the assertions are theirs, running it only shows that the code is real."""

from __future__ import annotations

from typing import Any, assert_type

from pydantic import BaseModel

from iii_anyio.functions import FunctionRef
from iii_anyio.http import ApiRequest, ApiResponse, HttpRequest, HttpResponse
from iii_anyio.trigger import Trigger, TriggerAction, TriggerActionEnqueue, TriggerActionVoid, TriggerTypeRef


class Order(BaseModel):
    qty: int


def test_the_body_of_a_request_has_the_type_of_its_parameter() -> None:
    typed = ApiRequest[Order](body=Order(qty=1))
    assert_type(typed.body, Order)
    assert_type(typed.body.qty, int)
    assert_type(typed.path_params, dict[str, str])
    assert_type(typed["body"], Any)
    bare: HttpRequest = HttpRequest()
    assert_type(bare.body, Any)


def test_a_response_is_made_with_either_spelling() -> None:
    for response in (ApiResponse[Order](status_code=201), ApiResponse[Order](statusCode=201, body=Order(qty=1))):
        assert_type(response.status_code, int)
        assert_type(response.body, Any)
    bare: HttpResponse = HttpResponse(status_code=204)
    assert_type(bare.headers, dict[str, str])


def test_actions_have_types_of_their_own() -> None:
    assert_type(TriggerAction.Enqueue(queue="q"), TriggerActionEnqueue)
    assert_type(TriggerAction.Void(), TriggerActionVoid)


def test_a_trigger_type_ref_knows_its_config_and_payload() -> None:
    def use(ref: TriggerTypeRef[Order, dict[str, int]]) -> None:
        def handler(call: dict[str, int]) -> None: ...

        assert_type(ref.register_trigger("f", Order(qty=1)), Trigger)
        assert_type(ref.register_function("f", handler), FunctionRef)
        ref.register_trigger("f", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    assert callable(use)
