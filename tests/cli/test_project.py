"""``iii-anyio new``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import cli, cli_json

ROOT = Path(__file__).parents[2]


def test_the_tests_of_a_new_project_pass(tmp_path: Path) -> None:
    written = cli_json("new", "tea-shop", str(tmp_path / "here"))
    assert [Path(name).name for name in written["files"]] == ["app.py", "test_app.py", "pyproject.toml", "README.md"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=tmp_path / "here", env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert "tea-shop::greet" in (tmp_path / "here/README.md").read_text("utf-8")


def test_a_project_is_made_in_a_directory_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("new", "shop")
    assert done.exit_code == 0
    assert "cd shop" in done.stderr
    compile((tmp_path / "shop/app.py").read_text("utf-8"), "app.py", "exec")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("mine", "utf-8")
    done = cli("new", "shop", str(tmp_path))
    assert done.exit_code == 2
    assert "app.py exists already" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["app.py"]
    assert (tmp_path / "app.py").read_text("utf-8") == "mine"


@pytest.mark.parametrize("name", ["", "../up", "1st", "a b", "x'y", "-"])
def test_a_name_that_no_project_can_have_is_refused(name: str, tmp_path: Path) -> None:
    done = cli("new", "--", name, str(tmp_path / "new"))
    assert done.exit_code == 2
    assert not (tmp_path / "new").exists()
