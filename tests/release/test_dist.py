"""What a release consists of. ``make dist`` also installs it into a fresh environment."""

from __future__ import annotations

import tarfile
from email import message_from_string
from email.message import Message
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

import iii_anyio
from tests.release.build import ROOT, Built, build

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("dist"))


def metadata(wheel: Path) -> tuple[list[str], Message, str]:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        [info] = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        text = archive.read(f"{info}/METADATA").decode()
        return names, message_from_string(text), archive.read(f"{info}/entry_points.txt").decode()


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    names, _, entry_points = metadata(built.wheel)
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"iii_anyio"}
    in_tree = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "iii_anyio").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert in_tree <= set(names)  # data files such as py.typed and pages too
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert "iii-anyio = iii_anyio.cli:main" in entry_points
    assert "[pytest11]" in entry_points


def test_the_metadata_tell_what_a_package_index_shows(built: Built) -> None:
    _, fields, _ = metadata(built.wheel)
    assert (fields["Name"], fields["Version"]) == ("iii-anyio", iii_anyio.__version__)
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["Requires-Python"] == "<3.15,>=3.11"
    assert fields["Description-Content-Type"] == "text/markdown"
    assert str(fields.get_payload()).startswith("# iii_anyio")
    assert set(fields.get_all("Provides-Extra", [])) >= {"trio", "otel", "engine", "cli", "all"}
    core = [need for need in fields.get_all("Requires-Dist", []) if "extra ==" not in need]
    assert len(core) <= 8, core


def test_the_sdist_holds_what_the_tests_and_pages_need(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "Makefile", "constraints.txt"}
    wanted |= {"iii_anyio/py.typed", "tests/conftest.py", "docs/index.md", "examples/where.py"}
    assert wanted <= names
    assert not any("node_modules" in name or "__pycache__" in name for name in names)
