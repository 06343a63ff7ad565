"""`spicore demo` in small: it runs through, tells the truth, and finds the particle."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

from spicore.cli import demo, main
from spicore.emc import Config, Result

SMALL = demo.Experiment(
    n_frames=300,
    n_pixels=24,
    photons=1000.0,
    diameter=7.0,
    config=Config(num_div=4, refine=1),
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "deep" / "er"
    with pytest.MonkeyPatch.context() as patch:
        told = []
        patch.setattr("builtins.print", lambda *args, **kwargs: told.append(" ".join(args)))
        code = demo.demo(folder, seed=1, experiment=SMALL)
    return folder, code, "\n".join(told)


def test_finds_the_particle(ran):
    folder, code, text = ran
    assert code == 0
    assert "So the particle was found." in text
    median = float(re.search(r"off by ([\d.]+) degrees", text)[1])
    assert median < 10.0
    assert sorted(os.listdir(folder)) == [
        "config.toml",
        "detector.h5",
        "frames.emc",
        "inputs.toml",
        "report.html",
        "result.h5",
        "truth.h5",
    ]
    assert Config.load(folder / "config.toml").seed == 1
    assert Result.load(folder / "result.h5").half_sets


def test_table_has_five_radii_and_its_control_is_zero(ran):
    rows = re.findall(r"^ +(\d+) voxels +(\d+) A +(.+)$", ran[2], re.MULTILINE)
    assert len(rows) == 5
    truth, half, ball, other = np.array([row[2].split() for row in rows], float).T
    assert np.abs(ball).max() < 0.25  # shells of some hundred voxels
    assert truth[1] > 0.9
    assert half[1] > 0.8
    assert other[3:].mean() < 0.6


def test_says_what_it_does_in_plain_words(ran):
    text = " ".join(ran[2].split())
    for words in (
        "1/5 A particle that we know",
        "300 copies of it fly through the beam",
        "Annealing: ",
        "even and odd frames",
        "is good (half the spacing of the grid); guessing gives 1",
        "must score about 0",
        "open it in a browser",
        "spicore emc --frames ",
    ):
        assert words in text
    for line in ran[2].splitlines():
        assert len(line) <= 80 or "/" in line  # paths may be long


def test_admits_failure(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "write_report", lambda folder, **options: folder / "report.html")
    blind = demo.Experiment(
        n_frames=40,
        n_pixels=15,
        photons=8.0,
        diameter=5.0,
        config=Config(num_div=2, iterations=2, refine=0),
    )
    assert demo.demo(tmp_path, experiment=blind) == 1
    assert "did NOT find the particle" in capsys.readouterr().out


def test_keeps_a_result_of_others(tmp_path, capsys):
    (tmp_path / "result.h5").write_text("precious")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert (tmp_path / "result.h5").read_text() == "precious"
