"""`spicore emc`: what it writes, what it refuses and how, and that no run is ever lost."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from spicore import Detector, emc, simulate
from spicore.cli import _options, _progress, info, main
from spicore.io import files

SPICORE = [sys.executable, "-m", "spicore"]
SHORT = ["--num-div", "2", "--iterations", "3", "--no-half-sets"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 frames of 15 x 15 pixels, their detector, and the volume they are from."""
    folder = tmp_path_factory.mktemp("data")
    detector = Detector.square(15, pixel_size=0.1 / 15, distance=0.1, energy_ev=1500, stop_radius=1)
    volume = simulate.intensity(simulate.particle(0, diameter=5.0), detector.size)
    frames, truth = simulate.frames(volume, detector, 60, 150, 0, fluence_spread=0.1)
    frames.save_emc(folder / "frames.emc")
    detector.save(folder / "detector.h5")
    simulate.save_truth(folder / "truth.h5", truth, intensity=volume)
    return folder


def words(data, out, *options):
    inputs = ["--frames", data / "frames.emc", "--detector", data / "detector.h5", "--out", out]
    return [str(word) for word in ("emc", *inputs, *options)]


def refused(capsys, *argv):
    """Run; return the one line on stderr that begins `spicore: error:`."""
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("spicore: error: ")]
    assert err.endswith(line + "\n")
    assert "Traceback" not in err
    return line.removeprefix("spicore: error: ")


def contents(path):
    """All of a result but the times it took."""
    result = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: result.update({name: item}))
        values = {n: i[()] for n, i in result.items() if isinstance(i, h5py.Dataset)}
        values |= {f"schedule/{n}": v for n, v in file["schedule"].attrs.items()}
        values["voxel_size"], values["config"] = file.attrs["voxel_size"], file.attrs["config"]
    del values["history/seconds"]
    return values


def assert_same_result(a, b):
    a, b = contents(a), contents(b)
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


# What it writes


def test_result_and_notes(data, tmp_path, capsys):
    assert main(words(data, tmp_path / "run", "--num-div", 2, "--iterations", 4)) == 0
    out, err = capsys.readouterr()
    assert sorted(os.listdir(tmp_path / "run")) == ["config.toml", "inputs.toml", "result.h5"]
    result = emc.Result.load(tmp_path / "run" / "result.h5")
    assert result.intensity.shape == (21, 21, 21)
    assert result.half_sets["shell_cc"].shape == (11,)
    assert emc.Config.load(tmp_path / "run" / "config.toml") == emc.Config.from_toml(result.config)
    for text in ("60 of 60 used", "resolution", "frame-orientations/s", "run/result.h5"):
        assert text in out
    lines = err.splitlines()
    assert "60 frames of 225 pixels, volume 21^3" in lines[0]
    assert [line.split()[:2] for line in lines if line.startswith("   4 ")][0] == ["4", "grid"]
    assert any("half 2" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in err + out


def test_command_line_beats_file_beats_default(data, tmp_path):
    (tmp_path / "c.toml").write_text("num_div = 2\nprior = 0.3\niterations = 9\nhalf_sets = false")
    options = ["--config", tmp_path / "c.toml", "--iterations", 2, "--beta", "auto", "--modes", 2]
    assert main(words(data, tmp_path, *options)) == 0
    config = emc.Config.load(tmp_path / "config.toml")
    changed = {"num_div": 2, "prior": 0.3, "half_sets": False, "iterations": 2, "n_modes": 2}
    assert config == emc.Config(**changed)


def test_every_option_of_config_is_described():
    parser = _options.argparse.ArgumentParser()
    _options.add_config_options(parser)
    for action in parser._actions[1:]:
        assert len(action.help) > 20, action.option_strings


def test_start_values(data, tmp_path):
    with h5py.File(data / "truth.h5") as truth, h5py.File(tmp_path / "m.h5", "w") as model:
        model["intens"] = truth["intensity"][()][None]  # as Dragonfly writes it
    np.save(tmp_path / "b.npy", np.full(225, 0.01))
    np.savetxt(tmp_path / "f.txt", np.linspace(0.5, 1.5, 60))
    np.savetxt(tmp_path / "black.txt", np.arange(60) < 10, fmt="%d")
    options = ["--start-model", tmp_path / "m.h5", "--start-fluence", tmp_path / "f.txt"]
    options += ["--background", tmp_path / "b.npy", "--blacklist", tmp_path / "black.txt"]
    assert main(words(data, tmp_path / "run", *SHORT, *options)) == 0
    result = emc.Result.load(tmp_path / "run" / "result.h5")
    np.testing.assert_array_equal(np.isnan(result.fluence), np.arange(60) < 10)
    assert result.background_scale[20] != 1.0


def test_matplotlib_and_rich_stay_out(data, tmp_path):
    """They cost memory, and a job without a terminal has no use for them."""
    argv = words(data, tmp_path, *SHORT)
    code = (
        f"import sys, spicore; assert 'rich' not in sys.modules\n"
        f"from spicore.cli import main; assert main({argv}) == 0\n"
        f"assert not {{'matplotlib', 'rich.live'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# What it refuses


def broken_frames(data, path, change):
    """Copy the frames; `change(words, n)` edits the int32 words in place or returns others."""
    array = np.fromfile(data / "frames.emc", "<i4")
    changed = change(array, int(array[0]))
    (array if changed is None else changed).tofile(path)
    return path


def first_multi(array, n):
    """Place of the first count of a pixel with several photons."""
    ones, multi = array[256 : 256 + n].sum(), array[256 + n : 256 + 2 * n].sum()
    return 256 + 2 * n + ones + multi


def set_word(place, value):
    def change(array, n):
        array[place if isinstance(place, int) else place(array, n)] = value

    return change


FRAMES = {
    "truncated": (lambda a, n: a[:-100], "truncated|bytes"),
    "magic": (lambda a, n: np.frombuffer(b"not frames at all " * 100, "<i4"), "type|EMC"),
    "no frames": (set_word(0, 0), "frame"),
    "index": (lambda a, n: set_word(256 + 2 * n, 225)(a, n), "pixel index must be 0 to 224"),
    "negative": (set_word(first_multi, -3), "frame .* -3"),
    "huge": (set_word(first_multi, 1 << 30), "1073741824"),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_bad_frames(data, tmp_path, capsys, kind):
    change, text = FRAMES[kind]
    path = broken_frames(data, tmp_path / "bad.emc", change)
    line = refused(capsys, *words(data, tmp_path / "run", *SHORT), "--frames", path)
    assert "bad.emc" in line
    assert pytest.raises(AssertionError, match=text) is not None  # a regular expression
    with contextlib.suppress(FileNotFoundError):
        assert os.listdir(tmp_path / "run") == []
