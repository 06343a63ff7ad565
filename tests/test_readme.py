"""The README tells the truth: its example runs, its commands are CI's, its numbers exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_example_runs_and_finds_the_poses():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)
    # half the distance between neighbours of the grid that it uses is 9 degrees
    assert sorted(names["errors"])[len(names["errors"]) // 2] < 5
    inside = (names["radius"] > 3) & (names["radius"] < 15)
    assert names["cc"][inside].mean() > 0.9


def test_ci_runs_the_test_command():
    command = 'pip install ".[test]" && pytest'
    assert f"```sh\n{command}\n```" in README
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def _numbers(value) -> set[str]:
    """All numbers of a result, rounded as the table may show them."""
    if isinstance(value, dict | list):
        values = value.values() if isinstance(value, dict) else value
        return set().union(*map(_numbers, values))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return set()
    return {f"{value:.{digits}f}" for digits in range(5)}


def test_results_table_is_filled_from_measurements():
    table = README.split("<!-- results -->")[1].split("<!-- /results -->")[0]
    if not table.strip():
        pytest.fail("the results table is empty")
    known: set[str] = set()
    for path in (ROOT / "bench" / "results").glob("*.json"):
        known |= _numbers(json.loads(path.read_text(encoding="utf-8")))
    shown = set(re.findall(r"\*\*([\d.]+)\*\*", table))
    assert shown, "results stand in bold"
    assert shown <= known, f"not in bench/results: {sorted(shown - known)}"
