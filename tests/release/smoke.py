"""What has to work wherever the package was installed, run by ``build.py`` in a fresh environment."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import walk_packages

import anyio
import httpx
from pydantic import BaseModel

import iii_anyio
from iii_anyio import ApiRequest, ApiResponse, App, InitOptions, State, open_worker
from iii_anyio.devengine import open_engine

app = App("smoke")


class Person(BaseModel):
    name: str


@app.http("POST", "/greet")
async def greet(request: ApiRequest[Person], state: State) -> ApiResponse[str]:
    await state.set_async("smoke", "last", request.body.name)
    return ApiResponse(status_code=200, body=f"Hello, {request.body.name}!")


async def main() -> None:
    options = InitOptions("smoke", otel=True)
    async with open_engine(port=0) as engine, open_worker(engine.url, options) as iii, app.attach(iii):
        await iii.wait_ready()
        async with httpx.AsyncClient(base_url=engine.http_url, trust_env=False) as client:
            answer = await client.post("/greet", json={"name": "Ada"})
        assert answer.json() == "Hello, Ada!"
        assert await State(iii).get_async("smoke", "last") == "Ada"


for backend in ("asyncio", "trio"):
    anyio.run(main, backend=backend)
modules = [module.name for module in walk_packages(iii_anyio.__path__, "iii_anyio.")]
for name in modules:
    if not name.endswith((".__main__", ".pytest_plugin")):  # pytest is not there
        import_module(name)
assert iii_anyio.__version__ == version("iii-anyio")
assert Path(iii_anyio.__file__).with_name("py.typed").exists()
command = Path(sys.executable).with_name("iii-anyio")
said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
assert iii_anyio.__version__ in said, said
print(f"  works: {iii_anyio.__version__} on Python {sys.version.split()[0]}, {len(modules)} modules")
