"""The route table of the HTTP trigger: which trigger serves this method and path. No I/O, no clock.

A tree by path segment. The path is found first, over all methods, a literal before a parameter at each step (H-8);
then the method at that path, as upstream's router does: ``GET /p/me`` with ``GET /p/:id`` and ``POST /p/me`` is 405.

Above: ``builtins/http``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

__all__ = ("METHODS", "Match", "MethodNotAllowed", "Route", "RouteError", "RouteTable")

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
"""What can be routed, in the order of an ``Allow`` header; other names are accepted and never match (H-6)."""
MAX_PATH: Final = 2048
MAX_SEGMENTS: Final = 64
"""Bounds of a registered path; no request with more segments can match."""


class RouteError(ValueError):
    """A trigger configuration that is no route, or one that another route is in the way of."""


@dataclass(slots=True, frozen=True, eq=False)
class Route:
    """One ``http`` trigger. ``api_path`` is the template as registered, for handlers see exactly that (H-19)."""

    trigger_id: str
    function_id: str
    api_path: str
    method: str = "GET"
    namespace: str = "default"
    metadata: Any = None
    condition_function_id: str | None = None
    middleware_function_ids: tuple[str, ...] = ()

    @classmethod
    def from_config(
        cls, trigger_id: str, function_id: str, config: object, *, metadata: Any = None, namespace: str | None = None
    ) -> Route:
        """Read a trigger's ``config``; unknown keys are ignored (T-5), values of a wrong type take the default (H-5).

        Raises:
            RouteError: No ``api_path``, or one outside the grammar (H-5, H-7).
        """
        values = cast("dict[str, Any]", config) if isinstance(config, dict) else {}
        api_path, method = values.get("api_path"), values.get("http_method")
        condition, middleware = values.get("condition_function_id"), values.get("middleware_function_ids")
        middleware = cast("list[object]", middleware) if isinstance(middleware, list) else []
        if not isinstance(api_path, str):
            raise RouteError("api_path is required and must be a string")
        route = cls(
            trigger_id,
            function_id,
            api_path,
            method.upper() if isinstance(method, str) else "GET",
            namespace or "default",
            metadata,
            condition if isinstance(condition, str) else None,
            tuple(item for item in middleware if isinstance(item, str)),
        )
        route.check()
        return route

    @property
    def key(self) -> str:
        """Method, and path without leading slashes: a route with the same key replaces this one (H-10)."""
        return f"{self.method} /{self.api_path.lstrip('/')}"

    @property
    def segments(self) -> list[str]:
        """What a request's path is compared with, piece by piece."""
        return self.api_path.lstrip("/").split("/")

    def check(self) -> None:
        """Raise ``RouteError`` for a path outside the grammar (H-7) or the bounds."""
        if len(self.api_path) > MAX_PATH:
            raise RouteError(f"api_path has {len(self.api_path)} characters; the limit is {MAX_PATH}")
        segments = self.segments
        if len(segments) > MAX_SEGMENTS:
            raise RouteError(f"api_path has {len(segments)} segments; the limit is {MAX_SEGMENTS}")
        for segment in segments:
            if segment.startswith(("*", ":*")) or "{" in segment or "}" in segment:
                raise RouteError(
                    f"api_path {self.api_path!r}: wildcards and braces are not supported ({segment!r}); "
                    "write a parameter as :name"
                )
            if segment == ":":
                raise RouteError(f"api_path {self.api_path!r}: a parameter needs a name, as in :id")


@dataclass(slots=True, frozen=True)
class Match:
    """The route of a request. ``path_params`` are raw segments, percent-escapes kept (H-20)."""

    route: Route
    path_params: dict[str, str]


@dataclass(slots=True, frozen=True)
class MethodNotAllowed:
    """The path is known, the method is not (H-46)."""

    allow: tuple[str, ...]


class _Node:
    __slots__ = ("literals", "parameter", "routes")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.routes: dict[str, Route] = {}  # by method

    @property
    def is_empty(self) -> bool:
        return not (self.literals or self.parameter or self.routes)


