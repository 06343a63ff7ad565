"""The EMC loop: single iterations against float64 NumPy, what must hold, and recovery.

All frames are simulated: 24 to 40 pixels an edge, tens to hundreds of them.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, replace

import h5py
import numpy as np
import pytest

from spicore import Detector, Frames, metrics, orientations, reference, simulate
from spicore.emc import Config, Result, reconstruct
from spicore.emc.engine import DENSE_ABOVE, FrameState, Grid, PixelEngine, Settings
from spicore.emc.layout import PixelLayout
from spicore.emc.model import Model, complete
from spicore.emc.reconstruct import refinement_grid
from spicore.errors import InputError

CUT = 14.0  # posterior terms this many nats below the largest are dropped
KEPT = 0.05  # in refinement, terms below this share of the largest are not merged


# --- the specification: one iteration, in float64


@dataclass
class State:
    """What an iteration starts from: volumes [M, N, N, N], patterns [K, n_pixels], per frame."""

    volumes: np.ndarray
    patterns: np.ndarray
    fluence: np.ndarray
    background_scale: np.ndarray

    @classmethod
    def of(cls, result):
        volumes = result.intensity.reshape(-1, *result.intensity.shape[-3:])
        arrays = (volumes, result.patterns, result.fluence, result.background_scale)
        return cls(*(x.astype(np.float64) for x in arrays))


@dataclass
class Specification:
    """EMC on frames [D, n_pixels], orientations and options that stay the same."""

    values: np.ndarray
    detector: Detector
    config: Config
    background: np.ndarray | None = None
    gaussian: bool = False

    def __post_init__(self):
        detector, config = self.detector, self.config
        q_abs = np.linalg.norm(detector.q_voxels, axis=1)
        self.used = np.flatnonzero((detector.mask < 2) & (q_abs <= (config.radius or np.inf)))
        self.orient = detector.mask[self.used] == 0
        self.q, self.q_abs = detector.q_voxels[self.used], q_abs[self.used]
        self.exposure = detector.correction[self.used]
        self.pixel_weights = self.exposure ** (2 if self.gaussian else 1)
        self.counts = self.values[:, self.used].astype(np.float64)
        zero = np.zeros(len(self.used))
        self.noise = zero if self.background is None else self.background[self.used]
        self.group = orientations.point_group(config.symmetry)
        self.quats, self.weights = orientations.grid600(config.num_div)
        if len(self.group) > 1:
            index, self.weights = orientations.asymmetric_unit(
                self.quats, self.weights, config.symmetry
            )
            self.quats = self.quats[index]

    def profile(self):
        """Mean intensity of the frames at integer radii, gaps interpolated."""
        index = np.rint(self.q_abs).astype(int)
        photons = np.bincount(index, np.maximum(self.counts.mean(axis=0), 0.0))
        exposure = np.bincount(index, self.exposure)
        known = np.flatnonzero(exposure)
        mean = np.maximum(photons[known] / exposure[known], 1e-12)
        radius = np.arange(2 * len(exposure))
        return radius, np.interp(radius, known, mean)

    def tomograms(self, state):
        """W [C, T]: rotations of each mode, then fixed patterns; and their log prior [C]."""
        slices = [reference.ewald_slice(v, self.quats, self.q) for v in state.volumes]
        n_modes, n_patterns = len(state.volumes), len(state.patterns)
        share = np.full(n_patterns, 1.0)
        prior = np.concatenate([*[self.weights] * n_modes, share]) / (n_modes + n_patterns)
        w = np.concatenate([*slices, state.patterns[:, self.used]]) * self.exposure
        return w, np.log(prior)

    def log_likelihood(self, state, w):
        """[D, C] over the pixels that orient."""
        w, noise = w[:, self.orient], self.noise[self.orient]
        ll = np.empty((len(self.counts), len(w)))
        for d, k in enumerate(self.counts[:, self.orient]):
            mean = state.fluence[d] * w + state.background_scale[d] * noise
            if self.gaussian:
                ll[d] = -0.5 * ((k - mean) ** 2).sum(axis=1) / self.config.gaussian_sigma**2
            else:
                constant = np.log(np.arange(1, k.max() + 1)).cumsum()
                constant = np.concatenate([[0.0], constant])[k.astype(int)].sum()
                ll[d] = np.log(np.maximum(mean, 1e-36)) @ k - mean.sum(axis=1) - constant
        return ll

    def evidence(self, state):
        """Log of the probability of the frames, with orientations and modes summed out."""
        w, log_prior = self.tomograms(state)
        return np.logaddexp.reduce(self.log_likelihood(state, w) + log_prior, axis=1).sum()

    def iterate(self, state, beta):
        """Return the next state, P, and what is reported beside it."""
        w, log_prior = self.tomograms(state)
        ll = self.log_likelihood(state, w)
        p = tempered(ll, beta, log_prior)
        terms, signal = self.signal(state, w, p)
        fluence, scale = self.fluences(state, w, p, signal)
        terms, exposures = self.merged(state, terms, fluence, p)
        n, size = len(self.quats), state.volumes.shape[1]
        volumes, weight = np.empty_like(state.volumes), np.empty_like(state.volumes)
        for mode in range(len(volumes)):
            tile = slice(mode * n, (mode + 1) * n)
            photons, weight[mode] = self.scatter(terms[tile], exposures[tile], self.quats, size)
            volumes[mode] = self.intensity(photons, weight[mode])
        patterns = self.patterns(terms[len(volumes) * n :], exposures[len(volumes) * n :])
        new = self.normalised(volumes, patterns, fluence, scale)
        return new, p, self.summary(ll, log_prior, p) | {"weight": weight}

    def refine(self, state, before, local):
        """The same over rotations `local` about each frame's best, at beta = 1."""
        size = state.volumes.shape[1]
        sums = np.zeros((len(state.volumes), 2, size, size, size))
        fluence, scale = state.fluence.copy(), state.background_scale.copy()
        found = {"log_likelihood": fluence.copy(), "mutual_information": fluence.copy()}
        orientation = before.orientation.astype(np.float64)
        for d, mode in enumerate(before.mode):
            one = Specification(
                self.values[d : d + 1], self.detector, self.config, self.background, self.gaussian
            )
            best = orientation[d] / np.linalg.norm(orientation[d])
            one.quats = orientations.multiply(best, local)
            one.weights = np.full(len(local), 1.0 / len(local))
            frame = State(
                state.volumes[mode : mode + 1], state.patterns[:0], fluence[d : d + 1],
                scale[d : d + 1],
            )  # fmt: skip
            w, log_prior = one.tomograms(frame)
            ll = one.log_likelihood(frame, w)
            p = tempered(ll, 1.0, log_prior)
            for name, value in one.summary(ll, log_prior, p).items():
                found[name][d] = value[0]
            orientation[d] = one.quats[ll[0].argmax()]
            p_fluence = p  # the fluence without a background sees the whole posterior
            p = np.where(p < KEPT * p.max(), 0.0, p)
            p /= p.sum()
            terms, signal = one.signal(frame, w, p)
            if self.background is not None:
                p_fluence = p
            fitted = one.fluences(frame, w, p_fluence, signal)
            terms, exposures = one.merged(frame, terms, fitted[0], p)
            fluence[d], scale[d] = fitted[0][0], fitted[1][0]
            sums[mode] += one.scatter(terms, exposures, one.quats, size)
        volumes = np.array([self.intensity(*pair) for pair in sums])
        new = self.normalised(volumes, state.patterns.copy(), fluence, scale)
        return new, found | {"weight": sums[:, 1], "orientation": orientation}

    def signal(self, state, w, p):
        """Photons expected to be signal: [C, T] summed over frames, and of each frame [D]."""
        if self.background is None:
            return p.T @ self.counts, self.counts[:, self.orient].sum(axis=1)
        terms, signal = np.zeros_like(w), np.zeros(len(p))
        for d, k in enumerate(self.counts):
            mean = state.fluence[d] * w
            everything = mean + state.background_scale[d] * self.noise
            part = p[d][:, None] * k * mean / np.maximum(everything, 1e-300)
            terms += part
            signal[d] = part[:, self.orient].sum()
        return terms, signal

    def fluences(self, state, w, p, signal):
        """The most likely fluence and background scale of each frame, given P and the model."""
        w, k = w[:, self.orient], self.counts[:, self.orient]
        fluence, scale = state.fluence, state.background_scale
        if self.background is not None:
            rest = k.sum(axis=1) - signal
            scale = np.maximum(rest / self.noise[self.orient].sum(), 1e-6)
        if self.config.fluence and self.gaussian:
            fluence = (p * (k @ w.T)).sum(axis=1) / (p @ (w**2).sum(axis=1))
        elif self.config.fluence:
            fluence = signal / (p @ w.sum(axis=1))
        return np.maximum(fluence, 1e-6), scale

    def merged(self, state, terms, fluence, p):
        """Photons [C, T] and exposures [C] to scatter.

        Without a background the new fluences count. With one, they follow from the same step as
        the photons, so the old ones count. Real values merge by least squares: photons e fluence
        over e^2 fluence^2.
        """
        fluence = fluence if self.background is None else state.fluence
        if self.gaussian:
            return (p.T @ (self.counts * fluence[:, None])) * self.exposure, p.T @ fluence**2
        return terms, p.T @ fluence

    def scatter(self, terms, exposures, quats, size):
        """Photons and weights per voxel, at all symmetry-equivalent orientations."""
        sums = np.zeros((2, size, size, size))
        for g in self.group:
            sums += reference.ewald_merge(
                terms, orientations.multiply(g, quats), self.q, size, exposures,
                self.pixel_weights, friedel=True,
            )  # fmt: skip
        return sums

    def intensity(self, photons, weight):
        """The maximum a posteriori value of each voxel."""
        axis = np.arange(len(weight)) - len(weight) // 2
        r2 = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
        mean = np.interp(np.rint(np.sqrt(r2)), *self.profile())
        denominator = weight + self.config.prior
        value = photons + self.config.prior * mean
        return np.maximum(value / np.where(denominator > 0, denominator, np.inf), 0.0)

    def patterns(self, terms, exposures):
        result = np.full((len(terms), self.values.shape[1]), np.nan)
        mean = self.config.prior * np.interp(self.q_abs, *self.profile())
        denominator = np.outer(exposures, self.pixel_weights) + self.config.prior
        result[:, self.used] = (terms + mean) / np.maximum(denominator, 1e-30)
        return result

    def normalised(self, volumes, patterns, fluence, scale):
        """The mean of fitted fluences stays 1, and the model's scale follows.

        A model merged with the old fluences, of mean 1, has its scale already.
        """
        mean = fluence.mean() if self.config.fluence else 1.0
        factor = mean if self.background is None else 1.0
        return State(volumes * factor, patterns * factor, fluence / mean, scale)

    def summary(self, ll, log_prior, p):
        ratio = np.log(np.where(p > 0, p, 1.0)) - log_prior
        expected = {"log_likelihood": p * ll, "mutual_information": p * ratio}
        return {name: terms.sum(axis=1) for name, terms in expected.items()}


