"""``make interop``: judges from outside. ``python -m tests.interop.run [JUDGE ...]``, see docs/interop.md.

Each judge is fetched from its registry on the first run: an older Python SDK and the WebSocket cases into
``.venv-interop``, the Node SDK into ``tests/interop/node/node_modules``, the Rust SDK by cargo. A judge whose tool is
missing is skipped, and the table says so. The status is not 0 when a case failed, or a judge could not be made ready.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio import fail_after

from tests import nodejs
from tests.conformance.judging import CASES, NotInThisSdkError, open_stage
from tests.interop.autobahn import AUTOBAHN, Side, judge_autobahn

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
VENV: Final = ROOT / ".venv-interop"
OLDER: Final = "0.24.6"
PYTHON_PROGRAM: Final = str(ROOT / "tests" / "conformance" / "official_worker.py")
CASE_SECONDS: Final = 30


class Missing(Exception):
    """A tool that a judge needs is not there; the text says which, and what to do."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    judge: str
    ran: int
    failed: list[str]
    note: str


# -- tools -----------------------------------------------------------------------------------------------------------


def tool(name: str, hint: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), str(Path.home() / ".cargo" / "bin")]))
    if found is None:
        raise Missing(f"{name} is missing: {hint}")
    return found


def run(*command: str, cwd: Path = ROOT, seconds: float | None = None) -> None:
    print(f"   {' '.join(command)}", flush=True)
    try:
        finished = subprocess.run(
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired as exc:
        raise RuntimeError(str(exc)) from None
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{finished.stdout[-2000:]}")


def interop_python() -> str:
    """The interpreter of ``.venv-interop``, which has what must not meet the packages that are tested with."""
    python = VENV / ("Scripts" if os.name == "nt" else "bin") / "python"
    wanted = f"iii-sdk=={OLDER} {AUTOBAHN}"
    stamp = VENV / ".installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
        run(str(python), "-m", "pip", "--disable-pip-version-check", "install", *wanted.split())
        stamp.write_text(wanted)
    return str(python)


def current_python() -> list[str]:
    return [sys.executable, PYTHON_PROGRAM]


def older_python() -> list[str]:
    return [interop_python(), PYTHON_PROGRAM]


def node() -> list[str]:
    try:
        return [nodejs.node_with(nodejs.INTEROP), str(nodejs.INTEROP / "worker.mjs")]
    except nodejs.NodeMissingError as exc:
        raise Missing(str(exc)) from None


def rust() -> list[str]:
    program = HERE / "rust"
    cargo = tool("cargo", "install Rust, see https://rustup.rs")
    run(cargo, "build", "--locked", "--quiet", cwd=program)
    return [str(program / "target" / "debug" / "iii-anyio-interop")]


# -- judges ----------------------------------------------------------------------------------------------------------


async def judge_sdk(command: list[str]) -> tuple[int, list[str], str]:
    """Every case between that program and us, in one engine; goes on after a failure."""
    failed: list[str] = []
    skipped: list[str] = []
    with tempfile.TemporaryDirectory() as home:
        async with open_stage(command, Path(home)) as stage:
            for name, case in CASES.items():
                try:
                    with fail_after(CASE_SECONDS):
                        await case(stage)
                except NotInThisSdkError:
                    skipped.append(name)
                except Exception:  # noqa: BLE001 - one case; the others go on
                    traceback.print_exc()
                    failed.append(name)
    note = f"not in this SDK: {', '.join(skipped)}" if skipped else ""
    return len(CASES) - len(skipped), failed, note


def sdk(prepare: Callable[[], list[str]]) -> Callable[[], tuple[int, list[str], str]]:
    return lambda: anyio.run(judge_sdk, prepare())


def autobahn(side: Side) -> Callable[[], tuple[int, list[str], str]]:
    return lambda: judge_autobahn(interop_python(), side)


JUDGES: Final[dict[str, tuple[str, Callable[[], tuple[int, list[str], str]]]]] = {
    "python": ("Python SDK 0.25.0", sdk(current_python)),
    "python-older": (f"Python SDK {OLDER}", sdk(older_python)),
    "node": ("Node SDK 0.22.1", sdk(node)),
    "rust": ("Rust SDK 0.25.0", sdk(rust)),
    "autobahn-engine": ("Autobahn, worker socket", autobahn("server")),
    "autobahn-worker": ("Autobahn, our client", autobahn("client")),
}


def judged(names: list[str]) -> Iterator[Row]:
    for name in names:
        title, judge = JUDGES[name]
        print(f"-- {title}", flush=True)
        start = time.monotonic()
        try:
            ran, failed, note = judge()
        except Missing as exc:
            yield Row(title, 0, [], f"skipped: {exc}")
        except Exception:  # noqa: BLE001 - one judge; the others go on
            traceback.print_exc()
            yield Row(title, 0, ["all: see above"], "")
        else:
            yield Row(title, ran, failed, "; ".join(filter(None, [f"{time.monotonic() - start:.0f} s", note])))


def main() -> int:
    parser = argparse.ArgumentParser(description="Judges from outside.")
    parser.add_argument("judges", nargs="*", metavar="JUDGE", help=f"of {', '.join(JUDGES)}; all when none is named")
    names: list[str] = parser.parse_args().judges
    if unknown := sorted(set(names) - set(JUDGES)):
        parser.error(f"no judge {unknown[0]!r}; there are {', '.join(JUDGES)}")
    rows = list(judged(names or list(JUDGES)))
    print(f"\n{'judge':<26}{'cases':>6}{'failed':>8}  note")
    for row in rows:
        print(f"{row.judge:<26}{row.ran:>6}{len(row.failed):>8}  {row.note}")
        for failure in row.failed:
            print(f"{'':<26}  {failure}")
    failures = sum(len(row.failed) for row in rows)
    print(f"\n{sum(row.ran for row in rows) - failures} passed, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
