"""Try inputs for as long as one likes: ``python -m tests.fuzz --seconds 60 [TARGET ...]``.

Hypothesis makes the inputs. With atheris installed, targets that take bytes are tried by it as well, guided by the code
that an input reaches. Ends with 1 when something crashed; the input is shown.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

# In its process atheris must see the modules when they are imported.
GUIDE: Any = importlib.import_module("atheris") if "--atheris" in sys.argv else None
with nullcontext() if GUIDE is None else GUIDE.instrument_imports(include=["iii_anyio"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS, Target

CHUNK = 100


def try_with_hypothesis(target: Target, seconds: float) -> tuple[int, Exception | None]:
    """Inputs tried, and what the smallest that crashed raised."""
    tried = 0
    until = time.monotonic() + seconds

    def one(value: Any) -> None:
        nonlocal tried
        tried += 1
        target.run(value)

    test = settings(
        max_examples=CHUNK,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        print_blob=False,
    )(given(target.inputs)(one))
    while time.monotonic() < until:
        try:
            test()
        except Exception as error:  # noqa: BLE001 - any is a finding
            return tried, error
    return tried, None


def try_with_atheris(name: str, seconds: float) -> tuple[int, str | None]:
    """The same in a process of its own, which ends when its time is over."""
    command = [sys.executable, "-m", "tests.fuzz", "--atheris", name, f"--seconds={seconds}"]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    runs = re.findall(r"(?:Done |#)(\d+)", done.stderr)
    return max(map(int, runs), default=0), None if done.returncode == 0 else done.stderr[-3000:]


def run_atheris(name: str, seconds: float) -> None:
    """Become the process that atheris runs in."""
    arguments = [sys.argv[0], f"-max_total_time={max(1, round(seconds))}", "-max_len=512", "-verbosity=1"]
    GUIDE.Setup(arguments, TARGETS[name].run)
    GUIDE.Fuzz()


def main() -> int:
    """Try, and report a line for each target."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"by default all: {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all together")
    parser.add_argument("--atheris", metavar="TARGET", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable()
    if options.atheris:
        run_atheris(options.atheris, options.seconds)
    names = options.targets or list(TARGETS)
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    has_atheris = importlib.util.find_spec("atheris") is not None
    parts = sum(1 + (has_atheris and TARGETS[name].takes_bytes) for name in names)
    share, crashes, total = options.seconds / parts, 0, 0
    for name in names:
        tried, error = try_with_hypothesis(TARGETS[name], share)
        line = f"{name:26} {tried:9,} inputs"
        problem: object = error
        if error is None and has_atheris and TARGETS[name].takes_bytes:
            more, problem = try_with_atheris(name, share)
            tried += more
            line += f" {more:11,} by atheris"
        total += tried
        crashes += problem is not None
        print(line if problem is None else f"{line}  CRASHED: {problem}", flush=True)
        if error is not None:
            print("\n".join(getattr(error, "__notes__", [])), flush=True)
    print(f"{'all':26} {total:9,} inputs, {crashes} crashes")
    return int(crashes > 0)


if __name__ == "__main__":
    sys.exit(main())
