"""``helpers``, ``utils``, ``process_marker``, ``introspection`` and ``compat``: small things with edges."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import iii.helpers  # type: ignore[import-untyped]
import iii.stream  # type: ignore[import-untyped]
import iii.utils  # type: ignore[import-untyped]
import pytest
from anyio import fail_after
from hypothesis import given
from hypothesis import strategies as st

from iii_anyio import (
    InitOptions,
    InvocationError,
    InvocationTimeoutError,
    StreamRequest,
    compat,
    helpers,
    open_worker,
    utils,
)
from iii_anyio._refs import StreamChannelRef
from iii_anyio.devengine import open_engine
from iii_anyio.helpers import ChannelDirection, ChannelItem, create_stream, extract_channel_refs, is_channel_ref
from iii_anyio.introspection import FunctionInfo, TriggerInfo, TriggerTypeInfo, WorkerInfo
from iii_anyio.process_marker import announce_process
from iii_anyio.stream import StreamDeleteResult, StreamSetResult, StreamUpdateResult

REF = {"channel_id": "c", "access_key": "k", "direction": "read"}


# -- create_stream ---------------------------------------------------------------------------------------------------


def make_stream(base: Any) -> Any:
    """A stream of either package that answers what it was asked; defining it warns (A-15)."""
    with pytest.warns(FutureWarning, match="IStream"):

        class Echo(base):
            async def get(self, wanted: Any) -> Any:
                return [type(wanted).__name__, wanted.model_dump()]

            async def set(self, wanted: Any) -> Any:
                return StreamSetResult[Any](old_value=None, new_value=wanted.data)

            async def delete(self, wanted: Any) -> Any:
                return StreamDeleteResult(old_value=wanted.item_id)

            async def list(self, wanted: Any) -> Any:
                return [wanted.group_id]

            async def list_groups(self, wanted: Any) -> Any:
                return [wanted.stream_name]

            async def update(self, wanted: Any) -> Any:
                return StreamUpdateResult[Any](new_value=[op.type for op in wanted.ops])

    return Echo()


@pytest.mark.anyio
@pytest.mark.parametrize("base", [compat.IStream, iii.stream.IStream], ids=["ours", "upstreams"])
async def test_a_stream_serves_all_six_operations(base: Any) -> None:
    """SR-18 to SR-21. ``update`` too: without it the engine updates a store that ``get`` does not read (SR-19)."""
    stream = make_stream(base)
    place = {"stream_name": "chat", "group_id": "room1", "item_id": "m1"}
    with fail_after(20):
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="streams")) as iii,
        ):
            with pytest.warns(FutureWarning):
                create_stream(iii, "chat", stream)
            await iii.wait_ready()

            async def ask(operation: str, payload: dict[str, Any]) -> Any:
                return await iii.trigger_async(f"stream::{operation}(chat)", payload)

            assert await ask("get", place) == ["StreamGetInput", place]
            assert await ask("set", {**place, "data": 5}) == {"old_value": None, "new_value": 5}
            assert await ask("delete", place) == {"old_value": "m1"}
            assert await ask("list", {"stream_name": "chat", "group_id": "room1"}) == ["room1"]
            assert await ask("list_groups", {"stream_name": "chat"}) == ["chat"]
            update = await ask("update", {**place, "ops": [{"type": "merge", "value": {}}]})
            assert update == {"old_value": None, "new_value": ["merge"], "errors": []}
            with pytest.raises(InvocationError) as caught:
                await ask("get", {"stream_name": "chat"})
            assert caught.value.code == "invalid_payload"


class Registrar:
    def __init__(self) -> None:
        self.functions: list[str] = []

    def register_function(self, function_id: str, handler_or_invocation: Any, /) -> None:
        self.functions.append(function_id)


def test_create_stream_warns_at_the_caller_and_registers() -> None:
    """A-15."""
    stream, registrar = make_stream(compat.IStream), Registrar()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        create_stream(registrar, "legacy", stream)
    [found] = caught
    assert (found.category, found.filename) == (FutureWarning, __file__)
    assert str(found.message) == iii.helpers._CREATE_STREAM_DEPRECATION
    with open(__file__, encoding="utf-8") as source:
        assert "create_stream(registrar" in source.readlines()[found.lineno - 1]
    assert registrar.functions == [
        f"stream::{operation}(legacy)" for operation in ("get", "set", "delete", "list", "list_groups", "update")
    ]


@pytest.mark.anyio
@pytest.mark.parametrize(("namespace", "logged"), [(None, 0), ("default", 0), ("orders", 1)])
async def test_a_stream_that_the_engine_cannot_find_is_logged(
    namespace: str | None, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    """SR-18: providers are looked up in ``default`` only."""
    stream = make_stream(compat.IStream)
    options = InitOptions(worker_name="streams", namespace=namespace)
    with fail_after(20), caplog.at_level(logging.WARNING, "iii_anyio"):
        async with (
            open_engine(port=None, http_port=None) as engine,
            open_worker(connector=engine.connector(), options=options) as iii,
        ):
            with pytest.warns(FutureWarning):
                create_stream(iii, "chat", stream)
            await iii.wait_ready()
    found = [record.getMessage() for record in caplog.records if "looks for streams" in record.getMessage()]
    assert len(found) == logged
    assert all("'orders'" in text and "'chat'" in text for text in found)


# -- channel references ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [REF, {**REF, "direction": "write"}, {**REF, "extra": 1}],
    ids=["read", "write", "extra keys"],
)
def test_a_channel_reference_is_recognised(value: dict[str, Any]) -> None:
    assert is_channel_ref(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "c",
        {},
        {**REF, "direction": "garbage"},
        {**REF, "direction": ["read"]},
        {**REF, "channel_id": 1},
        {**REF, "access_key": None},
        StreamChannelRef(channel_id="c", access_key="k", direction="read"),
    ],
)
def test_other_values_are_no_channel_reference(value: object) -> None:
    """A direction that cannot be hashed makes upstream's raise."""
    assert not is_channel_ref(value)


