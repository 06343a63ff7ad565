"""The EMC loop: single iterations against float64 NumPy, what must hold, and recovery.

All frames are simulated: 24 to 40 pixels an edge, tens to hundreds of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from spicore import Detector, Frames, InputError, metrics, orientations, reference, simulate
from spicore.emc import Config, Result, reconstruct
from spicore.emc.engine import FrameState, Grid, PixelEngine, Settings
from spicore.emc.layout import PixelLayout
from spicore.emc.model import Model

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
        """Photons [C, T] and exposures [C] to scatter, with the new fluence.

        With a background both fluence and intensity follow from the old ones. Real values merge
        by least squares: photons e fluence over e^2 fluence^2.
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
        """The mean of fitted fluences stays 1."""
        mean = fluence.mean() if self.config.fluence else 1.0
        return State(volumes * mean, patterns * mean, fluence / mean, scale)

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
    return Detector.square(24, pixel_size=0.1 / 24, distance=0.2, stop_radius=2.5)


@pytest.fixture(scope="module")
def volume(detector):
    return simulate.intensity(simulate.particle(3, diameter=8), detector.size)


def start_model(volume, seed=0):
    """The truth times smooth random numbers: nearer than a random start, yet undecided."""
    rng = np.random.default_rng(seed)
    noise = np.kron(rng.uniform(0.3, 1.7, (10, 10, 10)), np.ones((4, 4, 4)))
    n = len(volume)
    return (volume * noise[:n, :n, :n]).astype(np.float32)


def two_iterations(frames, detector, config, tmp_path, **options):
    """The results after the first iteration and after the second."""
    path, results = tmp_path / "result.h5", []
    reconstruct(
        frames, detector, config, out=path, threads=2,
        on_iteration=lambda _: results.append(Result.load(path)), **options,
    )  # fmt: skip
    return results


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def small(**options):
    """Two iterations at constant beta on one grid."""
    fixed = {"iterations": 2, "beta": 0.3, "beta_jump": 1.0, "tolerance": 0.0, "num_div": 2,
             "multiresolution": False, "half_sets": False, "refine": 0}  # fmt: skip
    return Config(**fixed | options)


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
    "two modes, two fixed patterns, background": {
        "n_modes": 2, "n_nonrotating": 2, "photons": 150, "background": True, "frames": 40,
    },
    "D2": {"symmetry": "D2", "num_div": 3},
    "dense": {"photons": 1500, "beta": 0.1},
    "blocks of 80 frames": {"num_div": 4, "radius": 7.0, "block_memory_mb": 1},
}  # fmt: skip


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request, detector, volume, tmp_path):
    """(specification, frames, options of `reconstruct`, results after iterations 1 and 2)."""
    options = dict(request.param)
    photons, n_frames = options.pop("photons", 200), options.pop("frames", 150)
    gaussian = options.pop("gaussian", False)
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
    start = np.stack([start_model(volume, m) for m in range(config.n_modes)])
    arguments = {"start_model": start, "background": noise}
    results = two_iterations(frames, detector, config, tmp_path, **arguments)
    specification = Specification(values, detector, config, noise, gaussian)
    return specification, frames, start, results


def test_an_iteration_is_the_specification(case):
    spec, frames, start, (before, after) = case
    want, p, expected = spec.iterate(State.of(before), spec.config.beta)
    got = State.of(after)
    for name in ("volumes", "patterns", "fluence", "background_scale"):
        a, b = getattr(got, name), getattr(want, name)
        a,b=a[~np.isnan(a)], b[~np.isnan(b)]
        print(f"{name:20s}", relative(a, b) if a.size else None, abs(a/b-1).max() if a.size else 0)
    w=after.weight.reshape(want.volumes.shape)
    print("weight", relative(w, expected["weight"]))
    for name in ("log_likelihood", "mutual_information"):
        print(f"{name:20s}", np.abs(getattr(after, name) - expected[name]).max(), np.abs(expected[name]).max())
    n=len(spec.quats); M=len(start); best=p.argmax(1)
    mode=np.where(best<M*n,best//n,best-M*n+M); print("mode",(mode==after.mode).mean(), np.bincount(after.mode))
    rot=best<M*n
    dots=abs((spec.quats[best[rot]%n]*after.orientation[rot]).sum(1)); print("best", (dots>1-1e-5).mean(), 'entropy', -(p*np.log(np.maximum(p,1e-300))).sum(1).mean())
