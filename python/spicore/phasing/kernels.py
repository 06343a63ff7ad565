"""Iterations of phase retrieval on a batch of starts that share their data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import _core, _validate
from .._dispatch import CPU, backend_of, n_threads
from ..errors import InputError
from . import gpu
from .batches import in_threads
from .blur import Neighbours, check_coherence
from .histogram import checked_histogram, project_histogram
from .layout import SpectrumLayout, aligned
from .schedule import ALGORITHMS

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
OBJECTS = {True: FLOATS, False: (np.dtype(np.complex64), np.dtype(np.complex128))}
MOST_BETA = 2.0


@dataclass(frozen=True)
class Measured:
    """What was measured, shared by all starts of a batch. Checked when made.

    Attributes
    ----------
    amplitude : float32 or float64 [*shape], 1 to 3 axes
        Square root of the intensity, >= 0, zero frequency at index 0 (``ifftshift`` done).
    mask : bool [*shape] or None
        True where measured: the modulus is enforced there. False keeps the transform's.
        None: all measured.
    limit : float [*shape] or None
        Upper bound of the modulus where not measured, > 0; infinity: none.
    real : bool
        The object is real. Then only frequencies of the last axis up to ``n // 2`` are read,
        so that these arrays should be the same at q and -q.
    """

    amplitude: NDArray
    mask: NDArray | None = None
    limit: NDArray | None = None
    real: bool = True
    _spectra: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        a = self.amplitude
        if not isinstance(a, np.ndarray) or a.dtype not in FLOATS or not 1 <= a.ndim <= 3:
            raise InputError(
                f"amplitude must be a float32 or float64 array of 1 to 3 axes, got {_described(a)}"
            )
        if not a.size:
            raise InputError(f"amplitude must not be empty, got shape {list(a.shape)}")
        measured = self.measured
        values = a[measured]
        if not values.size:
            raise InputError("mask must be True somewhere, got no measured value")
        _all(np.isfinite(values), "amplitude", "finite where it is measured")
        _all(values >= 0, "amplitude", "at least 0 where it is measured")
        if not values.any():
            raise InputError("amplitude must be above 0 somewhere, got only 0 where measured")
        if self.limit is not None:
            limit = _validate.array("limit", self.limit, a.dtype, a.shape)
            _all(limit[~measured] > 0, "limit", "above 0 where nothing is measured")

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.amplitude.shape

    def spectrum(self, dtype: DTypeLike) -> tuple[SpectrumLayout, NDArray, float]:
        """Return the kernel's layout, its target and the sum of the amplitude; made once.

        Parameters
        ----------
        dtype : dtype
            float32 or float64, the precision of the iterations.
        """
        layout = SpectrumLayout.of(self.shape, self.real, dtype)
        key = layout.lanes, np.dtype(dtype)
        if key not in self._spectra:
            self._spectra[key] = layout, *self.target(layout, dtype)
        return self._spectra[key]

    def target(self, layout: SpectrumLayout, dtype: DTypeLike) -> tuple[NDArray, float]:
        """Return the kernel's target in a layout and the sum of the amplitude.

        Parameters
        ----------
        layout : SpectrumLayout
        dtype : dtype
            As in `spectrum`.
        """
        amplitude = self.amplitude.astype(dtype)
        missing = ~self.measured
        limit = np.inf if self.limit is None else np.asarray(self.limit)[missing]
        amplitude[missing] = -limit
        kept = np.maximum(amplitude[..., : layout.half], 0)
        total = float((kept.reshape(-1, layout.half).sum(0, np.float64) * layout.weight).sum())
        return layout.to_blocks(amplitude, -np.inf), total

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Where the modulus is enforced, bool [*shape]."""
        if self.mask is None:
            return np.ones(self.amplitude.shape, bool)
        mask = self.mask
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != self.shape:
            raise InputError(f"mask must be bool {list(self.shape)}, got {_described(mask)}")
        return mask


