"""Phase retrieval end to end: known objects come back, wrong input does not give one."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from spicore import phasing, simulate
from spicore._dispatch import cuda_status
from spicore.errors import CudaError, InputError
from spicore.phasing import Config, Solutions, align, frequencies, reconstruct, run
from spicore.phasing.pattern import prepare

SIZE = 48
FAST = Config(seeds=4, schedule="150RAAR 50ER", support_threshold=0.15)


def image(size=SIZE, real=True):
    """An object of 14 x 12 pixels, positive or with phases."""
    rng = np.random.default_rng(3)
    x = np.zeros((size, size), float if real else complex)
    first = size // 2 - 6
    x[first : first + 14, first : first + 12] = rng.uniform(0.5, 1.5, (14, 12))
    x[first : first + 5, first : first + 4] = 0  # no symmetry
    if not real:
        a, b = np.indices(x.shape) - first
        x = x * np.exp(1j * (0.5 * np.sin(a / 3) + 0.4 * np.cos(b / 2)))
    return x


def intensity(x):
    return np.fft.fftshift(np.abs(np.fft.fftn(x)) ** 2)


def correlation(found, truth):
    return align(np.asarray(found, truth.dtype), truth)[1].correlation


@pytest.fixture(scope="module")
def truth():
    return image()


@pytest.fixture(scope="module")
def solutions(truth):
    return reconstruct(intensity(truth), FAST, voxel_size=0.01)


def test_image_comes_back(truth, solutions):
    assert correlation(solutions.density, truth) > 0.95
    assert solutions.n_kept >= 2
    assert solutions.r_factor < 0.1
    assert solutions.mode_weights[0] > 0.9
    np.testing.assert_allclose(solutions.voxel_size, 1 / (SIZE * 0.01))
    assert solutions.undetermined.charge_measured
    middle = np.argwhere(solutions.support).mean(axis=0)
    assert np.abs(middle - SIZE // 2).max() < 3


def test_control_shuffled_intensity_gives_nothing(truth):
    rng = np.random.default_rng(0)
    values = np.fft.ifftshift(intensity(truth))
    shells = frequencies.shells(values.shape)
    for shell in np.unique(shells):
        values[shells == shell] = rng.permutation(values[shells == shell])
    config = dataclasses.replace(FAST, max_outside=1.0)
    found = reconstruct(np.fft.fftshift(values), config)
    assert correlation(found.density, truth) < 0.9
    assert found.r_factor > 0.25


def test_control_wrong_support_is_rejected(truth):
    support = np.zeros(truth.shape, bool)
    support[20:26, 20:26] = True
    config = dataclasses.replace(FAST, support="fixed")
    with pytest.raises(InputError, match=r"no seed of 4 passed, .* % of the power outside of the"):
        reconstruct(intensity(truth), config, support=support)


def test_complex_object_with_fixed_support():
    x = image(real=False)
    config = Config(
        real=False, positive=False, support="fixed", seeds=6, schedule="300HIO 100ER", detwin=True
    )
    found = reconstruct(intensity(x), config, support=x != 0)
    assert correlation(found.density, x) > 0.95
    assert found.density.dtype == np.complex64
    best = found.scores["rank"] == 0
    assert found.scores["agreement"][best] == pytest.approx(1.0, abs=1e-3)


def test_phases_stay_within_their_limit():
    x = image(real=False)  # phases from -0.9 to 0.9
    config = Config(
        real=False, positive=False, support="fixed", seeds=2, schedule="60HIO 40ER", max_phase=0.4,
        max_outside=1.0, max_llk=1e6,
    )  # fmt: skip
    bounded = reconstruct(intensity(x), config, support=x != 0)
    free = reconstruct(intensity(x), dataclasses.replace(config, max_phase=0.0), support=x != 0)

    def most(found):
        inside = found.best[found.best != 0]
        return np.abs(np.angle(inside * np.exp(-1j * np.angle(inside.sum())))).max()

    assert most(bounded) <= 0.8 + 1e-6 < most(free)  # twice the limit: about another common phase


def test_histogram_of_the_object_helps(truth):
    """And a wrong one does not: the control."""
    config = Config(seeds=4, schedule="60RAAR 40ER", support="fixed", max_outside=1.0, max_llk=1e6)
    support = np.zeros(truth.shape, bool)
    support[np.ix_(*[(truth != 0).any(axis) for axis in (1, 0)])] = True  # of 8 x 14 too much
    values = truth[support]
    wrong = np.random.default_rng(0).normal(10.0, 0.1, 50)
    found, without, control = (
        reconstruct(intensity(truth), config, support=support, histogram=histogram)
        for histogram in (values, None, wrong)
    )
    assert np.ptp(found.best[support]) > 1
    assert correlation(found.best, truth) > 0.999
    assert found.r_factor < 0.3 * without.r_factor
    assert correlation(control.best, truth) < 0.95
    assert control.r_factor > 0.3


@pytest.fixture(scope="module")
def volume():
    """A particle of 10 voxels in 32^3 with a hole of one speckle, photons, and exposure."""
    density = simulate.particle(1, diameter=10.0, size=31)
    values = simulate.intensity(density, 31).astype(float)
    radius = np.fft.fftshift(frequencies.radius(values.shape))
    weight = np.where((radius >= 3) & (radius <= 15), 50.0, 0.0)
    photons = np.random.default_rng(0).poisson(values * weight * 0.02)
    merged = np.divide(photons, weight, out=np.zeros_like(values), where=weight > 0)
    return density, merged.astype(np.float32), weight.astype(np.float32)


def test_volume_with_missing_centre(volume):
    density, merged, weight = volume
    config = Config(seeds=6, schedule="200RAAR 50ER")
    found = reconstruct(merged, config, weight=weight)
    assert correlation(found.density, density) > 0.9
    assert found.likelihood == "poisson"
    assert not found.undetermined.charge_measured
    assert 0.1 < found.undetermined.missing[0] < 0.9  # one speckle: weak, not open
    assert np.isnan(found.curves["prtf"][:3]).all()
    assert np.isfinite(found.curves["prtf"][3:]).all()


def test_background_is_found(volume):
    """And without it in the model nothing else is found: the control."""
    density, merged, weight = volume
    radius = np.fft.fftshift(frequencies.radius(merged.shape))
    level = merged[(radius > 6.5) & (radius < 7.5)].mean()
    smooth = level * np.exp(-((radius / 15) ** 2))
    config = Config(seeds=4, schedule="200RAAR 50ER", background=True, max_outside=1.0)
    found = reconstruct(merged + smooth, config, weight=weight)
    assert correlation(found.density, density) > 0.85
    expected = level * np.exp(-((np.arange(5, 15) / 15) ** 2))
    assert np.abs(found.curves["background"][5:15] / expected - 1).max() < 0.2
    plain = dataclasses.replace(config, background=False)
    without = reconstruct(merged + smooth, plain, weight=weight)
    assert correlation(without.density, density) < 0.8
    assert np.nanmin(without.scores["free_llk"]) > 1.5 * np.nanmin(found.scores["free_llk"])


def same(a: Solutions, b: Solutions):
    np.testing.assert_array_equal(a.density, b.density)
    np.testing.assert_array_equal(a.scores["free_llk"], b.scores["free_llk"])


def test_same_seed_same_result_on_any_threads_and_blocks(truth, monkeypatch):
    values = intensity(truth)
    config = dataclasses.replace(FAST, schedule="40RAAR 10ER", max_llk=100.0, max_outside=1.0)
    first = reconstruct(values, config, threads=1)
    same(first, reconstruct(values, config, threads=3))
    monkeypatch.setattr(run.Run, "_block_size", lambda self: 3)
    same(first, reconstruct(values, config, threads=2))
    other = reconstruct(values, dataclasses.replace(config, seed=1))
    assert (other.density != first.density).any()


def test_more_seeds_leave_the_first_ones_as_they_are(truth):
    config = dataclasses.replace(FAST, schedule="40RAAR", max_llk=100.0, max_outside=1.0)
    few = reconstruct(intensity(truth), config)
    more = reconstruct(intensity(truth), dataclasses.replace(config, seeds=5))
    np.testing.assert_array_equal(few.scores["llk"], more.scores["llk"][:4])


class Stopped(Exception):
    pass


def test_resume_gives_the_same_result(truth, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(run, "SAVE_PAUSE", 0.0)
    monkeypatch.setattr(run.Run, "_block_size", lambda self: 3)
    values = intensity(truth)
    config = dataclasses.replace(FAST, schedule="60RAAR 20ER", max_llk=100.0, max_outside=1.0)
    whole = reconstruct(values, config, out=tmp_path / "whole.h5")
    assert sorted(os.listdir(tmp_path)) == ["whole.h5"]
    out = tmp_path / "part.h5"
    seen = []

    def stop(progress):
        seen.append(progress)
        if len(seen) == 4:
            raise Stopped

    with pytest.raises(Stopped):
        reconstruct(values, config, out=out, on_progress=stop)
    assert sorted(os.listdir(tmp_path)) == ["part.h5.state", "whole.h5"]
    with pytest.raises(InputError, match="must be of the same intensity and options to resume"):
        reconstruct(values, dataclasses.replace(config, beta=0.5), out=out, resume=True)
    again = []
    same(whole, reconstruct(values, config, out=out, resume=True, on_progress=again.append))
    assert again[0].iterations > seen[-2].iterations
    assert not (tmp_path / "part.h5.state").exists()
    same(whole, reconstruct(values, config, out=out, resume=True))
    with pytest.raises(InputError, match=r"part.h5 must be of the same options to resume"):
        reconstruct(values, dataclasses.replace(config, beta=0.5), out=out, resume=True)


def test_free_voxels_are_never_put_in(truth):
    """Values that were held out may be anything: the solutions do not change."""
    values = intensity(truth)
    free = np.fft.fftshift(prepare(values).free)
    assert free.sum() > 50
    config = dataclasses.replace(FAST, schedule="40RAAR 10ER", max_llk=1e6, max_outside=1.0,
                                 diameter=24.0)  # fmt: skip
    changed = np.where(free, 3 * values, values)
    a, b = reconstruct(values, config), reconstruct(changed, config)
    np.testing.assert_array_equal(a.scores["llk"] > 0, True)
    np.testing.assert_allclose(a.history["r_factor"], b.history["r_factor"], rtol=1e-4, atol=1e-6)
    assert np.nanmin(b.scores["free_llk"]) > 1.5 * np.nanmin(a.scores["free_llk"])


def test_supports_out_of_bounds_start_again_and_say_so(truth):
    tight = dataclasses.replace(FAST, max_fraction=0.02, min_fraction=0.0, max_outside=1.0)
    with pytest.raises(
        InputError, match=r"support out of bounds after 10 restarts \(0\.\d+ of all"
    ):
        reconstruct(intensity(truth), tight)
    some = dataclasses.replace(FAST, max_fraction=0.1, max_outside=1.0, support_spread=0.0)
    found = reconstruct(intensity(truth), some)
    assert found.scores["restarts"].min() > 0
    np.testing.assert_allclose(
        found.scores["threshold"], 0.15 * 1.1 ** found.scores["restarts"].astype(float)
    )


def test_rejected_seeds_say_why(solutions):
    scores = solutions.scores
    for kept, reason in zip(scores["kept"], scores["reason"], strict=True):
        assert kept == (reason == "")
    order = np.argsort(scores["rank"])
    assert (np.diff(scores["free_llk"][order][: solutions.n_kept]) >= 0).all()


def test_save_and_load(solutions, tmp_path):
    solutions.save(tmp_path / "s.h5")
    loaded = Solutions.load(tmp_path / "s.h5")
    for field in dataclasses.fields(Solutions):
        a, b = getattr(solutions, field.name), getattr(loaded, field.name)
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
        elif field.name == "undetermined":
            for name, value in dataclasses.asdict(a).items():
                np.testing.assert_array_equal(value, getattr(b, name))
        else:
            np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match=r"no such file of 'spicore phase'"):
        Solutions.load(tmp_path / "other.h5")


def test_crossings(solutions):
    assert solutions.crossing("prtf", 0.5) > 10
    assert solutions.in_angstrom(10.0) == pytest.approx(1 / (10 * 0.01))


def test_public_names():
    for name in phasing.__all__:
        assert getattr(phasing, name).__doc__


ONES = np.ones((16, 16))
BAD = {
    "diameter": ({"config": Config(diameter=20.0)}, "diameter must be at most the 16 voxels"),
    "support shape": (
        {"support": np.ones((20, 20))},
        r"support must have the shape of the intensity, \[16, 16\], got \[20, 20\]",
    ),
    "support empty": ({"support": 0 * ONES}, "support must be True somewhere"),
    "support crop": (
        {"support": ONES, "config": Config(size=8)},
        r"support must have the shape of the cropped intensity, \[8, 8\]",
    ),
    "voxel size": ({"voxel_size": -1.0}, "voxel_size must be positive, one or 2, got -1"),
    "mask": ({"mask": 0 * ONES > 1}, "mask must be True where measured, got False everywhere"),
    "histogram": ({"histogram": [np.nan]}, "histogram must be finite values, .* 1 NaN or infinite"),
    "histogram, complex": (
        {"histogram": ONES, "config": Config(real=False, positive=False)},
        "histogram must be None with a complex object",
    ),
    "histogram, DM": (
        {"histogram": ONES, "config": Config(schedule="10DM 10ER")},
        "histogram must be None with DM unless beta is 1, got beta 0.9",
    ),
    "threads": ({"threads": 0}, "threads must be between 1 and"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(kind):
    options, text = BAD[kind]
    with pytest.raises(InputError, match=text):
        reconstruct(ONES + np.arange(16), options.pop("config", Config()), **options)


GPUS = ["cuda-emulated", "cuda-torch", "cuda-cupy"]


@pytest.mark.parametrize("column", GPUS, indirect=True)
@pytest.mark.parametrize("background", [False, True])
def test_gpu_finds_what_the_cpu_finds(column, background, monkeypatch):
    """Few iterations, after which rounding has not grown yet."""
    launches = []
    iterate = run.gpu.iterate

    def counted(*arguments, **options):
        launches.append(arguments)
        return iterate(*arguments, **options)

    monkeypatch.setattr(run.gpu, "iterate", counted)
    options = {"seeds": 2, "schedule": "8RAAR 4ER", "background": background, "max_outside": 1.0}
    support = image(24) != 0
    want = reconstruct(intensity(image(24)), Config(**options), support=support)
    assert not launches
    got = reconstruct(intensity(image(24)), Config(**options), support=support, device="cuda")
    assert launches
    assert np.abs(got.density - want.density).max() < 1e-3 * np.abs(want.density).max()


def test_devices_without_use_are_refused(truth):
    with pytest.raises(InputError, match="device must be one of cpu, cuda, got 'tpu'"):
        reconstruct(intensity(truth), FAST, device="tpu")
    config = dataclasses.replace(FAST, coherence=2)
    with pytest.raises(InputError, match="device must be cpu with coherence or a histogram"):
        reconstruct(intensity(truth), config, device="cuda")
    if not cuda_status().usable:
        with pytest.raises(CudaError, match="device is cuda, but: "):
            reconstruct(intensity(truth), FAST, device="cuda")
