"""Options of phase retrieval and the segments they make: defaults, TOML, what is refused."""

from __future__ import annotations

import dataclasses
import re

import pytest

from spicore.errors import InputError
from spicore.phasing import Config
from spicore.phasing.plan import DETWIN_ITERATIONS, Segment, plan

OTHER = Config(
    schedule="30HIO 10ER", beta=0.7, seeds=3, real=False, positive=False, max_phase=1.5,
    coherence=15, size=40, diameter=12.5, start_threshold=0.1, support="volume",
    support_threshold=0.03, support_spread=0.0, support_period=7, support_start=9, blur_start=2.0,
    blur_end=0.5, min_fraction=1e-3, max_fraction=0.4, detwin=True, free_fraction=0.02,
    max_outside=0.3, max_llk=2.0, seed=5, block_memory_mb=77,
)  # fmt: skip


BACKGROUND = dataclasses.replace(OTHER, coherence=0, background=True)


def test_the_other_configs_differ_in_every_option():
    for field in dataclasses.fields(Config):
        others = {getattr(config, field.name) for config in (OTHER, BACKGROUND)}
        assert others != {getattr(Config(), field.name)}, field.name


@pytest.mark.parametrize(
    "config", [Config(), OTHER, BACKGROUND], ids=["default", "other", "background"]
)
def test_toml_round_trip(config):
    assert Config.from_toml(config.to_toml()) == config


def test_every_option_is_documented():
    described = re.findall(r"^    (\w+) : ", Config.__doc__, re.MULTILINE)
    assert described == [f.name for f in dataclasses.fields(Config)]


BAD = {
    "schedule": ({"schedule": "10 XX"}, "schedule must have one of .* got 'XX'"),
    "no iterations": ({"schedule": "0ER"}, "schedule must have an iteration, got '0ER'"),
    "beta": ({"beta": 2.5}, "beta must be between 0 and 2, got 2.5"),
    "seeds": ({"seeds": 0}, "seeds must be between 1 and .* got 0"),
    "type": ({"seeds": 2.5}, "seeds must be of type int, got 2.5"),
    "support": ({"support": "mean"}, "support must be one of max, rms, volume, fixed, got 'mean'"),
    "complex": ({"real": False}, "positive must be off for an object that is not real"),
    "phase": ({"max_phase": 1.0}, "max_phase must be 0 for a real object, got 1"),
    "coherence": ({"coherence": 9, "background": True}, "background must be off with coherence"),
    "limits": ({"min_fraction": 0.8}, "min_fraction must be below max_fraction, got 0.8 and 0.7"),
    "blur": ({"blur_end": 0.0}, "blur_start and blur_end must both be 0 or neither, got 3 and 0"),
    "size": ({"size": 1}, "size must be at least 2"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_values(kind):
    values, text = BAD[kind]
    with pytest.raises(InputError, match=text):
        Config(**values)


def test_plan_cuts_the_schedule_where_the_support_changes():
    config = Config(schedule="50RAAR 20ER", support_start=20, support_period=20, blur_end=0.75)
    segments = plan(config)
    assert [(s.algorithm, s.n) for s in segments] == [
        ("RAAR", 20), ("RAAR", 20), ("RAAR", 10), ("ER", 10), ("ER", 10),
    ]  # fmt: skip
    blurs = [s.blur for s in segments]
    assert blurs[2] is None
    assert blurs[-1] is None
    assert [blurs[0], blurs[1], blurs[3]] == pytest.approx([3.0, 1.5, 0.75])


def test_plan_of_a_fixed_support_is_the_schedule():
    config = Config(schedule="50RAAR 0HIO 20ER", support="fixed")
    assert plan(config) == [Segment("RAAR", 50), Segment("ER", 20)]


def test_plan_puts_the_twin_out_a_quarter_into_the_schedule():
    segments = plan(Config(schedule="40RAAR", support="fixed", detwin=True))
    assert segments == [
        Segment("RAAR", 10), Segment("ER", DETWIN_ITERATIONS, halved=True), Segment("RAAR", 30),
    ]  # fmt: skip


def test_plan_fits_the_coherence_now_and_then():
    config = Config(schedule="50RAAR", support_start=20, support_period=100, coherence=20)
    segments = plan(config)
    assert [(s.n, s.blur is not None, s.coherence) for s in segments] == [
        (20, True, True), (20, False, True), (10, False, False),
    ]  # fmt: skip
