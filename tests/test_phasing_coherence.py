"""Partial coherence: the kernel is found, the object with it, and full coherence where there is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spicore import reference
from spicore.errors import InputError
from spicore.phasing import Config, Measured, Seeds, align, coherence, iterate, reconstruct
from spicore.phasing import update_coherence as update

SHAPES = [(40,), (13, 18), (6, 7, 9)]


def kernel_of(kind, width, n_axes=2, half=5):
    axes = np.meshgrid(*[np.arange(-half, half + 1)] * n_axes, indexing="ij")
    r2 = sum(x**2 for x in axes) / width**2
    kernel = np.exp(-r2 / 2) if kind == "gauss" else (1 + r2) ** -1.5
    return kernel / kernel.sum()


def crystal(size=48, real=False):
    """A corner of a crystal, strained unless real; no symmetry."""
    a, b = np.indices((size, size))
    inside = (0.8 * a + b < 15) & (a < 16)
    x = inside * (1 + 0.3 * np.sin(a / 2) * np.cos(b / 1.7))
    return x if real else x * np.exp(1j * (0.6 * np.sin(a / 4) + 0.5 * np.cos(b / 3)))


def pattern(x, kernel, photons=1e8):
    """Poisson intensity in FFT order."""
    power = np.abs(np.fft.fftn(x)) ** 2
    mean = reference.phase_blurred(power, kernel)
    rng = np.random.default_rng(0)
    return rng.poisson(mean * photons / mean.sum()).astype(float)


def error(found, truth):
    found = align(found.astype(truth.dtype), truth)[0]
    factor = np.vdot(found, truth) / np.vdot(found, found)
    return np.linalg.norm(factor * found - truth) / np.linalg.norm(truth)


def phased(x, intensity, real, fitted):
    """Iterate from random phases with the known support; return the object and its kernel."""
    amplitude = np.sqrt(intensity)
    phases = np.exp(2j * np.pi * np.random.default_rng(1).random(x.shape))
    start = np.fft.ifftn(amplitude * phases)
    start = (start.real if real else start)[None].copy()
    kernel = coherence.first_kernel(x.shape)[None].copy() if fitted else None
    seeds = Seeds(start, (x != 0)[None], coherence=kernel)
    measured = Measured(amplitude, real=real)
    for _ in range(2):
        for algorithm, times in ("HIO", 5), ("ER", 3):
            for _ in range(times):
                iterate(measured, seeds, algorithm, 20, positive=real, threads=1)
                if fitted:
                    update(measured, seeds, threads=1)
    return seeds.x[0], None if kernel is None else kernel[0]


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_match_reference(shape, real):
    rng = np.random.default_rng(2)
    kernel = kernel_of("gauss", 1.0, len(shape), half=1)
    x = rng.normal(size=(2, *shape)) + (0 if real else 1j * rng.normal(size=(2, *shape)))
    support = rng.random((1, *shape)) > 0.3
    amplitude = np.sqrt(reference.phase_blurred(np.abs(np.fft.fftn(x[0])) ** 2, kernel))
    mask = rng.random(shape) > 0.3
    if real:
        mask &= np.roll(np.flip(mask), 1, tuple(range(len(shape))))
    seeds = Seeds(x, support, coherence=np.stack([kernel] * 2))
    update(Measured(amplitude, mask, real=real), seeds, steps=4)
    for s in range(2):
        power = np.abs(np.fft.fftn(np.where(support[0], x[s], 0))) ** 2
        want = reference.phase_richardson_lucy(kernel, amplitude**2, mask, power, 4)
        np.testing.assert_allclose(seeds.coherence[s], want, rtol=1e-9)
        assert seeds.coherence[s].sum() == pytest.approx(1)


@pytest.mark.parametrize("most", [20**2, coherence.MOST_VOXELS])
def test_the_true_kernel_stays_and_others_come_near(most, monkeypatch):
    monkeypatch.setattr(coherence, "MOST_VOXELS", most)  # a part of the pattern, or all of it
    x, true = crystal(), kernel_of("gauss", 0.7, half=3)
    amplitude = np.sqrt(reference.phase_blurred(np.abs(np.fft.fftn(x)) ** 2, true))
    measured = Measured(amplitude, real=False)
    first = kernel_of("lorentz", 1.0, half=3)
    seeds = Seeds(np.stack([x, x]), np.ones((1, *x.shape), bool), coherence=np.stack([true, first]))
    update(measured, seeds, steps=5)
    np.testing.assert_allclose(seeds.coherence[0], true, atol=1e-12)
    update(measured, seeds, steps=200)
    assert np.abs(seeds.coherence[1] - true).sum() < 0.2
    assert np.abs(first - true).sum() > 0.5


@pytest.mark.parametrize(
    ("kind", "width", "real"),
    [("gauss", 0.5, False), ("gauss", 0.8, False), ("lorentz", 0.6, False), ("gauss", 0.7, True)],
)
def test_kernel_and_object_are_found_together(kind, width, real):
    """And without a kernel the object is wrong: the control."""
    x, true = crystal(real=real), kernel_of(kind, width)
    intensity = pattern(x, true)
    found, kernel = phased(x, intensity, real, fitted=True)
    without, _ = phased(x, intensity, real, fitted=False)
    assert error(found, x) < 0.5 * error(without, x)
    assert np.abs(kernel - true).sum() / 2 < 0.15
    assert kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1)


def test_coherent_light_gives_a_kernel_of_one_voxel():
    x = crystal()
    found, kernel = phased(x, pattern(x, kernel_of("gauss", 0.01)), real=False, fitted=True)
    assert kernel[5, 5] > 0.97
    assert error(found, x) < 0.02


def test_reconstruct_fits_the_kernel():
    """Its likelihood is that of the blurred model, so that seeds pass only with it."""
    x = crystal()
    true = kernel_of("gauss", 0.6)
    values = np.fft.fftshift(pattern(x, true, photons=1e7))
    support = np.fft.fftshift(x != 0)
    config = Config(
        real=False, positive=False, seeds=2, schedule="2*(80HIO 60ER)", support="fixed",
        coherence=20, max_phase=1.5,
    )  # fmt: skip
    found = reconstruct(values, config, support=support, threads=1)
    plain = reconstruct(
        values, dataclasses.replace(config, coherence=0), support=support, threads=1
    )
    assert error(found.density.astype(complex), x) < 0.1 < error(plain.density.astype(complex), x)
    assert np.nanmin(found.scores["free_llk"]) < 0.2 * np.nanmin(plain.scores["free_llk"])
    assert found.in_place == pytest.approx(true[5, 5], abs=0.1)
    assert plain.in_place is None


def test_control_of_shuffled_intensities_keeps_a_kernel():
    """Nothing can be found in it, but nothing breaks."""
    x = crystal()
    intensity = np.random.default_rng(3).permutation(pattern(x, kernel_of("gauss", 0.5)).ravel())
    found, kernel = phased(x, intensity.reshape(x.shape), real=False, fitted=True)
    assert error(found, x) > 0.5
    assert np.isfinite(kernel).all()
    assert kernel.sum() == pytest.approx(1)


def test_an_object_of_zeros_leaves_the_kernel():
    kernel = coherence.first_kernel((8, 9))[None]
    seeds = Seeds(np.zeros((1, 8, 9)), np.ones((1, 8, 9), bool), coherence=kernel.copy())
    update(Measured(np.ones((8, 9))), seeds)
    np.testing.assert_array_equal(seeds.coherence, kernel)


def test_bad_input_is_refused():
    measured = Measured(np.ones((8, 9)))
    seeds = Seeds(np.ones((1, 8, 9)), np.ones((1, 8, 9), bool))
    with pytest.raises(InputError, match="coherence must be given to update it, got None"):
        update(measured, seeds)
    seeds.coherence = coherence.first_kernel((8, 9))[None]
    with pytest.raises(InputError, match="steps must be between 0 and inf, got -1"):
        update(measured, seeds, steps=-1)
