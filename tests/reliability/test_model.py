"""A worker against the embedded engine, with faults in between: random programs, and what must hold whatever they do.

- Every call ends exactly once, with its own result or a code that the documentation names.
- No handler runs twice for one invocation.
- Whenever the link is up and quiet, the engine knows what the worker has registered, and nothing else of it.
- At the end no task, no thread and no socket is left.

In virtual time on trio there are thousands of steps; over TCP on asyncio, with the faults of a real network, fewer.
A run has a seed. Some are fixed, one is fresh each time; a failure names it, and replays with::

    III_MODEL_SEED=1234 python -m pytest tests/reliability/test_model.py

``III_MODEL_EXAMPLES`` makes longer runs.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import hypothesis
import pytest
import trio
from anyio import fail_after
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from iii_anyio.testing import virtual_time
from tests.reliability.world import Kind, Provider, World, world

pytestmark = pytest.mark.filterwarnings("ignore:(un)?register_trigger_type is deprecated:DeprecationWarning")

FUNCTIONS = ["fn::0", "fn::1", "fn::2"]
TYPES = ["own:0", "own:1"]
TARGETS = ["peer::f", "peer::f", "peer::g", "peer::g", "peer::missing", *FUNCTIONS]
HOWS = ["echo", "fail", "hold", "hold", "nested"]
CODES = [1000, 1001, 1005, 1011, 1012, 4000]
ON_CONNECT = ["refuse", "reset", "eof", "eof_after_101", "http_503"]

# A replay looks for the shortest program that fails, which takes its time.
PHASES = [Phase.generate, Phase.shrink] if "III_MODEL_SEED" in os.environ else [Phase.generate]

# A seed has to name one run: the order in which trio wakes tasks is drawn from hypothesis' randomness, too.
trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
hypothesis.register_random(trio._core._run._r)


STEPS = [
    *("call", "serve") * 4,
    *("cancel", "release", "pass_time", "settle", "check_quiet") * 2,
    *("toggle_function", "toggle_trigger", "toggle_type"),
    *("start_engine", "start_engine", "start_engine", "stop_engine"),
    *("end_links", "end_links", "half_open", "plan", "slow_down"),
]
"""What may come next; likely ones more than once."""

LIMIT = 3600.0
"""Seconds for what has to happen at last. Virtual time does not wait for threads, so it is not short."""

# A program is drawn before it runs: what it finds then depends on threads, too, and must not matter to its seed.
PROGRAMS = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9999)), min_size=20, max_size=80)


class Program:
    """Takes steps. The number of each decides what is left to be decided."""

    def __init__(self, steps: list[tuple[str, int]], there: World) -> None:
        self.steps = steps
        self.world = there
        self.number = 0

    def draw(self, values: list[Any]) -> Any:
        self.number, at = divmod(self.number, len(values))
        return values[at]

    async def run(self) -> None:
        there = self.world
        for name, number in self.steps:
            self.number = number
            await getattr(self, name)()
            await checkpoint()
            assert all(count == 1 for count in there.ran.values()), "a handler ran twice for one invocation"
            assert all(len(call.outcomes) == (call not in there.pending) for call in there.calls)
        await self.end()

    async def end(self) -> None:
        there = self.world
        await there.calm()
        for call in there.calls:
            there.gates.setdefault(call.n, anyio.Event()).set()
        with fail_after(LIMIT):
            await there.ended()
        for call in there.calls:
            there.check_call(call)
        await self.check_quiet()

    # -- what programs do ----------------------------------------------------------------------------------------

    async def call(self) -> None:
        self.world.call("worker", self.draw(TARGETS), self.draw(HOWS), self.draw([5, 30_000, 30_000]))

    async def serve(self) -> None:
        self.world.call("peer", self.draw(FUNCTIONS), self.draw(HOWS), self.draw([50, 30_000]))

    async def cancel(self) -> None:
        if self.world.pending:
            self.draw(self.world.pending).scope.cancel()

    async def release(self) -> None:
        if self.world.pending:
            self.world.gates.setdefault(self.draw(self.world.pending).n, anyio.Event()).set()

    async def toggle_function(self) -> None:
        there, name = self.world, self.draw(FUNCTIONS)
        self._toggle(there.functions, name, lambda: there.iii.register_function(name, there.serve))

    async def toggle_trigger(self) -> None:
        there, name = self.world, self.draw(FUNCTIONS)
        config = {"topic": name}
        self._toggle(there.triggers, name, lambda: there.iii.register_trigger("subscribe", name, config))

    async def toggle_type(self) -> None:
        there, name = self.world, self.draw(TYPES)
        trigger_type = {"id": name, "description": "of the model"}
        self._toggle(there.types, name, lambda: there.iii.register_trigger_type(trigger_type, Provider()))

    def _toggle(self, made: dict[str, Any], name: str, make: Callable[[], Any]) -> None:
        if name not in made:
            made[name] = make()
        elif made is self.world.types:
            del made[name]
            self.world.iii.unregister_trigger_type(name)
        else:
            made.pop(name).unregister()

    # -- what happens to them ------------------------------------------------------------------------------------

    async def start_engine(self) -> None:
        if self.world.engine is None:
            await self.world.start_engine()

    async def stop_engine(self) -> None:
        if self.world.engine is not None:
            self.world.is_in_doubt = True
            await self.world.stop_engine()

    async def end_links(self) -> None:
        self.world.is_in_doubt = True
        faults = self.world.faults
        what: Callable[[], None] = self.draw([faults.reset, faults.eof, faults.cut_frame, None]) or (
            lambda: faults.close(self.draw(CODES))
        )
        what()

    async def half_open(self) -> None:
        if self.world.iii.get_connection_state() != "connected":
            return  # without an identity to come back with, the worker would find its name taken
        self.world.is_in_doubt = True
        faults = self.world.faults
        what: Callable[[], None] = self.draw([faults.black_hole, lambda: faults.reset(tell_engine=False)])
        what()

    async def plan(self) -> None:
        self.world.faults.plan(self.draw(ON_CONNECT))

    async def slow_down(self) -> None:
        self.world.faults.delay = self.draw([0.0, 0.001, 0.02])
        self.world.faults.jitter = self.world.faults.delay / 2

    async def pass_time(self) -> None:
        seconds = [0.001, 0.05, 0.3, 2.0] if self.world.kind == "wire" else [0.001, 0.02, 0.3]
        await anyio.sleep(self.draw(seconds))

    async def settle(self) -> None:
        await anyio.wait_all_tasks_blocked()

    async def check_quiet(self) -> None:
        there = self.world
        with fail_after(LIMIT):
            await there.calm()
            functions, triggers, types = await there.picture()
        assert functions == set(there.functions)
        assert triggers == {trigger.id for trigger in there.triggers.values()}
        assert types == set(there.types)


async def run_program(kind: Kind, steps: list[tuple[str, int]]) -> None:
    tasks = living()
    async with world(kind) as there:
        await Program(steps, there).run()
    assert living() == tasks, "tasks are left"


def living() -> int:
    """Tasks of this loop."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return trio.lowlevel.current_statistics().tasks_living


