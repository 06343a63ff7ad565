"""Options of a reconstruction: defaults, TOML, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from spicore.emc import Config
from spicore.errors import InputError

OTHER = Config(
    engine="pixel",
    iterations=7,
    num_div=3,
    multiresolution=False,
    batch=500,
    seeds=3,
    n_angles=96,
    ring_width=1.5,
    beta=0.25,
    beta_jump=2.0,
    beta_period=4,
    fluence=False,
    uniform=False,
    smooth=False,
    symmetry="D5",
    n_modes=3,
    n_nonrotating=2,
    merge="dragonfly",
    prior=0.5,
    radius=31.5,
    size=67,
    refine=0,
    selection="odd",
    half_sets=False,
    gaussian_sigma=2.5,
    tolerance=0.001,
    seed=2**40,
    block_memory_mb=12,
)


def test_the_other_config_differs_in_every_option():
    """So the round trips below test each of them."""
    default = Config()
    same = [f.name for f in dataclasses.fields(Config) if getattr(default, f.name) ==
            getattr(OTHER, f.name)]  # fmt: skip
    assert same == []


@pytest.mark.parametrize("config", [Config(), OTHER], ids=["default", "other"])
def test_toml_round_trip(config, tmp_path):
    text = config.to_toml()
    assert Config.from_toml(text) == config
    assert Config.from_toml(text).to_toml() == text
    path = tmp_path / "emc.toml"
    path.write_text(text, encoding="utf-8")
    assert Config.load(path) == config


def test_toml_may_name_a_few_options():
    assert Config.from_toml("") == Config()
    assert Config.from_toml('num_div = 9\nbeta = "auto"\n') == Config(num_div=9)
    assert Config.from_toml("beta = 1\nprior = 0\n") == Config(beta=1, prior=0)


def test_numbers_are_kept_exactly():
    config = Config(beta=0.1 + 0.2, tolerance=1e-17)
    assert Config.from_toml(config.to_toml()) == config


def test_it_cannot_change():
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'beta'"):
        Config().beta = 1.0


# --- errors


def test_unknown_options_are_named_beside_the_known():
    with pytest.raises(
        InputError, match=r"unknown options itterations, nmodes; known are batch, beta,"
    ):
        Config.from_toml("nmodes = 2\nitterations = 3\nnum_div = 4\n")


@pytest.mark.parametrize("text", ["num_div = ", "num_div = 3\nnum_div = 4", "[", "\x00"])
def test_broken_toml(text):
    with pytest.raises(InputError, match="config is not valid TOML"):
        Config.from_toml(text)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"cannot read config .*absent\.toml: "):
        Config.load(tmp_path / "absent.toml")
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot read config .*binary\.toml: "):
        Config.load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine", 1),
        ("iterations", 10.0),
        ("iterations", True),
        ("iterations", "10"),
        ("num_div", None),
        ("multiresolution", 1),
        ("fluence", "yes"),
        ("beta", [0.1]),
        ("beta", True),
        ("beta_jump", True),
        ("symmetry", 5),
        ("merge", True),
        ("half_sets", 0),
        ("seed", 1.5),
        ("block_memory_mb", 64.0),
    ],
)
def test_wrong_type(name, value):
    with pytest.raises(InputError, match=f"^{name} must be of type .*, got "):
        Config(**{name: value})


@pytest.mark.parametrize("name", ["prior", "radius", "beta_jump", "gaussian_sigma", "tolerance"])
def test_words_for_numbers(name):
    with pytest.raises(InputError, match=f"^{name} must be .*, got 'many'"):
        Config(**{name: "many"})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("engine", "voxel", "engine must be one of .*, got 'voxel'"),
        ("merge", "likely", "merge must be one of likelihood, dragonfly, got 'likely'"),
        ("selection", "half", "selection must be one of all, even, odd, got 'half'"),
        ("symmetry", "D0", "(group|symmetry) must be one of C1, .*, got 'D0'"),
        ("symmetry", "K", "(group|symmetry) must be one of C1, .*, got 'K'"),
        ("beta", "hot", "beta must be a number, got 'hot'"),
        ("beta", 0.0, "beta must be between 1e-09 and 1, got 0"),
        ("beta", 1.5, "beta must be between 1e-09 and 1, got 1.5"),
        ("beta", float("nan"), "beta must be between 1e-09 and 1, got nan"),
        ("iterations", 0, "iterations must be between 1 and 100000, got 0"),
        ("num_div", -1, "num_div must be between 0 and 60, got -1"),
        ("num_div", 61, "num_div must be between 0 and 60, got 61"),
        ("batch", 9, "batch must be between 10 and .*, got 9"),
        ("seeds", 0, "seeds must be between 1 and 100, got 0"),
        ("n_angles", 100, r"n_angles must be 0 or one of \(32, .*\), got 100"),
        ("ring_width", -1.0, "ring_width must be between 0 and 100, got -1.0"),
        ("beta_jump", 0.9, "beta_jump must be between 1 and 1000, got 0.9"),
        ("beta_period", -1, "beta_period must be between 0 and 100000, got -1"),
        ("n_modes", 0, "n_modes must be between 1 and 1000, got 0"),
        ("n_nonrotating", -1, "n_nonrotating must be between 0 and 1000, got -1"),
        ("prior", -0.1, r"prior must be between 0 and 1e\+06, got -0.1"),
        ("prior", float("inf"), r"prior must be between 0 and 1e\+06, got inf"),
        ("radius", -1.0, "radius must be between 0 and 10000, got -1.0"),
        ("refine", 101, "refine must be between 0 and 100, got 101"),
        ("gaussian_sigma", 0.0, r"gaussian_sigma must be between 1e-12 and 1e\+12, got 0.0"),
        ("tolerance", 1.1, "tolerance must be between 0 and 1, got 1.1"),
        ("seed", -1, "seed must be between 0 and .*, got -1"),
        ("block_memory_mb", 0, r"block_memory_mb must be between 1 and 1e\+06, got 0"),
        ("size", 2, r"size must be odd and at least 3 \(or 0\), got 2"),
        ("size", 64, r"size must be odd and at least 3 \(or 0\), got 64"),
        ("size", -3, r"size must be odd and at least 3 \(or 0\), got -3"),
    ],
)
def test_out_of_range(name, value, message):
    with pytest.raises(InputError, match=message):
        Config(**{name: value})


def test_toml_values_are_checked_like_others():
    with pytest.raises(InputError, match="num_div must be between 0 and 60, got 99"):
        Config.from_toml("num_div = 99")
    with pytest.raises(InputError, match="iterations must be of type int, got '3'"):
        Config.from_toml('iterations = "3"')
