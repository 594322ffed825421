"""A wheel works without the clone that it was built from."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from asap.shipped import MOTIONS_FOLDER, POLICIES_FOLDER, ROBOTS_FOLDER

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel was unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ["pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w"]
    # A copy: setuptools writes its notes beside what it builds.
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "asap", "robots", "motions", "policies"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run(
        [sys.executable, "-m", *words, str(folder), str(source)], check=True, timeout=100
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_everything_that_ships_is_inside(installed: Path) -> None:
    for folder, pattern in (
        (ROBOTS_FOLDER, "*.*ml"), (MOTIONS_FOLDER, "*.npz"), (POLICIES_FOLDER, "*.onnx"),
    ):  # fmt: skip
        wanted = {path.relative_to(folder.parent) for path in folder.rglob(pattern)}
        inside = installed / "asap" / "data"
        assert wanted and all((inside / path).is_file() for path in wanted)


def test_the_command_finds_robot_motion_and_policy_by_name(installed: Path, tmp_path: Path) -> None:
    words = ["evaluate", "--motion", "wave", "--policy", "wave", "--episodes", "1", "--json", "a"]
    path = os.pathsep.join([str(installed), str(ROOT / "deploy")])
    subprocess.run(
        [sys.executable, "-c", "import asap.cli; assert 'site' in asap.cli.__file__; "
         "raise SystemExit(asap.cli.main())", *words],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, check=True, timeout=100,
    )  # fmt: skip
    assert (tmp_path / "a").is_file()
