"""match: against its reference, and what must hold of templates in patterns."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.stats import pearsonr

import spicore as sp
from spicore import Detector, Frames, metrics, simulate
from spicore.emc.polar.layout import PolarLayout
from spicore.errors import InputError
from spicore.matching import SCORES
from spicore.orientations import (
    angle,
    multiply,
    n_pairs_for,
    pair_quaternions,
    point_group,
    random,
    view_pairs,
)
from spicore.reference.matching import matching

SPACING = 15.0
WIDTH = 1.0
N_ANGLES = 32
N_FRAMES = 24

# Where a grid's farthest points are, in units of its spacing: 0.85 for directions and half a
# step for in-plane angles; noise moves the maximum further.
FARTHEST = 1.3


def with_gap(detector):
    """Mask a stripe off the centre, and let a corner merge only."""
    x, y = detector.pixel_xy.T
    mask = np.where(np.abs(y - 3) < 1.5, 2, detector.mask)
    return replace(detector, mask=np.where((mask == 0) & (x > 4) & (y < -4), 1, mask))


@pytest.fixture(scope="module", params=["full", "gap"])
def detector(request):
    """33 x 33 pixels, strongly curved, exposures from 0.6 to 1.4."""
    full = Detector.square(33, 2e-3, 0.06, stop_radius=2)
    return full if request.param == "full" else with_gap(full)


@pytest.fixture(scope="module")
def volume(detector):
    return simulate.intensity(simulate.particle(3, diameter=8.0), detector.size)


@pytest.fixture(scope="module")
def patterns(detector, volume):
    return simulate.frames(volume, detector, N_FRAMES, 30_000.0, seed=1, fluence_spread=0.1)


@pytest.fixture(scope="module")
def frames(patterns):
    return patterns[0]


@pytest.fixture(scope="module")
def truth(patterns):
    return patterns[1]["quats"]


def options(**other):
    return {"spacing": SPACING, "ring_width": WIDTH, "n_angles": N_ANGLES, **other}


def oriented(detector):
    return np.flatnonzero(detector.mask == 0)


def slices(detector, volume, quats):
    """Exact expected patterns [R, T] on the pixels that orient."""
    pixel = oriented(detector)
    q = detector.q_voxels[pixel].astype(np.float32)
    return sp.ewald_slice(volume, quats, q) * detector.correction[pixel]


def binned_slices(detector, volume, symmetry="C1"):
    """All orientations of the grid, and their slices at the centres of the polar bins."""
    layout = PolarLayout(detector, 0.0, N_ANGLES, WIDTH)
    views, _ = view_pairs(n_pairs_for(SPACING), symmetry)
    quats = pair_quaternions(views, N_ANGLES, np.arange(2 * N_ANGLES * len(views)))
    pixel = oriented(detector)
    q = np.ascontiguousarray(layout.q[:, layout.row_of[pixel]].T)
    return quats, sp.ewald_slice(volume, quats, q) * detector.correction[pixel]


def values(frames, detector):
    return frames.dense(0, len(frames))[:, oriented(detector)].astype(float)


def known_fluence(score):
    return np.linspace(0.5, 2.0, N_FRAMES) * 1e-3 if score == "known" else None


@pytest.mark.parametrize("kind", [*SCORES, "known"])
def test_all_orientations_match_reference(detector, volume, frames, kind):
    score, fluence = ("poisson" if kind == "known" else kind), known_fluence(kind)
    got = sp.match(frames, detector, volume, **options(score=score, fluence=fluence))
    quats, w = binned_slices(detector, volume)
    want, scale = matching(values(frames, detector), w, score, fluence)
    error = 2e-6 * np.abs(want).max()
    np.testing.assert_allclose(got.score, want.max(axis=1), atol=error)
    np.testing.assert_allclose(got.mean, want.mean(axis=1), atol=error)
    found = np.abs(got.orientation @ quats.T).argmax(axis=1)
    d = np.arange(N_FRAMES)
    np.testing.assert_allclose(want[d, found], want.max(axis=1), atol=error)
    np.testing.assert_allclose(got.fluence, scale[d, found], rtol=1e-5)
    gain = got.score - got.mean if score == "poisson" else got.score / got.mean
    np.testing.assert_allclose(got.gain, gain)


def test_reference_is_what_it_says(detector, volume, frames, truth):
    k, w = values(frames, detector)[:3], slices(detector, volume, truth[:2])
    np.testing.assert_allclose(matching(k, w, "correlation")[0][2, 1], pearsonr(k[2], w[1])[0])
    cosine, scale = matching(k, w, "l2")
    residual = ((k[2] - scale[2, 1] * w[1]) ** 2).sum()
    np.testing.assert_allclose(residual, (k[2] ** 2).sum() * (1 - cosine[2, 1] ** 2))
    fitted, s = matching(k, w, "poisson")
    np.testing.assert_allclose(matching(k, w, "poisson", s[:, 1])[0][:, 1], fitted[:, 1])
    assert (matching(k, w, "poisson", s[:, 1] * 1.1)[0][:, 1] < fitted[:, 1]).all()


@pytest.mark.parametrize("score", SCORES)
def test_pose_within_the_spacing(detector, volume, frames, truth, score):
    got = sp.match(frames, detector, volume, score=score, spacing=SPACING)
    error = angle(got.orientation, truth)
    assert np.median(error) < 0.8 * SPACING
    assert (error < FARTHEST * SPACING).mean() > 0.9


@pytest.mark.parametrize("score", SCORES)
def test_refinement_is_exact(detector, volume, frames, truth, score):
    got = sp.match(frames, detector, volume, score=score, spacing=SPACING, refine=True)
    assert np.median(angle(got.orientation, truth)) < 0.15 * SPACING
    want, scale = matching(
        values(frames, detector), slices(detector, volume, got.orientation), score
    )
    np.testing.assert_allclose(
        got.score, np.diag(want), rtol=2e-5, atol=1e-2 * (score == "poisson")
    )
    np.testing.assert_allclose(got.fluence, np.diag(scale), rtol=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_fluence_is_found(detector, volume, patterns, score):
    frames, truth = patterns
    got = sp.match(frames, detector, volume, score=score, spacing=SPACING, refine=True)
    np.testing.assert_allclose(got.fluence / truth["scale"], truth["fluence"], rtol=0.15)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("refine", [False, True])
def test_arrays_equal_frames(detector, volume, frames, score, refine):
    dense = frames.dense(0, len(frames)).astype(np.float64)
    dense[:, detector.mask > 0] = np.nan
    arguments = options(score=score, refine=refine)
    want = sp.match(frames, detector, volume, **arguments)
    for given in (dense, Frames.from_dense(np.nan_to_num(dense))):
        for a, b in zip(sp.match(given, detector, volume, **arguments), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_averages_and_scale(detector, volume, truth):
    """Noise-free real values fit perfectly; neither their scale nor the volume's matters."""
    patterns = np.full((N_FRAMES, detector.n_pixels), np.nan)
    patterns[:, oriented(detector)] = slices(detector, volume, truth)
    for score in ("correlation", "l2"):
        got = sp.match(patterns * 0.01, detector, volume, spacing=SPACING, score=score, refine=True)
        assert np.median(angle(got.orientation, truth)) < 0.7
        assert got.score.min() > 0.99
        assert np.median(got.score) > 0.999
        same = sp.match(patterns, detector, volume * 7, spacing=SPACING, score=score, refine=True)
        np.testing.assert_allclose(same.score, got.score, rtol=1e-4)
        np.testing.assert_allclose(got.fluence, 0.01, rtol=0.05)


