"""`spicore phase`: what it reads, what it writes, what it refuses and how."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re

import h5py
import numpy as np
import pytest
from test_cli_classify2d import refused

from spicore import emc, phasing, simulate
from spicore.cli import _options, main
from spicore.cli._phase_inputs import read_intensity
from spicore.io import mrc
from spicore.phasing import run
from spicore.report import phasing as report_of_phasing

SIZE = 31
QUICK = ["--seeds", 3, "--schedule", "80RAAR 20ER", "--max-llk", 100, "--max-outside", 1]


def words(*argv):
    return ["phase", *map(str, argv)]


@pytest.fixture(scope="module")
def volume():
    """Intensity and weight of a small particle; the corners and the centre are missing."""
    values = simulate.intensity(simulate.particle(1, diameter=10.0, size=SIZE), SIZE)
    axis = np.arange(SIZE) - SIZE // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    weight = np.where((radius >= 2) & (radius <= 15), 20.0, 0.0).astype(np.float32)
    return values * (weight > 0), weight


@pytest.fixture(scope="module")
def emc_result(volume, tmp_path_factory):
    """A result of `spicore emc`, of two modes."""
    values, weight = volume
    nan = np.full(1, np.nan)
    frame = {name: nan for name in ("fluence", "background_scale", "log_likelihood")}
    result = emc.Result(
        intensity=np.stack([values, 2 * values]).astype(np.float32),
        weight=np.stack([weight, weight]),
        orientation=np.full((1, 4), np.nan, np.float32),
        mode=np.zeros(1, np.int32),
        mutual_information=nan,
        history={},
        patterns=np.zeros((0, 1), np.float32),
        config=emc.Config().to_toml(),
        voxel_size=0.005,
        **frame,
    )
    path = tmp_path_factory.mktemp("emc") / "result.h5"
    result.save(path)
    return path


def test_emc_result_to_density(emc_result, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(emc_result, "--out", out, *QUICK)) == 0
    text, err = capsys.readouterr()
    names = ["config.toml", "density.mrc", "report.html", "solutions.h5"]
    assert sorted(os.listdir(out)) == names
    solutions = phasing.Solutions.load(out / "solutions.h5")
    assert solutions.likelihood == "poisson"
    np.testing.assert_allclose(solutions.voxel_size, 1 / (SIZE * 0.005))
    read = mrc.read(out / "density.mrc")
    np.testing.assert_array_equal(read.values, solutions.density)
    np.testing.assert_allclose(read.voxel_size, solutions.voxel_size, rtol=1e-6)
    np.testing.assert_allclose(read.origin, -15 * solutions.voxel_size, rtol=1e-6)
    config = phasing.Config.load(out / "config.toml")
    assert config == phasing.Config(seeds=3, schedule="80RAAR 20ER", max_llk=100.0, max_outside=1.0)
    for part in ("3 of 3 passed", "total charge", "voxels (", "run/solutions.h5"):
        assert part in text
    assert re.search(r"^ +300/300 +3/3 ER ", err, re.MULTILINE)
    assert max(map(len, err.splitlines())) <= 100
    page = (out / "report.html").read_text(encoding="utf-8")
    for name in ("slice-x", "projection-z", "surface-y", "agreement", "scores", "course", "centre"):
        assert f'<figure id="{name}"' in page


def test_report_of_a_missing_centre(emc_result, tmp_path):
    """A picture of the modes, or one sentence where there is nothing to see."""
    assert main(words(emc_result, "--out", tmp_path, *QUICK)) == 0
    solutions = phasing.Solutions.load(tmp_path / "solutions.h5")
    n = len(solutions.undetermined.missing)
    assert n > 0
    for share in (0.0, 0.004, 0.5):
        solutions.undetermined.missing[:] = np.linspace(share, 0.0, n)
        section = report_of_phasing._trust(solutions)
        assert ("centre" in {picture.name for picture in section.pictures}) == (share > 0.01)
        assert (f"more than {100 * share:.2g} % of its power" in section.intro) == (share < 0.01)


def test_what_was_merged_is_read_of_a_smoothed_result(emc_result, tmp_path):
    result = emc.Result.load(emc_result)
    smoothed = dataclasses.replace(result, merged=result.intensity, intensity=result.intensity * 2)
    smoothed.save(tmp_path / "result.h5")
    got = read_intensity(str(tmp_path / "result.h5")).intensity
    np.testing.assert_array_equal(got, emc.sharpen(result.intensity[0], result.weight[0]))


def test_kinds_of_files(volume, emc_result, tmp_path):
    values, _ = volume
    np.save(tmp_path / "a.npy", values)
    mrc.write(tmp_path / "a.mrc", values)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/one"] = values
        file["intensity"] = values
        file["image"] = np.sqrt(values[None, 15])
    for read in (
        read_intensity(str(tmp_path / "a.npy")),
        read_intensity(str(tmp_path / "a.mrc")),
        read_intensity(str(tmp_path / "a.h5")),
        read_intensity(str(tmp_path / "a.h5"), "deep/one"),
    ):
        np.testing.assert_array_equal(read.intensity, values.astype(np.float32))
    weight = emc.Result.load(emc_result).weight
    first, second = (read_intensity(str(emc_result), mode=mode) for mode in (1, 2))
    for factor, read, exposure in zip((1, 2), (first, second), weight, strict=True):
        expected = emc.sharpen(factor * values.astype(np.float32), exposure)
        np.testing.assert_array_equal(read.intensity, expected)
    assert second.voxel_size == 0.005
    image = read_intensity(str(tmp_path / "a.h5"), "image", amplitude=True)
    np.testing.assert_allclose(image.intensity, values[15], rtol=1e-5)


def test_image_of_a_complex_object(tmp_path, capsys):
    x = np.zeros((32, 32), complex)
    x[12:20, 12:19] = np.exp(1j * np.random.default_rng(0).uniform(-1, 1, (8, 7)))
    values = np.fft.fftshift(np.abs(np.fft.fftn(x)) ** 2)
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "s.npy", x != 0)
    np.save(tmp_path / "m.npy", values > 0)
    options = ["--no-real", "--no-positive", "--support", "fixed", "--mask", tmp_path / "m.npy"]
    options += ["--start-support", tmp_path / "s.npy"]
    options += ["--max-phase", 2, "--coherence", 20]
    assert main(words(tmp_path / "a.npy", "--out", tmp_path / "o", *QUICK, *options)) == 0
    assert sorted(os.listdir(tmp_path / "o")) == ["config.toml", "report.html", "solutions.h5"]
    assert re.search(r"^coherence +\d+ % of each intensity in place", capsys.readouterr().out, re.M)
    page = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    for name in ("image", "phase"):
        assert f'<figure id="{name}"' in page


def test_histogram_of_a_real_object(tmp_path):
    x = np.zeros((32, 32))
    x[12:20, 12:19] = np.random.default_rng(0).uniform(1, 2, (8, 7))
    np.save(tmp_path / "a.npy", np.fft.fftshift(np.abs(np.fft.fftn(x)) ** 2))
    np.save(tmp_path / "s.npy", x != 0)
    np.save(tmp_path / "h.npy", 100 * x[x != 0])
    options = ["--support", "fixed", "--start-support", tmp_path / "s.npy"]
    options += ["--histogram", tmp_path / "h.npy"]
    assert main(words(tmp_path / "a.npy", "--out", tmp_path / "o", *QUICK, *options)) == 0
    best = phasing.Solutions.load(tmp_path / "o" / "solutions.h5").best
    inside = np.sort(best[best > 0])
    np.testing.assert_allclose(inside / inside.mean(), np.sort(x[x > 0]) / x[x > 0].mean(), 1e-4)


def test_resume_and_overwrite(volume, tmp_path, capsys, monkeypatch):
    values, weight = volume
    np.save(tmp_path / "a.npy", np.where(weight > 0, values, -1.0))
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert main(words(tmp_path / "a.npy", "--out", whole, *QUICK)) == 0
    monkeypatch.setattr(run, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(run, "SAVE_PAUSE", 0.0)
    advance, calls = run.Run._advance, []

    def stopped(self, *args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        advance(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "_advance", stopped)
        assert main(words(tmp_path / "a.npy", "--out", part, *QUICK)) == 130
    assert "go on with --resume from" in capsys.readouterr().err
    assert sorted(os.listdir(part)) == ["config.toml", "solutions.h5.state"]
    line = refused(capsys, *words(tmp_path / "a.npy", "--out", part, "--resume", "--beta", 0.5))
    assert "--resume keeps the options of" in line
    assert "beta is 0.9 there and 0.5 now" in line
    assert main(words(tmp_path / "a.npy", "--out", part, "--resume")) == 0
    a, b = (phasing.Solutions.load(folder / "solutions.h5") for folder in (whole, part))
    np.testing.assert_array_equal(a.density, b.density)
    capsys.readouterr()
    line = refused(capsys, *words(tmp_path / "a.npy", "--out", part, *QUICK))
    assert "solutions.h5 is there already: go on with --resume, replace it with --ov" in line
    again = ["--overwrite", "--seed", 3]
    assert main(words(tmp_path / "a.npy", "--out", part, *QUICK, *again)) == 0
    assert phasing.Config.load(part / "config.toml").seed == 3


def test_one_seed_and_nothing_held_out(volume, tmp_path, capsys):
    values, weight = volume
    np.save(tmp_path / "a.npy", np.where(weight > 0, values, -1.0))
    options = ["--seeds", 1, "--free-fraction", 0, "--schedule", "40RAAR", "--background"]
    assert (
        main(words(tmp_path / "a.npy", "--out", tmp_path / "o", *options, "--max-outside", 1)) == 0
    )
    text = capsys.readouterr().out
    assert "no voxel was held out" in text
    assert "PRTF          1/e unknown (one seed)" in text
    page = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    assert "Only one seed passed" in page
    assert "nan" not in page.split("</style>")[1].split("<section>")[0]


def test_every_option_is_described():
    parser = argparse.ArgumentParser()
    _options.add_config_options(parser, phasing.Config)
    for action in parser._actions[1:]:
        assert len(action.help) > 15, action.option_strings


def saved(folder, values):
    np.save(folder / "x.npy", values)
    return folder / "x.npy"


ONES = np.ones((16, 16))
BAD = {
    "no file": (lambda d: ["/no/such.h5"], r"cannot read intensity /no/such\.h5: No such file"),
    "text": (lambda d: [__file__], "intensity must be HDF5 or .npy, it is neither"),
    "complex": (lambda d: [saved(d, ONES * 1j)], "intensity must be real numbers, got complex128"),
    "NaN": (lambda d: [saved(d, ONES * np.nan)], "intensity must be above 0 .* got 0 measured"),
    "axes": (lambda d: [saved(d, np.ones(9))], "intensity must have 2 or 3 axes"),
    "beta": (lambda d: [saved(d, ONES), "--beta", 3], "beta must be between 0 and 2, got 3"),
    "schedule": (lambda d: [saved(d, ONES), "--schedule", "9XX"], "schedule must have one of"),
    "mask": (
        lambda d: [saved(d, ONES), "--mask", saved(d / "run", ONES[1:])],
        r"mask must have shape \[16, 16\], got \[15, 16\]",
    ),
    "diameter": (lambda d: [saved(d, ONES), "--diameter", 99], "diameter must be at most the 16"),
    "voxel size": (lambda d: [saved(d, ONES), "--voxel-size", -1], "voxel_size must be positive"),
    "size": (lambda d: [saved(d, ONES), "--size", 1], "size must be at least 2"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(tmp_path, capsys, kind):
    make, text = BAD[kind]
    (tmp_path / "run").mkdir()
    line = refused(capsys, *words(*make(tmp_path), "--out", tmp_path / "run", "--seeds", 2))
    assert re.search(text, line), line
    assert not (tmp_path / "run" / "solutions.h5").exists()


def test_missing_dataset_and_mode(emc_result, tmp_path, capsys):
    line = refused(capsys, *words(emc_result, "--out", tmp_path, "--dataset", "no"))
    assert "intensity must be in a dataset no, has" in line
    line = refused(capsys, *words(emc_result, "--out", tmp_path, "--mode", 3))
    assert line == "mode must be 1 to 2, got 3"
