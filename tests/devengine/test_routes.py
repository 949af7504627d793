"""The route table: grammar, precedence, ownership (H-5 to H-14, H-19, H-20, H-46, H-47)."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iii_anyio.devengine._routes import (
    MAX_PATH,
    MAX_SEGMENTS,
    METHODS,
    Match,
    MethodNotAllowed,
    Route,
    RouteError,
    RouteTable,
)


def route(path: object, method: object = "GET", *, id: str | None = None, **config: Any) -> Route:
    trigger_id = id if id is not None else f"{method} {path}"
    return Route.from_config(trigger_id, "f", {"api_path": path, "http_method": method, **config})


def table(*routes: Route | str) -> RouteTable:
    made = RouteTable()
    for entry in routes:
        made.add(route(entry) if isinstance(entry, str) else entry)
    return made


def served_by(routes: RouteTable, path: str, method: str = "GET") -> str | None:
    """Template of the route that serves a request."""
    found = routes.match(method, path)
    return found.route.api_path if isinstance(found, Match) else None


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("config", [None, [], "x", {}, {"api_path": None}, {"api_path": 5}])
def test_a_trigger_without_a_path_is_refused(config: object) -> None:  # H-5
    with pytest.raises(RouteError, match="api_path is required and must be a string"):
        Route.from_config("t", "f", config)


@pytest.mark.parametrize(
    ("given", "method"), [("post", "POST"), ("GeT", "GET"), (None, "GET"), (5, "GET"), (["POST"], "GET")]
)
def test_the_method_is_upper_cased_and_get_when_it_is_no_string(given: object, method: str) -> None:  # H-5
    assert route("a", given).method == method


def test_the_method_is_get_by_default() -> None:
    assert Route.from_config("t", "f", {"api_path": "a"}).method == "GET"


def test_optional_keys_of_a_wrong_type_and_unknown_keys_are_ignored() -> None:  # T-5
    made = Route.from_config(
        "t",
        "f",
        {"api_path": "a", "condition_function_id": 1, "middleware_function_ids": ["m", 2, None, "n"], "color": "red"},
    )
    assert made.condition_function_id is None
    assert made.middleware_function_ids == ("m", "n")
    assert route("a", middleware_function_ids="m").middleware_function_ids == ()


def test_a_route_keeps_what_its_trigger_says() -> None:
    made = Route.from_config(
        "t", "f", {"api_path": "a", "condition_function_id": "c"}, metadata={"team": 1}, namespace="orders"
    )
    assert (made.trigger_id, made.function_id, made.condition_function_id) == ("t", "f", "c")
    assert (made.metadata, made.namespace) == ({"team": 1}, "orders")
    assert route("a").namespace == "default"  # T-10


@pytest.mark.parametrize("path", ["*", "/a/*", "/a/*rest", "/a/:*rest", "/{id}", "/a/x{id}", "/a/}"])
def test_wildcards_and_braces_are_refused_with_a_hint(path: str) -> None:  # H-7
    with pytest.raises(RouteError, match="not supported") as caught:
        route(path)
    assert ":name" in str(caught.value)


def test_a_parameter_needs_a_name() -> None:
    with pytest.raises(RouteError, match="needs a name"):
        route("/a/:/b")


def test_paths_are_bounded() -> None:
    route("x" * MAX_PATH)
    with pytest.raises(RouteError, match="2049 characters"):
        route("x" * (MAX_PATH + 1))
    route("/".join(["x"] * MAX_SEGMENTS))
    with pytest.raises(RouteError, match="65 segments"):
        route("/".join(["x"] * (MAX_SEGMENTS + 1)))


# ---------------------------------------------------------------- matching


def test_a_leading_slash_does_not_matter_and_the_template_is_kept_as_registered() -> None:  # H-10, H-19
    for path in ("e2/:id", "/e2/:id", "//e2/:id"):
        assert served_by(table(path), "/e2/9") == path


def test_parameters_are_raw_segments() -> None:  # H-20
    found = table("/e/:id/:other").match("GET", "/e/a%20b/%2F%zz")
    assert isinstance(found, Match)
    assert found.path_params == {"id": "a%20b", "other": "%2F%zz"}


def test_a_parameter_that_stands_for_an_empty_segment_is_left_out() -> None:  # H-20
    found = table("/o/:id/x").match("GET", "/o//x")
    assert isinstance(found, Match)
    assert found.path_params == {}


def test_a_trailing_slash_is_significant() -> None:  # H-9
    routes = table("/e2/:id", "/e3", "/e4/", "/:any")
    assert routes.match("GET", "/e2/9/") is None
    assert routes.match("GET", "/e2/") is None
    assert routes.match("GET", "/e3/") is None
    assert served_by(routes, "/e4/") == "/e4/"
    assert served_by(routes, "/e4") == "/:any"
    assert routes.match("GET", "/") is None


def test_repeated_leading_slashes_do_not_match() -> None:  # H-9
    assert table("/e2/:id").match("GET", "//e2/9") is None


def test_the_root_is_a_route_like_any_other() -> None:
    for path in ("", "/"):
        assert served_by(table(path, "/:id"), "/") == path


def test_literals_are_case_sensitive_and_a_colon_inside_one_means_nothing() -> None:  # H-7
    routes = table("/Abc", "/a:b")
    assert routes.match("GET", "/abc") is None
    assert served_by(routes, "/a:b") == "/a:b"
    assert routes.match("GET", "/aXb") is None


@pytest.mark.parametrize("order", [("/p/:id", "/p/me"), ("/p/me", "/p/:id")])
def test_a_literal_beats_a_parameter_whatever_the_order(order: tuple[str, str]) -> None:  # H-8
    routes = table(*order)
    assert served_by(routes, "/p/me") == "/p/me"
    assert served_by(routes, "/p/you") == "/p/:id"


def test_a_literal_that_leads_nowhere_gives_way_to_the_parameter() -> None:
    routes = table("/a/:x/c", "/a/b/d", "/:r/b/:s/e")
    assert served_by(routes, "/a/b/c") == "/a/:x/c"
    assert served_by(routes, "/a/b/d") == "/a/b/d"
    assert served_by(routes, "/a/b/d/e") == "/:r/b/:s/e"
    assert routes.match("GET", "/a/b/x") is None


@pytest.mark.parametrize("path", ["*", "", "a", "/" * 5000, "/a" * 5000])
def test_a_path_that_no_template_could_match_is_unknown(path: str) -> None:
    assert table("a", ":x/:y").match("GET", path) is None


# ---------------------------------------------------------------- methods


def test_another_method_is_not_allowed_and_get_brings_head() -> None:  # H-46
    routes = table(route("a", "POST"), route("a", "GET"), route("b", "PUT"))
    assert routes.match("DELETE", "/a") == MethodNotAllowed(("GET", "HEAD", "POST"))
    assert routes.match("HEAD", "/b") == MethodNotAllowed(("PUT",))


def test_head_finds_nothing_where_there_is_only_get() -> None:  # H-47
    assert table(route("a", "GET")).match("HEAD", "/a") is None
    assert served_by(table(route("a", "GET"), route("a", "HEAD")), "/a", "HEAD") == "a"


def test_an_unknown_method_is_accepted_and_never_routed() -> None:  # H-6
    routes = table(route("a", "TRACE"), route("b", "FOO"), route("b", "GET"))
    assert routes.match("TRACE", "/a") is None
    assert routes.match("FOO", "/b") == MethodNotAllowed(("GET", "HEAD"))
    assert len(routes) == 1


def test_the_path_is_found_before_the_method() -> None:
    """As in upstream's router: what works here works there."""
    routes = table(route("/p/:id", "GET"), route("/p/me", "POST"))
    assert routes.match("GET", "/p/me") == MethodNotAllowed(("POST",))


