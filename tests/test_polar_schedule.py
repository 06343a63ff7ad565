"""Stages and schedule of the polar engine, momentum, and the choice among random starts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spicore import orientations, simulate
from spicore.emc import Config
from spicore.emc.model import Model, complete, extrapolated
from spicore.emc.polar.balance import Balance
from spicore.emc.polar.layout import ANGLES
from spicore.emc.schedule import (
    BROKEN,
    COARSE_PAIRS,
    LONGEST_HOLD,
    MIDDLE_PAIRS,
    MIDDLE_RADIUS,
    POLAR_SETTLED,
    SETTLED,
    SHARP,
    Schedule,
    stages,
)
from spicore.emc.seeds import Trial, best_trial
from spicore.emc.state import FrameState
from spicore.metrics import rotate_volume


def polar(n_frames=100, coarse=12.0, edge=50.0, **options):
    return stages(Config(**options), coarse, edge, n_frames)


# --- stages


def test_stages_go_from_coarse_to_fine():
    coarse, middle, last = polar()
    assert [s.n_pairs for s in (coarse, middle)] == [COARSE_PAIRS, MIDDLE_PAIRS]
    assert coarse.radius == 12.0
    assert middle.radius == pytest.approx(MIDDLE_RADIUS * 12.0)
    assert last.radius == 0.0  # all of the detector
    assert coarse.n_angles == 32 < middle.n_angles == 96 < last.n_angles == 128
    assert (coarse.width, middle.width, last.width) == (1.0, 2.0, 2.0)
    assert coarse.spacing > middle.spacing > last.spacing
    assert middle.entropy == SHARP
    assert coarse.entropy == pytest.approx(0.5 * np.log(50 * 2 * 32))
    assert last.entropy == 0.0
    assert all(s.n_frames == 0 and s.num_div == 0 for s in (coarse, middle, last))


@pytest.mark.parametrize("num_div", [7, 11, 20])
def test_the_last_stage_has_the_spacing_asked(num_div):
    """Within the rounding to a whole number of pairs, never coarser."""
    *_, last = polar(num_div=num_div)
    asked = orientations.grid_spacing(num_div)
    assert 0.98 * asked < last.spacing <= asked + 1e-9
    assert polar(num_div=0)[-1].spacing == polar(num_div=11)[-1].spacing


def test_the_middle_is_never_finer_than_the_end():
    coarse, middle, last = polar(num_div=6)
    assert coarse.n_pairs < middle.n_pairs == last.n_pairs < MIDDLE_PAIRS
    small = polar(num_div=6, edge=13.0, coarse=10.0)
    assert small[1].n_angles <= small[2].n_angles
    assert small[1].radius == 13.0


@pytest.mark.parametrize("options", [{"num_div": 3}, {"multiresolution": False}])
def test_one_stage_is_enough(options):
    (last,) = polar(10**6, **options)
    assert last.n_frames == 0
    assert last.radius == 0.0
    assert last.n_angles == 128


def test_large_sets_start_with_a_part():
    for n, want in ((4000, [0, 0, 0]), (4001, [4000, 4000, 0]), (16000, [4000, 4000, 0]),
                    (16001, [4000, 4000, 16000, 0])):  # fmt: skip
        assert [s.n_frames for s in polar(n)] == want
    steps = polar(500, batch=100)
    assert [s.n_frames for s in steps] == [100, 100, 400, 0]
    assert replace(steps[2], n_frames=0) == steps[3]


def test_the_radius_asked_holds_in_all_stages():
    coarse, middle, last = polar(radius=9.0)
    assert coarse.radius == middle.radius == last.radius == 9.0
    coarse, middle, last = polar(radius=15.0)
    assert (coarse.radius, middle.radius, last.radius) == (12.0, 15.0, 15.0)
    assert last.width == 1.0  # fewer than 32 voxels


@pytest.mark.parametrize(("edge", "want"), [(10.0, 32), (13.0, 48), (30.0, 96), (200.0, 128)])
def test_angles_follow_the_detector(edge, want):
    assert polar(edge=edge)[-1].n_angles == want in ANGLES


def test_angles_and_widths_may_be_given():
    _, middle, last = polar(n_angles=48, ring_width=3.0)
    assert middle.n_angles == last.n_angles == 48
    assert middle.width == last.width == 3.0
    assert polar(n_angles=256)[-1].n_angles == 256


def test_control_the_pixel_engine_has_other_stages():
    steps = stages(Config(engine="pixel", num_div=10), 12.0, 50.0, 10**6)
    assert [(s.num_div, s.n_pairs, s.n_frames) for s in steps] == [(5, 0, 0), (10, 0, 0)]


# --- schedule


def schedule(beta0=0.1, **options):
    config = Config(**{"refine": 2} | options)
    steps = stages(config, 12.0, 50.0, 100)
    return Schedule(config, steps, np.full(4, beta0))


N = 3200  # orientations of the coarse stage
MOVING, FORMED, STILL = 0.5, 0.05, 0.001
BROAD, NARROW = 1.0, 7.9  # nats


def test_beta_waits_while_symmetry_is_unbroken():
    s = schedule()
    for _ in range(LONGEST_HOLD - 1):
        s.advance(STILL, 0.9 * BROKEN, N)
        assert (s.stage, s.level) == (0, 1.0)
    s.advance(STILL, 0.9 * BROKEN, N)  # but not for ever
    assert (s.stage, s.level, s.held) == (0, pytest.approx(1.5), 0)
    s.advance(STILL, 1.1 * BROKEN, N)
    assert s.level == pytest.approx(1.5**2)


def test_later_stages_do_not_wait():
    for s in (schedule(), schedule(multiresolution=False)):
        s.stage = len(s.stages) - 1
        s.advance(STILL, 0.0, N)
        assert s.level == pytest.approx(1.5)


def test_the_pixel_engine_does_not_wait():
    s = schedule(engine="pixel", num_div=10)
    assert len(s.stages) == 2
    s.advance(STILL, 0.0, N)
    assert s.level == pytest.approx(1.5)


def test_beta_rises_when_settled():
    s = schedule(beta_jump=3.0)
    s.advance(1.01 * POLAR_SETTLED, BROAD, N)
    assert (s.level, s.held) == (1.0, 1)
    s.advance(0.99 * POLAR_SETTLED, BROAD, N)
    assert (s.level, s.held) == (3.0, 0)
    np.testing.assert_allclose(s.beta, 0.3)
    pixel = schedule(engine="pixel", num_div=10)
    pixel.advance(1.01 * SETTLED, BROAD, N)
    assert pixel.level == 1.0


def test_beta_rises_at_the_latest_after_the_longest_hold():
    s = schedule()
    for _ in range(LONGEST_HOLD - 1):
        s.advance(MOVING, BROAD, N)
        assert s.level == 1.0
    s.advance(MOVING, BROAD, N)
    assert s.level == 1.5


def test_beta_rises_by_the_clock():
    s = schedule(beta_period=3)
    levels = []
    for _ in range(6):
        s.advance(MOVING, BROAD, N)
        levels.append(s.level)
    np.testing.assert_allclose(levels, [1, 1, 1.5, 1.5, 1.5, 2.25])


def test_a_sharp_posterior_starts_the_next_stage():
    s = schedule()
    entropy = s.stages[0].entropy
    s.advance(MOVING, np.log(N) - 0.5 * entropy, N)
    assert s.stage == 0  # the model still forms
    s.advance(FORMED, np.log(N) - 1.01 * entropy, N)
    assert s.stage == 0
    s.advance(FORMED, np.log(N) - 0.99 * entropy, N)
    assert (s.stage, s.held, s.level) == (1, 0, 1.0)
    s.advance(FORMED, np.log(48000) - 1.01 * SHARP, 48000)
    assert s.stage == 1
    s.advance(FORMED, np.log(48000) - 0.99 * SHARP, 48000)
    assert s.stage == 2
    s.advance(MOVING, np.log(10**5), 10**5)  # the last: only beta ends it
    assert (s.stage, s.refining) == (2, False)


def test_a_part_of_the_frames_goes_on_only_when_cold():
    config = Config(batch=10)
    s = Schedule(config, stages(config, 12.0, 50.0, 100), np.full(100, 0.9), stage=2)
    s.advance(STILL, np.log(N), N)
    assert s.stage == 2
    assert not s.hot
    s.advance(STILL, np.log(N), N)
    assert (s.stage, s.refining) == (3, False)


def test_beta_never_exceeds_1_and_a_cold_stage_ends():
    s = schedule(beta0=0.9)
    s.beta0[0] = 0.1
    s.advance(STILL, BROAD, N)
    np.testing.assert_allclose(s.beta, [0.15, 1, 1, 1], rtol=1e-6)
    assert s.hot
    s = schedule(beta0=1.0)
    assert not s.hot
    for want in (1, 2):
        s.advance(STILL, BROAD, N)
        assert (s.stage, s.level) == (want, 1.0)


def test_it_ends_in_refinement():
    s = schedule(beta0=1.0, tolerance=0.005)
    s.stage = 2
    s.advance(0.006, NARROW, N)
    assert not s.refining
    s.advance(0.004, NARROW, N)
    assert s.refining
    assert not s.converged
    s.advance(MOVING, NARROW, N)
    assert (s.refined, s.converged) == (1, False)
    s.advance(MOVING, NARROW, N)
    assert (s.refined, s.converged) == (2, True)


def test_without_refinement_it_ends_at_once():
    s = schedule(beta0=1.0, refine=0)
    s.stage = 2
    s.advance(STILL, NARROW, N)
    assert s.converged
    assert not s.refining


def test_it_ends_though_frames_keep_the_model_moving():
    s = schedule(beta0=1.0)
    s.stage = 2
    for _ in range(LONGEST_HOLD):
        assert not s.refining
        s.advance(MOVING, NARROW, N)
    assert s.refining


# --- momentum


def centrosymmetric(seed, size=9, modes=2):
    rng = np.random.default_rng(seed)
    return complete(rng.uniform(1.0, 2.0, (modes, size, size, size)).astype(np.float32))


def test_extrapolated_goes_on_in_a_line():
    old, new = (Model(centrosymmetric(seed), np.ones((1, 5), np.float32)) for seed in (0, 1))
    before = old.volumes.copy(), new.volumes.copy()
    further = extrapolated(new, old, 0.5)
    half = slice(4, None)
    want = new.volumes + 0.5 * (new.volumes - old.volumes)
    np.testing.assert_allclose(further.volumes[:, half], want[:, half], rtol=1e-6)
    assert further.volumes.dtype == np.float32
    np.testing.assert_array_equal(further.patterns, new.patterns)
    np.testing.assert_array_equal(old.volumes, before[0])
    np.testing.assert_array_equal(new.volumes, before[1])
    np.testing.assert_array_equal(
        extrapolated(new, old, 0.0).volumes[:, half], new.volumes[:, half]
    )


def test_extrapolated_stays_positive():
    old = Model(centrosymmetric(0), np.empty((0, 5), np.float32))
    new = Model(0.1 * old.volumes, old.patterns)  # a step of -0.9 would end below 0
    further = extrapolated(new, old, 0.9).volumes[:, 4:]
    np.testing.assert_allclose(further, 0.2 * new.volumes[:, 4:], rtol=1e-6)


def test_extrapolated_reads_the_half_alone():
    """EMC leaves the planes x < 0 as they are, memory never written."""
    old, new = (Model(centrosymmetric(seed), np.empty((0, 5), np.float32)) for seed in (0, 1))
    want = complete(extrapolated(new, old, 0.9).volumes)
    for model in (old, new):
        model.volumes[:, :4] = np.nan
    np.testing.assert_array_equal(complete(extrapolated(new, old, 0.9).volumes), want)


# --- seeds


def trial(volume, evidence):
    model = Model(volume[None].copy(), np.empty((0, 5), np.float32))
    config = Config()
    return Trial(
        0, model, model.volumes, FrameState.start(3),
        Schedule(config, stages(config, 5.0, 10.0, 3), np.ones(3)),
        Balance(orientations.point_group("C1")), {"iteration": []}, evidence,
    )  # fmt: skip


@pytest.fixture(scope="module")
def truth():
    return simulate.intensity(simulate.particle(3, diameter=6), 27)


@pytest.fixture(scope="module")
def other():
    return simulate.intensity(simulate.particle(8, diameter=6), 27)


def test_the_best_trial_has_the_highest_evidence(truth, other):
    """Turned by anything, the truth agrees; another particle does not."""
    turned = rotate_volume(truth, orientations.random(1, np.random.default_rng(0))[0])
    turned = 0.5 * (turned + turned[::-1, ::-1, ::-1])
    trials = [trial(v, e) for v, e in ((other, -12.0), (truth, -10.0), (turned, -11.0))]
    best, seeds = best_trial(trials, 9.0, 2)
    assert best == 1
    np.testing.assert_array_equal(seeds["evidence"], [-12.0, -10.0, -11.0])
    assert seeds["agreement"].shape == (3,)
    assert np.isnan(seeds["agreement"][1])
    assert seeds["agreement"][2] > 0.9
    assert seeds["agreement"][0] < 0.8


@pytest.fixture
def aligned(monkeypatch):
    """What `best_trial` aligns, without the seconds that it takes; the agreement is 0.5."""
    calls = []

    def align(moving, reference, *, radius, threads):
        calls.append((moving, reference, radius, threads))
        return None, None, 0.5

    monkeypatch.setattr("spicore.emc.seeds.metrics.align_volumes", align)
    return calls


def test_agreement_does_not_choose(truth, other, aligned):
    trials = [trial(v, e) for v, e in ((truth, -11.0), (truth, -11.5), (other, -10.9))]
    best, seeds = best_trial(trials, 9.0, 2)
    assert best == 2
    np.testing.assert_array_equal(seeds["agreement"], [0.5, 0.5, np.nan])
    for moving, reference, radius, threads in aligned:
        np.testing.assert_array_equal(moving, truth)
        np.testing.assert_array_equal(reference, other)
        assert (radius, threads) == ((3.0, 9.0), 2)


def test_the_radius_stays_inside_the_volume(truth, aligned):
    best_trial([trial(truth, e) for e in (0.0, 1.0)], 1e3, 2)
    assert aligned[0][2] == (3.0, 13)


def test_trials_are_read_in_half(truth, aligned):
    """The planes x < 0 of a trial's volume are filled first."""
    halves = [trial(truth, e) for e in (0.0, 1.0)]
    for t in halves:
        t.model.volumes[:, :13] = np.nan
    best_trial(halves, 9.0, 2)
    for volume in aligned[0][:2]:
        np.testing.assert_array_equal(volume, truth)


def test_a_radius_of_two_voxels_will_do(truth):
    _, seeds = best_trial([trial(truth, e) for e in (0.0, 1.0)], 2.0, 2)
    assert seeds["agreement"][0] > 0.95
