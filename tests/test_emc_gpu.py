"""EMC on a GPU: what the engines find there is what they find on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_polar_engine import Problem

from spicore import Detector, _dispatch, simulate
from spicore.matching import match

pytestmark = [
    pytest.mark.usefixtures("column"),
    pytest.mark.parametrize("column", ["cuda-emulated", "cuda-torch", "cuda-cupy"], indirect=True),
]


@pytest.fixture(scope="module")
def detector():
    """24 pixels an edge; a beam stop, a dead stripe and merge-only pixels."""
    square = Detector.square(24, pixel_size=0.1 / 24, distance=0.1, stop_radius=1.5)
    x, y = (np.indices((24, 24)) - 12).reshape(2, -1)
    mask = square.mask.copy()
    mask[(x > 2) & (np.abs(y) < 2)] = 2
    mask[(x < -3) & (y > 4) & (mask == 0)] = 1
    return replace(square, mask=mask)


@pytest.fixture(scope="module")
def volume(detector):
    return simulate.intensity(simulate.particle(3, diameter=6), detector.size)


@pytest.fixture(scope="module")
def frames(detector, volume):
    return simulate.frames(volume, detector, 21, 300, seed=1, fluence_spread=0.1)[0]


def test_evidence_is_that_of_the_cpu(frames, detector, volume):
    problem = Problem(frames, detector, volume, n_pairs=12)
    found = []
    for backend in (_dispatch.CPU, _dispatch.gpu()):
        problem.settings = replace(problem.settings, backend=backend)
        found.append(problem.engine.evidence(problem.model(), problem.grid, problem.state()))
    assert found[1] == pytest.approx(found[0], abs=5e-3)


@pytest.mark.parametrize("score", ["poisson", "correlation"])
def test_matches_are_those_of_the_cpu(score, frames, detector, volume):
    options = {"score": score, "spacing": 30.0, "threads": 2}
    want, got = (match(frames, detector, volume, **options, device=d) for d in ("cpu", "cuda"))
    scale = np.ptp(want.score)
    for name, a, b in zip(got._fields, got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale, err_msg=name)
    other = match(frames, detector, volume[::-1], **options, device="cuda")
    assert np.abs(other.score - want.score).max() > 1e-3 * scale