class RouteTable:
    """The live routes of one HTTP listener."""

    def __init__(self) -> None:
        self._root = _Node()
        self._owned: dict[str, Route] = {}  # by trigger id

    def __len__(self) -> int:
        return len(self._owned)

    def add(self, route: Route) -> Route | None:
        """Serve a route; the one of another trigger that it took the place of, if any, is returned (H-10).

        A trigger id in use moves here with its new route. (Upstream leaks the old one, H-12.)

        Raises:
            RouteError: Same method and shape as another trigger's route, under other parameter names (H-13).
                Nothing has changed.
        """
        node = self._find(route.segments)
        present = None if node is None else node.routes.get(route.method)
        if present is not None and present.trigger_id != route.trigger_id and present.key != route.key:
            raise RouteError(f"route {route.key} conflicts with already-registered route {present.key}")
        self.remove(route.trigger_id)
        if route.method not in METHODS:
            return None
        node = self._root
        for segment in route.segments:
            if segment.startswith(":"):
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        replaced = node.routes.get(route.method)
        if replaced is not None:
            del self._owned[replaced.trigger_id]
        node.routes[route.method] = route
        self._owned[route.trigger_id] = route
        return replaced

    def remove(self, trigger_id: str) -> Route | None:
        """Stop serving a trigger's route; nothing if it has none, or lost it to another trigger (H-11)."""
        route = self._owned.pop(trigger_id, None)
        if route is None:
            return None
        trail = [self._root]
        for segment in route.segments:
            node = _child(trail[-1], segment)
            assert node is not None, "an owned route is in the tree"
            trail.append(node)
        del trail[-1].routes[route.method]
        for segment, parent, node in zip(reversed(route.segments), trail[-2::-1], trail[:0:-1], strict=True):
            if not node.is_empty:
                break
            if segment.startswith(":"):
                parent.parameter = None
            else:
                del parent.literals[segment]
        return route

    def match(self, method: str, raw_path: str) -> Match | MethodNotAllowed | None:
        """Find the route of a request.

        Args:
            method: As the client sent it.
            raw_path: The path with its percent-escapes, without the query. A path that does not start with ``/``
                matches nothing.
        """
        if not raw_path.startswith("/") or raw_path.count("/") > MAX_SEGMENTS:
            return None
        segments = raw_path[1:].split("/")
        routes = _descend(self._root, segments, 0)
        if routes is None:
            return None
        route = routes.get(method)
        if route is not None:
            return Match(route, _parameters(route.segments, segments))
        if method == "HEAD" and "GET" in routes:
            return None  # 404, although the path's Allow lists HEAD (H-46, H-47)
        allow = {*routes, "HEAD"} if "GET" in routes else routes.keys()
        return MethodNotAllowed(tuple(name for name in METHODS if name in allow))

    def _find(self, segments: list[str]) -> _Node | None:
        """The node of a template of this shape, whatever its parameters are called."""
        node: _Node | None = self._root
        for segment in segments:
            node = None if node is None else _child(node, segment)
        return node


def _child(node: _Node, segment: str) -> _Node | None:
    """The next node for a segment of a template."""
    return node.parameter if segment.startswith(":") else node.literals.get(segment)


def _descend(node: _Node, segments: list[str], index: int) -> dict[str, Route] | None:
    """The routes at the best path below ``node``; a literal that leads nowhere gives way to the parameter.

    A node is entered at most once and no deeper than templates go, so a hostile path costs no more than the tree.
    """
    if index == len(segments):
        return node.routes or None
    segment = segments[index]
    literal = node.literals.get(segment)
    if literal is not None:
        routes = _descend(literal, segments, index + 1)
        if routes is not None:
            return routes
    # A parameter may stand for an empty segment, but not for the nothing after a last slash (H-9, H-20).
    if node.parameter is not None and (segment or index + 1 < len(segments)):
        return _descend(node.parameter, segments, index + 1)
    return None


def _parameters(template: list[str], segments: list[str]) -> dict[str, str]:
    """Values by name; empty ones are left out (H-20), and of a repeated name the last counts."""
    return {name[1:]: value for name, value in zip(template, segments, strict=True) if name.startswith(":") and value}