PAYLOADS: list[Any] = [
    {},
    REF,
    {"input": REF},
    {"items": [{"writer": REF}, {"writer": {**REF, "direction": "write"}}]},
    [REF, [REF]],
    {"a.b": {"": REF, "[0]": REF}},
    {"": REF},
    {"inside": {**REF, "nested": REF}},
    ({"tuple": REF},),
    {"almost": {**REF, "channel_id": 5}},
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_references_are_found_at_the_paths_of_upstream(payload: Any) -> None:
    """A.14: the root's path is empty, dots in keys are not escaped, tuples are not searched."""
    ours = [(path, ref.model_dump()) for path, ref in extract_channel_refs(payload)]
    assert ours == [(path, ref.model_dump()) for path, ref in iii.helpers.extract_channel_refs(payload)]


JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.just(REF),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.[", max_size=2), inner, max_size=3),
    max_leaves=10,
)


@given(JSON_VALUES)
def test_references_are_found_wherever_upstream_finds_them(payload: Any) -> None:
    ours = [(path, ref.model_dump()) for path, ref in extract_channel_refs(payload)]
    assert ours == [(path, ref.model_dump()) for path, ref in iii.helpers.extract_channel_refs(payload)]


def test_a_direction_is_its_text() -> None:
    assert (ChannelDirection.READ, ChannelDirection.WRITE) == ("read", "write")
    assert StreamChannelRef(channel_id="c", access_key="k", direction=ChannelDirection.READ.value).direction == "read"


def test_an_item_is_text_or_bytes() -> None:
    text, binary = ChannelItem.text_item(""), ChannelItem.binary_item(b"")
    assert (text.is_text, text.is_binary, text.text) == (True, False, "")
    assert (binary.is_text, binary.is_binary, binary.binary) == (False, True, b"")
    for wrong in ((None, None), ("a", b"a")):
        with pytest.raises(ValueError, match="either text or binary"):
            ChannelItem(*wrong)


# -- utils -----------------------------------------------------------------------------------------------------------


class Shown:
    def __str__(self) -> str:
        return "shown"


class Unshown:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error


def circular() -> Any:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def deep() -> Any:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1, "b": "x"}, '{"a": 1, "b": "x"}'),
        ([1, 2, 3], "[1, 2, 3]"),
        (None, "null"),
        ("é", '"\\u00e9"'),
        (float("nan"), "NaN"),
        ({"obj": Shown()}, '{"obj": "shown"}'),
        (circular(), "[unserializable]"),
        (Unshown(TypeError("no")), "[unserializable]"),
        (Unshown(ValueError("no")), "[unserializable]"),
        ({(1, 2): 3}, "[unserializable]"),
    ],
    ids=["dict", "list", "None", "not ASCII", "NaN", "str()", "circular", "TypeError", "ValueError", "tuple key"],
)
def test_any_value_has_a_text(value: object, text: str) -> None:
    """A-9."""
    assert utils.safe_stringify(value) == iii.utils.safe_stringify(value) == text


def test_a_value_that_is_too_deep_has_a_text() -> None:
    """Upstream's lets the RecursionError out."""
    assert utils.safe_stringify(deep()) == "[unserializable]"


def test_utils_are_the_functions_of_their_modules() -> None:
    assert utils.is_channel_ref is helpers.is_channel_ref
    assert utils.python_type_to_format(int)["type"] == "integer"  # type: ignore[index]


# -- process_marker --------------------------------------------------------------------------------------------------


def test_a_marker_names_the_worker_until_it_is_removed(tmp_path: Path) -> None:
    """A-13."""
    remove = announce_process("ws://127.0.0.1:49134", "orders", tmp_path / "run")
    [marker] = (tmp_path / "run").glob(f"worker-{os.getpid()}-*.json")
    written = json.loads(marker.read_text("utf-8"))
    assert written.pop("started_at") > 1_700_000_000_000, "milliseconds"
    assert written == {"pid": os.getpid(), "url": "ws://127.0.0.1:49134", "name": "orders", "sdk": "python"}
    remove()
    assert not marker.exists()
    remove()


