"""Stream models, A.16 and A-8; ``IStream`` warns as upstream's does (A-15). What parity does not show is here."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from typing import Any

import iii_helpers.stream as upstream
import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from iii_anyio._protocol.codec import to_json
from iii_anyio.stream import (
    IStream,
    StreamChangeEvent,
    StreamDeleteResult,
    StreamGetInput,
    StreamSetResult,
    StreamUpdateInput,
    StreamUpdateResult,
    UpdateAppend,
    UpdateDecrement,
    UpdateIncrement,
    UpdateMerge,
    UpdateOp,
    UpdateOpError,
    UpdateRemove,
    UpdateSet,
)

OPS: list[UpdateOp] = [
    UpdateSet(path="status", value="on"),
    UpdateIncrement(path="n", by=2),
    UpdateDecrement(path="n", by=1),
    UpdateAppend(path="events", value={"k": 1}),
    UpdateRemove(path="draft"),
    UpdateMerge(path=["cfg", "ui"], value={"dark": True}),
]
WIRE: list[dict[str, Any]] = [
    {"type": "set", "path": "status", "value": "on"},
    {"type": "increment", "path": "n", "by": 2},
    {"type": "decrement", "path": "n", "by": 1},
    {"type": "append", "path": "events", "value": {"k": 1}},
    {"type": "remove", "path": "draft"},
    {"type": "merge", "path": ["cfg", "ui"], "value": {"dark": True}},
]

op: TypeAdapter[UpdateOp] = TypeAdapter(UpdateOp)


class Item(BaseModel):
    qty: int


# -- update operations -----------------------------------------------------------------------------------------------


def test_each_operation_dumps_and_parses_as_on_the_wire() -> None:
    """§2.2 of the engine's behaviour."""
    assert [item.model_dump() for item in OPS] == WIRE
    assert TypeAdapter(list[UpdateOp]).validate_python(WIRE) == OPS
    assert TypeAdapter(list[UpdateOp]).validate_json(json.dumps(WIRE)) == OPS


def test_operations_are_told_apart_by_their_type() -> None:
    """A.25, 20: upstream reads this merge as an append."""
    merge = {"type": "merge", "value": {}}
    assert op.validate_python(merge) == UpdateMerge(value={})
    read_by_upstream: object = TypeAdapter(upstream.UpdateOp).validate_python(merge)
    assert type(read_by_upstream) is upstream.UpdateAppend


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"type": "push", "path": "a", "value": 1}, "push"),
        ({"path": "a", "value": 1}, "discriminator"),
        ({"type": "set", "path": ["a"], "value": 1}, "path"),
        ({"type": "set", "value": 1}, "path"),
        ({"type": "merge", "path": "a"}, "value"),
        ({"type": "increment", "path": "n", "by": 1.5}, "by"),
        ("set", "dict"),
    ],
    ids=["unknown type", "no type", "list path", "no path", "no value", "fraction", "no object"],
)
def test_an_operation_that_the_engine_cannot_read_is_refused_here(wrong: object, reason: str) -> None:
    """UO-1, UO-3, UO-4: it would fail the whole call."""
    with pytest.raises(ValidationError, match=reason):
        op.validate_python(wrong)


def test_an_amount_leaves_as_an_integer() -> None:
    """UO-3: the engine refuses 1.0."""
    assert op.validate_python({"type": "increment", "path": "n", "by": 2.0}).model_dump_json() == (
        '{"type":"increment","path":"n","by":2}'
    )


@pytest.mark.parametrize("cls", [UpdateAppend, UpdateMerge])
@pytest.mark.parametrize("path", ["", [], "a", "a.b", ["a", "b"], ["a.b"]])
def test_a_path_is_kept_as_it_was_given(cls: type[UpdateAppend | UpdateMerge], path: Any) -> None:
    """A-8: dots are literal; ``""`` and ``[]`` are written."""
    dumped = json.loads(cls(path=path, value={}).model_dump_json())
    assert dumped == {"type": cls(value={}).type, "path": path, "value": {}}
    assert op.validate_python(dumped) == cls(path=path, value={})


@pytest.mark.parametrize("cls", [UpdateAppend, UpdateMerge])
def test_no_path_is_not_written(cls: type[UpdateAppend | UpdateMerge]) -> None:
    """A-8: absent and None are the same; the null of older clients is read."""
    kind = cls(value=1).type
    for made in (cls(value=1), cls(path=None, value=1), cls.model_validate({"type": kind, "path": None, "value": 1})):
        assert made.path is None
        assert made.model_dump() == made.model_dump(by_alias=True) == {"type": kind, "value": 1}
        assert to_json(made) == b'{"type":"%s","value":1}' % kind.encode()


