"""`spicore classify2d`: what it writes, what it refuses and how."""

from __future__ import annotations

import argparse
import os
import re

import numpy as np
import pytest

from spicore import Detector, _dispatch, emc, simulate
from spicore._dispatch import CudaStatus
from spicore.cli import _options, main

SHORT = ["--classes", "3", "--iterations", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 frames of 15 x 15 pixels and their detector."""
    folder = tmp_path_factory.mktemp("data")
    detector = Detector.square(15, pixel_size=0.1 / 15, distance=0.1, energy_ev=1500, stop_radius=1)
    volume = simulate.intensity(simulate.particle(0, diameter=5.0), detector.size)
    frames, _ = simulate.frames(volume, detector, 60, 150, 0, fluence_spread=0.1)
    frames.save_emc(folder / "frames.emc")
    detector.save(folder / "detector.h5")
    return folder


def words(data, out, *options):
    inputs = ["--frames", data / "frames.emc", "--detector", data / "detector.h5", "--out", out]
    return [str(word) for word in ("classify2d", *inputs, *options)]


def refused(capsys, *argv):
    """Run; return the one line on stderr that begins `spicore: error:`."""
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("spicore: error: ")]
    assert "Traceback" not in err
    return line.removeprefix("spicore: error: ")


def test_what_it_writes(data, tmp_path, capsys):
    np.savetxt(tmp_path / "black.txt", np.arange(60) < 10, fmt="%d")
    options = ["--no-rotate", "--bootstrap", 2, "--blacklist", tmp_path / "black.txt"]
    out = tmp_path / "run"
    assert main(words(data, out, *SHORT, *options)) == 0
    text, err = capsys.readouterr()
    names = ["classes.h5", "config.toml", "inputs.toml", "report.html"]
    assert sorted(os.listdir(out)) == names
    classes = emc.Classes.load(out / "classes.h5")
    assert (classes.class_of[:, :10] == -1).all()
    assert ((classes.class_of[:, 10:] >= 0).sum(axis=1) == 40).all()
    config = emc.ClassifyConfig.load(out / "config.toml")
    assert config == emc.ClassifyConfig(n_classes=3, iterations=3, rotate=False, bootstrap=2)
    for words_ in ("of 60 used", "of 3 hold a frame in each of 2 runs", "run/classes.h5"):
        assert words_ in text
    assert "60 frames of 225 pixels, 3 classes, 2 runs" in err
    assert any(re.match(r" +3 run 2 ", line) for line in err.splitlines())
    assert max(map(len, err.splitlines())) <= 80
    assert "Contact sheet" in (out / "report.html").read_text(encoding="utf-8")


def test_result_is_not_overwritten_unasked(data, tmp_path, capsys):
    assert main(words(data, tmp_path, *SHORT)) == 0
    before = (tmp_path / "classes.h5").read_bytes()
    capsys.readouterr()
    line = refused(capsys, *words(data, tmp_path, *SHORT))
    assert "classes.h5 is there already: replace it with --overwrite, or" in line
    assert (tmp_path / "classes.h5").read_bytes() == before
    assert main(words(data, tmp_path, *SHORT, "--overwrite", "--seed", 5)) == 0
    assert emc.ClassifyConfig.load(tmp_path / "config.toml").seed == 5


def test_every_option_is_described():
    parser = argparse.ArgumentParser()
    _options.add_config_options(parser, emc.ClassifyConfig)
    for action in parser._actions[1:]:
        assert len(action.help) > 20, action.option_strings


def write(path, text):
    path.write_text(text)
    return path


OPTIONS = {
    "no frames file": (lambda d: ["--frames", "/no/such.emc"], r"/no/such\.emc: No such file"),
    "no detector file": (lambda d: ["--detector", "/no/such.h5"], r"/no/such\.h5: .*No such file"),
    "classes": (lambda d: ["--classes", 0], "n_classes must be between 1 and .* got 0"),
    "angles": (lambda d: ["--n-angles", 7], "n_angles must be 0 or one of"),
    "toml name": (lambda d: ["--config", write(d / "c", "n_class = 1")], "c: .* options n_class"),
    "beta": (lambda d: ["--beta", "2"], "beta must be between .* got 2"),
    "threads": (lambda d: ["--threads", "0"], "threads must be between 1 and"),
    "blacklist": (lambda d: ["--blacklist", write(d / "b", "0\n1")], "each of 60 frames, got 2"),
    "all dropped": (lambda d: ["--blacklist", write(d / "b", "1 " * 60)], "leave no frame"),
    "radius": (lambda d: ["--radius", 0.1], "no pixel that orients"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_bad_options(data, tmp_path, capsys, kind):
    make, text = OPTIONS[kind]
    line = refused(capsys, *words(data, tmp_path / "run", *SHORT), *make(tmp_path))
    assert re.search(text, line), line
    assert not (tmp_path / "run" / "classes.h5").exists()


def test_a_device_that_is_not_there(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_dispatch, "cuda_status", lambda: CudaStatus(False, False, "no GPU"))
    argv = words(data, tmp_path / "run", *SHORT)
    assert main([*argv, "--device", "cuda"]) == 2
    assert capsys.readouterr() == ("", "spicore: error: device is cuda, but: no GPU\n")
    assert not (tmp_path / "run").exists()


def test_detector_of_other_size(data, tmp_path, capsys):
    Detector.square(16).save(tmp_path / "other.h5")
    argv = words(data, tmp_path / "run", *SHORT)
    line = refused(capsys, *argv, "--detector", tmp_path / "other.h5")
    assert line == "frames have 225 pixels but the detector has 256"
