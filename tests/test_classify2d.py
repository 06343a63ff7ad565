"""2D classification: mixtures of patterns that are known, what must hold, and its files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spicore import Detector, Frames, emc
from spicore.emc import Classes, ClassifyConfig, classify2d
from spicore.emc.classify2d import default_angles
from spicore.emc.kernels import Photons
from spicore.emc.polar.cartesian import CartesianGrid
from spicore.emc.polar.class_engine import ClassEngine, ClassSettings, Survey, seen_exposure
from spicore.emc.polar.layout import PolarLayout
from spicore.emc.polar.orders import AngularOrders
from spicore.errors import InputError
from spicore.report import write_classes_report

N_FRAMES = 300
SMALL = ClassifyConfig(n_classes=6)


def pattern(kind, x, y):
    """Intensity of one of three shapes at points in voxels; their radial means are alike."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    fold = (2, 3, 5)[kind]
    return np.exp(-radius / 6) * (1 + 0.9 * np.cos(fold * angle + 0.2 * radius))


def make_detector(gap=False):
    detector = Detector.square(
        32, pixel_size=0.05 / 32, distance=0.5, energy_ev=1500, stop_radius=1.5
    )
    if gap:
        x = detector.pixel_xy[:, 0]
        detector = replace(detector, mask=np.where(np.abs(x - 4) < 1.6, 2, detector.mask))
    return detector


def make_frames(detector, photons=400.0, seed=0, turned=True, n=N_FRAMES):
    """Frames of three shapes, their labels, angles and fluences; the angle turns the shape."""
    rng = np.random.default_rng(seed)
    labels, fluence = rng.integers(0, 3, n), rng.gamma(8.0, 1 / 8.0, n)
    angle = rng.uniform(0, 2 * np.pi, n) if turned else np.zeros(n)
    used, (x, y) = detector.mask < 2, detector.q_voxels[:, :2].T
    values = np.zeros((n, detector.n_pixels), np.uint16)
    for d in range(n):
        c, s = np.cos(angle[d]), np.sin(angle[d])
        mean = pattern(labels[d], c * x + s * y, c * y - s * x) * detector.correction * used
        values[d] = rng.poisson(photons * fluence[d] * mean / mean.sum())
    return Frames.from_dense(values), labels, angle, fluence


def purity(class_of, labels):
    """Share of the frames that have the commonest label of their class."""
    used = class_of >= 0
    pairs = zip(class_of[used], labels[used], strict=True)
    counts = np.zeros((class_of.max() + 1, labels.max() + 1))
    for k, label in pairs:
        counts[k, label] += 1
    return counts.max(axis=1).sum() / used.sum()


def shuffled(frames, detector, seed=0):
    """Move every photon to a random pixel of its ring."""
    rng = np.random.default_rng(seed)
    ring = np.rint(np.linalg.norm(detector.q_voxels, axis=1)).astype(int)
    dense, result = frames.dense(0, frames.n_frames), np.zeros((len(frames), len(ring)), np.uint16)
    for r in np.unique(ring[detector.mask < 2]):
        pixels = np.flatnonzero((ring == r) & (detector.mask < 2))
        for d, total in enumerate(dense[:, pixels].sum(axis=1).astype(int)):
            result[d, pixels] = rng.multinomial(total, np.full(len(pixels), 1 / len(pixels)))
    return Frames.from_dense(result)


@pytest.fixture(scope="module")
def detector():
    return make_detector()


@pytest.fixture(scope="module")
def data(detector):
    return make_frames(detector)


@pytest.fixture(scope="module")
def result(data, detector):
    return classify2d(data[0], detector, SMALL)


# --- what it finds


def test_shapes_are_told_apart(data, result):
    assert purity(result.class_of[0], data[1]) >= 0.95
    assert result.averages.shape[:2] == (1, 6)
    np.testing.assert_allclose(result.occupancy.sum(), N_FRAMES, rtol=1e-4)
    counts = np.bincount(result.class_of[0], minlength=6)
    assert np.abs(counts - result.occupancy[0]).max() < 10
    assert result.history["change"][-1] < SMALL.tolerance


def test_shuffled_photons_are_not(data, detector):
    """Six classes by chance, the largest of three labels in each: 0.33 and the luck of maxima."""
    found = classify2d(shuffled(data[0], detector), detector, SMALL)
    rng = np.random.default_rng(0)
    chance = np.mean([purity(rng.permutation(found.class_of[0]), data[1]) for _ in range(50)])
    assert purity(found.class_of[0], data[1]) < chance + 0.05


