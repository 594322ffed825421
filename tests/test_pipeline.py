"""The ten lines of the README, executed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asap.shipped import SHIPPED as PROJECT


def test_the_lines_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PROJECT / "README.md").read_text()
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = block[1].replace("policies/g1", str(PROJECT / "policies" / "g1"))
    assert len([line for line in lines.splitlines() if line and "import" not in line]) <= 10
    monkeypatch.chdir(tmp_path)
    variables: dict[str, object] = {}
    exec(compile(lines, "README.md", "exec"), variables)
    assert variables["result"].overall["success_rate"].value == 1.0
    assert (tmp_path / "runs" / "readme.png").read_bytes().startswith(b"\x89PNG")