def in_rings(detector, frames, change):
    """Apply a function to the photons [D, pixels] of each ring of pixels that orient."""
    patterns = frames.dense(0, len(frames)).astype(float)
    ring = np.rint(np.linalg.norm(detector.q_voxels, axis=1))
    for k in np.unique(ring[detector.mask == 0]):
        pixel = np.flatnonzero((ring == k) & (detector.mask == 0))
        patterns[:, pixel] = change(patterns[:, pixel])
    return patterns


@pytest.mark.parametrize("score", SCORES)
def test_control_of_shuffled_photons(detector, volume, frames, truth, score):
    """Shuffled within rings, frames gain what noise of their radial mean gains, and no pose."""
    rng = np.random.default_rng(5)
    shuffled = in_rings(detector, frames, lambda x: rng.permuted(x, axis=1))
    noise = in_rings(
        detector, frames, lambda x: rng.poisson(x.mean(axis=1, keepdims=True), x.shape)
    )
    arguments = {"score": score, "spacing": SPACING}
    real, control, chance = (
        sp.match(x, detector, volume, **arguments) for x in (frames, shuffled, noise)
    )
    excess = [np.median(m.score - m.mean) for m in (real, control, chance)]
    assert excess[1] == pytest.approx(excess[2], rel=0.25)
    assert excess[0] > 1.6 * excess[2]
    assert np.median(real.gain) > np.median(control.gain)
    assert np.median(angle(control.orientation, truth)) > 90.0


