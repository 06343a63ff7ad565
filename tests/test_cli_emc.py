"""`spicore emc`: what it writes, what it refuses and how, and that no run is ever lost."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import pytest

from spicore import Detector, _dispatch, emc, simulate
from spicore._dispatch import CudaStatus
from spicore.cli import _options, _progress, info, main
from spicore.errors import InputError
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
    assert next(line for line in lines if line.startswith("   4 ")).split()[1] == "grid"
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


def test_matplotlib_stays_out(data, tmp_path):
    """It costs 40 MB, and only the report has use for it."""
    argv = words(data, tmp_path, *SHORT)
    code = (
        f"import sys, spicore; assert not {{'rich', 'matplotlib'}} & set(sys.modules)\n"
        f"from spicore.cli import main; assert main({argv}) == 0\n"
        f"assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# What it refuses


def first_word(array, n):
    """Place of the first pixel index."""
    return 256 + 2 * n


def first_multi(array, n):
    """Place of the first count of a pixel with several photons."""
    return 256 + 2 * n + array[256 : 256 + n].sum() + array[256 + n : 256 + 2 * n].sum()


def setting(place, value):
    """Return a change of the int32 words of a file of frames."""

    def change(array, n):
        array[place(array, n)] = value
        return array

    return change


FRAMES = {
    "truncated": (lambda array, n: array[:-100], r"truncated: .* implies \d+ bytes, got \d+"),
    "magic": (lambda array, n: np.frombuffer(b"not frames at all " * 100, "<i4"), "EMC"),
    "no frames": (setting(lambda array, n: 0, 0), "at least one frame, got 0"),
    "index": (setting(first_word, 225), "frame 0: pixel index must be 0 to 224, got 225"),
    "negative": (setting(first_multi, -3), "frame 0: .* got -3"),
    "huge": (setting(first_multi, 1 << 30), "frame 0: .* got 1073741824"),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_bad_frames(data, tmp_path, capsys, kind):
    change, text = FRAMES[kind]
    array = np.fromfile(data / "frames.emc", "<i4")
    change(array, int(array[0])).tofile(tmp_path / "bad.emc")
    line = refused(capsys, *words(data, tmp_path / "run", *SHORT), "--frames", tmp_path / "bad.emc")
    assert "bad.emc" in line
    assert re.search(text, line), line
    assert not (tmp_path / "run").exists() or os.listdir(tmp_path / "run") == []


def changed_detector(data, path, **fields):
    shutil.copy(data / "detector.h5", path)
    with h5py.File(path, "r+") as file:
        for name, (place, value) in fields.items():
            file[name][place] = value
    return path


DETECTORS = {
    "nan": ({"q_voxels": (3, np.nan)}, r"q_voxels .* pixel 3|nan|NaN|finite"),
    "all masked": ({"mask": (slice(None), 2)}, "mask"),
    "merge only": ({"mask": (slice(None), 1)}, "mask"),
}


@pytest.mark.parametrize("kind", DETECTORS)
def test_bad_detector(data, tmp_path, capsys, kind):
    fields, text = DETECTORS[kind]
    path = changed_detector(data, tmp_path / "bad.h5", **fields)
    line = refused(capsys, *words(data, tmp_path / "run", *SHORT), "--detector", path)
    assert "bad.h5" in line
    assert re.search(text, line), line


def test_detector_of_other_size(data, tmp_path, capsys):
    Detector.square(16).save(tmp_path / "other.h5")
    argv = words(data, tmp_path / "run", *SHORT)
    line = refused(capsys, *argv, "--detector", tmp_path / "other.h5")
    assert line == "frames have 225 pixels but the detector has 256"


def models(size):
    good = np.ones((size,) * 3, np.float32)
    bad = {"nan": good.copy(), "negative": good.copy(), "size": good[1:, 1:, 1:]}
    bad["nan"][2, 3, 4], bad["negative"][2, 3, 4] = np.nan, -1.0
    return bad | {"zero": 0 * good, "text": np.array(["a"]), "object": None}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("nan", "must be finite, got 1 NaN"),
        ("negative", "must be non-negative"),
        ("size", r"must have shape \[1, 21, 21, 21\] \(modes, N, N, N\), got \[20, 20, 20\]"),
        ("zero", "not all 0"),
        ("text", "must be real numbers, got <U1"),
    ],
)
def test_bad_start_model(data, tmp_path, capsys, kind, text):
    np.save(tmp_path / "m.npy", models(21)[kind])
    argv = words(data, tmp_path / "run", *SHORT)
    line = refused(capsys, *argv, "--start-model", tmp_path / "m.npy")
    assert re.search(text, line), line


def write(path, text):
    path.write_text(text)
    return path


def hdf5(path, **datasets):
    with h5py.File(path, "w") as file:
        file.update(datasets)
    return path


OPTIONS = {
    "no frames file": (lambda d: ["--frames", "/no/such.emc"], r"/no/such\.emc: No such file"),
    "no detector file": (lambda d: ["--detector", "/no/such.h5"], r"/no/such\.h5: .*No such file"),
    "no config": (lambda d: ["--config", "/no/c.toml"], r"config /no/c\.toml: No such file"),
    "toml": (lambda d: ["--config", write(d / "c", "x = = 1")], "c: config is not valid TOML"),
    "toml name": (lambda d: ["--config", write(d / "c", "betta = 1")], "c: .* options betta"),
    "toml value": (lambda d: ["--config", write(d / "c", "num_div = 99")], "c: num_div must .* 99"),
    "symmetry": (lambda d: ["--symmetry", "X9"], "group must be one of .* got 'X9'"),
    "beta": (lambda d: ["--beta", "2"], "beta must be between .* got 2"),
    "threads": (lambda d: ["--threads", "0"], "threads must be between 1 and"),
    "engine": (lambda d: ["--engine", "warp"], "engine must be one of polar, pixel"),
    "energy": (lambda d: ["--energy-ev", "-1"], "energy_ev must be"),
    "model": (lambda d: ["--start-model", write(d / "m", "1 2 3")], "m: .* HDF5 or .npy"),
    "model set": (
        lambda d: ["--start-model", hdf5(d / "m", other=[1.0])],
        "dataset intensity or intens, has other",
    ),
    "fluence": (lambda d: ["--start-fluence", write(d / "f", "1\n2")], r"shape \[60\], got \[2\]"),
    "fluence text": (lambda d: ["--start-fluence", write(d / "f", "1 x")], "f: .*one number per"),
    "background": (lambda d: ["--background", hdf5(d / "b", background=[1.0])], r"\[225\].* \[1\]"),
    "blacklist": (lambda d: ["--blacklist", write(d / "b", "0\n1")], "each of 60 frames, got 2"),
    "empty": (lambda d: ["--blacklist", write(d / "b", "")], "each of 60 frames, got 0"),
    "not 0 or 1": (lambda d: ["--blacklist", write(d / "b", "0 " * 59 + "7")], "got 7 .* frame 59"),
    "all dropped": (lambda d: ["--blacklist", write(d / "b", "1 " * 60)], "leave no frame"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_bad_options(data, tmp_path, capsys, kind):
    make, text = OPTIONS[kind]
    line = refused(capsys, *words(data, tmp_path / "run", *SHORT), *make(tmp_path))
    assert re.search(text, line), line


def test_usage_errors(data, tmp_path, capsys):
    """Those of argparse have its form: usage, then one line."""
    for argv in (["emc"], ["emc", "--out", "x", "--num-div", "many"], ["fly"]):
        assert main(argv) == 2
        assert "error: " in capsys.readouterr().err.splitlines()[-1]
    assert refused(capsys, "emc", "--out", tmp_path) == "--frames and --detector must be given"
    assert main([]) == 2
    assert "demo" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("spicore ")


# Where it writes


def test_result_is_not_overwritten_unasked(data, tmp_path, capsys):
    assert main(words(data, tmp_path, *SHORT)) == 0
    before = (tmp_path / "result.h5").read_bytes()
    capsys.readouterr()
    line = refused(capsys, *words(data, tmp_path, *SHORT))
    assert "result.h5 is there already: go on with --resume, replace it with --overwrite" in line
    bad = ["--overwrite", "--symmetry", "X9"]
    refused(capsys, *words(data, tmp_path, *SHORT, *bad))
    os.truncate(shutil.copy(data / "frames.emc", tmp_path / "cut.emc"), 4000)
    refused(capsys, *words(data, tmp_path, *SHORT, "--overwrite"), "--frames", tmp_path / "cut.emc")
    assert (tmp_path / "result.h5").read_bytes() == before
    assert main(words(data, tmp_path, *SHORT, "--overwrite", "--seed", 5)) == 0
    assert emc.Config.load(tmp_path / "config.toml").seed == 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only folder")
def test_read_only_folder(data, tmp_path, capsys):
    tmp_path.chmod(0o500)
    try:
        line = refused(capsys, *words(data, tmp_path, *SHORT))
    finally:
        tmp_path.chmod(0o700)
    assert line == f"cannot write to folder {tmp_path}: Permission denied"


def test_no_permission_shows_before_the_work(data, tmp_path, capsys, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    monkeypatch.setattr(emc, "reconstruct", lambda *args, **kwargs: pytest.fail("it computed"))
    line = refused(capsys, *words(data, tmp_path, *SHORT))
    assert line == f"cannot write to folder {tmp_path}: Permission denied"


def test_folder_is_a_file(data, tmp_path, capsys):
    line = refused(capsys, *words(data, write(tmp_path / "x", ""), *SHORT))
    assert line == f"cannot write to folder {tmp_path / 'x'}: File exists"


class _FullDisk(io.FileIO):
    """Takes what fits into 20 kB."""

    def write(self, data):
        if self.tell() + len(data) > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_full_disk_keeps_the_result(data, tmp_path, capsys, monkeypatch):
    assert main(words(data, tmp_path, *SHORT)) == 0
    before = (tmp_path / "result.h5").read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        # `super()` of the sink then is the full disk
        patch.setattr(files, "_Sink", type("_Sink", (files._Sink, _FullDisk), {}))
        argv = ["emc", "--out", tmp_path, "--resume", "--iterations", 5]
        line = refused(capsys, *argv)
    assert line == f"cannot write {tmp_path / 'result.h5'}: No space left on device"
    assert (tmp_path / "result.h5").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))
    assert main([str(word) for word in argv]) == 0


# Going on


LONG = ["--num-div", "3", "--iterations", "60", "--beta-period", "1", "--refine", "8"]


@pytest.fixture(scope="module")
def never_stopped(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("never_stopped")
    assert main(words(data, folder, *LONG)) == 0
    assert emc.Result.load(folder / "result.h5").schedule["converged"]
    return folder / "result.h5"


def start(argv):
    """Start spicore behind whoever watches it, who on a busy machine would come too late."""
    words = ["nice", *SPICORE, *map(str, argv)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for_line(process, number):
    """Read the progress up to the line of an iteration; return whether it came."""
    for line in process.stderr:
        if line.startswith(f"{number:>4} "):
            return True
    return False


def test_interrupt(data, tmp_path, never_stopped):
    """Ctrl-C: the last finished iteration is safe, and the message says how to go on."""
    process = start(words(data, tmp_path, *LONG))
    assert wait_for_line(process, 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err + out
    finished = len(emc.Result.load(tmp_path / "result.h5").history["iteration"])
    assert 2 <= finished < 60
    assert f"iteration {finished} is safe in {tmp_path}/result.h5, go on with" in err
    command = err.splitlines()[-1].split()
    assert command == ["spicore", "emc", "--out", str(tmp_path), "--resume"]
    assert main(command[1:]) == 0
    assert_same_result(tmp_path / "result.h5", never_stopped)


def test_kill_and_resume(data, tmp_path, never_stopped):
    """SIGKILL again and again, also while the file is being written."""
    killed = 0
    for number in (0, 2, 8, 14, 20):
        process = start(words(data, tmp_path, *LONG, "--resume"))
        ended = number and not wait_for_line(process, number)
        while process.poll() is None and not list(tmp_path.glob("result.h5.*.tmp")):
            pass  # the temporary file is there for some milliseconds of each iteration
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if (tmp_path / "result.h5").exists():
            emc.Result.load(tmp_path / "result.h5")
        assert not ended or process.returncode == 0
    assert killed >= 3
    assert main(words(data, tmp_path, *LONG, "--resume")) == 0
    assert_same_result(tmp_path / "result.h5", never_stopped)
    assert not list(tmp_path.glob("*.tmp"))


def test_resume_with_more_iterations(data, tmp_path, capsys, never_stopped):
    assert main([*words(data, tmp_path, *LONG), "--iterations", "7"]) == 0
    capsys.readouterr()
    resume = ["emc", "--out", tmp_path, "--resume"]
    line = refused(capsys, *resume, "--num-div", 4)
    assert "num_div is 3 there and 4 now; only --iterations may change" in line
    line = refused(capsys, *resume, "--iterations", 6)
    assert line == "--iterations can only be raised by --resume, from 7, got 6"
    assert main([str(word) for word in (*resume, "--iterations", 60)]) == 0
    assert "going on after iteration 7" in capsys.readouterr().err
    assert_same_result(tmp_path / "result.h5", never_stopped)


def test_resume_takes_inputs_of_the_first_run(data, tmp_path, capsys):
    blacklist = write(tmp_path / "b.txt", "1 " + "0 " * 59)
    argv = ["--blacklist", blacklist, "--no-half-sets", "--num-div", 2]
    assert main(words(data, tmp_path / "whole", *argv, "--iterations", 5)) == 0
    assert main(words(data, tmp_path / "parts", *argv, "--iterations", 2)) == 0
    assert main(["emc", "--out", str(tmp_path / "parts"), "--resume", "--iterations", "5"]) == 0
    assert_same_result(tmp_path / "whole" / "result.h5", tmp_path / "parts" / "result.h5")


def test_resume_of_nothing_and_of_rubbish(data, tmp_path, capsys):
    line = refused(capsys, "emc", "--out", tmp_path, "--resume")
    assert line == f"--frames and --detector must be given ({tmp_path} does not tell)"
    hdf5(tmp_path / "result.h5", x=[1])
    line = refused(capsys, *words(data, tmp_path, "--resume"))
    assert "result.h5 must be a result of 'spicore emc', it is other HDF5" in line
    write(tmp_path / "result.h5", "no HDF5")
    assert "result.h5" in refused(capsys, *words(data, tmp_path, "--resume"))


def test_a_device_that_is_not_there(data, tmp_path, capsys, monkeypatch):
    """The result that is there stays."""
    monkeypatch.setattr(_dispatch, "cuda_status", lambda: CudaStatus(False, False, "no GPU"))
    out = tmp_path / "run"
    assert main(words(data, out, "--num-div", 1, "--iterations", 1)) == 0
    before = (out / "result.h5").read_bytes()
    capsys.readouterr()
    line = refused(capsys, *words(data, out, "--overwrite", "--device", "cuda"))
    assert line == "device is cuda, but: no GPU"
    assert (out / "result.h5").read_bytes() == before
    assert main(words(data, out, "--device", "tpu")) == 2
    assert "invalid choice: 'tpu'" in capsys.readouterr().err


# The frame around the commands


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError("2 GiB"), r"out of memory \(2 GiB\): use a smaller --block-memory-mb"),
        (
            type("OutOfMemoryError", (RuntimeError,), {})(  # as torch's
                "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of"
            ),
            r"out of memory on the GPU \(CUDA out of memory. Tried to allocate 20.00 GiB\): .*",
        ),
        (
            type("OutOfMemoryError", (MemoryError,), {})("Out of memory allocating 8 bytes"),
            r"out of memory on the GPU \(Out of memory allocating 8 bytes\): .* --device cpu.*",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied"),
        (InputError("two\n  lines"), "two lines"),
    ],
)
def test_errors_are_one_line(monkeypatch, capsys, error, text):
    def fail():
        raise error

    monkeypatch.setattr(info, "collect", fail)
    assert re.fullmatch(text, refused(capsys, "info"))


def test_other_errors_are_bugs(monkeypatch):
    def fail():
        raise RuntimeError("a bug")

    monkeypatch.setattr(info, "collect", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["info"])


def test_interrupted_elsewhere(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "collect", interrupt)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "\nspicore: interrupted\n"


def test_closed_pipe_is_silent():
    with start(["info"]) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


# Progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2149, "0.21 s"), (3.14, "3.1 s"), (59.4, "59 s"), (185, "3 min 05 s"), (9e3, "2 h 30 min")],
)
def test_duration(seconds, text):
    assert _progress.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (1234, "1.23 k"), (3.7e10, "37 G"), (5e13, "50 T")]
)
def test_in_units(value, text):
    assert _progress.in_units(value) == text


def iteration(**values):
    defaults = dict.fromkeys(emc.Iteration.__dataclass_fields__, 0)
    return emc.Iteration(**{**defaults, "stage": "grid", "stages": {}, "seconds": 1.0, **values})


def test_line_fits_a_terminal():
    done = iteration(
        iteration=9999,
        beta=0.0123,
        change=12.3456,
        log_likelihood=-123456.789,
        n_orientations=1_234_567,
        seconds=5000.0,
    )
    assert len(_progress.line(done, 10**6)) <= 80


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_live_line_tells_the_time_left(monkeypatch):
    clock = iter(np.arange(0.0, 1000.0, 2.0))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(clock))
    reporter = _progress.Reporter(100, _Terminal())
    reporter.on_progress("orient", 0.25)
    assert reporter._estimate(3.0) == (0.25, pytest.approx(9.0))
    reporter.on_iteration(iteration(iteration=1, seconds=8.0))
    reporter.on_progress("orient", 0.0)
    assert reporter._estimate(2.0) == (0.25, pytest.approx(6.0))
    assert reporter._estimate(9.0) == (0.0, None)
    assert reporter.finished == 1


def test_terminal_shows_lines_and_cleans_up():
    stream = _Terminal()
    with _progress.Reporter(100, stream) as reporter:
        reporter.on_progress("merge", 0.5)
        reporter.on_iteration(iteration(iteration=1, n_orientations=50))
    text = stream.getvalue()
    assert "iter stage" in text
    assert re.search(r"   1 grid .* 5 k", text)
