"""``new``: a small project that works, with a test. Nothing but files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

import typer

from ._console import Output, reported
from ._errors import CommandError, ExitCode

__all__ = ("new",)

_NAME: Final = re.compile(r"[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?")

_APP: Final = '''\
"""The app: `iii-anyio dev app` runs it, with an engine."""

from iii_anyio import ApiRequest, ApiResponse, App, State
from pydantic import BaseModel

app = App("NAME")


class Person(BaseModel):
    name: str


class Greeting(BaseModel):
    message: str
    times: int


@app.function()
async def greet(person: Person, state: State) -> Greeting:
    """Greet somebody, and count how often."""
    counting = [{"type": "increment", "path": "times", "by": 1}]
    count = await state.update_async("NAME", person.name, counting)
    return Greeting(message=f"Hello, {person.name}!", times=count.new_value["times"])


@app.http("POST", "/greet")
async def over_http(request: ApiRequest[Person], state: State) -> ApiResponse[Greeting]:
    return ApiResponse(status_code=200, body=await greet(request.body, state))
'''

_TEST: Final = '''\
"""Each test has an engine of its own; the fixtures iii_... come with iii_anyio."""

import pytest
from iii_anyio import InvocationError
from iii_anyio.pytest_plugin import WorkerFactory
from iii_anyio.testing import HttpDriver

from app import app

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # or "trio"


async def test_a_person_is_greeted_and_counted(iii_worker: WorkerFactory) -> None:
    iii = await iii_worker(app)
    answer = await iii.trigger_async("NAME::greet", {"name": "Ada"})
    assert answer == {"message": "Hello, Ada!", "times": 1}
    answer = await iii.trigger_async("NAME::greet", {"name": "Ada"})
    assert answer["times"] == 2


async def test_somebody_without_a_name_is_refused(iii_worker: WorkerFactory) -> None:
    iii = await iii_worker(app)
    with pytest.raises(InvocationError) as caught:
        await iii.trigger_async("NAME::greet", {})
    assert caught.value.code == "invalid_payload"


async def test_greeting_over_http(
    iii_worker: WorkerFactory, iii_http: HttpDriver
) -> None:
    await iii_worker(app)
    answer = await iii_http.post("/greet", {"name": "Ada"})
    assert answer.status_code == 200
    assert answer.json()["message"] == "Hello, Ada!"
'''

_PYPROJECT: Final = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "NAME"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["iii-anyio", "pydantic"]

[project.optional-dependencies]
dev = ["iii-anyio[cli,engine]", "pytest"]

[tool.setuptools]
py-modules = ["app"]

[tool.pytest.ini_options]
pythonpath = ["."]
"""

_README: Final = """\
# NAME

A worker for the [iii](https://iii.dev) engine, with iii_anyio.

    pip install -e '.[dev]'
    pytest                          # with an engine of its own
    iii-anyio dev app               # a development engine and the app, started again when a file changes

In another shell:

    iii-anyio trigger NAME::greet name=Ada
    curl -H 'content-type: application/json' -d '{"name": "Ada"}' http://127.0.0.1:3111/greet
    iii-anyio describe NAME::greet

`III_URL=ws://... iii-anyio run app` serves it at another engine.
"""

_FILES: Final = {"app.py": _APP, "test_app.py": _TEST, "pyproject.toml": _PYPROJECT, "README.md": _README}


def new(
    name: Annotated[str, typer.Argument(help="Of the project and its app.", show_default=False)],
    directory: Annotated[
        Path | None, typer.Argument(file_okay=False, help="Where; by default a new directory NAME.", show_default=False)
    ] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="For machines: what was written, as JSON on stdout.")] = False,
) -> None:
    """Make a small project: an app with a function and a route, its tests, pyproject.toml and README.md.

    Nothing that exists is overwritten.
    """
    output = Output(as_json=json)
    with reported(output):
        written = _write(name, directory if directory is not None else Path(name))
    if json:
        output.document({"name": name, "files": [str(path) for path in written]})
        return
    for path in written:
        output.line(str(path), "green")
    output.note(f"Next: cd {written[0].parent} && pip install -e '.[dev]' && pytest && iii-anyio dev app")


def _write(name: str, directory: Path) -> list[Path]:
    if not _NAME.fullmatch(name):
        advice = "Letters, digits, '-', '_' and '.', beginning with a letter: iii-anyio new shop"
        raise CommandError(ExitCode.USAGE, f"{name!r} is no name for a project", advice)
    paths = [directory / file for file in _FILES]
    if taken := [str(path) for path in paths if path.exists()]:
        advice = "Choose another directory: iii-anyio new NAME DIRECTORY"
        raise CommandError(ExitCode.USAGE, f"{', '.join(taken)} exists already", advice)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in paths:
            with path.open("x", encoding="utf-8") as file:  # "x": not even one that appears at this moment
                file.write(_FILES[path.name].replace("NAME", name))
    except OSError as exc:
        raise CommandError(ExitCode.FAILED, f"cannot write {exc.filename}: {exc.strerror}") from exc
    return paths