def open_files() -> int:
    gc.collect()
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def run_model(kind: Kind, seed: int, examples: int) -> None:
    examples = int(os.environ.get("III_MODEL_EXAMPLES", examples))

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples, deadline=None, database=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow]
    )
    @given(PROGRAMS)
    def programs(steps: list[tuple[str, int]]) -> None:
        if kind == "wire":
            backend, options = virtual_time()
            anyio.run(run_program, kind, steps, backend=backend, backend_options=options)
        else:
            anyio.run(run_program, kind, steps)

    threads, files = set(threading.enumerate()), open_files()
    try:
        programs()
    except BaseException as exc:
        exc.add_note(f"replay: III_MODEL_SEED={seed} python -m pytest tests/reliability/test_model.py -k {kind}")
        raise
    left = [thread for thread in set(threading.enumerate()) - threads if not thread.name.startswith(("AnyIO", "Trio"))]
    assert not left
    assert open_files() <= files


def seeds(*fixed: int) -> Any:
    if (given_seed := os.environ.get("III_MODEL_SEED")) is not None:
        return pytest.mark.parametrize("seed", [int(given_seed)], ids=["given"])
    fresh = random.SystemRandom().randrange(2**32)
    return pytest.mark.parametrize("seed", [*fixed, fresh], ids=[*(f"fixed {seed}" for seed in fixed), "fresh"])


@seeds(1)
def test_random_programs_in_virtual_time_on_the_wire(seed: int) -> None:
    run_model("wire", seed, 25)


@seeds(3)
def test_random_programs_over_a_socket(seed: int) -> None:
    run_model("socket", seed, 2)