def tempered(ll, beta, log_prior):
    """Posterior probabilities [D, C]; far below the largest they are 0."""
    s = beta * ll + log_prior
    s -= s.max(axis=1, keepdims=True)
    p = np.where(s >= -CUT, np.exp(s), 0.0)
    return p / p.sum(axis=1, keepdims=True)


# --- experiments


@pytest.fixture(scope="module")
def detector():
    """24 pixels an edge; corners merge only, the innermost pixels are behind a beam stop."""
    return Detector.square(24, pixel_size=0.1 / 24, distance=0.1, stop_radius=2.5)


@pytest.fixture(scope="module")
def volume(detector):
    return simulate.intensity(simulate.particle(3, diameter=6), detector.size)


@pytest.fixture(scope="module")
def frames(detector, volume):
    return simulate.frames(volume, detector, 90, 300, seed=1, fluence_spread=0.1)[0]


def near(volume, seed=0):
    """The truth times smooth random numbers: nearer than a random start, yet undecided."""
    n = len(volume)
    noise = np.random.default_rng(seed).uniform(0.3, 1.7, (-(-n // 4),) * 3)
    return (volume * np.kron(noise, np.ones((4, 4, 4)))[:n, :n, :n]).astype(np.float32)


def small(**options):
    """On one grid at constant beta."""
    fixed = {"iterations": 2, "beta": 0.3, "beta_jump": 1.0, "tolerance": 0.0, "num_div": 2,
             "engine": "pixel", "smooth": False,
             "multiresolution": False, "half_sets": False, "refine": 0}  # fmt: skip
    return Config(**fixed | options)


def whole(**options):
    """Every kind of iteration in a second: 3 on the grid as beta rises, 2 of refinement, halves."""
    fixed = {"iterations": 20, "beta": 0.4, "beta_jump": 2.0, "beta_period": 1, "tolerance": 1.0,
             "num_div": 2, "refine": 2, "engine": "pixel", "smooth": False}  # fmt: skip
    return Config(**fixed | options)


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
    """Every array of a result by name."""
    names = ("intensity", "weight", "orientation", "mode", "fluence", "background_scale",
             "log_likelihood", "mutual_information", "patterns")  # fmt: skip
    found = {name: getattr(result, name) for name in names}
    for group in ("history", "half_sets"):
        found |= {f"{group}/{name}": x for name, x in getattr(result, group).items()}
    found.pop("history/seconds", None)
    return found


def assert_same(a, b):
    """Bit for bit, but for the time taken."""
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    for name in a:
        assert np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes(), name


def relative(a, b):
    """L2 distance where both are known."""
    assert np.array_equal(np.isnan(a), np.isnan(b))
    known = ~np.isnan(b)
    return np.linalg.norm((a - b)[known]) / max(np.linalg.norm(b[known]), 1e-30)


# --- an iteration against the specification

CASES = {
    "fluence": {},
    "no fluence": {"fluence": False},
    "no prior": {"prior": 0.0},
    "background": {"photons": 150, "background": True},
    "background, no fluence": {"photons": 150, "background": True, "fluence": False},
    "gaussian": {"gaussian": True, "gaussian_sigma": 1.5},
    "gaussian, no fluence": {"gaussian": True, "gaussian_sigma": 1.5, "fluence": False},
    "two modes": {"n_modes": 2},
    "a fixed pattern": {"n_nonrotating": 1},
    "a fixed pattern, gaussian": {"n_nonrotating": 1, "gaussian": True, "gaussian_sigma": 1.5},
    "modes, patterns, background": {
        "n_modes": 2, "n_nonrotating": 2, "photons": 150, "background": True, "fluence": False,
    },
    "D2": {"symmetry": "D2", "num_div": 3},
    "dense": {"photons": 1500, "beta": 0.1},
    "blocks of 80 frames": {
        "photons": 50, "beta": 0.5, "num_div": 4, "radius": 7.0, "block_memory_mb": 1,
    },
}  # fmt: skip


def experiment(options, detector, volume, n_frames=150, **more):
    """Frames, config and specification of a case, and the arguments for `reconstruct`."""
    options = options | more
    photons, gaussian = options.pop("photons", 200), options.pop("gaussian", False)
    noise = None
    if options.pop("background", False):
        noise = np.random.default_rng(0).uniform(0.02, 0.3, detector.n_pixels)
    frames, _ = simulate.frames(
        volume, detector, n_frames, photons, seed=1, fluence_spread=0.1, background=noise
    )
    values = frames.dense(0, n_frames)
    if gaussian:
        frames = Frames.from_dense(values + np.random.default_rng(1).normal(0, 1, values.shape))
        values = frames.dense(0, n_frames)
    config = small(**options)
    start = np.stack([near(volume, mode) for mode in range(config.n_modes)])
    specification = Specification(values, detector, config, noise, gaussian)
    return frames, specification, {"start_model": start, "background": noise}


def assert_state(got, want):
    """float32 against float64.

    Log-likelihoods are good to 1e-3 (test_maximize), so probabilities to some 1e-3, and sums
    over frames and orientations, whose errors have either sign, to much less. Measured: 6e-7;
    1.1e-5 for real values at beta = 1.
    """
    for name in ("volumes", "patterns", "fluence", "background_scale"):
        assert relative(getattr(got, name), getattr(want, name)) < 3e-5, name
    # Voxel by voxel too, but for some where a term at a threshold is kept by one of the two.
    error = np.abs(got.volumes - want.volumes) / np.maximum(want.volumes, 1e-3 * want.volumes.max())
    assert np.quantile(error, 0.999) < 1e-3


def assert_reports(result, expected, modes, quats):
    weight = result.weight.reshape(expected["weight"].shape)
    assert relative(weight, expected["weight"]) < 1e-5
    assert np.abs(result.log_likelihood - expected["log_likelihood"]).max() < 1e-3
    assert np.abs(result.mutual_information - expected["mutual_information"]).max() < 1e-3
    np.testing.assert_array_equal(result.mode, modes)
    np.testing.assert_array_equal(np.isnan(result.orientation), np.isnan(quats))
    # Of unit quaternions: 1e-3 is 0.1 degrees.
    assert np.nan_to_num(result.orientation - quats).max() < 1e-3


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_an_iteration_is_the_specification(options, detector, volume, tmp_path):
    """The second, from whatever the first has left: fluences, scales and patterns differ."""
    frames, spec, arguments = experiment(options, detector, volume)
    blocks = set()
    _, (before, after) = run(
        frames, detector, spec.config, tmp_path / "result.h5", **arguments,
        on_progress=lambda stage, done: blocks.add(done),
    )  # fmt: skip
    want, p, expected = spec.iterate(State.of(before), spec.config.beta)
    assert_state(State.of(after), want)

    n, best = len(spec.quats), p.argmax(axis=1)
    rotating = best < spec.config.n_modes * n
    modes = np.where(rotating, best // n, best - spec.config.n_modes * (n - 1))
    quats = np.where(rotating[:, None], spec.quats[best % n], np.nan)
    assert_reports(after, expected, modes, quats)

    if options.get("block_memory_mb"):
        assert blocks == {0.0, 80 / 150}
    if not spec.gaussian and spec.background is None:
        assert ((spec.counts > 0).mean() > DENSE_ABOVE) == (options.get("photons") == 1500)


@pytest.mark.parametrize("case", ["fluence", "gaussian", "dense"])
def test_control_of_the_specification(case, detector, volume, tmp_path):
    """At 1 % more beta, and with pixels in another order, it is not what the engine does."""
    frames, spec, arguments = experiment(CASES[case], detector, volume, 60)
    _, (before, after) = run(frames, detector, spec.config, tmp_path / "result.h5", **arguments)
    volumes = State.of(after).volumes
    other, *_ = spec.iterate(State.of(before), 1.01 * spec.config.beta)
    assert relative(volumes, other.volumes) > 3e-4
    spec.counts = spec.counts[:, np.random.default_rng(0).permutation(spec.counts.shape[1])]
    other, *_ = spec.iterate(State.of(before), spec.config.beta)
    assert relative(volumes, other.volumes) > 1e-2


@pytest.mark.parametrize("fluence", [False, True])
def test_the_first_iteration_starts_from_the_given_model_and_fluence(
    fluence, detector, volume, tmp_path
):
    """The model made centrosymmetric and scaled to the photons, the fluences to a mean of 1."""
    frames, spec, _ = experiment({"fluence": fluence, "iterations": 1}, detector, volume)
    start, phi = near(volume), np.random.default_rng(0).uniform(1, 5, 150)
    result, _ = run(frames, detector, spec.config, start_model=start, start_fluence=phi)
    start = (0.5 * (start + start[::-1, ::-1, ::-1])).astype(float)[None]
    state = State(start, np.empty((0, detector.n_pixels)), phi / phi.mean(), np.ones(150))
    total = spec.tomograms(state)[0][:, spec.orient].sum(axis=1) @ spec.weights
    state.volumes *= spec.counts[:, spec.orient].sum(axis=1).mean() / total
    want, *_ = spec.iterate(state, 0.3)
    assert_state(State.of(result), want)
    if not fluence:
        np.testing.assert_allclose(result.fluence, phi / phi.mean(), rtol=1e-6)


@pytest.mark.parametrize("symmetry", ["D2", "I"])
def test_the_model_has_its_symmetry(symmetry, detector, volume):
    """D2 and the half turns of I map the grid onto itself, so exactly but for rounding."""
    config = small(symmetry=symmetry, iterations=3)
    frames, *_ = experiment({}, detector, volume)
    intensity = run(frames, detector, config, start_model=near(volume))[0].intensity
    tolerance = 1e-4 * intensity.max()
    for axes in ((0, 1), (0, 2), (1, 2)):
        np.testing.assert_allclose(np.flip(intensity, axes), intensity, atol=tolerance)
    plain = run(frames, detector, small(iterations=3), start_model=near(volume))[0].intensity
    assert np.abs(np.flip(plain, (0, 1)) - plain).max() > 100 * tolerance


# --- refinement


REFINED = {
    "fluence": {},
    "no fluence": {"fluence": False},
    "background": {"photons": 150, "background": True},
    "background, no fluence": {"photons": 150, "background": True, "fluence": False},
    "gaussian": {"gaussian": True, "gaussian_sigma": 1.5},
    "two modes": {"n_modes": 2},
    "D2": {"symmetry": "D2"},
}


@pytest.mark.parametrize("options", REFINED.values(), ids=REFINED)
def test_refinement_is_the_specification(options, detector, volume, tmp_path):
    frames, spec, arguments = experiment(
        options, detector, volume, 10 if "symmetry" in options else 30,
        iterations=3, refine=2, beta=1.0, beta_period=1, tolerance=1.0,
    )  # fmt: skip
    _, results = run(frames, detector, spec.config, tmp_path / "result.h5", **arguments)
    for done, (before, after) in enumerate(itertools.pairwise(results)):
        local = refinement_grid(float(orientations.grid_spacing(2)), done)
        assert after.history["n_orientations"][-1] == len(local)
        want, expected = spec.refine(State.of(before), before, local)
        assert_state(State.of(after), want)
        assert_reports(after, expected, before.mode, expected["orientation"])


def test_refinement_leaves_fixed_patterns_and_their_frames_alone(detector, volume, tmp_path):
    frames, spec, arguments = experiment(
        {}, detector, volume, 40, n_nonrotating=1, iterations=3, refine=2, beta=1.0, beta_period=1,
        tolerance=1.0, fluence=False,
    )  # fmt: skip
    _, (before, _, after) = run(frames, detector, spec.config, tmp_path / "result.h5", **arguments)
    fixed = before.mode == 1
    assert 0 < fixed.sum() < 40
    np.testing.assert_array_equal(after.mode, before.mode)
    np.testing.assert_array_equal(after.patterns, before.patterns)
    np.testing.assert_array_equal(np.isnan(after.orientation[:, 0]), fixed)
    for name in ("log_likelihood", "mutual_information"):
        same = getattr(after, name) == getattr(before, name)
        np.testing.assert_array_equal(same, fixed)


# --- the likelihood never decreases


def exact_experiment(kind, seed=3):
    """Frames whose pixels fall on voxels at all orientations searched, so EM is exact.

    Pixels are the integer points of a flat plane, orientations the 24 of a cube; then nothing
    is interpolated, and the maximisation step is the true maximum.
    """
    axis = np.arange(-4, 5)
    x, y = (c.ravel() for c in np.meshgrid(axis, axis, indexing="ij"))
    rng = np.random.default_rng(seed)
    detector = Detector(
        np.stack([x, y, 0 * x], axis=1), rng.uniform(0.5, 1.5, 81),
        np.where((x == 0) & (y == 0), 2, 0), 100.0, 100.0,
    )  # fmt: skip
    volume = rng.gamma(0.7, 1.0, (detector.size,) * 3)
    volume += volume[::-1, ::-1, ::-1]
    quats = orientations.point_group("O")
    slices = reference.ewald_slice(volume, quats, detector.q_voxels) * detector.correction
    slices[:, detector.mask == 2] = 0
    fluence = rng.gamma(4.0, 0.25, 60)[:, None] if "fluence" in kind else np.ones((60, 1))
    noise = rng.uniform(0.1, 0.6, 81) if "background" in kind else None
    if "weak" in kind:
        noise *= 0.05
    mean = fluence * (60 / slices.sum(axis=1).mean() * slices)[rng.integers(0, 24, 60)]
    gaussian = kind.startswith("gaussian")
    counts = rng.poisson(mean if noise is None else mean + noise)
    frames = Frames.from_dense(rng.normal(mean, 0.5) if gaussian else counts)
    config = small(prior=0.0, gaussian_sigma=0.5, fluence="fluence" in kind)
    spec = Specification(frames.dense(0, 60), detector, config, noise, gaussian)
    spec.quats, spec.weights = quats, np.full(24, 1 / 24)
    shape = (2 if "modes" in kind else 1, *volume.shape)
    start = rng.uniform(0.2, 1.8, shape) * (2.0 if "scale" in kind else 1.0)
    start += start[:, ::-1, ::-1, ::-1]
    return frames, spec, start * 30 / 81


def evidences(kind, n=25, dragonfly=False):
    """Total log-likelihood before each of n iterations of the engine, in float64."""
    frames, spec, start = exact_experiment(kind)
    layout = PixelLayout(spec.detector)
    settings = Settings(
        fluence=spec.config.fluence, dragonfly=dragonfly, prior=0.0, gaussian_sigma=0.5,
        block_bytes=1 << 26, threads=1, symmetry=spec.group, background=spec.background,
    )  # fmt: skip
    engine = PixelEngine(frames, layout, settings)
    pattern = np.full((1 if "pattern" in kind else 0, layout.n_rows), 60 / 81, np.float32)
    model, state = Model(start.astype(np.float32), pattern), FrameState.start(60)
    grid, values = Grid(spec.quats, spec.weights), []
    for _ in range(n):
        patterns = np.zeros((len(pattern), 81))
        patterns[:, layout.pixel] = model.patterns
        now = model.volumes, patterns, state.fluence, state.background_scale
        values.append(spec.evidence(State(*(x.astype(np.float64) for x in now))))
        model, _ = engine.iterate(model, grid, state, np.ones(60, np.float32), np.ones(100))
        complete(model.volumes)
    return np.array(values)


KINDS = ["counts", "counts, modes", "counts, pattern", "background", "background, modes",
         "gaussian", "gaussian, modes", "counts, fluence", "gaussian, fluence",
         "counts, fluence, modes, pattern", "weak background, fluence, scale"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_never_decreases(kind):
    """EM, and its conditional form with fluences (Meng & Rubin, Biometrika 80, 267, 1993).

    With background and fluences, which are updated at once, nothing promises it; but a scale that
    swings about its value would show (here it starts at twice the value).

    The exception: terms cut from the posterior, at most 24 e^-14 a frame and column, loosen
    the bound that EM raises by 60 x 24 e^-14 = 1.2e-3 nats for one mode.
    """
    steps = np.diff(evidences(kind))
    assert steps.min() >= -3e-3
    assert steps.sum() > 500


def test_control_equal_weights_lower_the_likelihood():
    """Dragonfly's merge is no maximum-likelihood step, and the test above tells."""
    assert np.diff(evidences("counts, fluence", dragonfly=True)).min() < -1.0


def test_the_likelihood_rises_with_interpolation(detector, volume, tmp_path):
    """Between voxels the merge is EM's only nearly; measured, the likelihood still rises."""
    frames, spec, arguments = experiment(
        {"fluence": False, "prior": 0.0, "beta": 1.0, "iterations": 6}, detector, volume
    )
    _, results = run(frames, detector, spec.config, tmp_path / "result.h5", **arguments)
    values = np.array([spec.evidence(State.of(result)) for result in results])
    assert (np.diff(values) > 0).all()


# --- what must hold of a whole run


@pytest.mark.parametrize(
    "options",
    [{}, {"n_modes": 2, "n_nonrotating": 1}, {"background": True}, {"gaussian": True}],
    ids=["plain", "modes and patterns", "background", "gaussian"],
)
def test_threads_do_not_change_a_bit(options, detector, volume):
    frames, spec, arguments = experiment(dict(options), detector, volume, 60)
    arguments["start_model"] = None
    config = whole(n_modes=spec.config.n_modes, n_nonrotating=spec.config.n_nonrotating)
    one, two, three = (run(frames, detector, config, threads=n, **arguments)[0] for n in (1, 2, 3))
    assert one.half_sets
    assert_same(one, two)
    assert_same(one, three)


def test_a_seed_reproduces_and_another_does_not(frames, detector):
    first, again, other = (
        run(frames, detector, whole(half_sets=False, seed=seed))[0] for seed in (5, 5, 6)
    )
    assert_same(first, again)
    assert relative(other.intensity, first.intensity) > 0.01


def test_frames_on_disk_are_frames_in_memory(frames, detector, tmp_path):
    frames.save_emc(tmp_path / "frames.emc")
    frames.save_h5(tmp_path / "frames.h5")
    config = whole(half_sets=False)
    want, _ = run(frames, detector, config)
    for name in ("frames.emc", "frames.h5"):
        assert_same(run(Frames.open(tmp_path / name), detector, config)[0], want)


def test_the_background_of_the_detector_is_used(frames, detector):
    noise = np.random.default_rng(0).uniform(0.0, 0.2, detector.n_pixels)
    config = whole(half_sets=False)
    want, _ = run(frames, detector, config, background=noise)
    with_noise = replace(detector, background=noise)
    assert_same(run(frames, with_noise, config)[0], want)
    assert relative(run(frames, detector, config)[0].intensity, want.intensity) > 1e-3


def test_frames_without_photons_do_no_harm(frames, detector):
    values = frames.dense(0, 90).astype(np.uint16)
    values[::9] = 0
    for background in (None, np.full(detector.n_pixels, 0.05)):
        result, _ = run(Frames.from_dense(values), detector, whole(), background=background)
        for name, x in arrays(result).items():
            undefined = name in ("half_sets/shell_cc", "history/imbalance")
            assert np.isfinite(x).all() or undefined, name


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_frames(n, frames, detector):
    result, _ = run(frames[:n], detector, whole())
    assert np.isfinite(result.intensity).all()
    assert bool(result.half_sets) == (n >= 4)


def test_modes_and_patterns_have_their_shapes(frames, detector):
    result, _ = run(frames, detector, whole(n_modes=2, n_nonrotating=3, half_sets=False))
    n = detector.size
    assert result.intensity.shape == result.weight.shape == (2, n, n, n)
    assert result.patterns.shape == (3, detector.n_pixels)
    np.testing.assert_array_equal(np.isnan(result.patterns[0]), detector.mask == 2)
    assert set(result.mode) <= {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(np.isnan(result.orientation[:, 0]), result.mode >= 2)


def test_patterns_with_growing_resolution(frames, detector):
    config = whole(num_div=5, multiresolution=True, n_nonrotating=1, half_sets=False, refine=0)
    result, _ = run(frames, detector, config)
    np.testing.assert_array_equal(np.isnan(result.patterns[0]), detector.mask == 2)


# --- voxels that nobody saw


def test_unobserved_voxels_are_never_zero(frames, detector):
    result, _ = run(frames, detector, whole(half_sets=False))
    unseen = result.weight == 0
    assert 0.1 < unseen.mean() < 0.9
    assert unseen[0, 0, 0]
    assert (result.intensity > 0).all()
    # They hold the radial mean of the frames, of the same size as their neighbours.
    assert result.intensity[unseen].max() < result.intensity[~unseen].max()
    without, _ = run(frames, detector, whole(half_sets=False, prior=0.0))
    np.testing.assert_array_equal(without.intensity[without.weight == 0], 0)


def test_smoothing_comes_last(frames, detector, tmp_path):
    """It is that of what was merged, in the file too; the run goes on from what was merged."""
    rough, _ = run(frames, detector, whole())
    path = tmp_path / "result.h5"
    config = whole(smooth=True)
    result = reconstruct(frames, detector, config, out=path, threads=2)
    np.testing.assert_array_equal(result.merged, rough.intensity)
    assert relative(result.intensity, rough.intensity) > 0.01
    assert rough.merged is None
    for name in ("merged", "intensity"):
        np.testing.assert_array_equal(getattr(Result.load(path), name), getattr(result, name))
    for name in ("even", "odd"):
        assert relative(result.half_sets[name], rough.half_sets[name]) > 0.01
    again = reconstruct(frames, detector, config, out=path, resume=True, threads=2)
    np.testing.assert_array_equal(again.intensity, result.intensity)


def test_a_mode_without_frames_is_not_smoothed(frames, detector, monkeypatch):
    loop = sys.modules["spicore.emc.reconstruct"]  # the package gives the name to the function
    monkeypatch.setattr(loop, "particle_extent", lambda *_: 0.1)
    result, _ = run(frames[:1], detector, whole(n_modes=3, smooth=True, half_sets=False))
    assert np.isfinite(result.intensity).all()
    for volume, merged, weight in zip(result.intensity, result.merged, result.weight, strict=True):
        assert np.array_equal(volume, merged) == (not weight.any())


def test_a_strong_prior_is_the_radial_mean(frames, detector):
    result, _ = run(frames, detector, small(prior=1e6))
    index = np.rint(np.linalg.norm(np.indices(result.intensity.shape) - detector.size // 2, axis=0))
    for radius in (3, 6, 9):
        shell = result.intensity[index == radius]
        assert np.ptp(shell) < 1e-3 * shell.mean()


# --- which frames


def test_selection_and_blacklist(frames, detector):
    """Even and odd are counted over the frames that the blacklist leaves."""
    blacklist = np.zeros(90, bool)
    blacklist[[0, 7, 8, 41]] = True
    kept = np.flatnonzero(~blacklist)
    for selection, used in (("all", kept), ("even", kept[::2]), ("odd", kept[1::2])):
        config = whole(selection=selection, half_sets=False)
        result, _ = run(frames, detector, config, blacklist=blacklist)
        alone, _ = run(frames[used], detector, whole(half_sets=False))
        np.testing.assert_array_equal(result.intensity, alone.intensity)
        left_out = np.setdiff1d(np.arange(90), used)
        for name in ("orientation", "fluence", "background_scale", "log_likelihood",
                     "mutual_information", "mode"):  # fmt: skip
            values = getattr(result, name)
            np.testing.assert_array_equal(values[used], getattr(alone, name))
            rest = values[left_out]
            assert (rest == -1).all() if name == "mode" else np.isnan(rest).all()


def test_a_blacklist_may_be_of_numbers(frames, detector):
    mask = np.arange(90) % 5 == 0
    want, _ = run(frames, detector, small(), blacklist=mask)
    assert_same(run(frames, detector, small(), blacklist=mask.astype(np.uint8))[0], want)


# --- what is reported and stored


def test_history_and_callbacks_are_complete(frames, detector, tmp_path):
    seen, progress = [], []
    result = reconstruct(
        frames, detector, whole(), out=tmp_path / "new" / "result.h5", threads=2,
        on_iteration=seen.append, on_progress=lambda *x: progress.append(x),
    )  # fmt: skip
    main = [x for x in seen if x.stage in ("grid", "refine")]
    n = len(main)
    assert [x.stage for x in main] == ["grid"] * (n - 2) + ["refine"] * 2
    assert set(result.history) == {"iteration", "beta", "change", "log_likelihood", "seconds",
                                   "mutual_information", "n_orientations", "n_frames",
                                   "radius", "imbalance"}  # fmt: skip
    for name, values in result.history.items():
        np.testing.assert_array_equal(values, [getattr(x, name) for x in main])
        assert np.isfinite(values).all() or name == "imbalance"  # of the polar engine alone
    np.testing.assert_array_equal(result.history["iteration"], np.arange(1, n + 1))
    assert result.history["beta"][0] == pytest.approx(0.4)
    assert result.history["beta"][-1] == 1.0
    assert (np.diff(result.history["beta"]) >= 0).all()
    assert (result.history["n_orientations"][:-2] == 420).all()
    np.testing.assert_allclose(result.history["log_likelihood"][-1], result.log_likelihood.mean())
    assert {x.stage for x in seen[n:]} == {"even", "odd"}
    assert all(x.seconds > 0 and np.isfinite(x.change) for x in seen)
    assert {stage for stage, _ in progress} >= {"orient", "merge", "refine"}
    assert all(0 <= done < 1 for _, done in progress)
    assert (tmp_path / "new" / "result.h5").exists()


def test_half_sets(frames, detector):
    result, _ = run(frames, detector, whole())
    half = result.half_sets
    n = detector.size
    assert set(half) == {"even", "odd", "radius", "shell_cc", "start_radius"}
    assert half["even"].shape == half["odd"].shape == (n, n, n)
    np.testing.assert_array_equal(half["radius"], np.arange(n // 2 + 1))
    want = metrics.shell_cc(half["even"], half["odd"])[1]
    np.testing.assert_array_equal(half["shell_cc"], want)
    assert relative(half["even"], half["odd"]) > 0.01
    assert 0 < half["start_radius"] < detector.q_max
    assert not run(frames, detector, whole(half_sets=False))[0].half_sets
    assert not run(frames, detector, whole(selection="even"))[0].half_sets


def test_half_sets_do_not_see_each_other(frames, detector):
    """From one model and the same poses, other odd frames leave the even half as it was."""
    values = frames.dense(0, 90).astype(np.uint16)
    values[1::2] = np.roll(values[1::2], 3, axis=1)
    config = whole(iterations=1, fluence=False)
    both = [run(f, detector, config)[0].half_sets for f in (frames, Frames.from_dense(values))]
    assert relative(both[0]["odd"], both[1]["odd"]) > 0.05
    # Not bit for bit: the common start differs by the odd frames below the start radius.
    assert relative(both[0]["even"], both[1]["even"]) < relative(both[0]["odd"], both[1]["odd"])


def test_a_result_is_its_file(frames, detector, tmp_path):
    path = tmp_path / "result.h5"
    config = whole(n_modes=2, n_nonrotating=1)
    result, _ = run(frames, detector, config, path)
    loaded = Result.load(path)
    assert_same(loaded, result)
    assert Config.from_toml(loaded.config) == config
    assert loaded.voxel_size == pytest.approx(detector.voxel_size)
    assert not list(tmp_path.glob("*.tmp*"))
    with h5py.File(path) as file:
        assert file.attrs["format"] == "spicore-emc"
        assert {"intensity", "weight", "orientation", "fluence", "log_likelihood",
                "mutual_information", "history"} <= set(file)  # fmt: skip
        for name, dtype in (("intensity", "f4"), ("weight", "f4"), ("orientation", "f4"),
                            ("fluence", "f4"), ("log_likelihood", "f8"),
                            ("mutual_information", "f8")):  # fmt: skip
            assert file[name].dtype == dtype
        assert "spicore_version" in file.attrs


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 3, 5, 6])
@pytest.mark.parametrize(
    "options",
    [{}, {"n_modes": 2, "n_nonrotating": 1, "background": True}, {"gaussian": True}],
    ids=["plain", "modes, patterns, background", "gaussian"],
)
def test_a_resumed_run_is_one_never_stopped(stop, options, detector, volume, tmp_path):
    """Stopped on the grid (1, 3), in refinement (5), and before the half sets (6)."""
    frames, spec, arguments = experiment(dict(options), detector, volume, 50)
    arguments.pop("start_model")
    config = whole(
        beta=0.15, n_modes=spec.config.n_modes, n_nonrotating=spec.config.n_nonrotating,
        selection="odd" if options else "all",
    )  # fmt: skip
    path = tmp_path / "result.h5"
    want, _ = run(frames, detector, config, **arguments)
    assert len(want.history["iteration"]) == 6
    assert (want.history["n_orientations"] == 420).sum() == 4

    def interrupt(done):
        if done.iteration == stop:
            raise Stop

    with pytest.raises(Stop):
        reconstruct(
            frames, detector, config, out=path, threads=2, on_iteration=interrupt, **arguments
        )
    assert len(Result.load(path).history["iteration"]) == stop
    got, _ = run(frames, detector, config, path, resume=True, **arguments)
    assert_same(got, want)
    assert_same(Result.load(path), want)


@pytest.mark.parametrize("patterns", [0, 1])
def test_a_resumed_run_keeps_its_stage(patterns, frames, detector, tmp_path):
    """Also in the coarse stage, whose radius and grid are its own, and after a change of it."""
    config = whole(
        num_div=5, multiresolution=True, half_sets=False, refine=0, n_nonrotating=patterns
    )  # fmt: skip
    path = tmp_path / "result.h5"
    want, results = run(frames, detector, config, path)
    sizes = want.history["n_orientations"]
    assert list(np.unique(sizes)) == [3240, 6300]
    assert want.history["radius"][0] > 0 == want.history["radius"][-1]
    for stop in (1, int((sizes == 3240).sum()), len(sizes) - 1):
        results[stop - 1].save(path)
        got, _ = run(frames, detector, config, path, resume=True)
        assert_same(got, want)


def test_resume_after_the_end_changes_nothing(frames, detector, tmp_path):
    path = tmp_path / "result.h5"
    want, _ = run(frames, detector, whole(), path)
    assert_same(run(frames, detector, whole(), path, resume=True)[0], want)


# --- recovery


def recovery(frames, truth, detector, volume, seed):
    """Median pose error in degrees and mean shell correlation of a run from a random start."""
    config = Config(engine="pixel", num_div=4, half_sets=False, refine=2, fluence=False, seed=seed)
    result, _ = run(frames, detector, config)
    quats = result.orientation.astype(np.float64)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    errors, _ = metrics.pose_error(quats, truth["quats"])
    *_, cc = metrics.align_volumes(result.intensity, volume, radius=(3, 13))
    return np.median(errors), cc


@pytest.fixture(scope="module")
def particle():
    """400 frames of 1,000 photons of a particle without symmetry, 28 pixels an edge.

    At 13 pixels the Ewald sphere falls back by 3 voxels, half a speckle: enough to tell
    a half turn about the beam.
    """
    detector = Detector.square(28, pixel_size=0.1 / 28, distance=0.1)
    volume = simulate.intensity(simulate.particle(3, diameter=6), detector.size)
    frames, truth = simulate.frames(volume, detector, 400, 1000, seed=1)
    return frames, truth, detector, volume


@pytest.mark.parametrize("seed", [0, 1])
def test_a_particle_is_recovered_from_a_random_start(particle, seed):
    """Measured for three seeds: 9 to 10 degrees and 0.989 to 0.990.

    Annealed twice as fast (`beta_jump` 2), one of the three ends at 113 degrees.
    """
    error, cc = recovery(*particle, seed)
    assert error < 15
    assert cc > 0.97


def test_shuffled_pixels_recover_nothing(particle):
    """The control: the same photons elsewhere. Measured: 126 degrees and 0.30."""
    frames, *rest = particle
    rng = np.random.default_rng(0)
    values = np.array([rng.permutation(x) for x in frames.dense(0, 400).astype(np.uint16)])
    error, cc = recovery(Frames.from_dense(values), *rest, seed=0)
    assert error > 90
    assert cc < 0.6


# --- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_model": np.ones((5, 5, 5))}, r"start model must have shape \[1, 33, 33, 33\]"),
        ({"start_model": np.ones((2, 33, 33, 33))}, r"start model must have shape \[1, 33, 33, 33"),
        ({"start_model": np.full((33,) * 3, np.nan)}, "start model must be finite, got 35937 NaN"),
        ({"start_model": -np.ones((33,) * 3)}, "start model must be non-negative and not all 0"),
        ({"start_model": np.zeros((33,) * 3)}, "start model must be non-negative and not all 0"),
        ({"start_fluence": np.ones(89)}, r"start_fluence must have shape \[90\], got \[89\]"),
        ({"start_fluence": np.zeros(90)}, "start_fluence must be finite and positive"),
        ({"start_fluence": np.full(90, np.nan)}, "start_fluence must be finite and positive"),
        ({"background": np.ones(5)}, r"background must have shape \[576\], got \[5\]"),
        ({"background": np.full(576, np.nan)}, "background must be finite and not negative"),
        ({"background": np.full(576, -1.0)}, "background must be finite and not negative"),
        ({"blacklist": np.zeros(89, bool)}, r"blacklist must have shape \[90\], got \[89\]"),
        ({"blacklist": np.ones(90, bool)}, "blacklist and selection leave no frame"),
        ({"threads": 0}, "threads must be between 1 and 4096, got 0"),
        ({"device": "tpu"}, "device must be one of cpu, cuda, cuda:all, got 'tpu'"),
        ({"resume": True}, "resume needs `out`"),
    ],
)
def test_errors(options, message, frames, detector):
    assert detector.size == 33
    with pytest.raises(InputError, match=message):
        reconstruct(frames, detector, small(), **options)


def test_a_background_of_ignored_pixels_may_be_anything(frames, detector):
    noise = np.where(detector.mask == 2, np.nan, 0.1)
    assert np.isfinite(run(frames, detector, small(), background=noise)[0].intensity).all()


def test_frames_of_another_detector(frames):
    with pytest.raises(InputError, match="frames have 576 pixels but the detector has 400"):
        reconstruct(frames, Detector.square(20), small())


def test_a_radius_without_pixels(frames, detector):
    message = "detector has no pixel that orients .* within radius 2 voxels"
    with pytest.raises(InputError, match=message):
        reconstruct(frames, detector, small(radius=2.0))


def test_frames_without_any_photon(detector):
    dark = Frames.from_dense(np.zeros((5, 576), np.uint16))
    with pytest.raises(InputError, match="frames hold no photons in the pixels that orient"):
        reconstruct(dark, detector, small())


def test_real_values_have_no_background(frames, detector):
    values = Frames.from_dense(frames.dense(0, 90).astype(np.float64))
    with pytest.raises(InputError, match="background cannot be used with frames of real values"):
        reconstruct(values, detector, small(), background=np.full(576, 0.1))


def test_resume_errors(frames, detector, tmp_path):
    path = tmp_path / "result.h5"
    with pytest.raises(InputError, match=r"result\.h5: no such file of 'spicore emc'"):
        run(frames, detector, small(), path, resume=True)
    with h5py.File(path, "w") as file:
        file["intensity"] = np.zeros(3)
    with pytest.raises(InputError, match="must be a result of 'spicore emc', it is other HDF5"):
        run(frames, detector, small(), path, resume=True)
    run(frames, detector, small(), path)
    with pytest.raises(InputError, match="the result to resume was made with another config"):
        run(frames, detector, small(seed=1), path, resume=True)
    with pytest.raises(InputError, match="the result to resume holds 90 frames, the input 80"):
        run(frames[:80], detector, small(), path, resume=True)
