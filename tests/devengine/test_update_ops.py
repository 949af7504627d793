"""Update operations on JSON values, without an engine (UO-1 to UO-16)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_anyio import InvocationError
from iii_anyio._protocol.messages import ABSENT
from iii_anyio.devengine._update_ops import apply_updates, read_updates

I64, U64 = 2**63, 2**64
DOC_URL = "https://iii.dev/docs/workers/iii-state#error-codes"


def update(value: Any, *ops: dict[str, Any]) -> tuple[Any, list[str]]:
    """What becomes of the value, and the codes of what was passed over."""
    updated = apply_updates(value, read_updates("state::update", list(ops)))
    return updated.new_value, [error["code"] for error in updated.errors]


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"k": value}
    return value


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ({"path": "a"}, "missing field `type`"),
        ({"type": "Set", "path": "a"}, "unknown variant `Set`"),
        ({"type": "increment", "path": "a"}, "missing field `by`"),
        ({"type": "increment", "path": "a", "by": 1.0}, "expected an integer"),
        ({"type": "increment", "path": "a", "by": True}, "expected an integer"),
        ({"type": "decrement", "path": "a", "by": 2**63}, "expected an integer"),
        ({"type": "decrement", "path": "a", "by": "1"}, "expected an integer"),
        ({"type": "set", "value": 1}, "missing field `path`"),
        ({"type": "set", "path": ["a"]}, "expected a string"),
        ({"type": "remove", "path": None}, "expected a string"),
        ({"type": "merge", "path": 1, "value": {}}, "expected a string or an array"),
        ({"type": "append", "path": ["a", 1], "value": {}}, "expected a string or an array"),
        ({"type": "merge", "path": "a"}, "missing field `value`"),
        ({"type": "append"}, "missing field `value`"),
        ("set", "expected an object"),
    ],
)
def test_an_operation_that_cannot_be_read_fails_the_call_and_is_named(op: Any, reason: str) -> None:
    """UO-1, UO-3, UO-4."""
    with pytest.raises(InvocationError, match="Failed to deserialize input for state::update: ops") as caught:
        read_updates("state::update", [{"type": "set", "path": "a"}, op])
    assert caught.value.code == "deserialization_error"
    assert "ops[1]" in caught.value.message
    assert reason in caught.value.message


@pytest.mark.parametrize("ops", [None, {}, "[]", 1])
def test_ops_that_are_no_array_fail_the_call(ops: Any) -> None:
    with pytest.raises(InvocationError) as caught:
        read_updates("stream::update", ops)
    assert caught.value.code == "deserialization_error"
    assert "stream::update" in caught.value.message


# -- what each operation does ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "op", "result"),
    [
        # set (UO-4, UO-8); a dot is part of the key (UO-1)
        ({}, {"type": "set", "path": "a.b", "value": 1}, {"a.b": 1}),
        ({"a": 1}, {"type": "set", "path": "a"}, {"a": None}),
        ([1], {"type": "set", "path": "", "value": "x"}, "x"),
        (ABSENT, {"type": "set", "path": "", "value": [1]}, [1]),
        (ABSENT, {"type": "set", "path": "a", "value": 1}, {"a": 1}),
        # merge (UO-2, UO-10)
        ({"a": {"x": 1}, "b": 1}, {"type": "merge", "value": {"a": {"y": 2}}}, {"a": {"y": 2}, "b": 1}),
        ({"a": 1}, {"type": "merge", "path": [], "value": {"b": 2}}, {"a": 1, "b": 2}),
        ({"a": 1}, {"type": "merge", "path": None, "value": {"b": 2}}, {"a": 1, "b": 2}),
        ({"a": {"x": 1}}, {"type": "merge", "path": "a", "value": {"y": 2}}, {"a": {"x": 1, "y": 2}}),
        ({"a": 7}, {"type": "merge", "path": ["a", "b.c"], "value": {"y": 2}}, {"a": {"b.c": {"y": 2}}}),
        ("text", {"type": "merge", "path": ["a"], "value": {"y": 2}}, {"a": {"y": 2}}),
        ("text", {"type": "merge", "path": "", "value": {"y": 2}}, "text"),
        # increment and decrement (UO-11 to UO-13)
        (ABSENT, {"type": "increment", "path": "", "by": 3}, 3),
        (ABSENT, {"type": "decrement", "path": "", "by": 3}, -3),
        (ABSENT, {"type": "decrement", "path": "", "by": -I64}, I64),
        (ABSENT, {"type": "increment", "path": "n", "by": 3}, {"n": 3}),
        ({"n": 1.5}, {"type": "increment", "path": "n", "by": 2}, {"n": 3.5}),
        ({"n": 4}, {"type": "decrement", "path": "n", "by": 6}, {"n": -2}),
        (I64 - 1, {"type": "increment", "path": "", "by": 1}, I64),
        (U64 - 1, {"type": "decrement", "path": "", "by": 1}, U64 - 2),
        # append (UO-14, UO-15)
        (ABSENT, {"type": "append", "value": "s"}, "s"),
        (ABSENT, {"type": "append", "value": [1]}, [[1]]),
        (None, {"type": "append", "value": "s"}, "s"),
        ([1], {"type": "append", "value": [2]}, [1, [2]]),
        ("a", {"type": "append", "path": "", "value": "b"}, "ab"),
        ({}, {"type": "append", "path": "t", "value": "s"}, {"t": "s"}),
        ({}, {"type": "append", "path": ["t"], "value": 1}, {"t": [1]}),
        ({}, {"type": "append", "path": ["a", "t"], "value": "s"}, {"a": {"t": ["s"]}}),
        ({"a": 1}, {"type": "append", "path": ["a", "t"], "value": "s"}, {"a": {"t": ["s"]}}),
        ({"a": {"t": None}}, {"type": "append", "path": ["a", "t"], "value": "s"}, {"a": {"t": "s"}}),
        ({"a": {"t": "x"}}, {"type": "append", "path": ["a", "t"], "value": "y"}, {"a": {"t": "xy"}}),
        ({"t": [1]}, {"type": "append", "path": "t", "value": None}, {"t": [1, None]}),
        # remove (UO-16)
        ({"a": 1, "b": 2}, {"type": "remove", "path": "a"}, {"b": 2}),
        ({"a": 1}, {"type": "remove", "path": "b"}, {"a": 1}),
        ({"a": 1}, {"type": "remove", "path": ""}, None),
    ],
)
def test_an_operation_that_fits_is_applied(value: Any, op: dict[str, Any], result: Any) -> None:
    new_value, errors = update(value, op)
    assert (new_value, errors) == (result, [])
    assert type(new_value) is type(result)


@pytest.mark.parametrize(
    ("value", "op", "code"),
    [
        ([], {"type": "set", "path": "a", "value": 1}, "set.target_not_object"),
        (None, {"type": "set", "path": "a", "value": 1}, "set.target_not_object"),
        (1, {"type": "remove", "path": "a"}, "remove.target_not_object"),
        ("x", {"type": "increment", "path": "a", "by": 1}, "increment.target_not_object"),
        ("x", {"type": "decrement", "path": "a", "by": 1}, "decrement.target_not_object"),
        ([], {"type": "append", "path": ["a", "b"], "value": 1}, "append.target_not_object"),
        (None, {"type": "increment", "path": "", "by": 1}, "increment.not_number"),
        ({"n": None}, {"type": "increment", "path": "n", "by": 1}, "increment.not_number"),
        ({"n": True}, {"type": "increment", "path": "n", "by": 0}, "increment.not_number"),
        ({"n": "1"}, {"type": "decrement", "path": "n", "by": 0}, "decrement.not_number"),
        (U64 - 1, {"type": "increment", "path": "", "by": 1}, "increment.not_number"),
        (-I64, {"type": "decrement", "path": "", "by": 1}, "decrement.not_number"),
        ({"t": "s"}, {"type": "append", "path": "t", "value": 1}, "append.type_mismatch"),
        ({"t": {}}, {"type": "append", "path": "t", "value": "s"}, "append.type_mismatch"),
        (5, {"type": "append", "value": "s"}, "append.type_mismatch"),
        ({}, {"type": "merge", "value": None}, "merge.value.not_an_object"),
        ({}, {"type": "merge", "value": {str(n): n for n in range(1025)}}, "merge.value.too_many_keys"),
        ({}, {"type": "merge", "value": {"a": 1, "constructor": 2}}, "merge.value.proto_polluted"),
        ({}, {"type": "merge", "value": nested(17)}, "merge.value.too_deep"),
        ({}, {"type": "merge", "path": ["a"] * 33, "value": {}}, "merge.path.too_deep"),
        ({}, {"type": "append", "path": ["a", ""], "value": 1}, "append.path.empty_segment"),
        ({}, {"type": "set", "path": "ü" * 129}, "set.path.segment_too_long"),
        ({}, {"type": "remove", "path": "__proto__"}, "remove.path.proto_polluted"),
        ({}, {"type": "increment", "path": "prototype", "by": 1}, "increment.path.proto_polluted"),
    ],
)
def test_an_operation_that_does_not_fit_changes_nothing_and_has_an_entry(
    value: Any, op: dict[str, Any], code: str
) -> None:
    """UO-6 to UO-9, UO-11 to UO-16."""
    updated = apply_updates(value, read_updates("state::update", [op]))
    assert updated.new_value == value
    (entry,) = updated.errors
    assert entry.keys() == {"op_index", "code", "message", "doc_url"}
    assert (entry["op_index"], entry["code"], entry["doc_url"]) == (0, code, DOC_URL)
    assert entry["message"]


def test_the_first_failing_check_of_a_path_is_reported_and_comes_before_those_of_the_value() -> None:
    """UO-6, UO-9."""
    assert update({}, {"type": "merge", "path": [""] * 33, "value": 1})[1] == ["merge.path.too_deep"]
    assert update({}, {"type": "merge", "path": ["ok", "", "__proto__"], "value": 1})[1] == ["merge.path.empty_segment"]
    assert update({}, {"type": "merge", "path": ["a"], "value": 1})[1] == ["merge.value.not_an_object"]


def test_limits_are_not_reached_by_what_is_just_allowed() -> None:
    """UO-6, UO-9."""
    ops = (
        {"type": "merge", "path": ["a"] * 32, "value": nested(16)},
        {"type": "merge", "value": {str(n): n for n in range(1024)}},
        {"type": "merge", "path": "b", "value": {"x": {"__proto__": 1}}},  # only at the top level
        {"type": "set", "path": "x" * 256, "value": {"constructor": 1}},
    )
    assert update({}, *ops)[1] == []


def test_what_no_message_could_carry_is_not_appended() -> None:
    """Ours: upstream stores it, and clients cannot read it again."""
    path = [f"p{n}" for n in range(32)]
    assert update({}, {"type": "append", "path": path, "value": nested(100)}) == ({}, ["append.value.too_deep"])
    assert update({}, {"type": "append", "path": path, "value": nested(92)})[1] == []


def test_operations_run_in_order_and_failures_have_their_own_index() -> None:
    """UO-5, UO-7, ST-7."""
    updated = apply_updates(
        ABSENT,
        read_updates(
            "state::update",
            [
                {"type": "set", "path": "__proto__"},
                {"type": "increment", "path": "", "by": 2},  # still missing: the first has failed
                {"type": "set", "path": "a", "value": 1},
                {"type": "decrement", "path": "", "by": 5},
            ],
        ),
    )
    assert updated.new_value == -3
    assert [error["op_index"] for error in updated.errors] == [0, 2]
    assert updated.answer(ABSENT) == {"old_value": None, "new_value": -3, "errors": updated.errors}


def test_a_value_is_no_longer_missing_once_an_operation_was_applied() -> None:
    """UO-5."""
    number = {"type": "increment", "path": "", "by": 1}
    assert update(ABSENT, {"type": "remove", "path": "a"}, number) == ({}, ["increment.not_number"])
    assert update(ABSENT, {"type": "merge", "value": {}}, number) == ({}, ["increment.not_number"])
    assert update(ABSENT, {"type": "append", "value": 1}, {"type": "append", "value": 2}) == ([1, 2], [])


def test_errors_are_left_out_of_the_answer_when_there_are_none() -> None:
    """ST-8."""
    updated = apply_updates({"n": 1}, read_updates("state::update", [{"type": "increment", "path": "n", "by": 1}]))
    assert updated.answer({"n": 1}) == {"old_value": {"n": 1}, "new_value": {"n": 2}}


# -- properties ------------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-I64, U64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
keys = st.sampled_from(["a", "b", "", "__proto__", "x.y"]) | st.text(max_size=4)
values = st.recursive(
    scalars | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
paths = st.none() | keys | st.lists(keys, max_size=3)
operations = (
    st.fixed_dictionaries({"type": st.sampled_from(["set", "remove"]), "path": keys, "value": values})
    | st.fixed_dictionaries({"type": st.sampled_from(["merge", "append"]), "path": paths, "value": values})
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["increment", "decrement"]), "path": keys, "by": st.integers(-I64, I64 - 1)}
    )
)


@given(st.just(ABSENT) | values, st.lists(operations, max_size=6))
def test_neither_the_old_value_nor_the_operations_are_changed(value: Any, ops: list[dict[str, Any]]) -> None:
    """Values of the storage are replaced; what is answered as old stays old."""
    old_value, old_ops = deepcopy(value) if value is not ABSENT else ABSENT, deepcopy(ops)
    apply_updates(value, read_updates("state::update", ops))
    assert (value, ops) == (old_value, old_ops)


@given(st.just(ABSENT) | values, st.lists(operations, max_size=6))
def test_all_at_once_is_the_same_as_one_after_the_other(value: Any, ops: list[dict[str, Any]]) -> None:
    """UO-7: an operation that fails does nothing. A missing value stays missing only within one call (UO-5)."""
    together, codes = update(value, *ops)
    one_by_one, failed = {} if value is ABSENT else value, []
    is_missing = value is ABSENT
    for op in ops:
        one_by_one, errors = update(ABSENT if is_missing else one_by_one, op)
        is_missing = is_missing and bool(errors)
        failed += errors
    assert (together, codes) == (one_by_one, failed)


@given(st.integers(-I64, U64 - 1), st.integers(-I64, I64 - 1))
def test_integers_are_exact_or_refused(number: int, by: int) -> None:
    """UO-13."""
    for kind, total in (("increment", number + by), ("decrement", number - by)):
        expected = (total, []) if -I64 <= total < U64 else (number, [f"{kind}.not_number"])
        assert update(number, {"type": kind, "path": "", "by": by}) == expected
