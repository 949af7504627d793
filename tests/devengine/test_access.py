"""Decisions of a guarded listener, without engine (RB-7, RB-10 to RB-15, §6.4)."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_anyio._protocol.messages import ABSENT
from iii_anyio.devengine import Rbac
from iii_anyio.devengine._access import INFRASTRUCTURE, Decision, Grants, Rule, decide, is_glob_match, read_match

ids = st.text("ab:*x\n", max_size=8)
ANY = (Rule("*"),)
NONE: tuple[Rule, ...] = ()


# -- patterns --------------------------------------------------------------------------------------------------------


@given(ids, st.text("ab:x\n", max_size=12))
def test_a_star_is_any_run_of_characters_and_nothing_else_is_special(pattern: str, text: str) -> None:
    """RB-11."""
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None
    assert is_glob_match(pattern, text) is expected


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("api::*", "api::users::get", True),
        ("api::*", "api:users", False),
        ("*::get", "api::users::get", True),
        ("api::*", "my::api::users", False),  # anchored at both ends
        ("a*a", "a", False),  # one character is not both ends
        ("f?", "fx", False),
        ("[ab]", "a", False),
        ("*", "", True),
    ],
)
def test_patterns_by_example(pattern: str, text: str, matches: bool) -> None:
    """RB-11."""
    assert is_glob_match(pattern, text) is matches


def test_a_pattern_with_many_stars_takes_no_longer_for_a_long_id() -> None:
    """The id comes from a worker. With a regular expression this would not come to an end."""
    assert not is_glob_match("*a*" * 30 + "b", "a" * 1_000_000)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('match("api::*")', "api::*"),
        ("match('x')", "x"),
        (' match( "x" ) ', "x"),
        ("api::*", None),
        ('match("x)', None),
        ("match(x)", None),
        ('match("x"", "y")', None),
    ],
)
def test_a_match_is_quoted(text: str, pattern: str | None) -> None:
    """RB-10."""
    assert read_match(text) == pattern


# -- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("api::*", 'write match("api::*")'),
        (17, "no rule"),
        ({}, "exactly one"),
        ({"match": "x", "metadata": {"a": 1}}, "exactly one"),
        ({"metadata": {}}, "at least one key"),
        ({"match": "x", "name": "y"}, "'name'"),
        ({"match": 1}, "pattern"),
        ({"match": "x", "namespace": " "}, "namespace"),
    ],
)
def test_a_rule_of_another_form_is_refused_when_it_is_written(entry: Any, problem: str) -> None:
    """RB-10: here as in the file, with the number of the entry."""
    with pytest.raises(ValueError, match=re.escape(problem)) as failure:
        Rbac(expose_functions=['match("fine")', entry])
    assert str(failure.value).startswith("expose_functions[1]: ")


@pytest.mark.parametrize("namespace", ["default", "orders", "other"])
def test_a_rule_covers_its_namespace_only_and_default_when_it_names_none(namespace: str) -> None:
    """RB-12."""
    assert Rule.read('match("f")').covers("f", namespace, ABSENT) is (namespace == "default")
    assert Rule.read({"match": "f", "namespace": "orders"}).covers("f", namespace, ABSENT) is (namespace == "orders")


@pytest.mark.parametrize(
    ("wanted", "actual", "covers"),
    [
        ({"public": True}, {"public": True, "more": 1}, True),
        ({"public": True}, {"public": 1}, False),
        ({"n": 1}, {"n": True}, False),
        ({"public": True}, {}, False),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"tier": 'match("pro*")'}, {"tier": "pro-x"}, True),
        ({"tier": 'match("pro*")'}, {"tier": ["pro"]}, False),
        ({"tags": [{"a": True}]}, {"tags": [{"a": True}]}, True),
        ({"tags": [{"a": True}]}, {"tags": [{"a": 1}]}, False),
        ({"a": None}, ABSENT, False),
        ({"a": None}, {"a": None}, True),
        ({"a": None}, "text", False),
    ],
)
def test_a_metadata_rule_wants_all_its_keys(wanted: dict[str, Any], actual: Any, covers: bool) -> None:
    """RB-13."""
    assert Rule.read({"metadata": wanted}).covers("f", "default", actual) is covers


# -- grants ----------------------------------------------------------------------------------------------------------


def test_what_an_auth_function_leaves_out_has_these_defaults() -> None:
    """RB-7; upstream's AuthResult dumps all of it."""
    assert Grants.read({"extra": 1}) == Grants({}, frozenset(), frozenset(), None, False, True, None, {})
    null = {"allowed_trigger_types": None, "function_registration_prefix": None, "context": None}
    assert Grants.read(null) == Grants({}, frozenset(), frozenset(), None, False, True, None, None)


