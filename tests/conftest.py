"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of third-party test data, beside the repository or named by SPICORE_SHARED_DATA."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SPICORE_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"third-party test data is not at {folder} (set SPICORE_SHARED_DATA)")
    return folder
