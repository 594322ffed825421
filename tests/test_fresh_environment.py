"""An empty robot computer: a new environment, one ``pip install ./deploy``, a checked policy.

Needs an index for pip and the Pythons that are asked for; says so where it is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from twin_process import ROOT, SQUAT, TwinProcess

LEAN = ("--no-compile", "--no-deps", "numpy", "onnxruntime")
"""What only tools of onnxruntime need (sympy, protobuf) stays away, and byte code."""
LIMIT_MB = {("3.8", LEAN): 120, ("3.8", ()): 190, ("3.13", LEAN): 140, ("3.13", ()): 165}
"""Without pip itself. All but ours is numpy, onnxruntime and what onnxruntime asks for."""
QUIET = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
FORBIDDEN = ["torch", "mujoco", "asap", "scipy", "onnx", "pickle5", "sympy"]


def python_of(version: str) -> str:
    """A Python that really runs; a shim that only says that it does not is none."""
    versions = Path.home() / ".pyenv" / "versions"
    for found in [shutil.which(f"python{version}"),
                  *map(str, versions.glob(f"{version}.*/bin/python"))]:  # fmt: skip
        if found and subprocess.run([found, "-V"], capture_output=True).returncode == 0:
            return found
    pytest.skip(f"no Python {version} here: an empty robot computer with it is NOT tested")


def megabytes(folder: Path) -> float:
    """Of all files but those of pip, as they lie on a disk."""
    paths = (path for path in folder.rglob("*") if not {"pip", "setuptools"} & {*path.parts})
    return 512.0 * sum(path.lstat().st_blocks for path in paths) / 1e6


@pytest.fixture(
    scope="module", params=list(LIMIT_MB), ids=lambda p: f"{p[0]}-{'lean' * bool(p[1])}"
)
def fresh(request, tmp_path_factory):
    """Version, kind of install and folder of a new environment."""
    version, words = request.param
    folder = tmp_path_factory.mktemp("fresh")
    python = python_of(version)
    source = shutil.copytree(ROOT / "deploy", folder / "deploy")  # pip writes beside what it builds
    subprocess.run([python, "-m", "venv", str(folder / "venv")], check=True, env=QUIET)
    pip = [str(folder / "venv" / "bin" / "pip"), "install", "-q", *words, str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, env=QUIET)
    if done.returncode and ("No matching distribution" in done.stderr
                            or "Could not find a version" in done.stderr):  # fmt: skip
        pytest.skip("pip reaches no index: an empty robot computer is NOT tested")
    assert done.returncode == 0, done.stderr
    for name in ("squat.onnx", "stand.onnx"):
        shutil.copy(SQUAT.with_name(name), folder / name)
    return version, words, folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fresh_environment_checks_a_policy_and_runs_it_on_a_simulated_robot(fresh, tmp_path):
    version, words, folder = fresh
    size_mb = megabytes(folder / "venv")  # before anything has been run
    print(f"\nPython {version}, pip install {' '.join(words)} ./deploy: {size_mb:.0f} MB")
    binaries = folder / "venv" / "bin"
    code = (
        "import sys, pkgutil, importlib, asap_deploy\n"
        "for found in pkgutil.iter_modules(asap_deploy.__path__):\n"
        "    importlib.import_module('asap_deploy.' + found.name)\n"
        f"print([name for name in {FORBIDDEN} if name in sys.modules])"
    )
    done = subprocess.run([str(binaries / "python"), "-c", code], cwd=folder, env=QUIET, check=True,
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.strip() == "[]"
    with TwinProcess(tmp_path) as twin:
        on = ["squat.onnx", "--link", "twin", "--address", twin.address, "--self-test-s", "0.3"]
        for verb, more in (("check", []), ("run", ["--out", "run.mcap", "--script",
                           "arm@0.1 stand@0.2 go@ready quit@hold quit@damp"])):  # fmt: skip
            command = [str(binaries / "asap-deploy"), verb, *on, *more, "--json", f"{verb}.json"]
            done = subprocess.run(command, cwd=folder, env=QUIET, capture_output=True, text=True,
                                  stdin=subprocess.DEVNULL, timeout=60)  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
        assert "'squat' is over: 'stand' stands" in done.stdout
        assert set(twin.report()["counts"]) <= {"accepted", "timeouts"}
    assert json.loads((folder / "run.json").read_text())["recording"]["missed"] == 0
    assert size_mb < LIMIT_MB[version, words]
