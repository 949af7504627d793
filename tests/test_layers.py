"""The layers of the package, and the few files that may use asyncio, sockets, telemetry and task groups.

A module imports its own layer and those below. Every import counts: late ones, those for type checkers, and the
names given to ``import_module``.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "iii_anyio"
MODULES = {path.stem for path in PACKAGE.iterdir()}

LAYERS = {
    "errors": 0,
    "options": 0,
    "engine": 0,
    "_version": 0,
    "abc": 1,
    "_protocol": 1,
    "_wire": 2,
    "_runtime": 3,
    # What is not named is the public API: 4.
    "devengine": 5,
    "testing": 5,
    "pytest_plugin": 5,
    "cli": 5,
    "__main__": 5,
}
API = 4
ROOT_LAYER = 5
"""``from iii_anyio import name``: only for what stands above the whole API."""


class Rule(NamedTuple):
    """These packages are not imported in ``forbidden`` but in ``allowed``; patterns are paths below the package."""

    packages: tuple[str, ...]
    forbidden: tuple[str, ...]
    allowed: tuple[str, ...]


ROUTER = (
    "_router", "_outgoing", "_identities", "_engine_events", "_registrations", "_functions", "_triggers",
    "_invocations", "_forwarding", "_answers", "_builtin", "_engine_functions", "_introspection", "_rows",
    "_guard", "_hooks", "_access", "_observers", "_observer_*", "_activations", "_watching", "_legacy_triggers",
)  # fmt: skip
"""The engine without I/O."""

RULES = (
    # Sans-I/O: tested without a loop, shared by both sides.
    Rule(("anyio",), ("_protocol/*", *(f"devengine/{name}.py" for name in ROUTER)), ()),
    # Everything runs on every backend; the test kit has trio's virtual clock, slots the primitives of each.
    Rule(("asyncio", "trio", "uvloop"), ("*",), ("testing/*", "_wire/backend.py")),
    # One module to change when the HTTP library does.
    Rule(("httpx", "httpx_ws", "httpcore"), ("*",), ("_wire/connect.py", "observability/_http.py")),
    Rule(("opentelemetry",), ("*",), ("observability/*",)),
    # Messages are dataclasses; models are made once, at registration.
    Rule(("pydantic",), ("_protocol/*", "_runtime/*"), ("_runtime/binding.py", "_runtime/formats.py")),
)

TASK_STARTERS = {"start_soon", "create_task_group", "create_task", "open_nursery"}
TASK_FILES = (
    "_runtime/*",
    "_wire/listen.py",
    "devengine/_engine.py",
    "devengine/_connection.py",
    "devengine/_connections.py",
    "devengine/_channels.py",
    "devengine/_asgi*",
    "devengine/_stream_server.py",
    "devengine/_storage.py",
    "devengine/builtins/*",
    "testing/*",
    "pytest_plugin.py",
    "cli/_bench.py",
    "cli/_connection.py",
    "cli/_processes.py",
    "cli/_serving.py",
)


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def layer(module: str) -> int:
    """Layer of a dotted name inside the package; ``iii_anyio`` itself is the root."""
    _, _, rest = module.partition(".")
    return LAYERS.get(rest.partition(".")[0], API) if rest else ROOT_LAYER


def imported(tree: ast.AST, path: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every module that a file imports."""
    package = ["iii_anyio", *Path(path).parts[:-1]]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = ".".join(
                    [*package[: len(package) - level + 1], *([module] if module else [])] if level else [module or ""]
                )
                for alias in names:
                    is_module = base == "iii_anyio" and alias.name in MODULES
                    yield node.lineno, f"{base}.{alias.name}" if is_module else base
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name
            case _:
                pass


def violations(source: str, path: str) -> list[str]:
    """What is wrong with a file at ``path`` below the package."""
    tree = ast.parse(source)
    own = ROOT_LAYER if path == "__init__.py" else layer(".".join(["iii_anyio", *Path(path).with_suffix("").parts]))
    found: list[str] = []
    for line, name in imported(tree, path):
        top = name.partition(".")[0]
        if top == "iii_anyio" and layer(name) > own:
            found.append(f"{path}:{line}: layer {own} imports {name}, layer {layer(name)}")
        found += [
            f"{path}:{line}: imports {name}"
            for rule in RULES
            if top in rule.packages and matches(path, rule.forbidden) and not matches(path, rule.allowed)
        ]
    if not matches(path, TASK_FILES):
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(attr=name) | ast.Name(id=name) | ast.alias(name=name) if name in TASK_STARTERS:
                    found.append(f"{path}:{node.lineno}: {name} outside the files that own tasks")
                case _:
                    pass
    return found


def test_every_module_keeps_to_its_layer() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert files
    found = [
        line for file in files for line in violations(file.read_text("utf-8"), file.relative_to(PACKAGE).as_posix())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("errors.py", "from iii_anyio.abc import Wire"),
        ("_protocol/codec.py", "from iii_anyio._wire import direct"),
        ("_protocol/codec.py", "from .._wire.direct import direct_pair"),
        ("_protocol/codec.py", "def late():\n    import iii_anyio.worker"),
        ("_runtime/link.py", "from iii_anyio import Worker"),
        ("_runtime/link.py", "if TYPE_CHECKING:\n    from ..worker import Worker"),
        ("_wire/direct.py", "import_module('iii_anyio._runtime.link')"),
        ("state.py", "from iii_anyio import devengine"),
        ("worker.py", "from .testing import invoke"),
        ("_protocol/session.py", "import anyio.abc"),
        ("devengine/_router.py", "from anyio import Event"),
        ("devengine/_observer_table.py", "import anyio"),
        ("_runtime/link.py", "import asyncio"),
        ("cli/run.py", "importlib.import_module('trio')"),
        ("devengine/builtins/http.py", "import httpx"),
        ("_runtime/telemetry.py", "from opentelemetry import trace"),
        ("_protocol/messages.py", "from pydantic import BaseModel"),
        ("_runtime/invoke.py", "from pydantic import BaseModel"),
        ("worker.py", "async def f(group):\n    group.start_soon(f)"),
        ("channel.py", "from anyio import create_task_group"),
        ("_wire/connect.py", "async def f():\n    async with anyio.create_task_group():\n        pass"),
    ],
)
def test_a_violation_is_found(path: str, source: str) -> None:
    assert len(violations(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "from iii_anyio.testing import invoke\nfrom .worker import Worker"),
        (
            "_protocol/codec.py",
            "import orjson, pydantic_core\nfrom ..errors import DecodeError\nfrom . import messages",
        ),
        ("_runtime/link.py", "import anyio\nfrom iii_anyio import options\nasync def f(g):\n    g.start_soon(f)"),
        ("_runtime/binding.py", "import pydantic"),
        ("_wire/connect.py", "import httpx\nimport httpx_ws"),
        ("observability/_spans.py", "from opentelemetry import trace"),
        ("devengine/builtins/state.py", "from ...worker import Worker\nfrom iii_anyio import App"),
        ("testing/_clock.py", "import trio"),
    ],
)
def test_what_the_layers_allow_is_not_reported(path: str, source: str) -> None:
    assert violations(source, path) == []


def test_importing_the_package_loads_no_extra_and_no_backend() -> None:
    """httpx_ws brings httpcore, which imports trio where it is installed: ``_wire/connect.py`` is imported late."""
    program = "import sys, iii_anyio; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "iii_anyio" in loaded
    assert not loaded & {"iii_anyio.devengine", "opentelemetry", "typer", "rich", "trio", "uvloop", "h11"}