@dataclass
class Seeds:
    """A batch of starts, updated in place: all NumPy arrays, or all of torch or CuPy on a GPU.

    Attributes
    ----------
    x : [S, *shape]
        Objects, anywhere in their periodic cell: float32 or float64 if real, else complex64 or
        complex128.
    support : uint8 or bool [S, *shape] or [1, *shape]
        Where an object may be; one for all starts, or one each.
    background : float [S, *shape] or None
        Amplitude of an incoherent background, >= 0 at the start, laid out as the measured
        amplitude, of the precision of x. As x, an iterate may leave its constraints.
    coherence : float64 [S, *box] or None
        Kernels with which partially coherent light blurs intensities: boxes of odd axes with the
        origin in the middle, >= 0, of sum 1 (`phasing.blur`). Not together with a background.
    """

    x: NDArray
    support: NDArray
    background: NDArray | None = None
    coherence: NDArray[np.float64] | None = None


def iterate(
    measured: Measured,
    seeds: Seeds,
    algorithm: str,
    n: int,
    *,
    beta: float = 0.9,
    positive: bool = False,
    phase_bounds: tuple[float, float] | None = None,
    histogram: ArrayLike | None = None,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Do n iterations of one algorithm in place.

    With P_M the projection onto the measured modulus, P_S the one onto support, sign and phase
    bounds, and R = 2 P - 1:

    ====  =====================================================================
    ER    P_S P_M x
    SF    R_S P_M x
    HIO   x + beta [P_S((1 + 1/beta) P_M x - x/beta) - P_M x]
    HPR   1/2 [R_S(R_M + (beta - 1) P_M) + 1 + (1 - beta) P_M] x
    RAAR  beta/2 (R_S R_M + 1) x + (1 - beta) P_M x
    DM    x + beta [P_S R_M' x - P_M R_S' x], R' = (1 + gamma) P - gamma with
          gamma_M = 1/beta and gamma_S = -1/beta; two pairs of transforms unless beta = 1
    ASR   1/2 (R_S R_M + 1) x
    RRR   x + beta [P_S(2 P_M x - x) - P_M x]
    DRAP  P_S((1 + beta) P_M x - beta x) - beta (P_M x - x)
    ====  =====================================================================

    Parameters
    ----------
    measured : Measured
    seeds : Seeds
    algorithm : str
        A name of the table. ASR, DM, RRR and RAAR agree at beta = 1, DRAP at 0 is ER, and HIO
        and HPR agree, as P_S here commutes with positive factors. With `positive`, HIO feeds
        back where its argument of P_S is negative, not where P_M x is, as Fienup's does.
    n : int
        Iterations.
    beta : float
        In (0, 2]; DRAP, whose lambda it is, also takes 0.
    positive : bool
        P_S sets negative values to 0; of a complex object it takes the real part first.
    phase_bounds : (float, float), optional
        Complex objects: P_S sets values with a phase outside of these to 0; radians, low < high.
    histogram : float [M], optional
        Real objects: values of the object in its support, in any order, number and unit. P_S gives
        the values in the support, in their order, those of this histogram, times the factor that
        fits best; whether `positive` then no longer matters. Not for DM unless beta = 1.
    threads : int, optional
        CPU threads, default all cores. Results do not depend on it.

    Returns
    -------
    float64 [S, n]
        R factors sum ||F| - A| / sum A over measured frequencies, F the transform of x before
        each iteration (with a background sqrt(|F|^2 + B^2) for |F|).

    Raises
    ------
    InputError
        An argument has a wrong shape, type or value.
    CudaError
        The starts are on a GPU that cannot be used, or too large for its shared memory and cuFFT
        is missing.

    Notes
    -----
    On a GPU the call is asynchronous, on the library's current stream; nothing is copied but the
    measurement, once, and the returned factors are there. Values are not checked. A start whose
    spectrum fits into shared memory (float32 images up to 128 x 128, on an H100 real ones up to
    about 230 x 230) stays there for all n iterations; others take cuFFT. With a background, sums
    over shells are atomic: repeated calls agree to rounding, not to the last bit.

    Cost: one pair of transforms an iteration, about ``5 V log2 V`` flops per start for V voxels
    of a real object, twice that for a complex one. Axes with prime factors above 7 take
    longer, mostly less than three times; a prime n costs n^2 per line where n - 1 has a factor
    above n / 4. With `coherence` an iteration takes three transforms more, two of them of
    intensities in float64; with a histogram it sorts the support.

    P_M sets a transform of 0 to the modulus with phase 0. With a background [1]_ the iterate is
    the pair (x, B): P_M scales both by ``A / sqrt(|F|^2 + B^2)``, P_S replaces B by its average
    over shells of equal |q|, and by 0 where that is negative. With `coherence` g, P_M scales by
    ``A / sqrt(|F|^2 conv g)`` [2]_, |F|^2 that of the iterate at its start, but for the own
    frequency's part in the second P_M of DM.

    References
    ----------
    .. [1] K. Ayyer et al., J. Appl. Cryst. 54 (2021); ResEx-phasing.
    .. [2] J. N. Clark et al., Nat. Commun. 3, 993 (2012).

       D. R. Luke, Inverse Problems 21, 37 (2005): RAAR. V. Elser, J. Opt. Soc. Am. A 20, 40
       (2003): difference map. J. R. Fienup, Appl. Opt. 21, 2758 (1982): HIO.
    """
    _validate.choice("algorithm", algorithm, ALGORITHMS)
    n = _count("n", n)
    beta = _beta(algorithm, beta)
    bounds = _phase_bounds(measured, positive, phase_bounds)
    values = checked_histogram(histogram, (algorithm,), beta, real=measured.real, positive=positive)
    rounds = _rounds(algorithm, beta)
    backend = backend_of(x=seeds.x, support=seeds.support, background=seeds.background)
    if backend is not CPU:
        if seeds.coherence is not None or values is not None:
            raise InputError("coherence and histogram must be None for starts on a GPU")
        options = {"rounds": rounds, "positive": positive, "phase_bounds": bounds}
        return gpu.iterate(backend, measured, seeds, n, _shells, **options)
    check(measured, seeds)
    errors = np.empty((len(seeds.x), n))
    if not len(seeds.x):
        return errors
    kernel = _Kernel(measured, seeds, positive, bounds, n_threads(threads))
    if seeds.coherence is None and values is None:
        kernel.run(rounds, errors)
        return errors
    for i in range(n):
        errors[:, i] = _iteration(kernel, seeds, rounds, values)
    return errors


class _Kernel:
    """The compiled kernel with what its calls share."""

    def __init__(
        self,
        measured: Measured,
        seeds: Seeds,
        positive: bool,
        bounds: tuple[float, float] | None,
        threads: int,
    ) -> None:
        self.seeds, self.constraints, self.threads = seeds, (positive, bounds), threads
        self.dtype = seeds.x.real.dtype
        self.layout, self.target, self.total = measured.spectrum(self.dtype)
        kernels = () if seeds.coherence is None else seeds.coherence
        self.neighbours = [Neighbours(one, measured.shape) for one in kernels]

    def run(self, rounds: list, errors: NDArray, held: NDArray | None = None) -> None:
        """Do as many iterations as `errors` [S, n] has columns.

        `held` [S, *shape] is a background that the rounds leave alone; else it is that of the
        seeds.
        """
        seeds, layout = self.seeds, self.layout
        n_starts, grid = len(seeds.x), layout.grid[:3]
        values = seeds.background if held is None else held
        background = None
        if values is not None:
            background = layout.to_blocks(values, 0), *_shells(layout)
        n_shells = 0 if background is None else len(background[2]) - 1
        is_double = self.dtype == np.float64
        sizes = _core.phase_sizes(layout.grid, is_double, n_starts, n_shells, self.threads)
        _core.phase(
            layout.grid,
            seeds.x.reshape(n_starts, *grid),
            seeds.support.view(np.uint8).reshape(-1, *grid),
            self.target,
            self.total,
            background,
            rounds,
            *self.constraints,
            aligned((sizes[3],), self.dtype),
            np.empty((self.threads, sizes[4])),
            errors,
            self.threads,
        )
        if held is None and background is not None:
            seeds.background[...] = layout.from_blocks(background[0])


_HELD = (1, 0, 1, 0, 0, 0, 0, 0, 0), False  # the background of a round that does not change it


def _iteration(
    kernel: _Kernel, seeds: Seeds, rounds: list, histogram: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Do what the compiled kernel cannot do within its passes; return R factors [S].

    Of the blurred intensity, centre |F|^2 + neighbours^2, the second part is a background to the
    kernel, and the object is scaled by the root of the centre.
    """
    held = None
    if seeds.coherence is not None:
        held, factor = _neighbours(seeds, kernel)
        rounds = [(update, from_old, *_HELD) for update, from_old, *_ in rounds]
        seeds.x *= factor
    errors = np.empty((len(seeds.x), 1))
    if histogram is None:
        kernel.run(rounds, errors, held)
    else:
        _with_histogram(kernel, seeds, rounds[0], errors, held, histogram)
    if held is not None:
        seeds.x /= factor
    return errors[:, 0]


def _neighbours(seeds: Seeds, kernel: _Kernel) -> tuple[NDArray, NDArray]:
    """Return what neighbours give to each amplitude [S, *shape], and roots of centres [S, 1...]."""
    x, threads = seeds.x, kernel.threads
    held = np.empty(x.shape, kernel.dtype)
    by_seed = len(x) >= threads

    def one(s: int) -> None:
        held[s] = kernel.neighbours[s](x[s], 1 if by_seed else threads)

    in_threads(one, range(len(x)), threads if by_seed else 1)
    centres = np.array([split.centre for split in kernel.neighbours], kernel.dtype)
    return held, np.sqrt(centres).reshape(-1, *[1] * (x.ndim - 1))


def _with_histogram(
    kernel: _Kernel,
    seeds: Seeds,
    of_round: tuple,
    errors: NDArray,
    held: NDArray | None,
    histogram: NDArray[np.float64],
) -> None:
    """Take P_M x from the kernel, and do x := a x + b P_M x + c P_S(d x + e P_M x) here."""
    (a, b, c, d, e, *_), *rest = of_round
    old = seeds.x.copy()
    kernel.run([((0, 1, 0, 0, 0, 0, 0), *rest)], errors, held)

    def one(s: int) -> None:
        p, support = seeds.x[s], seeds.support[s % len(seeds.support)] != 0
        projected = project_histogram(d * old[s] + e * p, support, histogram)
        seeds.x[s] = a * old[s] + b * p + c * projected

    in_threads(one, range(len(old)), kernel.threads)


def _rounds(algorithm: str, beta: float) -> list:
    """Return the rounds of an iteration, as cpp/include/spicore/phase.hpp defines them."""
    if algorithm == "DM" and beta != 1:
        f, g = 1 / beta, 1 - 1 / beta  # R_S'
        inner = -1 / beta, 1 + 1 / beta  # R_M'
        return [
            ((1, 0, beta, *inner, f, g), True, (1, 0, 1, 0, 0, 0, *inner, 0), False),
            ((1, -beta, 0, 0, 0, 0, 0), False, (f, g, 1, 0, -beta, beta, 0, 0, 0), False),
        ]
    a, b, c, d, e = {
        "ER": (0, 0, 1, 0, 1),
        "SF": (0, -1, 2, 0, 1),
        "HIO": (1, -beta, beta, -1 / (beta or 1), 1 + 1 / (beta or 1)),
        "HPR": (1, -beta, 1, -1, 1 + beta),
        "RAAR": (beta, 1 - 2 * beta, beta, -1, 2),
        "ASR": (1, -1, 1, -1, 2),
        "DM": (1, -1, 1, -1, 2),
        "RRR": (1, -beta, beta, -1, 2),
        "DRAP": (beta, -beta, 1, -beta, 1 + beta),
    }[algorithm]
    return [((a, b, c, d, e, 0, 0), False, (1, 1, 0, a, b, 0, d, e, c), True)]


@lru_cache(maxsize=4)
def _shells(layout: SpectrumLayout) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the shell of each frequency in blocks, and 1 / frequencies of each shell and 0."""
    shape = layout.shape
    axes = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij", sparse=True)
    shell = np.rint(max(shape) * np.sqrt(sum(f**2 for f in axes))).astype(np.int32)
    n = np.bincount(shell.ravel())
    weight = np.append(1 / np.maximum(n, 1), 0.0)
    return layout.to_blocks(shell, len(n)), weight


def estimate(
    measured: Measured,
    seeds: Seeds,
    *,
    positive: bool = False,
    phase_bounds: tuple[float, float] | None = None,
    histogram: ArrayLike | None = None,
    threads: int | None = None,
) -> NDArray:
    """Return P_S P_M x of each start: the object to look at after iterates like DM's.

    Parameters
    ----------
    measured : Measured
    seeds : Seeds
        Not changed.
    positive, phase_bounds, histogram, threads
        As in `iterate`.

    Returns
    -------
    [S, *shape]
        Objects, of the type of x.
    """
    background = None if seeds.background is None else _copied(seeds.background)
    copies = replace(seeds, x=_copied(seeds.x), background=background)
    iterate(
        measured, copies, "ER", 1, positive=positive, phase_bounds=phase_bounds,
        histogram=histogram, threads=threads,
    )  # fmt: skip
    return copies.x


def _copied(x: NDArray) -> NDArray:
    return x.clone() if hasattr(x, "clone") else x.copy()  # torch's or NumPy's and CuPy's


def check(measured: Measured, seeds: Seeds) -> None:
    """Raise `InputError` unless the seeds fit the measurement.

    Parameters
    ----------
    measured : Measured
    seeds : Seeds
    """
    x, shape = seeds.x, list(measured.shape)
    kinds = " or ".join(map(str, OBJECTS[measured.real]))
    if not isinstance(x, np.ndarray) or x.dtype not in OBJECTS[measured.real]:
        what = "a real" if measured.real else "a complex"
        raise InputError(f"x must be {kinds} for {what} object, got {_described(x)}")
    _batch("x", x, kinds, ["S", *shape], writeable=True)
    if not np.isfinite(x.sum(dtype=np.result_type(x, np.float64))):
        _all(np.isfinite(x), "x", "finite")
    support = seeds.support
    _batch("support", support, "uint8 or bool", ["1 or S", *shape])
    if support.dtype not in (np.dtype(np.uint8), np.dtype(bool)):
        raise InputError(f"support must be uint8 or bool, got {support.dtype}")
    if len(support) not in (1, len(x)):
        raise InputError(f"support must have length 1 or {len(x)}, got {len(support)}")
    if seeds.background is not None:
        _check_background(seeds)
    if seeds.coherence is not None:
        if seeds.background is not None:
            raise InputError("background must be None with coherence, got both")
        check_coherence(seeds.coherence, len(x), measured.shape)


def _check_background(seeds: Seeds) -> None:
    background, dtype = seeds.background, seeds.x.real.dtype
    wanted = [len(seeds.x), *seeds.x.shape[1:]]
    if (
        not isinstance(background, np.ndarray)
        or background.dtype != dtype
        or list(background.shape) != wanted
    ):
        raise InputError(f"background must be {dtype} {wanted}, got {_described(background)}")
    _batch("background", background, str(dtype), wanted, writeable=True)
    _all(np.isfinite(background), "background", "finite")


def _batch(name: str, value: NDArray, kind: str, wanted: list, *, writeable: bool = False) -> None:
    """Refuse an array that is not C-contiguous [any, *shape]: it is not copied."""
    if not isinstance(value, np.ndarray) or list(value.shape[1:]) != wanted[1:]:
        axes = ", ".join(map(str, wanted))
        raise InputError(f"{name} must be {kind} [{axes}], got {_described(value)}")
    if not value.flags.c_contiguous:
        raise InputError(f"{name} must be C-contiguous, got strides {value.strides}")
    if writeable and not value.flags.writeable:
        raise InputError(f"{name} must be writeable, got a read-only array")


def _all(good: NDArray, name: str, what: str) -> None:
    if not good.all():
        bad = int(good.size - np.count_nonzero(good))
        raise InputError(f"{name} must be {what}, got {bad} other values")


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__


def _count(name: str, value: int) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
        raise InputError(f"{name} must be a whole number >= 0, got {value!r}")
    return int(value)


def _beta(algorithm: str, beta: float) -> float:
    beta = _validate.number("beta", beta, low=0, high=MOST_BETA)
    if beta == 0 and algorithm != "DRAP":
        raise InputError(f"beta must be above 0 for {algorithm}, got 0")
    return beta


def _phase_bounds(
    measured: Measured, positive: bool, bounds: tuple[float, float] | None
) -> tuple[float, float] | None:
    if bounds is None:
        return None
    if measured.real or positive:
        why = "a real object" if measured.real else "positive"
        raise InputError(f"phase_bounds must be None with {why}, got {bounds!r}")
    try:
        low, high = (_validate.number("phase_bounds", x, low=-np.inf) for x in bounds)
    except (TypeError, ValueError):
        raise InputError(f"phase_bounds must be two angles in radians, got {bounds!r}") from None
    if not low < high:
        raise InputError(f"phase_bounds must be low < high, got {bounds!r}")
    return (low, high) if high - low < 2 * np.pi else None