def test_each_worker_of_a_process_has_its_own_marker(tmp_path: Path) -> None:
    """A-13."""
    orders = announce_process("ws://127.0.0.1:49134", "orders", tmp_path)
    billing = announce_process("ws://127.0.0.1:49134", "billing", tmp_path)
    orders()
    assert [json.loads(left.read_text("utf-8"))["name"] for left in tmp_path.iterdir()] == ["billing"]
    billing()


@pytest.mark.parametrize("name", ["orders", "lone \ud800 surrogate"])
def test_a_marker_that_cannot_be_written_is_no_error(tmp_path: Path, name: str) -> None:
    """A-13."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    announce_process("ws://x", name, blocker / "run")()
    announce_process("ws://x", name, tmp_path)()
    assert not [left for left in tmp_path.glob("worker-*") if left.stat().st_size]


def test_the_default_directory_is_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A.20."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    remove = announce_process("ws://x", "y")
    assert len(list((tmp_path / ".iii" / "run").iterdir())) == 1
    remove()

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    announce_process("ws://x", "y")()


def test_a_forked_child_leaves_the_marker_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = announce_process("ws://x", "y", tmp_path)
    [marker] = tmp_path.iterdir()
    own = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: own + 1)
    remove()
    assert marker.exists()
    monkeypatch.undo()
    remove()
    assert not marker.exists()


# -- introspection ---------------------------------------------------------------------------------------------------


def test_rows_of_the_present_engine_are_read() -> None:
    """B.5, 1 to 3; §1.2 to §1.6 of the engine's behaviour."""
    function = FunctionInfo.model_validate(
        {"function_id": "state::get", "namespace": "default", "worker_name": "iii-state"}
    )
    assert (function.worker_name, function.request_format, function.metadata) == ("iii-state", None, None)
    row: dict[str, Any] = {
        "name": "math",
        "description": None,
        "version": "1",
        "id": "5d1c",
        "namespace": "orders",
        "runtime": "python",
        "os": None,
        "status": "connected",
        "function_count": 1,
        "connected_at_ms": 1760000000500,
        "active_invocations": 1,
        "isolation": None,
        "ip_address": "127.0.0.1",
    }
    worker = WorkerInfo.model_validate(row)
    assert worker.model_dump() == {**row, "functions": []}
    trigger = TriggerInfo.model_validate(
        {
            "id": "t",
            "trigger_type": "state",
            "function_id": "f",
            "worker_name": "w",
            "config": {},
            "config_summary": "{}",
        }
    )
    assert (trigger.config, trigger.model_extra) == ({}, {"config_summary": "{}"})


def test_schemas_have_one_name_for_old_and_new_engines() -> None:
    """B.5, 2: ``info`` answers ``request_schema`` where lists once had ``request_format``."""
    schema = {"type": "object"}
    new = {"function_id": "f", "request_schema": schema, "response_schema": schema}
    old = {"function_id": "f", "request_format": schema, "response_format": schema}
    assert FunctionInfo.model_validate(new) == FunctionInfo.model_validate(old)
    assert FunctionInfo(**FunctionInfo.model_validate(new).model_dump()).request_format == schema
    kind = TriggerTypeInfo.model_validate({"id": "http", "configuration_schema": schema, "request_schema": schema})
    assert (kind.trigger_request_format, kind.call_request_format) == (schema, schema)


def test_whatever_else_an_engine_tells_is_kept() -> None:
    assert WorkerInfo.model_validate({"id": "w", "status": "sleepy", "pid": 4}).pid == 4  # type: ignore[attr-defined]


# -- compat ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "caught_as"),
    [
        (lambda: InvocationError("any", "m"), compat.IIIInvocationError),
        (lambda: InvocationError.from_wire({"code": "TIMEOUT", "message": "m"}), compat.IIITimeoutError),
        (lambda: InvocationError.from_wire({"code": "TIMEOUT", "message": "m"}), TimeoutError),
        (lambda: InvocationError.from_wire({"code": "FORBIDDEN", "message": "m"}), compat.IIIForbiddenError),
    ],
)
def test_errors_are_caught_under_their_old_names(
    make: Callable[[], InvocationError], caught_as: type[Exception]
) -> None:
    """B.10."""
    with pytest.raises(caught_as):
        raise make()
    assert issubclass(InvocationTimeoutError, compat.IIIInvocationError)


def test_the_legacy_module_takes_a_star_import() -> None:
    names: dict[str, Any] = {}
    exec("from iii_anyio.compat import *", names)  # noqa: S102,RUF100 - the very statement that programs have
    assert set(compat.__all__) <= set(names)
    assert names["HttpRequest"] is StreamRequest, "streaming, as up to 0.19 (B.9)"
    with pytest.raises(AttributeError, match="get_tracer"):
        compat.get_tracer  # noqa: B018 - it must not be there


def test_configured_logging_shows_what_the_package_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """B.10."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(logging, "basicConfig", seen.update)
    try:
        compat.configure_logging(logging.DEBUG)
        assert logging.getLogger("iii_anyio").isEnabledFor(logging.DEBUG)
    finally:
        for name in ("iii", "iii_anyio"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    assert seen["level"] == logging.DEBUG
    assert "%(message)s" in seen["format"]