def test_a_listener_without_auth_function_lets_everybody_register() -> None:
    """RB-8."""
    assert Grants().allow_trigger_type_registration
    assert Grants().allow_function_registration


@pytest.mark.parametrize(
    "result",
    [
        None,
        [],
        "yes",
        {"namespaces": None},
        {"namespaces": {"a": "b"}},
        {"namespaces": {"a": None}},
        {"allowed_functions": None},
        {"allowed_functions": [1]},
        {"forbidden_functions": "f"},
        {"allowed_trigger_types": "http"},
        {"allow_function_registration": None},
        {"allow_trigger_type_registration": 1},
        {"function_registration_prefix": 3},
    ],
)
def test_a_result_of_another_shape_is_no_grant(result: Any) -> None:
    """RB-6, RB-7."""
    with pytest.raises(ValueError, match="auth function"):
        Grants.read(result)


def test_only_granted_namespaces_may_be_declared_when_any_are() -> None:
    """RB-15."""
    assert Grants().may_declare("anything")
    granted = Grants(namespaces={"orders": []})
    assert granted.may_declare("orders")
    assert not granted.may_declare("default")


# -- decisions -------------------------------------------------------------------------------------------------------


def test_the_order_of_the_decision() -> None:
    """§6.4, one step at a time."""
    infrastructure = "engine::channels::create"
    forbidding = Grants({"default": ["*"]}, frozenset({"f"}), frozenset({"f", infrastructure}))
    for function_id in ("f", infrastructure):  # 1. goes before grants, infrastructure, rules, and no rules
        assert decide(forbidding, ANY, function_id, "default") is Decision.FORBIDDEN
        assert decide(forbidding, None, function_id, "orders") is Decision.FORBIDDEN
    granted = Grants({"orders": ["svc::*", 'match("jobs::*")', "exact"]}, frozenset({"allowed", "a*"}))
    for function_id in ("svc::x", "jobs::x", "exact"):  # 2. in that namespace only
        assert decide(granted, NONE, function_id, "orders") is Decision.ALLOWED
        assert decide(granted, NONE, function_id, "default") is Decision.NOT_EXPOSED
    assert decide(granted, NONE, "allowed", "default") is Decision.ALLOWED  # 3. in `default`, exactly
    assert decide(granted, NONE, "allowed", "orders") is Decision.NOT_EXPOSED
    assert decide(granted, NONE, "ab", "default") is Decision.NOT_EXPOSED
    for function_id in INFRASTRUCTURE:  # 4.
        assert decide(granted, NONE, function_id, "default") is Decision.ALLOWED
    assert decide(granted, NONE, "engine::functions::list", "default") is Decision.NOT_EXPOSED
    assert decide(granted, (Rule("pub*"),), "public", "default") is Decision.ALLOWED  # 5.
    assert decide(granted, (Rule("pub*"),), "private", "default") is Decision.NOT_EXPOSED
    assert decide(granted, None, "private", "default") is Decision.ALLOWED  # 6.


grants = st.builds(
    Grants,
    st.dictionaries(st.sampled_from(["default", "n"]), st.lists(ids, max_size=2), max_size=2),
    st.frozensets(ids, max_size=2),
    st.frozensets(ids, max_size=2),
)
rules = st.lists(
    st.one_of(
        st.builds(Rule, ids, st.none(), st.sampled_from(["default", "n"])),
        st.builds(Rule, st.none(), st.just({"public": True}), st.sampled_from(["default", "n"])),
    ),
    max_size=3,
)
metadata = st.sampled_from([ABSENT, None, {"public": True}, {"public": False}])


@given(grants, st.none() | rules, ids, st.sampled_from(["default", "n", "m"]), metadata)
def test_more_rules_never_allow_less_and_forbidding_always_wins(
    granted: Grants, exposed: list[Rule] | None, function_id: str, namespace: str, of: Any
) -> None:
    decision = decide(granted, exposed, function_id, namespace, of)
    assert (decision is Decision.FORBIDDEN) is (function_id in granted.forbidden_functions)
    if decision is Decision.ALLOWED and exposed is not None:
        assert decide(granted, [*exposed, Rule("other")], function_id, namespace, of) is Decision.ALLOWED
        assert decide(granted, None, function_id, namespace, of) is Decision.ALLOWED
    if decision is Decision.NOT_EXPOSED:
        assert exposed is not None
        opened = [*exposed, Rule("*", None, namespace)]
        assert decide(granted, opened, function_id, namespace, of) is Decision.ALLOWED
