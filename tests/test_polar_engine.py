"""The polar engine: an iteration against float64 NumPy, what must hold, and whole runs.

All frames are simulated: 24 to 41 pixels an edge, tens to hundreds of them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace

import numpy as np
import pytest

from spicore import Detector, Frames, metrics, orientations, reference, simulate
from spicore.emc import Config, Result, reconstruct
from spicore.emc.model import Model, complete
from spicore.emc.polar import engine as engine_module
from spicore.emc.polar.correlate import Overflow
from spicore.emc.polar.engine import PolarEngine, PolarGrid
from spicore.emc.polar.layout import PolarLayout
from spicore.emc.polar.orders import AngularOrders
from spicore.emc.reconstruct import refinement_grid
from spicore.emc.state import FrameState, Settings
from spicore.errors import InputError

reconstruct_module = importlib.import_module("spicore.emc.reconstruct")  # not the function

CUT = 14.0  # posterior terms this many nats below the largest are dropped


# --- the specification: one iteration, in float64


@dataclass
class Specification:
    """EMC on frames [D, n_pixels] binned to a layout; all angular orders count."""

    values: np.ndarray
    detector: Detector
    layout: PolarLayout
    views: np.ndarray  # [V, 4]
    weights: np.ndarray  # [V]
    profile: np.ndarray  # radial mean, the prior
    symmetry: np.ndarray  # [G, 4]
    prior: float = 0.1
    fit_fluence: bool = True

    def __post_init__(self):
        layout, a = self.layout, self.layout.n_angles
        row = layout.row_of
        orients = (row >= 0) & (row < layout.n_bins)
        used = row >= 0
        bins = row % layout.n_bins
        n = len(self.values)
        self.orienting = np.zeros((n, layout.n_bins))
        self.merged = np.zeros((n, layout.n_bins))
        for t in np.flatnonzero(used):
            self.merged[:, bins[t]] += self.values[:, t]
            if orients[t]:
                self.orienting[:, bins[t]] += self.values[:, t]
        shape = (n, layout.n_rings, a)
        self.merged = self.merged.reshape(shape)
        self.orienting = self.orienting.reshape(shape)[:, : layout.n_radii]
        # Each photon knows the exposure of its bin: the geometric mean of that of its pixels.
        logs = np.zeros(layout.n_bins)
        for b in np.unique(bins[orients]):
            logs[b] = np.log(self.detector.correction[orients & (bins == b)]).mean()
        counts = self.values[:, orients].astype(int)
        factorials = np.concatenate([[0.0], np.log(np.arange(1, counts.max() + 1)).cumsum()])
        self.constant = counts @ logs[bins[orients]] - factorials[counts].sum(axis=1)
        self.n_photons = counts.sum(axis=1)

    def expand(self, volumes):
        """Tomograms of all modes [M V, rings, A] and the photons they expect [M V, 2, A]."""
        q = self.layout.q.T.astype(np.float64)
        slices = [reference.ewald_slice(v, self.views, q) for v in volumes]
        tomograms = np.concatenate(slices).reshape(-1, self.layout.n_rings, self.layout.n_angles)
        tomograms = tomograms[:, : self.layout.n_radii]
        exposure = self.layout.exposure[0, : self.layout.n_radii].astype(np.float64)
        zero = np.zeros(len(exposure))
        _, totals = reference.polar_views(tomograms, [0], zero, exposure, 2)
        return tomograms, totals

    def log_likelihood(self, volumes, fluence):
        """[D, M V, 2, A], and the expected photons at fluence 1 [M V, 2, A]."""
        tomograms, totals = self.expand(volumes)
        logs = np.log(np.maximum(tomograms, 1e-36))
        scores = reference.correlate(self.orienting, logs, totals, fluence)
        constant = self.constant + self.n_photons * np.log(fluence)
        return scores + constant[:, None, None, None], totals

    def log_prior(self, n_modes):
        prior = np.concatenate([self.weights] * n_modes) / (n_modes * 2 * self.layout.n_angles)
        return np.log(prior)[:, None, None]

    def evidence(self, volumes, fluence):
        ll, _ = self.log_likelihood(volumes, fluence)
        exponent = (ll + self.log_prior(len(volumes))).reshape(len(ll), -1)
        return np.logaddexp.reduce(exponent, axis=1).mean()

    def iterate(self, volumes, fluence, beta):
        """Next volumes, and all that is reported beside them, by name."""
        ll, totals = self.log_likelihood(volumes, fluence)
        log_prior = self.log_prior(len(volumes)) + np.zeros(ll.shape[1:])
        p = beta[:, None, None, None] * ll + log_prior
        p -= p.max(axis=(1, 2, 3), keepdims=True)
        p = np.where(p > -CUT, np.exp(p), 0.0)
        p /= p.sum(axis=(1, 2, 3), keepdims=True)
        ratio = np.log(np.where(p > 0, p, 1.0)) - log_prior
        best = p.reshape(len(p), -1).argmax(axis=1)
        per_mode = len(self.views) * 2 * self.layout.n_angles
        found = {
            "log_likelihood": (p * ll).sum(axis=(1, 2, 3)),
            "mutual_information": (p * ratio).sum(axis=(1, 2, 3)),
            "mode": best // per_mode,
            "orientation": orientations.pair_quaternions(
                self.views, self.layout.n_angles, best % per_mode
            ),
            "p": p,
        }
        if self.fit_fluence:
            expected = (p * totals).sum(axis=(1, 2, 3))
            fluence = np.maximum(self.n_photons / expected, 1e-6)
        photons, exposures = self.tomograms(p, fluence)
        n_views, size = len(self.views), volumes.shape[1]
        result, weight = np.empty_like(volumes), np.empty_like(volumes)
        for mode in range(len(volumes)):
            part = slice(mode * n_views, (mode + 1) * n_views)
            merged, weight[mode] = self.scatter(photons[part], exposures[part], size)
            denominator = weight[mode] + self.prior
            merged = merged + self.prior * self.at_radius(size)
            result[mode] = merged / np.where(denominator > 0, denominator, np.inf)
        mean = fluence.mean() if self.fit_fluence else 1.0
        return result * mean, found | {"fluence": fluence / mean, "weight": weight}

    def tomograms(self, p, fluence):
        """Merged photons and exposures of each view [M V, bins].

        Linear in the frames: first the frames of each orientation are summed, then turned.
        """
        shape = p.shape[1:]
        per_orientation = p.reshape(len(p), -1).T
        summed = (per_orientation @ self.merged.reshape(len(p), -1)).reshape(
            -1, *self.merged.shape[1:]
        )
        terms = [(o, *np.unravel_index(o, shape), 1.0) for o in range(len(summed))]
        photons, turns = reference.accumulate(
            terms, summed, per_orientation @ fluence, shape[0], shape[1]
        )
        e = self.layout.exposure[1:].astype(np.float64)
        terms = [(0, v, mirror, j, x) for (v, mirror, j), x in np.ndenumerate(turns)]
        exposures, _ = reference.accumulate(terms, e, np.ones(1), shape[0], shape[1])
        return photons.reshape(shape[0], -1), exposures.reshape(shape[0], -1)

    def scatter(self, photons, exposures, size):
        sums = np.zeros((2, size, size, size))
        q = self.layout.q.T.astype(np.float64)
        for g in self.symmetry:
            rotated = orientations.multiply(g, self.views)
            sums += reference.ewald_merge(
                photons, rotated, q, size, np.ones(len(rotated)), exposures, friedel=True
            )
        return sums

    def at_radius(self, size):
        axis = np.arange(size) - size // 2
        r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
        return np.interp(np.rint(r), np.arange(len(self.profile)), self.profile)


# --- one iteration on a tiny problem

ANGLES = 32


def near(volume, seed=0):
    """The truth times smooth random numbers: nearer than a random start, yet undecided."""
    n = len(volume)
    noise = np.random.default_rng(seed).uniform(0.3, 1.7, (-(-n // 4),) * 3)
    start = volume * np.kron(noise, np.ones((4, 4, 4)))[:n, :n, :n]
    return (0.5 * (start + start[::-1, ::-1, ::-1])).astype(np.float32)


def masked_detector(n, dead, merging):
    """n pixels an edge; a beam stop, a dead stripe from `dead` on, and merge-only corners and
    pixels beyond `merging` (x, y)."""
    square = Detector.square(n, pixel_size=0.1 / n, distance=0.1, stop_radius=1.5)
    x, y = (np.indices((n, n)) - n // 2).reshape(2, -1)
    mask = square.mask.copy()
    mask[(x > dead) & (np.abs(y) < 2)] = 2
    mask[(x < merging[0]) & (y > merging[1]) & (mask == 0)] = 1
    return replace(square, mask=mask)


@pytest.fixture(scope="module")
def detector():
    return masked_detector(41, 3, (-5, 8))


@pytest.fixture(scope="module")
def volume(detector):
    return simulate.intensity(simulate.particle(3, diameter=6), detector.size)


@pytest.fixture(scope="module")
def frames(detector, volume):
    return simulate.frames(volume, detector, 30, 300, seed=1, fluence_spread=0.1)[0]


class Problem:
    """A model, frames and all that an iteration needs."""

    def __init__(
        self, frames, detector, volume, *, n_pairs=20, n_modes=1, symmetry="C1", fluence=True,
        beta=0.5, prior=0.1, n_angles=ANGLES, block_bytes=1 << 27, threads=2, orders=None,
        radius=0.0, scale=None,
    ):  # fmt: skip
        self.frames, self.detector = frames, detector
        self.layout = PolarLayout(detector, radius, n_angles)
        limits = np.full(self.layout.n_radii, n_angles // 2 if orders is None else orders)
        self.orders = AngularOrders.from_limits(n_angles, limits)
        self.grid = PolarGrid(*orientations.view_pairs(n_pairs, symmetry), n_angles)
        group = orientations.point_group(symmetry)
        self.settings = Settings(
            fluence=fluence, dragonfly=False, prior=prior, gaussian_sigma=1.0,
            block_bytes=block_bytes, threads=threads, symmetry=group,
        )  # fmt: skip
        n = frames.n_frames
        self.volumes = np.stack([near(volume, mode) for mode in range(n_modes)])
        model = Model(self.volumes, np.empty((n_modes, 0), np.float32))
        photons = self.engine.layout.exposure[0, : self.layout.n_radii].sum(axis=1)
        radial = np.interp(
            self.layout.radius[: self.layout.n_radii],
            np.arange(len(model.radial_mean())),
            model.radial_mean(),
        )
        row = self.layout.row_of
        orient = (row >= 0) & (row < self.layout.n_bins)
        mean = frames.dense(0, n)[:, orient].sum(axis=1).mean()
        self.volumes *= np.float32(mean / (photons @ radial) if scale is None else scale)
        rng = np.random.default_rng(5)
        self.fluence = rng.uniform(0.7, 1.4, n).astype(np.float32) if fluence else None
        self.beta = (beta * rng.uniform(0.8, 1.0, n)).astype(np.float32)
        self.profile = np.linspace(3.0, 1.0, 20)

    @property
    def engine(self):
        return PolarEngine(self.frames, self.layout, self.orders, self.settings)

    def specification(self):
        return Specification(
            self.frames.dense(0, self.frames.n_frames), self.detector, self.layout,
            self.grid.views, self.grid.weights, self.profile, self.settings.symmetry,
            self.settings.prior, self.settings.fluence,
        )  # fmt: skip

    def state(self):
        state = FrameState.start(self.frames.n_frames)
        if self.fluence is not None:
            state.fluence = self.fluence.copy()
        return state

    def model(self):
        return Model(self.volumes.copy(), np.empty((len(self.volumes), 0), np.float32))

    def iterate(self, engine=None, **settings):
        """Volumes and state after an iteration of the engine; volumes completed."""
        if settings:
            self.settings = replace(self.settings, **settings)
        engine, state = engine or self.engine, self.state()
        model, weight = engine.iterate(self.model(), self.grid, state, self.beta, self.profile)
        return complete(model.volumes), complete(weight), state


def relative(a, b):
    """L2 distance."""
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


def assert_iteration(got, want, prior):
    volumes, weight, state = got
    expected, found = want
    assert relative(weight, found["weight"]) < 3e-5
    seen = found["weight"] > 1e-9  # less is rounding, of points on the faces between voxels
    if not prior:
        volumes, expected = volumes[seen], expected[seen]
    assert relative(volumes, expected) < 3e-5
    # Voxel by voxel too, but for some where a term at a threshold is kept by one of the two.
    error = np.abs(volumes - expected) / np.maximum(expected, 1e-3 * expected.max())
    assert np.quantile(error, 0.999) < 1e-3
    np.testing.assert_allclose(state.fluence, found["fluence"], rtol=2e-5)
    np.testing.assert_allclose(state.log_likelihood, found["log_likelihood"], atol=2e-3)
    np.testing.assert_allclose(state.mutual_information, found["mutual_information"], atol=2e-3)
    np.testing.assert_array_equal(state.mode, found["mode"])
    same = np.abs((state.orientation * found["orientation"]).sum(axis=1))
    np.testing.assert_allclose(same, 1.0, atol=1e-6)


CASES = {
    "fluence": {},
    "no fluence": {"fluence": False},
    "no prior": {"prior": 0.0},
    "two modes": {"n_modes": 2, "n_pairs": 12},
    "C2": {"symmetry": "C2", "n_pairs": 24},
    "two modes, D2, no fluence": {
        "n_modes": 2, "symmetry": "D2", "n_pairs": 40, "fluence": False,
    },
    "sharp": {"beta": 1.0},
    "hot": {"beta": 0.02, "n_pairs": 12},
    "radius": {"radius": 9.0},
    "48 angles": {"n_angles": 48, "n_pairs": 12},
}  # fmt: skip


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_an_iteration_is_the_specification(options, frames, detector, volume):
    problem = Problem(frames, detector, volume, **options)
    assert problem.layout.n_rings > problem.layout.n_radii or options.get("radius")
    want = problem.specification().iterate(
        problem.volumes.astype(np.float64),
        problem.state().fluence.astype(np.float64),
        problem.beta.astype(np.float64),
    )
    assert_iteration(problem.iterate(), want, problem.settings.prior)


def test_control_of_the_specification(frames, detector, volume):
    """At 1 % more beta, or with the mirror images elsewhere, it is not what the engine does."""
    problem = Problem(frames, detector, volume)
    volumes, *_ = problem.iterate()
    spec = problem.specification()
    start = (problem.volumes.astype(np.float64), problem.state().fluence.astype(np.float64))
    other, _ = spec.iterate(*start, 1.01 * problem.beta.astype(np.float64))
    assert relative(volumes, other) > 3e-4
    spec.orienting = np.roll(spec.orienting, 1, axis=2)
    other, _ = spec.iterate(*start, problem.beta.astype(np.float64))
    assert relative(volumes, other) > 1e-2


def test_evidence_is_the_specification(frames, detector, volume):
    """With all constants, and modes summed out; beta plays no part."""
    for options in ({}, {"n_modes": 2, "symmetry": "C2"}):
        problem = Problem(frames, detector, volume, **options)
        want = problem.specification().evidence(
            problem.volumes.astype(np.float64), problem.state().fluence.astype(np.float64)
        )
        got = problem.engine.evidence(problem.model(), problem.grid, problem.state())
        assert got == pytest.approx(want, abs=1e-3)


def test_evidence_tells_the_truth_from_another_particle(frames, detector, volume):
    problem = Problem(frames, detector, volume, n_pairs=60)
    other = simulate.intensity(simulate.particle(8, diameter=6), detector.size)
    values = []
    for v in (volume, other):
        model = Model(at_scale(problem, v, 300), np.empty((1, 0), np.float32))
        values.append(problem.engine.evidence(model, problem.grid, FrameState.start(30)))
    assert values[0] > values[1] + 5


def test_evidence_needs_no_more_memory_than_a_block(frames, detector, volume):
    """Posteriors that do not fit are split, as in an iteration."""
    problem = Problem(frames, detector, volume, scale=1e-3)  # no signal: all terms count
    want = problem.engine.evidence(problem.model(), problem.grid, problem.state())
    problem.settings = replace(problem.settings, block_bytes=1 << 16)
    got = problem.engine.evidence(problem.model(), problem.grid, problem.state())
    assert got == pytest.approx(want, abs=1e-4)


def test_the_mean_total_is_that_of_the_expansion(frames, detector, volume):
    problem = Problem(frames, detector, volume, n_pairs=200, n_modes=2)
    _, totals = problem.specification().expand(problem.volumes.astype(np.float64))
    got = problem.engine.mean_total(problem.model(), problem.grid)
    assert got == pytest.approx(totals.mean(), rel=0.03)


# --- what must hold of an iteration


@pytest.fixture(scope="module")
def many(detector, volume):
    """Enough frames for several chunks."""
    return simulate.frames(volume, detector, 300, 300, seed=2, fluence_spread=0.1)[0]


def same_bits(a, b):
    for x, y in zip(a[:2], b[:2], strict=True):
        assert x.tobytes() == y.tobytes()
    for name in FrameState.names():
        assert getattr(a[2], name).tobytes() == getattr(b[2], name).tobytes(), name


@pytest.mark.parametrize("options", [{}, {"n_modes": 2, "symmetry": "C2"}, {"beta": 0.02}])
def test_threads_do_not_change_a_bit(options, many, detector, volume):
    problem = Problem(many, detector, volume, n_pairs=150, **options)
    one = problem.iterate(threads=1)
    for threads in (2, 3):
        same_bits(problem.iterate(threads=threads), one)


def test_an_iteration_repeats_itself(many, detector, volume):
    """Another iteration of the same engine too: nothing but its memory is left over."""
    problem = Problem(many, detector, volume)
    one = problem.iterate()
    engine = problem.engine
    same_bits(problem.iterate(engine), one)
    same_bits(problem.iterate(engine), one)


@pytest.mark.parametrize("block_bytes", [1 << 20, 1 << 17, 1 << 12])
def test_memory_does_not_change_the_result(block_bytes, many, detector, volume, monkeypatch):
    """But for the order of float32 sums. Small blocks do not fit and are split."""
    some = many[:60] if block_bytes == 1 << 12 else many[:150]
    problem = Problem(some, detector, volume, beta=0.1)
    want = problem.iterate()
    overflows = []
    correlate = engine_module.correlate

    def counted(*args, **kwargs):
        try:
            return correlate(*args, **kwargs)
        except Overflow:
            overflows.append(len(args[0]))
            raise

    monkeypatch.setattr(engine_module, "correlate", counted)
    got = problem.iterate(block_bytes=block_bytes)
    if block_bytes <= 1 << 17:
        assert overflows
    assert relative(got[0], want[0]) < 1e-5
    assert relative(got[1], want[1]) < 1e-5
    # Frames are scored one by one, whatever the block.
    for name in ("orientation", "mode", "fluence", "log_likelihood", "mutual_information"):
        np.testing.assert_allclose(getattr(got[2], name), getattr(want[2], name), rtol=1e-4)


def test_a_second_iteration_splits_ahead(many, detector, volume, monkeypatch):
    """What did not fit in the last iteration is not tried again."""
    problem = Problem(many[:128], detector, volume, beta=0.1, block_bytes=1 << 19)
    tried = []
    correlate = engine_module.correlate
    monkeypatch.setattr(
        engine_module, "correlate",
        lambda *args, **kwargs: tried.append(len(args[0])) or correlate(*args, **kwargs),
    )  # fmt: skip
    engine = problem.engine
    first = problem.iterate(engine)
    n_frames_tried = sum(tried)
    assert max(tried) == 128  # the frames of a block
    tried.clear()
    second = problem.iterate(engine)
    assert max(tried) < 128
    assert sum(tried) == 128 < n_frames_tried  # every frame once
    assert relative(second[0], first[0]) < 1e-5


@pytest.fixture(scope="module")
def sharp(detector, volume):
    """The truth at beta = 1, with views and orders enough for screening."""
    bright, _ = simulate.frames(volume, detector, 150, 3000, seed=4)
    problem = Problem(bright, detector, volume, n_pairs=400, n_angles=96, beta=1.0)
    problem.volumes = at_scale(problem, volume, 3000)
    return problem


def at_scale(problem, volume, n_photons):
    """[1, N, N, N]: a volume that expects so many photons per frame."""
    model = Model(volume[None], np.empty((1, 0), np.float32))
    return model.volumes * np.float32(n_photons / problem.engine.mean_total(model, problem.grid))


def test_screening_changes_nothing_of_note(sharp, monkeypatch):
    engine = sharp.engine
    got = sharp.iterate(engine)
    assert 0 < engine.kept_share < 0.5
    assert engine.screening
    monkeypatch.setattr(PolarEngine, "_survivors", lambda *_: None)
    want = sharp.iterate()
    assert relative(got[0], want[0]) < 1e-3
    np.testing.assert_allclose(got[2].mutual_information, want[2].mutual_information, atol=1e-3)
    np.testing.assert_allclose(got[2].log_likelihood, want[2].log_likelihood, atol=1e-3)
    np.testing.assert_array_equal(got[2].orientation, want[2].orientation)


def test_survivors_hold_the_best_orientation(sharp, monkeypatch):
    """Few groups of views survive; the best of all, and nearly all probability, is in them.

    The control: the first 3 of 49 orders alone lose some.
    """
    kept, found = [], []
    correlate = engine_module.correlate

    def both(frames, views, fluence, beta, *, keep, **kwargs):
        kept.append(keep)
        found.append(correlate(frames, views, fluence, beta, **kwargs))
        return correlate(frames, views, fluence, beta, keep=keep, **kwargs)

    monkeypatch.setattr(engine_module, "correlate", both)
    monkeypatch.setattr(engine_module, "SCREEN_BELOW", 2.0)
    n = sharp.frames.n_frames
    lost = []
    for n_orders in (engine_module.SCREEN_ORDERS, 3):
        monkeypatch.setattr(engine_module, "SCREEN_ORDERS", n_orders)
        sharp.iterate()
        keep, (terms, posterior) = kept.pop(), found.pop()
        per_group = 16 * 2 * 96
        lost.append(np.zeros(n))
        for begin in terms.begin:
            here = slice(begin[0], begin[-1])
            frame, group = terms.frame[here], terms.orientation[here] // per_group
            np.add.at(lost[-1], frame, terms.probability[here] * (keep[frame, group] == 0))
        if n_orders > 3:
            assert keep[np.arange(n), posterior.best // per_group].all()
            assert keep.mean() < 0.5
    assert lost[0].max() < 1e-3 < lost[1].max()


def test_bf16_is_used_where_there_are_tiles(monkeypatch):
    for level in ("baseline", "avx2", "avx512"):
        monkeypatch.setattr(engine_module._core, "simd", lambda level=level: level)
        assert set(engine_module.arithmetics()) == {"float32"}
    monkeypatch.setattr(engine_module._core, "simd", lambda: "amx")
    assert engine_module.arithmetics() == ("bf16", "bf16_split")


def test_bf16_changes_nothing_of_note(sharp, monkeypatch):
    """The arithmetic of AMX, emulated: screening keeps a little more, the rest is the same.

    Frames of 3,000 photons: scores in bf16_split are good to 5e-3 nats. The control: bf16 alone.
    """
    engine = sharp.engine
    float32 = engine_module.Arithmetics("float32", "float32")
    monkeypatch.setattr(engine_module, "arithmetics", lambda: float32)
    want, kept_share = sharp.iterate(engine), engine.kept_share
    tiles = engine_module.Arithmetics("bf16", "bf16_split")
    monkeypatch.setattr(engine_module, "arithmetics", lambda: tiles)
    got = sharp.iterate(engine)
    assert kept_share < engine.kept_share < 1.5 * kept_share
    assert 0 < relative(got[0], want[0]) < 1e-3
    np.testing.assert_allclose(got[2].log_likelihood, want[2].log_likelihood, atol=5e-3)
    np.testing.assert_allclose(got[2].mutual_information, want[2].mutual_information, atol=5e-3)
    assert (got[2].orientation == want[2].orientation).all(axis=1).mean() > 0.99
    worse = engine_module.Arithmetics("bf16", "bf16")
    monkeypatch.setattr(engine_module, "arithmetics", lambda: worse)
    off = sharp.iterate(engine)[2].log_likelihood - want[2].log_likelihood
    assert np.abs(off).max() > 0.1


def test_survivors_in_bf16_hold_those_in_float32(sharp, monkeypatch):
    """The wider margin makes up for the errors of the scores; the control: without it some miss."""
    kept = []
    survivors = PolarEngine._survivors
    monkeypatch.setattr(
        PolarEngine, "_survivors", lambda *args: kept.append(survivors(*args)) or kept[-1]
    )
    for arithmetic, sigmas in (("float32", 0.0), ("bf16", engine_module.BF16_SIGMAS), ("bf16", 0)):
        chosen = engine_module.Arithmetics(arithmetic, "float32")
        monkeypatch.setattr(engine_module, "arithmetics", lambda chosen=chosen: chosen)
        monkeypatch.setattr(engine_module, "BF16_SIGMAS", sigmas)
        sharp.iterate()
    float32, bf16, narrow = (keep != 0 for keep in kept)
    assert not (float32 & ~bf16).any()
    assert (float32 & ~narrow).any()


def test_screening_stops_where_it_does_not_pay(sharp, monkeypatch):
    """After a block of which more survive than pay; each iteration tries anew."""
    calls = []
    screen = engine_module.screen
    monkeypatch.setattr(
        engine_module, "screen",
        lambda *args, **kwargs: calls.append(len(args[0])) or screen(*args, **kwargs),
    )  # fmt: skip
    settings = replace(sharp.settings, block_bytes=1 << 21)
    engine = PolarEngine(sharp.frames, sharp.layout, sharp.orders, settings)
    for below, want in ((2.0, [128, 22]), (0.0, [128])):
        monkeypatch.setattr(engine_module, "SCREEN_BELOW", below)
        for _ in range(2):
            calls.clear()
            sharp.iterate(engine)
            assert calls == want


@pytest.mark.parametrize("fluence", [False, True])
def test_photons_are_conserved(fluence, many, detector, volume):
    """Each photon merges once, its Friedel mate and its symmetric copies beside it.

    The volume times its weight is the photons merged, for no prior. With fluences the model
    carries the mean fluence.
    """
    problem = Problem(many, detector, volume, fluence=fluence, prior=0.0, symmetry="C2")
    volumes, weight, _ = problem.iterate()
    merged = (volumes.astype(np.float64) * weight).sum()
    used = problem.layout.row_of >= 0
    photons = many.dense(0, 300)[:, used].sum(dtype=np.float64)
    if fluence:
        ll, totals = problem.specification().log_likelihood(
            problem.volumes.astype(np.float64), problem.fluence.astype(np.float64)
        )
        p = problem.beta[:, None, None, None] * ll
        p = np.exp(p - p.max(axis=(1, 2, 3), keepdims=True))
        expected = (p * totals).sum(axis=(1, 2, 3)) / p.sum(axis=(1, 2, 3))
        photons *= (problem.specification().n_photons / expected).mean()
    assert merged == pytest.approx(4 * photons, rel=1e-4)


def test_control_shuffled_photons_know_nothing(detector, volume):
    """The same photons at the same radii, anywhere on their ring: no orientation fits well."""
    frames, _ = simulate.frames(volume, detector, 60, 1000, seed=3)
    values = frames.dense(0, 60).astype(np.uint16)
    rng = np.random.default_rng(0)
    ring = np.rint(np.linalg.norm(detector.q_voxels, axis=1)).astype(int)
    shuffled = values.copy()
    for r in np.unique(ring):
        here = np.flatnonzero((ring == r) & (detector.mask == 0))
        shuffled[:, here] = rng.permuted(values[:, here], axis=1)
    found = []
    for f in (frames, Frames.from_dense(shuffled)):
        problem = Problem(f, detector, volume, n_pairs=150, beta=1.0)
        problem.volumes = at_scale(problem, volume, 1000)
        found.append(problem.iterate()[2])
    true, control = found
    assert true.log_likelihood.mean() > control.log_likelihood.mean() + 50
    assert true.mutual_information.mean() > 4.0


def test_frames_without_photons_do_no_harm(frames, detector, volume):
    values = frames.dense(0, 30).astype(np.uint16)
    values[::4] = 0
    problem = Problem(Frames.from_dense(values), detector, volume)
    volumes, weight, state = problem.iterate()
    assert np.isfinite(volumes).all()
    assert np.isfinite(weight).all()
    assert np.isfinite(state.orientation).all()
    assert (state.fluence[::4] < 1e-5).all()


@pytest.mark.parametrize("mirror", [0, 1])
def test_gaps_have_no_exposure(mirror, frames, detector, volume):
    """One frame in one orientation: bins of its tomogram that face a gap are not observed.

    Exposure is turned by Fourier transforms, whose rounding is no exposure: the weight of a
    result is 0 where nobody saw.
    """
    problem = Problem(frames, detector, volume, n_pairs=1)
    engine, layout, j = problem.engine, problem.layout, 5
    exposures = np.zeros((32, 2, ANGLES))
    exposures[0, mirror, j] = 1.0
    scattered = []
    engine._scatter = lambda photons, exposure, *_: scattered.append(exposure)
    tomograms = np.zeros((32, layout.n_bins), np.float32)
    engine._merge(tomograms, exposures, problem.grid, detector.size, 1)
    e = layout.exposure[1:].astype(np.float64)
    want, _ = reference.accumulate([(0, 0, mirror, j, 1.0)], e, np.ones(1), 1, 2)
    want = want.ravel()
    np.testing.assert_allclose(scattered[0].ravel(), want, atol=1e-6)
    assert (want == 0).sum() > 100
    np.testing.assert_array_equal(scattered[0].ravel() == 0, want == 0)


# --- whole runs


def run(frames, detector, config, out=None, **options):
    """The result, and the results after each iteration if `out` is given."""
    results = []

    def keep(_):
        results.append(Result.load(out))

    options = {"threads": 2} | options
    result = reconstruct(
        frames, detector, config, out=out, on_iteration=keep if out else None, **options
    )
    return result, results


def arrays(result):
    """Every array of a result by name, but for the time taken."""
    names = ("intensity", "weight", "orientation", "mode", "fluence", "background_scale",
             "log_likelihood", "mutual_information", "patterns")  # fmt: skip
    found = {name: getattr(result, name) for name in names}
    for group in ("history", "half_sets", "seeds"):
        found |= {f"{group}/{name}": x for name, x in getattr(result, group).items()}
    found.pop("history/seconds", None)
    return found


def assert_same(a, b):
    """Bit for bit."""
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    for name in a:
        assert np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes(), name


def pose_error(quats, truth, group="C1"):
    """Median, degrees."""
    quats = quats.astype(np.float64)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    return np.median(metrics.pose_error(quats, truth["quats"], group=group)[0])


@pytest.fixture(scope="module")
def particle():
    """300 frames of 2,000 photons of a particle without symmetry, 28 pixels an edge."""
    detector = Detector.square(28, pixel_size=0.1 / 28, distance=0.07)
    volume = simulate.intensity(simulate.particle(3, diameter=7), detector.size)
    frames, truth = simulate.frames(volume, detector, 300, 2000, seed=1, fluence_spread=0.05)
    return frames, truth, detector, volume


RECOVERY = {"num_div": 7, "half_sets": False, "refine": 2}


@pytest.fixture(scope="module")
def recovered(particle):
    frames, _, detector, _ = particle
    return reconstruct(frames, detector, Config(**RECOVERY), threads=2)


def test_a_particle_is_recovered_from_a_random_start(particle, recovered):
    """Measured for two seeds: 3.7 and 3.8 degrees, 0.989."""
    _, truth, _, volume = particle
    assert pose_error(recovered.orientation, truth) < 6
    *_, cc = metrics.align_volumes(recovered.intensity, volume, radius=(3, 13))
    assert cc > 0.97
    assert np.corrcoef(recovered.fluence, truth["fluence"])[0, 1] > 0.9
    assert recovered.fluence.mean() == pytest.approx(1.0, abs=1e-3)


def test_seeds_are_recorded(recovered):
    """Two random starts, which found the same; the better one went on."""
    seeds = recovered.seeds
    assert set(seeds) == {"seed", "evidence", "agreement", "reheated"}
    np.testing.assert_array_equal(seeds["seed"], [0, 1])
    best = seeds["evidence"].argmax()
    assert np.isnan(seeds["agreement"][best])
    assert seeds["agreement"][1 - best] > 0.9
    sizes = recovered.history["n_orientations"]
    assert len(np.unique(sizes[sizes > 100])) >= 2
    np.testing.assert_array_equal(recovered.history["iteration"], np.arange(1, len(sizes) + 1))


def test_shuffled_photons_recover_nothing(particle):
    """The control: the same photons elsewhere on their rings."""
    frames, truth, detector, _ = particle
    rng = np.random.default_rng(0)
    values = frames.dense(0, 300).astype(np.uint16)
    ring = np.rint(np.linalg.norm(detector.q_voxels, axis=1))
    for r in np.unique(ring):
        here = np.flatnonzero((ring == r) & (detector.mask == 0))
        values[:, here] = rng.permuted(values[:, here], axis=1)
    config = Config(**RECOVERY, seeds=1, iterations=15)
    result, _ = run(Frames.from_dense(values), detector, config)
    known = np.isfinite(result.orientation[:, 0])
    assert known.all()
    assert pose_error(result.orientation, truth) > 60


# Smaller: a run of all stages in a second.


@pytest.fixture(scope="module")
def small_detector():
    return Detector.square(24, pixel_size=0.1 / 24, distance=0.1, stop_radius=1.5)


@pytest.fixture(scope="module")
def small_volume(small_detector):
    return simulate.intensity(simulate.particle(3, diameter=6), small_detector.size)


@pytest.fixture(scope="module")
def few(small_detector, small_volume):
    """120 frames and their truth."""
    return simulate.frames(
        small_volume, small_detector, 120, 1500, seed=1, fluence_spread=0.1
    )  # fmt: skip


def quick(**options):
    fixed = {"num_div": 5, "half_sets": False, "seeds": 1, "beta_jump": 2.0, "beta_period": 2,
             "refine": 2, "tolerance": 0.05}  # fmt: skip
    return Config(**fixed | options)


@pytest.fixture
def fast_alignment(monkeypatch):
    """Seeds that always agree: their alignment takes seconds."""
    align = lambda *_, **__: (None, None, 0.9)  # noqa: E731
    monkeypatch.setattr("spicore.emc.seeds.metrics.align_volumes", align)


@pytest.fixture(scope="module")
def finished(few, small_detector, tmp_path_factory):
    """A run of all stages, and what it saved after each iteration."""
    path = tmp_path_factory.mktemp("polar") / "result.h5"
    return run(few[0], small_detector, quick(half_sets=True), path)


def momentum(results):
    return [i + 1 for i, r in enumerate(results) if r.previous is not None]


def test_a_run_goes_through_all_stages(finished):
    result, results = finished
    sizes, radius = result.history["n_orientations"], result.history["radius"]
    grid = sizes > 1000
    assert len(np.unique(sizes[grid])) >= 2
    assert radius[0] > 0 == radius[-1]
    assert (~grid).sum() == 2
    assert result.half_sets
    assert momentum(results)
    assert np.isfinite(result.orientation).all()
    for name in ("log_likelihood", "mutual_information", "fluence"):
        assert np.isfinite(getattr(result, name)).all()


def test_resume_from_any_iteration(finished, few, small_detector, tmp_path):
    """In the first stage, with momentum, at a change of stage, in a later one, in refinement."""
    want, results = finished
    n = len(want.history["iteration"])
    sizes = want.history["n_orientations"]
    changes = [int(i) + 1 for i in np.flatnonzero(np.diff(sizes))]
    stops = {1, momentum(results)[0], momentum(results)[-1], *changes, n - 1, n}
    path = tmp_path / "result.h5"
    for stop in sorted(stops):
        results[stop - 1].save(path)
        got, _ = run(few[0], small_detector, quick(half_sets=True), path, resume=True)
        assert_same(got, want)


@pytest.mark.parametrize("stop", [3, 9])
def test_more_iterations_go_on_where_fewer_ended(stop, finished, few, small_detector, tmp_path):
    path = tmp_path / "result.h5"
    frames, _ = few
    first, _ = run(frames, small_detector, quick(iterations=stop), path)
    assert len(first.history["iteration"]) == stop
    got, _ = run(frames, small_detector, quick(), path, resume=True)
    want, _ = finished
    got, want = arrays(got), arrays(want)
    for name in got:
        assert got[name].tobytes() == want[name].tobytes(), name


def test_resume_in_blocks(few, small_detector, tmp_path):
    """Posteriors that do not fit a block are split as in the run never stopped."""
    frames, _ = few
    config = quick(block_memory_mb=1, refine=0)
    path = tmp_path / "result.h5"
    want, results = run(frames, small_detector, config, path)
    for stop in (2, 3):
        results[stop - 1].save(path)
        got, _ = run(frames, small_detector, config, path, resume=True)
        assert_same(got, want)


def test_resume_with_seeds(few, small_detector, tmp_path, fast_alignment):
    """Also where the run ended while seeds were tried."""
    frames, _ = few
    want, _ = run(frames, small_detector, quick(seeds=2))
    n = int((want.history["n_orientations"] > 1000).sum())
    for stop in (n, 3):
        path = tmp_path / f"{stop}.h5"
        reconstruct(frames, small_detector, quick(seeds=2, iterations=stop), out=path, threads=2)
        assert path.exists(), stop
        got = reconstruct(frames, small_detector, quick(seeds=2), out=path, threads=2, resume=True)
        assert_same(got, want)


def test_a_new_folder_for_a_run_with_seeds(few, small_detector, tmp_path, fast_alignment):
    path = tmp_path / "new" / "result.h5"
    reconstruct(few[0], small_detector, quick(seeds=2), out=path, threads=2)
    assert path.exists()


def test_a_seed_reproduces_and_another_does_not(few, small_detector, fast_alignment):
    config = quick(seeds=2, refine=1)
    one, again, other = (
        run(few[0], small_detector, replace(config, seed=seed))[0] for seed in (5, 5, 8)
    )
    assert_same(one, again)
    assert relative(other.intensity, one.intensity) > 0.01


def test_threads_do_not_change_a_bit_of_a_run(finished, few, small_detector):
    for threads in (1, 3):
        result, _ = run(few[0], small_detector, quick(half_sets=True), threads=threads)
        assert_same(result, finished[0])


def test_starts_are_reheated_where_none_agrees(few, small_detector, monkeypatch):
    """The worst first, up to all of them."""
    agreements = iter([0.1, 0.2, 0.9])  # of two, then of three
    align = lambda *_, **__: (None, None, next(agreements))  # noqa: E731
    monkeypatch.setattr("spicore.emc.seeds.metrics.align_volumes", align)
    result, _ = run(few[0], small_detector, quick(seeds=2, refine=0, iterations=8))
    np.testing.assert_array_equal(result.seeds["reheated"], [False, False, True])
    worst = result.seeds["seed"][np.argmin(result.seeds["evidence"][:2])]
    np.testing.assert_array_equal(result.seeds["seed"], [0, 1, worst])
    agreements = iter([0.1] * 6)
    result, _ = run(few[0], small_detector, quick(seeds=2, refine=0, iterations=8))
    np.testing.assert_array_equal(result.seeds["seed"], [0, 1, worst, 1 - worst])
    assert len(np.unique(result.seeds["evidence"])) == 4  # heated ones went through it all


def test_selection_and_blacklist(few, small_detector):
    """Even and odd are counted over the frames that the blacklist leaves."""
    frames, _ = few
    blacklist = np.zeros(120, bool)
    blacklist[[0, 7, 8, 41]] = True
    kept = np.flatnonzero(~blacklist)
    for selection, used in (("all", kept), ("odd", kept[1::2])):
        config = quick(selection=selection, refine=1)
        result, _ = run(frames, small_detector, config, blacklist=blacklist)
        alone, _ = run(frames[used], small_detector, quick(refine=1))
        np.testing.assert_array_equal(result.intensity, alone.intensity)
        left_out = np.setdiff1d(np.arange(120), used)
        for name in ("orientation", "fluence", "log_likelihood", "mutual_information", "mode"):
            values = getattr(result, name)
            np.testing.assert_array_equal(values[used], getattr(alone, name))
            rest = values[left_out]
            assert (rest == -1).all() if name == "mode" else np.isnan(rest).all()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_frames(n, few, small_detector):
    result, _ = run(few[0][:n], small_detector, quick(half_sets=True))
    assert np.isfinite(result.intensity).all()
    assert bool(result.half_sets) == (n >= 4)


def test_a_start_model_keeps_its_frame(few, small_detector, small_volume):
    """From the truth, on the last grid at once; its scale does not matter, nor its symmetry."""
    frames, truth = few
    config = quick(beta=0.5)
    result, _ = run(frames, small_detector, config, start_model=small_volume)
    sizes = result.history["n_orientations"]
    assert len(np.unique(sizes[sizes > 1000])) == 1
    assert (result.history["radius"] == 0).all()
    quats = result.orientation.astype(np.float64)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    # No alignment: the model must not have turned.
    errors = 2 * np.degrees(np.arccos(np.minimum(np.abs((quats * truth["quats"]).sum(axis=1)), 1)))
    assert np.median(errors) < 10
    again, _ = run(frames, small_detector, config, start_model=7.0 * small_volume)
    assert relative(again.intensity, result.intensity) < 1e-3
    assert not result.seeds


def test_fluences_given_are_kept(few, small_detector, small_volume):
    phi = np.random.default_rng(0).uniform(1, 5, 120)
    config = quick(fluence=False, iterations=3)
    result, _ = run(
        few[0], small_detector, config, start_fluence=phi, start_model=small_volume
    )  # fmt: skip
    np.testing.assert_allclose(result.fluence, phi / phi.mean(), rtol=1e-6)


def test_two_modes_tell_two_particles_apart(few, small_detector):
    frames, _ = few
    other = simulate.intensity(simulate.particle(8, diameter=4), small_detector.size)
    more, _ = simulate.frames(other, small_detector, 120, 1500, seed=2)
    both = np.concatenate([f.dense(0, 120).astype(np.uint16) for f in (frames, more)])
    result, _ = run(Frames.from_dense(both), small_detector, quick(n_modes=2, refine=1))
    n = small_detector.size
    assert result.intensity.shape == result.weight.shape == (2, n, n, n)
    assert set(result.mode) == {0, 1}
    first = np.mean(result.mode[:120] == result.mode[0])
    second = np.mean(result.mode[120:] != result.mode[0])
    assert min(first, second) > 0.9


@pytest.mark.parametrize("symmetry", ["C2", "D2", "I"])
def test_the_model_has_its_symmetry(symmetry, few, small_detector):
    """But for rounding."""
    config = quick(symmetry=symmetry, iterations=6)
    intensity = run(few[0], small_detector, config)[0].intensity
    tolerance = 1e-4 * intensity.max()
    axes = [(0, 1)] if symmetry == "C2" else [(0, 1), (0, 2), (1, 2)]
    for pair in axes:
        np.testing.assert_allclose(np.flip(intensity, pair), intensity, atol=tolerance)
    plain = run(few[0], small_detector, quick(iterations=6))[0].intensity
    assert np.abs(np.flip(plain, (0, 1)) - plain).max() > 100 * tolerance


def test_a_symmetric_particle_is_recovered(small_detector, small_volume):
    volume = sum(np.flip(small_volume, axes) for axes in ((), (0, 1), (0, 2), (1, 2)))
    frames, truth = simulate.frames(volume, small_detector, 120, 1500, seed=1)
    result, _ = run(frames, small_detector, quick(symmetry="D2", beta_period=0))
    assert pose_error(result.orientation, truth, orientations.point_group("D2")) < 12


FALL_BACKS = {
    "background": {"background": True},
    "dense": {"dense": True},
    "fixed pattern": {"n_nonrotating": 1},
    "dragonfly": {"merge": "dragonfly", "fluence": False},
}


@pytest.mark.parametrize("options", FALL_BACKS.values(), ids=FALL_BACKS)
def test_what_the_polar_engine_cannot_treat_takes_the_pixel_engine(
    options, few, small_detector
):  # fmt: skip
    options = dict(options)
    frames, _ = few
    arguments = {}
    if options.pop("background", False):
        arguments["background"] = np.full(small_detector.n_pixels, 0.05)
    if options.pop("dense", False):
        frames = Frames.from_dense(frames.dense(0, 120).astype(np.float64))
    config = quick(num_div=2, refine=1, beta=0.4, iterations=5, **options)
    result, _ = run(frames, small_detector, config, **arguments)
    assert result.history["n_orientations"][0] == 420
    pixel, _ = run(frames, small_detector, replace(config, engine="pixel"), **arguments)
    assert_same(result, pixel)
    plain, _ = run(few[0], small_detector, quick(num_div=2, refine=1, beta=0.4, iterations=5))
    assert plain.history["n_orientations"][0] != 420


def test_the_dragonfly_merge_starts_from_a_whole_model(few, small_detector, monkeypatch):
    """It reads both halves of the volume; the others leave x < 0 unwritten at the start."""
    made = reconstruct_module.random_model

    def half_unwritten(*args):
        model = made(*args)
        model.volumes[:, : small_detector.size // 2] = np.nan
        return model

    monkeypatch.setattr(reconstruct_module, "random_model", half_unwritten)
    for options in ({"engine": "pixel"}, {"engine": "polar"}, {"merge": "dragonfly"}):
        config = quick(num_div=2, refine=0, beta=0.4, iterations=2, **options)
        result, _ = run(few[0], small_detector, config)
        assert np.isfinite(result.intensity).all(), options


@pytest.mark.parametrize(("batch", "n_stages"), [(50, 3), (20, 4)])
def test_batches_are_of_frames_that_later_all_take_part(
    batch, n_stages, few, small_detector, tmp_path
):
    frames, _ = few
    path = tmp_path / "result.h5"
    config = quick(batch=batch, refine=1)
    result, results = run(frames, small_detector, config, path)
    known = [int(np.isfinite(r.orientation[:, 0]).sum()) for r in results]
    assert known[0] == batch
    assert known[-1] == 120
    between = [n for n in known if batch < n < 120]
    # The frames of a smaller batch need not be among those of a larger one.
    assert all(4 * batch <= n <= 5 * batch for n in between)
    assert bool(between) == (n_stages == 4)
    assert result.schedule["n_stages"] == n_stages
    for name in ("log_likelihood", "mutual_information", "fluence"):
        assert np.isfinite(getattr(result, name)).all()
    stop = known.index(120) - 1  # the last with a part of the frames
    results[stop].save(path)
    assert_same(run(frames, small_detector, config, path, resume=True)[0], result)


def test_a_batch_with_seeds(few, small_detector, fast_alignment):
    result, _ = run(few[0], small_detector, quick(batch=50, seeds=2, refine=0))
    assert np.isfinite(result.orientation).all()
    assert np.isfinite(result.seeds["evidence"]).all()


def test_one_grid_alone(few, small_detector):
    config = quick(multiresolution=False, num_div=3, seeds=3)
    result, _ = run(few[0], small_detector, config)
    sizes = result.history["n_orientations"]
    assert len(np.unique(sizes[sizes > 1000])) == 1
    assert not result.seeds


def test_refinement_follows_the_spacing_of_the_grid(finished):
    sizes = finished[0].history["n_orientations"][-2:]
    spacing = np.degrees(np.sqrt(2 * np.pi / 97))
    np.testing.assert_array_equal(sizes, [len(refinement_grid(spacing, k)) for k in (0, 1)])


def test_errors(few, small_detector):
    frames, _ = few
    with pytest.raises(InputError, match=r"n_pairs must be larger for I, got"):
        run(frames, small_detector, quick(num_div=1, symmetry="I"))
    with pytest.raises(InputError, match=r"no pixel that orients .* within radius 1 voxels"):
        run(frames, small_detector, quick(radius=1.0))
