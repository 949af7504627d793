"""The observers of one function of ours: what the engine announces and what follows from it (§16.3, §16.4).

Below: the messages. Above: ``_runtime/owning`` hands announcements over, sends acknowledgements and runs hooks.

Announcements become jobs, which ``work`` does one after another in the order they came. It is a generator: what it
yields the runtime does, an ``Ack`` by sending it, a ``Hook`` by running it and sending in what it came to. So a hook
holds up the later jobs of its own function, and nothing else.

    announced ──hook──► known, active ──ack──► events are evaluated
        │                  │  rejected later: known, not active, every further ack is the rejection
        └─ hook failed: forgotten, the ack says why

``active`` and the fields of an observer are read by any thread; only ``reject`` writes elsewhere than on the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeGuard

from .messages import ABSENT, FunctionRegistered, ObserverAck, ObserverAdded, ObserverRemoved

__all__ = ("Ack", "Hook", "ObservedFunction", "ObserverRecord")

DEFAULT_CAPTURE: Final = ("input", "output", "caller")

Error: TypeAlias = dict[str, str]
"""``code`` and ``message``."""


class Filter(Protocol):
    """A compiled filter."""

    def matches(self, doc: Mapping[str, Any], /) -> bool: ...


class ObserverRecord:
    """One observer of a function of ours. The same object as long as the engine knows it."""

    __slots__ = (
        "args",
        "capture",
        "face",
        "filter",
        "filters",
        "function_id",
        "id",
        "is_active",
        "legacy",
        "link",
        "namespace",
        "on",
        "rejection",
        "revision",
        "target",
    )

    def __init__(self, function_id: str, info: _Info, compiled: Filter) -> None:
        self.function_id: str = function_id
        self.id: str = info.id
        self.args: dict[str, Any] = info.args
        self.legacy: dict[str, Any] | None = info.legacy
        self.take(info, compiled)
        self.is_active: bool = False
        self.rejection: Error | None = None
        self.revision: int = 0  # it was last announced with; a rejection echoes it
        self.link: int = 0
        self.namespace: str | None = None
        self.face: Any = None
        """What hooks and users see of it."""

    def take(self, info: _Info, compiled: Filter) -> None:
        """Take what may change while it is observed: everything but ``args`` and ``legacy``."""
        self.filters: Any = info.filters
        self.filter: Filter = compiled
        self.target: str = info.target
        self.capture: tuple[str, ...] = info.capture
        self.on: str = info.on

    @property
    def is_open(self) -> bool:
        """Whether it gets events."""
        return self.is_active and self.rejection is None

    def wants(self, doc: Mapping[str, Any], *, is_success: bool) -> bool:
        """Whether a finished invocation is an event for it."""
        if self.on != "complete" and self.on != ("success" if is_success else "error"):
            return False
        return self.filter.matches(doc)


@dataclass(slots=True)
class Ack:
    """To be sent on the link of the announcement, and on no other: acknowledgements are never queued (§16.4)."""

    link: int
    message: ObserverAck


@dataclass(slots=True)
class Hook:
    """To be run; ``None`` is sent in for success, or the error to refuse the observer with."""

    kind: Literal["added", "removed"]
    observer: ObserverRecord
    function: Any


Step: TypeAlias = Ack | Hook
Steps: TypeAlias = Generator[Step, Error | None, None]


@dataclass(slots=True)
class _Info:
    """An observer as a message describes it. Read leniently (§16.1)."""

    id: str
    args: dict[str, Any]
    filters: Any
    target: str
    capture: tuple[str, ...]
    on: str
    legacy: dict[str, Any] | None


@dataclass(slots=True)
class _Announcement:
    """Where and when observers were announced. ``era`` ends when the function is lost, and with it what waits."""

    link: int
    revision: int
    namespace: str | None
    era: int


class ObservedFunction:
    """What the engine has said about one registered function."""

    def __init__(
        self,
        function_id: str,
        compile_filter: Callable[[Any], Filter],
        *,
        delivery: Literal["auto", "owner"] = "auto",
        on_added: object = None,
        on_removed: object = None,
        allow_local: bool = True,
    ) -> None:
        """``on_added`` and ``on_removed`` are handed back in a ``Hook``, and not looked into."""
        self.function_id: str = function_id
        self.delivery: Literal["auto", "owner"] = delivery
        self.has_hooks: bool = on_added is not None or on_removed is not None
        self._compile = compile_filter
        self._on_added = on_added
        self._on_removed = on_removed
        self._allow_local = allow_local
        self.namespace: str | None = None
        """Where the engine has registered it; ``None`` as long as it has not said so."""
        self.local_dispatch: bool = False
        """Whether calls of it may stay in this process (§17). Outlives a link."""
        self.active: tuple[ObserverRecord, ...] = ()
        self.is_withdrawn: bool = False
        self._known: dict[str, ObserverRecord] = {}
        self._jobs: list[Callable[[], Steps]] = []  # an empty deque would take 760 bytes
        self._revision = -1
        self._era = 0
        self._confirmed_link = 0
        self._refused_link = 0

    @property
    def has_work(self) -> bool:
        """Whether ``work`` has something to do."""
        return bool(self._jobs)

    def reports(self, link: int) -> Literal["send", "wait", "drop"]:
        """What becomes of reports about it on this link: they follow the acknowledgement of its observers (§16.8)."""
        if self.is_withdrawn or self._refused_link == link:
            return "drop"
        return "send" if self._confirmed_link == link else "wait"

    # -- what the engine says --------------------------------------------------------------------------------------

    def registered(self, message: FunctionRegistered, link: int) -> None:
        """Take the whole set of observers; always accepted, whatever its revision (P-62)."""
        if self.is_withdrawn:
            return
        self.namespace = message.namespace or "default"
        self.local_dispatch = message.local_dispatch and self._allow_local
        self._revision = message.revision
        self._refused_link = 0
        announcement = _Announcement(link, message.revision, message.namespace, self._era)
        self._jobs.append(partial(self._replace_all, _read_all(message.observers), announcement))

    def added(self, message: ObserverAdded, link: int) -> None:
        """Take one observer more."""
        if self.is_withdrawn or message.revision <= self._revision:
            return
        self._revision = message.revision
        announcement = _Announcement(link, message.revision, message.namespace, self._era)
        for info in _read_all([message.observer]):
            self._jobs.append(partial(self._add, info, announcement, is_fresh=True))

    def removed(self, message: ObserverRemoved) -> None:
        """Take one observer less."""
        if self.is_withdrawn or message.revision <= self._revision:
            return
        self._revision = message.revision
        self._jobs.append(partial(self._remove, message.id))

    def refused(self, link: int) -> None:
        """Another worker holds the function: no local calls, no observers, no acknowledgements (§16.4)."""
        self._confirmed_link = 0
        self._refused_link = link
        self._lose()

    def withdrawn(self) -> None:
        """The function is no longer registered."""
        self.is_withdrawn = True
        self._lose()

    def _lose(self) -> None:
        self.local_dispatch = False
        self._era += 1
        for observer in self.active:
            observer.is_active = False
        self.active = ()
        self._jobs.append(self._remove_all)

    # -- what the owner says ---------------------------------------------------------------------------------------

    def rejected(self, observer: ObserverRecord) -> Ack | None:
        """Take an observer whose ``rejection`` has been set out of the active ones; None while its hook runs."""
        if self._known.get(observer.id) is not observer or observer.rejection is None:
            return None
        self._deactivate(observer)
        message = ObserverAck(
            self.function_id, observer.id, observer.namespace, observer.revision, dict(observer.rejection)
        )
        return Ack(observer.link, message)

    def added_late(self, observer: ObserverRecord) -> None:
        """Undo an "added" hook that has succeeded after its time was up (P-63)."""
        self._jobs.append(partial(self._call_removed, observer))

    # -- the jobs --------------------------------------------------------------------------------------------------

    def work(self) -> Steps:
        """Do the jobs that wait, in order. One such generator at a time."""
        while self._jobs:
            yield from self._jobs.pop(0)()

    def _replace_all(self, infos: list[_Info], announcement: _Announcement) -> Steps:
        """Compare the engine's set with ours, by id: gone, kept, changed, new."""
        if announcement.era != self._era:
            return
        named = {info.id for info in infos}
        for observer_id in [known for known in self._known if known not in named]:
            yield from self._remove(observer_id)
        for info in infos:
            known = self._known.get(info.id)
            if known is not None and not _is_same([known.args, known.legacy], [info.args, info.legacy]):
                yield from self._remove(info.id)
            yield from self._add(info, announcement, is_fresh=False)
        if announcement.era == self._era:
            self._confirmed_link = announcement.link

    def _add(self, info: _Info, announcement: _Announcement, *, is_fresh: bool) -> Steps:
        """Filters, then the hook, then active, then the acknowledgement: the first event after it counts (§16.4)."""
        if announcement.era != self._era:
            return
        known = self._known.get(info.id)
        if known is not None and is_fresh and known.rejection is not None:
            yield from self._remove(info.id)  # announced anew after a rejection: a new start
            if announcement.era != self._era:
                return
            known = None
        if known is not None:
            yield self._keep(known, info, announcement)
            return
        try:
            compiled = self._compile(info.filters)
        except ValueError as exc:
            yield self._ack(info.id, announcement, {"code": "INVALID_FILTER", "message": str(exc)})
            return
        observer = ObserverRecord(self.function_id, info, compiled)
        _stamp(observer, announcement)
        if self._on_added is not None:
            error = yield Hook("added", observer, self._on_added)
            if error is not None:
                if announcement.era == self._era:
                    yield self._ack(info.id, announcement, error)
                return
        if announcement.era != self._era:  # lost while the hook ran
            yield from self._call_removed(observer)
            return
        self._known[observer.id] = observer
        yield self._activated(observer, announcement)

    def _keep(self, observer: ObserverRecord, info: _Info, announcement: _Announcement) -> Ack:
        _stamp(observer, announcement)
        if observer.rejection is None:
            try:
                compiled = observer.filter if _is_same(observer.filters, info.filters) else self._compile(info.filters)
            except ValueError as exc:
                self._deactivate(observer)
                return self._ack(info.id, announcement, {"code": "INVALID_FILTER", "message": str(exc)})
            observer.take(info, compiled)
        return self._activated(observer, announcement)

    def _activated(self, observer: ObserverRecord, announcement: _Announcement) -> Ack:
        if observer.rejection is not None:  # while the hook ran, or before: the rejection wins
            return self._ack(observer.id, announcement, dict(observer.rejection))
        if not observer.is_active:
            observer.is_active = True
            self.active = (*self.active, observer)
        return self._ack(observer.id, announcement)

    def _deactivate(self, observer: ObserverRecord) -> None:
        observer.is_active = False
        self.active = tuple(other for other in self.active if other is not observer)

    def _remove(self, observer_id: str) -> Steps:
        observer = self._known.pop(observer_id, None)
        if observer is not None:
            self._deactivate(observer)
            yield from self._call_removed(observer)

    def _remove_all(self) -> Steps:
        for observer_id in list(self._known):
            yield from self._remove(observer_id)

    def _call_removed(self, observer: ObserverRecord) -> Steps:
        if self._on_removed is not None:
            yield Hook("removed", observer, self._on_removed)

    def _ack(self, observer_id: str, announcement: _Announcement, error: Error | None = None) -> Ack:
        message = ObserverAck(
            self.function_id,
            observer_id,
            announcement.namespace,
            announcement.revision,
            ABSENT if error is None else error,
        )
        return Ack(announcement.link, message)