def test_other_nulls_are_written() -> None:
    assert UpdateAppend(value=None).model_dump() == {"type": "append", "value": None}
    assert UpdateSet(path="a", value=None).model_dump() == {"type": "set", "path": "a", "value": None}


def test_operations_of_upstream_are_taken() -> None:
    """Programs that migrate in steps pass them on."""
    theirs = [getattr(upstream, type(item).__name__)(**item.model_dump()) for item in OPS]
    made = StreamUpdateInput(stream_name="s", group_id="g", item_id="i", ops=theirs)
    assert made.ops == OPS


def test_the_schema_of_an_operation_still_has_its_path() -> None:
    for mode in ("validation", "serialization"):
        assert "path" in UpdateAppend.model_json_schema(mode=mode)["properties"]


# -- results and events ----------------------------------------------------------------------------------------------


def test_errors_of_an_update_round_trip() -> None:
    error = UpdateOpError(op_index=0, code="merge.path.too_deep", message="Path depth 33 exceeds maximum of 32")
    result = StreamUpdateResult[dict[str, int]](new_value={"a": 1}, errors=[error])
    assert StreamUpdateResult[dict[str, int]].model_validate_json(result.model_dump_json()) == result
    assert StreamUpdateResult[Any].model_validate({"new_value": None}).errors == []


def test_values_of_results_are_of_the_type_of_the_parameter() -> None:
    answer = {"old_value": None, "new_value": {"qty": 1}}
    assert StreamSetResult[Item].model_validate(answer).new_value == Item(qty=1)
    assert StreamSetResult.model_validate(answer).new_value == {"qty": 1}
    assert StreamSetResult[Any](new_value=None).new_value is None
    with pytest.raises(ValidationError, match="qty"):
        StreamSetResult[Item].model_validate({"new_value": {"qty": "many"}})


def test_a_result_without_the_new_value_is_malformed() -> None:
    """SR-21."""
    with pytest.raises(ValidationError, match="new_value"):
        StreamSetResult[Any].model_validate({"old_value": 1})
    assert StreamDeleteResult.model_validate({}).old_value is None


def test_a_change_is_read_by_attribute_and_by_key() -> None:
    """SR-8, SR-10. Upstream hands an annotated handler the dict itself."""
    payload = {
        "type": "stream",
        "timestamp": 1760000000000,
        "streamName": "chat",
        "groupId": "room1",
        "id": "m1",
        "event": {"type": "create", "data": {"t": "hi"}},
    }
    event = StreamChangeEvent.model_validate(payload)
    assert (event.streamName, event.event.type, event.event.data) == ("chat", "create", {"t": "hi"})
    assert (event["groupId"], event["event"]["data"]["t"], event.get("user")) == ("room1", "hi", None)
    assert StreamChangeEvent(**event) == event
    assert event.model_dump() == payload


def test_a_message_that_was_sent_is_an_event_too() -> None:
    """SR-13: ``stream`` triggers fire for ``stream::send``, whose shape upstream's model refuses."""
    payload = {
        "type": "stream",
        "timestamp": 1,
        "streamName": "chat",
        "groupId": "room1",
        "id": None,
        "event": {"type": "event", "event": {"type": "typing", "data": {}}},
    }
    detail = StreamChangeEvent.model_validate(payload).event
    assert (detail.type, detail.data, detail.event) == ("event", None, {"type": "typing", "data": {}})
    with pytest.raises(ValidationError):
        upstream.StreamChangeEvent.model_validate(payload)


# -- IStream ---------------------------------------------------------------------------------------------------------


def test_defining_a_stream_warns_at_the_class_statement() -> None:
    """A-15: text, category, file and line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        class Mine(IStream[Item]):
            pass

    [found] = caught
    assert found.category is FutureWarning
    assert str(found.message) == (
        "IStream is deprecated (iii-stream) and will be removed in an upcoming release. "
        "Behavior is unchanged for now. Migration guide: https://iii.dev/docs/upgrading/migrate-from-streams"
    )
    assert found.filename == __file__
    with open(__file__, encoding="utf-8") as source:
        assert source.readlines()[found.lineno - 1].strip() == "class Mine(IStream[Item]):"
    with pytest.raises(TypeError, match=r"delete.*get.*list.*list_groups.*set.*update"):
        Mine()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]


def test_importing_the_modules_of_streams_is_silent() -> None:
    """A-15."""
    program = "import iii_anyio.stream, iii_anyio.helpers, iii_anyio.compat as c; c.IStream[int]"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_inputs_are_read_by_key_too() -> None:
    wanted = StreamGetInput(stream_name="s", group_id="g", item_id="i")
    assert {**wanted} == {"stream_name": "s", "group_id": "g", "item_id": "i"}