def test_one_shape_may_have_other_parameter_names_for_each_method() -> None:  # H-14
    routes = table(route("/x/:a", "GET"), route("/x/:b", "POST"))
    for method, params in (("GET", {"a": "1"}), ("POST", {"b": "1"})):
        found = routes.match(method, "/x/1")
        assert isinstance(found, Match)
        assert found.path_params == params


# ---------------------------------------------------------------- ownership


def test_the_same_method_and_path_replaces_the_earlier_route() -> None:  # H-10
    routes = table(route("/a", id="first"))
    replaced = routes.add(route("a", "get", id="second"))
    assert replaced is not None
    assert replaced.trigger_id == "first"
    found = routes.match("GET", "/a")
    assert isinstance(found, Match)
    assert found.route.trigger_id == "second"


def test_the_loser_of_a_route_cannot_remove_it() -> None:  # H-11
    routes = table(route("/a", id="first"), route("/a", id="second"))
    assert routes.remove("first") is None
    assert served_by(routes, "/a") == "/a"
    removed = routes.remove("second")
    assert removed is not None
    assert removed.trigger_id == "second"
    assert routes.match("GET", "/a") is None
    assert len(routes) == 0


def test_removing_an_unknown_trigger_changes_nothing() -> None:
    routes = table("/a")
    assert routes.remove("nobody") is None
    assert served_by(routes, "/a") == "/a"


def test_a_trigger_id_in_use_moves_to_its_new_route() -> None:  # H-12, upstream's defect left out
    routes = table(route("/old/:x", id="t"))
    assert routes.add(route("/new", id="t")) is None
    assert routes.match("GET", "/old/1") is None
    assert served_by(routes, "/new") == "/new"
    routes.remove("t")
    assert routes.match("GET", "/new") is None


def test_other_parameter_names_conflict_and_the_first_route_stays() -> None:  # H-13
    routes = table(route("/c/:a/:b", id="first"))
    with pytest.raises(RouteError, match=r"GET /c/:b/:a conflicts with already-registered route GET /c/:a/:b"):
        routes.add(route("/c/:b/:a", id="second"))
    assert served_by(routes, "/c/1/2") == "/c/:a/:b"
    routes.remove("first")
    routes.add(route("/c/:b/:a", id="second"))
    assert served_by(routes, "/c/1/2") == "/c/:b/:a"