def _is_same(one: Any, other: Any) -> bool:
    """JSON equality: for Python ``True`` equals 1."""
    if _is_object(one) and _is_object(other):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if _is_array(one) and _is_array(other):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other) and isinstance(one, bool) is isinstance(other, bool)


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_array(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _stamp(observer: ObserverRecord, announcement: _Announcement) -> None:
    observer.link, observer.revision = announcement.link, announcement.revision
    observer.namespace = announcement.namespace


def _read_all(observers: list[dict[str, Any]]) -> list[_Info]:
    """Those that have an id: the others cannot even be refused."""
    return [_read(observer["id"], observer) for observer in observers if isinstance(observer.get("id"), str)]


def _read(observer_id: str, observer: dict[str, Any]) -> _Info:
    args, filters, target = observer.get("args"), observer.get("filters"), observer.get("target")
    capture, on, legacy = observer.get("capture"), observer.get("on"), observer.get("legacy")
    parts: tuple[str, ...] = DEFAULT_CAPTURE
    if _is_array(capture):
        parts = tuple(part for part in capture if isinstance(part, str))
    old: dict[str, Any] | None = None
    if _is_object(legacy) and isinstance(legacy.get("trigger_type"), str):
        old = {"trigger_type": legacy["trigger_type"], "config": legacy.get("config")}
    return _Info(
        observer_id,
        args if _is_object(args) else {},
        {} if filters is None else filters,  # anything else is for the filter's compiler to refuse
        target if isinstance(target, str) else "",
        parts,
        on if isinstance(on, str) else "success",
        old,
    )
