"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from columns import COLUMNS, Column, columns


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of third-party test data, beside the repository or named by SPICORE_SHARED_DATA."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SPICORE_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"third-party test data is not at {folder} (set SPICORE_SHARED_DATA)")
    return folder


@pytest.fixture(params=COLUMNS)
def column(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Column]:
    """Every way to run an operation, one after the other."""
    yield from columns(request.param, monkeypatch)