def test_a_refused_change_of_a_trigger_leaves_its_route() -> None:
    routes = table(route("/c/:a", id="first"), route("/d", id="second"))
    with pytest.raises(RouteError, match="conflicts"):
        routes.add(route("/c/:b", id="second"))
    assert served_by(routes, "/d") == "/d"


def test_a_trigger_may_rename_its_own_parameters() -> None:
    routes = table(route("/c/:a", id="t"))
    routes.add(route("/c/:b", id="t"))
    assert served_by(routes, "/c/1") == "/c/:b"


def test_removing_a_route_leaves_those_below_and_beside_it() -> None:
    routes = table(route("/a/:x", id="t"), "/a/:x/b", "/a", "/a/c")
    routes.remove("t")
    assert routes.match("GET", "/a/1") is None
    assert [served_by(routes, path) for path in ("/a/1/b", "/a", "/a/c")] == ["/a/:x/b", "/a", "/a/c"]


# ---------------------------------------------------------------- against a model

SEGMENTS = st.sampled_from(["a", "b", "", ":x", ":y", ":"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("tuvw"), st.sampled_from(["GET", "POST", "HEAD"]), PATHS),
        st.tuples(st.just("remove"), st.sampled_from("tuvw")),
    ),
    max_size=12,
)


def shape(path: str) -> tuple[str, ...]:
    return tuple(":" if piece.startswith(":") else piece for piece in path.lstrip("/").split("/"))


class NaiveTable:
    """Every rule spelled out over a plain list."""

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def add(self, new: Route) -> bool:
        others = [old for old in self.routes if old.trigger_id != new.trigger_id]
        same_shape = [old for old in others if (old.method, shape(old.api_path)) == (new.method, shape(new.api_path))]
        if any(old.api_path.lstrip("/") != new.api_path.lstrip("/") for old in same_shape):
            return False
        self.routes = [old for old in others if old not in same_shape] + [new]
        return True

    def remove(self, trigger_id: str) -> None:
        self.routes = [old for old in self.routes if old.trigger_id != trigger_id]

    def match(self, method: str, path: str) -> object:
        asked = path[1:].split("/")

        def fits(template: tuple[str, ...]) -> bool:
            last = len(template) - 1
            return len(template) == len(asked) and all(
                (value != "" or index < last) if piece == ":" else piece == value
                for index, (piece, value) in enumerate(zip(template, asked, strict=True))
            )

        shapes = {shape(old.api_path) for old in self.routes if fits(shape(old.api_path))}
        if not shapes:
            return None
        best = min(shapes, key=lambda template: [piece == ":" for piece in template])
        methods = {old.method: old.trigger_id for old in self.routes if shape(old.api_path) == best}
        if method in methods:
            return methods[method]
        if method == "HEAD" and "GET" in methods:
            return None
        return {*methods, *(["HEAD"] if "GET" in methods else [])}


@given(OPERATIONS, st.lists(st.sampled_from(["a", "b", "c", "", ":x"]), min_size=1, max_size=4))
@settings(max_examples=300)
def test_the_table_agrees_with_a_naive_matcher(operations: list[tuple], asked: list[str]) -> None:
    routes, model = RouteTable(), NaiveTable()
    paths = ["/" + "/".join(asked)]
    for operation in operations:
        if operation[0] == "remove":
            model.remove(operation[1])
            routes.remove(operation[1])
            continue
        _, trigger_id, method, path = operation
        try:
            new = route(path, method, id=trigger_id)
        except RouteError:
            assert ":" in path.split("/")
            continue
        paths.append("/" + path.lstrip("/").replace(":x", "a"))
        if model.add(new):
            routes.add(new)
        else:
            with pytest.raises(RouteError, match="conflicts with already-registered route"):
                routes.add(new)
        assert len(routes) == len(model.routes)
    for path in paths:
        for method in ("GET", "POST", "HEAD", "PUT"):
            match routes.match(method, path):
                case Match(found):
                    outcome: object = found.trigger_id
                case MethodNotAllowed(allow):
                    assert list(allow) == sorted(allow, key=METHODS.index)
                    outcome = set(allow)
                case _:
                    outcome = None
            assert outcome == model.match(method, path)


@given(st.lists(PATHS.filter(lambda path: ":" not in path.split("/")), max_size=10))
def test_a_table_emptied_again_is_as_new(paths: list[str]) -> None:
    routes = RouteTable()
    ids = count()
    added: list[str] = []
    for path in paths:
        new = route(path, id=f"t{next(ids)}")
        try:
            routes.add(new)
        except RouteError:
            continue
        added.append(new.trigger_id)
    for trigger_id in added:
        routes.remove(trigger_id)
    assert len(routes) == 0
    assert all(routes.match("GET", "/" + path.lstrip("/")) is None for path in paths)
    for path in paths:  # nothing is left that could be in the way
        routes.add(route(path, id="again"))