def test_symmetry_searches_less_and_finds_the_same(detector):
    group = point_group("D3")
    one = simulate.intensity(simulate.particle(3, diameter=8.0), detector.size)
    q = np.stack(np.meshgrid(*[np.arange(detector.size) - detector.size // 2.0] * 3, indexing="ij"))
    points = q.reshape(3, -1).T.astype(np.float32)
    volume = sp.ewald_slice(one, group, points).mean(axis=0).reshape(one.shape)
    quats = random(N_FRAMES, np.random.default_rng(2))
    frames, _ = simulate.frames(volume, detector, N_FRAMES, 30_000.0, quats=quats)
    whole = sp.match(frames, detector, volume, **options())
    part = sp.match(frames, detector, volume, **options(symmetry="D3"))
    quats_part, w = binned_slices(detector, volume, "D3")
    want = matching(values(frames, detector), w, "poisson")[0]
    assert len(quats_part) < 0.25 * 2 * N_ANGLES * n_pairs_for(SPACING)
    np.testing.assert_allclose(part.score, want.max(axis=1), rtol=1e-5)
    error = np.min([angle(part.orientation, multiply(g, quats)) for g in group], axis=0)
    assert np.median(error) < 0.8 * SPACING
    np.testing.assert_allclose(part.score, whole.score, atol=0.2 * np.median(whole.gain))


def test_volume_is_made_centrosymmetric(detector, volume, frames):
    lopsided = volume * np.linspace(0.5, 1.5, len(volume), dtype=np.float32)[:, None, None]
    for a, b in zip(
        sp.match(frames, detector, lopsided, **options()),
        sp.match(frames, detector, volume, **options()),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3)


def test_empty_and_constant_patterns(detector, volume):
    patterns = np.zeros((2, detector.n_pixels))
    patterns[1] = 1.0
    for score in SCORES:
        for refine in (False, True):
            got = sp.match(patterns, detector, volume, **options(score=score, refine=refine))
            assert np.isfinite(got.score).all()
            assert np.isfinite(got.orientation).all()
            np.testing.assert_allclose(got.score[0], 0.0, atol=1e-6)
    constant = sp.match(patterns[1:], detector, volume, **options(score="correlation"))
    np.testing.assert_allclose(constant.score, 0.0, atol=1e-6)


def test_constant_volume_says_nothing(detector, frames):
    """Slices without any spread correlate with nothing."""
    flat = replace(detector, correction=np.where(detector.correction > 0, 1.0, 0.0))
    volume = np.ones((detector.size,) * 3, np.float32)
    got = sp.match(frames, flat, volume, **options(score="correlation"))
    np.testing.assert_array_equal(got.score, 0.0)
    assert np.isnan(got.gain).all()


@pytest.mark.parametrize("score", SCORES)
def test_blocks_threads_and_progress(detector, volume, frames, monkeypatch, score):
    arguments = options(score=score, refine=True)
    want = sp.match(frames, detector, volume, **arguments, threads=2)
    monkeypatch.setattr("spicore.matching._Grid.block_size", lambda *_: 10)
    calls = []
    got = sp.match(
        frames, detector, volume, **arguments, threads=1, on_progress=lambda *x: calls.append(x)
    )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    assert calls == [(10, 24), (20, 24), (24, 24)]


def test_radius_leaves_pixels_out(detector, volume, frames):
    q_abs = np.linalg.norm(detector.q_voxels, axis=1)
    cut = replace(detector, mask=np.where(q_abs > 10.0, 2, detector.mask))
    want = sp.match(frames, cut, volume, **options())
    small = volume[6:-6, 6:-6, 6:-6]
    assert len(small) // 2 >= 10
    for a, b in zip(sp.match(frames, detector, small, **options(radius=10.0)), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


BAD = [
    ({"score": "cc"}, "score must be one of poisson, correlation, l2, got 'cc'"),
    ({"spacing": 0.1}, "spacing must be between 0.5 and 90, got 0.1"),
    ({"spacing": "fine"}, "spacing must be a number"),
    ({"n_angles": 50}, "n_angles must be 0 or one of .*, got 50"),
    ({"ring_width": 0.0}, "ring_width must be between 0.1 and 100"),
    ({"radius": -1.0}, "radius must be between 0 and inf"),
    ({"symmetry": "X9"}, "must be one of C1, Cn, .*, got 'X9'"),
    ({"threads": 0}, "threads must be between 1"),
    ({"score": "l2", "fluence": 1.0}, "fluence is for score \"poisson\" only, got it with 'l2'"),
    ({"fluence": [1.0, 2.0]}, r"fluence must have shape \[24\], got \[2\]"),
    ({"fluence": 0.0}, "fluence must be positive, got 0"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_options(detector, volume, frames, arguments, message):
    with pytest.raises(InputError, match=message):
        sp.match(frames, detector, volume, **options(**arguments))


def test_bad_patterns(detector, volume):
    n = detector.n_pixels
    for patterns, message in [
        (np.zeros(n), r"patterns must be Frames or real numbers of shape \[D, n_pixels\]"),
        (np.zeros((0, n)), "with D >= 1"),
        (np.zeros((2, n), complex), "real numbers .* got complex128"),
        (np.zeros((2, n - 1)), f"patterns must have the {n} pixels of the detector, got {n - 1}"),
        (np.full((2, n), np.nan), "patterns must be finite on pixels with mask 0, got nan"),
        (np.full((2, n), -1.0), 'not negative for score "poisson" .* got -1 at pattern 0'),
    ]:
        with pytest.raises(InputError, match=message):
            sp.match(patterns, detector, volume, **options())
    sp.match(np.full((2, n), -1.0), detector, volume, **options(score="l2"))


def test_bad_volumes(detector, volume, frames):
    for bad, message in [
        (volume[:-1, :-1, :-1], "volume must have an odd edge of at least"),
        (volume[8:-8, 8:-8, 8:-8], "to reach the pixels in use, got"),
        (volume[0], "volume must have shape"),
        (-volume, 'volume must not be negative for score "poisson"'),
        (0 * volume, "volume must be positive somewhere"),
    ]:
        with pytest.raises(InputError, match=message):
            sp.match(frames, detector, bad, **options())


def test_known_particle(shared_data):
    """sim_1bxr: simulated by others, in curved slices of a structure that is nearly D2."""
    folder = shared_data / "sim_1bxr"
    if not folder.is_dir():
        pytest.skip(f"sim_1bxr is not in {shared_data}")
    detector = Detector.load(folder / "detector.h5")
    frames = Frames.open(folder / "photons.h5")[:200]
    with h5py.File(folder / "true_intensity.h5") as file:
        volume = file["intens"][()]
    with h5py.File(folder / "photons_truth.h5") as file:
        truth = file["quaternions_wxyz"][:200]
    axes = np.array([(0.995, 0.025, -0.092), (0.065, 0.525, 0.849), (0.068, -0.851, 0.520)])
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    group = np.vstack([[1, 0, 0, 0], np.column_stack([np.zeros(3), axes])])
    for refine, limit in ((False, 4.0), (True, 2.0)):
        got = sp.match(frames, detector, volume, spacing=7.0, refine=refine)
        assert np.median(metrics.pose_error(got.orientation, truth, group=group)[0]) < limit