def test_angles_and_fluences(data, result):
    """Within a class, the angle found plus the true angle is constant, modulo the symmetry."""
    _, labels, angle, fluence = data
    for k in np.unique(result.class_of):
        members = np.flatnonzero(result.class_of[0] == k)
        fold = (2, 3, 5)[np.bincount(labels[members]).argmax()]
        phase = np.exp(1j * fold * (result.angle[0, members] + angle[members]))
        assert np.abs(phase.mean()) > 0.9
    error = result.fluence[0] / (fluence / fluence.mean()) - 1
    assert np.std(error) < 1.3 / np.sqrt(400)


def test_averages_are_the_shapes(data, result, detector):
    """The Cartesian average of a class is its shape, turned."""
    size = result.averages.shape[-1]
    x, y = np.meshgrid(*[np.arange(size) - size // 2] * 2, indexing="ij")
    ring = (np.hypot(x, y) > 3) & (np.hypot(x, y) < 13)
    for k in np.unique(result.class_of):
        label = np.bincount(data[1][result.class_of[0] == k]).argmax()
        best = 0.0
        for turn in np.linspace(0, 2 * np.pi, 72, endpoint=False):
            c, s = np.cos(turn), np.sin(turn)
            true = pattern(label, c * x + s * y, c * y - s * x)[ring]
            best = max(best, np.corrcoef(true, result.averages[0, k][ring])[0, 1])
        assert best > 0.9


def test_fixed_patterns(detector):
    """Without rotation: three patterns fixed on the detector, two of them one shape turned."""
    frames, labels, *_ = make_frames(detector, turned=False, seed=1)
    found = classify2d(frames, detector, replace(SMALL, n_classes=3, rotate=False))
    assert purity(found.class_of[0], labels) > 0.98
    assert (found.angle[0] == 0).all()
    assert (np.bincount(found.class_of[0], minlength=3) > 50).all()


def test_fixed_fluence(data, detector):
    found = classify2d(data[0], detector, replace(SMALL, fluence=False))
    assert (found.fluence[0] == 1).all()
    assert purity(found.class_of[0], data[1]) > 0.9


def test_gaps_are_no_missing_photons():
    """Rotation fills them; without it they stay unknown."""
    detector = make_detector(gap=True)
    frames, labels, *_ = make_frames(detector, seed=2)
    found = classify2d(frames, detector, SMALL)
    assert purity(found.class_of[0], labels) >= 0.95
    centre, picture = found.averages.shape[-1] // 2, found.averages[0]
    assert np.isfinite(picture[:, centre + 4, centre + 8]).all()
    fixed = classify2d(frames, detector, replace(SMALL, rotate=False, iterations=3))
    centre = fixed.averages.shape[-1] // 2
    assert np.isnan(fixed.averages[0, :, centre + 4, centre + 8]).all()
    assert np.isfinite(fixed.averages[0, :, centre - 4, centre + 8]).all()
    assert np.isnan(fixed.polar).any()


def test_more_classes_than_frames(detector):
    frames, *_ = make_frames(detector, n=5)
    found = classify2d(frames, detector, replace(SMALL, n_classes=40, iterations=5))
    assert np.isfinite(found.occupancy).all()
    assert found.averages.shape[:2] == (1, 40)
    empty = found.occupancy[0] == 0
    assert np.isnan(found.averages[0, empty]).all() or not empty.any()


# --- what must hold


def assert_same(a, b):
    for name in emc.classes.ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_threads_blocks_and_files_do_not_matter(data, detector, result, tmp_path):
    assert_same(classify2d(data[0], detector, SMALL, threads=1), result)
    data[0].save_emc(tmp_path / "frames.emc")
    again = classify2d(Frames.open(tmp_path / "frames.emc"), detector, SMALL)
    np.testing.assert_array_equal(again.class_of, result.class_of)  # photons in another order
    np.testing.assert_allclose(again.log_likelihood, result.log_likelihood, rtol=1e-5)


def test_small_memory_gives_nearly_the_same(data, detector, result):
    """Blocks of 128 frames, posteriors that do not fit: sums in another order."""
    found = classify2d(data[0], detector, replace(SMALL, block_memory_mb=1))
    assert purity(found.class_of[0], data[1]) >= 0.95
    np.testing.assert_allclose(
        found.history["log_likelihood"][0], result.history["log_likelihood"][0], rtol=1e-5
    )


def test_seeds_differ(data, detector, result):
    other = classify2d(data[0], detector, replace(SMALL, seed=1))
    assert (other.class_of != result.class_of).any()


def test_likelihood_rises_at_beta_1(data, detector):
    config = replace(SMALL, beta=1.0, iterations=12, tolerance=0.0, prior=1e-6)
    gain = np.diff(classify2d(data[0], detector, config).history["log_likelihood"])
    assert gain.min() > -1e-3
    assert gain[0] > 1


def test_bootstrap(data, detector):
    config = replace(SMALL, bootstrap=3, iterations=6)
    found = classify2d(data[0], detector, config)
    used = found.class_of >= 0
    assert (used.sum(axis=1) == 240).all()
    assert (used[0] != used[1]).any()
    np.testing.assert_array_equal(np.isnan(found.angle), ~used)
    np.testing.assert_array_equal(np.unique(found.history["run"]), [0, 1, 2])
    assert found.averages.shape[:2] == (3, 6)


def test_dropped_frames(data, detector):
    """Those of the blacklist, and those without photons, are in no class."""
    values = data[0].dense(0, N_FRAMES).astype(np.uint16)
    values[7] = 0
    dropped = np.arange(N_FRAMES) < 5
    found = classify2d(Frames.from_dense(values), detector, SMALL, blacklist=dropped)
    unused = dropped.copy()
    unused[7] = True
    np.testing.assert_array_equal(found.class_of[0] == -1, unused)
    np.testing.assert_array_equal(np.isnan(found.log_likelihood[0]), unused)
    alone = classify2d(Frames.from_dense(values[~unused]), detector, SMALL)
    np.testing.assert_array_equal(alone.class_of[0], found.class_of[0, ~unused])


def test_one_iteration_matches_numpy(detector):
    """The posterior and the averages of one step, in float64 and without transforms."""
    frames, *_ = make_frames(detector, n=12)
    layout = PolarLayout(detector, 0.0, 48)
    survey = Survey.of(frames, layout, 1)
    settings = ClassSettings(3, True, True, 0.5, 1 << 24, 1)
    orders = AngularOrders.from_limits(48, np.full(layout.n_radii, 24))
    engine = ClassEngine(frames, layout, orders, survey, settings)
    start = engine.start(np.random.default_rng(0))
    beta = np.full(12, 0.3, np.float32)
    averages, exposure, found = engine.iterate(start, beta)

    photons: Photons = layout.photons(frames.read(0, 12), 1)
    q, shape = layout.n_radii, (12, layout.n_rings, 48)
    every = Photons(*photons[:2], photons.row % layout.n_bins, photons.count)
    every = every.to_dense(layout.n_bins).reshape(shape).astype(float)
    counts = photons.to_dense(layout.n_bins).reshape(shape)[:, :q].astype(float)
    e, e_all = layout.exposure[0, :q].astype(float), layout.exposure[1].astype(float)
    score, total = np.empty((12, 3, 48)), np.empty((3, 48))
    for j in range(48):
        turned = np.roll(start.astype(float), -j, axis=2)[:, :q]  # [t] is the average at t + j
        total[:, j] = (turned * e).sum(axis=(1, 2))
        score[:, :, j] = np.einsum("dqt,kqt->dk", counts, np.log(turned))
    n = counts.sum(axis=(1, 2))
    score -= n[:, None, None] * np.log(total)
    p = np.exp(0.3 * (score - score.max(axis=(1, 2), keepdims=True)))
    p /= p.sum(axis=(1, 2), keepdims=True)
    merged, seen = np.zeros(start.shape), np.zeros(start.shape)
    for j in range(48):
        merged += np.einsum("dk,dqt->kqt", p[:, :, j], np.roll(every, j, axis=2))
        weight = (p[:, :, j].T @ n) / total[:, j]
        seen += weight[:, None, None] * np.roll(e_all, j, axis=1)
    prior = 0.5 * e_all.mean(axis=1)[:, None]
    want = (merged + prior * survey.profile[:, None]) / (seen + prior)
    want *= engine.mean_total / (want.mean(axis=2)[:, :q] @ e.sum(axis=1))[:, None, None]
    np.testing.assert_allclose(exposure, seen, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(averages, want, rtol=2e-3)
    np.testing.assert_array_equal(found.best, score.reshape(12, -1).argmax(axis=1))
    expected = (p * score).sum(axis=(1, 2)) + n * np.log(n) - n
    expected += (counts * layout.log_exposure.reshape(shape[1:])[:q]).sum(axis=(1, 2))
    for d in range(12):
        part = photons.count[photons.begin[d] : photons.orient_end[d]]
        expected[d] -= sum(np.log(np.arange(1, k + 1)).sum() for k in part)
    np.testing.assert_allclose(found.log_likelihood, expected, rtol=1e-4)


def test_pictures_of_polar_averages(detector):
    """A smooth pattern in polar bins is the same in pixels; unseen bins stay NaN."""
    layout = PolarLayout(detector, 0.0, 96)
    grid = CartesianGrid(layout)
    angle = 2 * np.pi * np.arange(96) / 96
    polar = 2 + np.cos(2 * angle) * np.exp(-layout.radius[:, None] / 8)
    x, y = np.meshgrid(*[np.arange(grid.size) - grid.size // 2] * 2, indexing="ij")
    radius = np.hypot(x, y)
    want = 2 + np.cos(2 * np.arctan2(y, x)) * np.exp(-radius / 8)
    inside = (radius > 4) & (radius < 15)
    (picture,) = grid.draw(polar[None], np.ones((1, *polar.shape)))
    np.testing.assert_allclose(picture[inside], want[inside], atol=0.02)
    turned = np.zeros((1, 96))
    turned[0, 24] = 1.0  # a quarter turn: the gap of the detector, if any, goes along
    gap = PolarLayout(make_detector(gap=True), 0.0, 96)
    (picture,) = CartesianGrid(gap).draw(np.ones((1, gap.n_rings, 96)), seen_exposure(turned, gap))
    centre = picture.shape[0] // 2
    assert np.isnan(picture[centre + 8, centre + 4])
    assert picture[centre + 4, centre + 8] == pytest.approx(1.0)


def test_default_angles():
    assert [default_angles(r) for r in (1.0, 10.3, 40.0, 1e3)] == [32, 48, 128, 512]


# --- files


def test_file_and_report(result, tmp_path):
    result.save(tmp_path / "classes.h5")
    again = Classes.load(tmp_path / "classes.h5")
    assert_same(again, result)
    assert again.config == result.config
    assert again.voxel_size == result.voxel_size
    for name, values in result.history.items():
        np.testing.assert_array_equal(again.history[name], values)
    path = write_classes_report(tmp_path / "classes.h5")
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    for word in ("Contact sheet", "n_classes", "converged", "</html>"):
        assert word in text


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="no such file of 'spicore classify2d'"):
        Classes.load(tmp_path / "classes.h5")
    make_detector().save(tmp_path / "detector.h5")
    with pytest.raises(InputError, match="must be a result of 'spicore classify2d'"):
        Classes.load(tmp_path / "detector.h5")


def test_config_in_toml():
    config = ClassifyConfig(n_classes=7, rotate=False, beta=0.1)
    assert ClassifyConfig.from_toml(config.to_toml()) == config
    with pytest.raises(InputError, match="unknown options n_class; known are beta"):
        ClassifyConfig.from_toml("n_class = 3")


# --- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_classes": 0}, "n_classes must be between 1 and"),
        ({"n_classes": 2.5}, "n_classes must be of type int, got 2.5"),
        ({"rotate": 1}, "rotate must be of type bool"),
        ({"n_angles": 100}, "n_angles must be 0 or one of"),
        ({"beta": 2.0}, "beta must be between"),
        ({"beta": "hot"}, "beta must be a number, got 'hot'"),
        ({"prior": 0.0}, "prior must be between"),
        ({"bootstrap_share": 0.0}, "bootstrap_share must be between"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        ClassifyConfig(**options)


def test_bad_input(data, detector):
    with pytest.raises(InputError, match="frames have 1024 pixels but the detector has 400"):
        classify2d(data[0], Detector.square(20), SMALL)
    with pytest.raises(InputError, match=r"blacklist must have shape \[300\], got \[3\]"):
        classify2d(data[0], detector, SMALL, blacklist=np.zeros(3, bool))
    with pytest.raises(InputError, match="leave no frame"):
        classify2d(data[0], detector, SMALL, blacklist=np.ones(300, bool))
    dark = Frames.from_dense(np.zeros((5, 1024), np.uint16))
    with pytest.raises(InputError, match="no photons in the pixels that orient"):
        classify2d(dark, detector, SMALL)
    real = Frames.from_dense(np.ones((5, 1024)))
    with pytest.raises(InputError, match="needs photon counts, the frames hold real values"):
        classify2d(real, detector, SMALL)
    with pytest.raises(InputError, match="no pixel that orients"):
        classify2d(data[0], detector, replace(SMALL, radius=0.1))
    with pytest.raises(InputError, match="threads must be between"):
        classify2d(data[0], detector, SMALL, threads=0)
