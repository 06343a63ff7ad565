"""`spicore report`: one file that needs nothing else, with all figures that the input allows."""

from __future__ import annotations

import base64
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest

from spicore import Detector, Frames, emc, metrics, orientations, simulate
from spicore.cli import main
from spicore.errors import InputError
from spicore.report import build, data, figures, inputs, numbers, style, write_report
from spicore.report.axes import find_group

PNG = b"\x89PNG\r\n\x1a\n"
ALWAYS = {"slice-0-x", "slice-0-y", "slice-0-z", "radial", "convergence", "coverage", "fluence"}
OF_TRUTH = {"truth-correlation", "pose-errors", "fluence-scatter"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A reconstruction by `spicore emc`, with the truth beside it."""
    folder = tmp_path_factory.mktemp("run")
    detector = Detector.square(17, pixel_size=0.1 / 17, distance=0.1, energy_ev=1500, stop_radius=1)
    volume = simulate.intensity(simulate.particle(0, diameter=5.0), detector.size)
    frames, truth = simulate.frames(volume, detector, 120, 400, 0, fluence_spread=0.1)
    frames.save_emc(folder / "frames.emc")
    detector.save(folder / "detector.h5")
    simulate.save_truth(folder / "truth.h5", truth, intensity=volume)
    argv = ["emc", "--frames", folder / "frames.emc", "--detector", folder / "detector.h5"]
    assert main([*map(str, argv), "--out", str(folder / "out"), "--num-div", "3"]) == 0
    return folder


class _Page(HTMLParser):
    """Collects figures, texts, and whatever a page would load from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.figures, self.links, self.words = {}, [], ""
        self._name = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "figure":
            self._name = attrs["id"]
        if tag == "img":
            assert attrs["alt"]
            self.figures[self._name] = attrs["src"]
        elif tag in ("script", "link", "iframe", "object") or {"href", "src"} & attrs.keys():
            self.links.append((tag, attrs))

    def handle_data(self, text):
        self.words += text


def read(path):
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    assert page.links == []
    assert not re.search(r"https?://|url\(|@import", text)
    for name, uri in page.figures.items():
        kind, encoded = re.fullmatch(r"data:image/(png|svg\+xml);base64,(.+)", uri).groups()
        content = base64.b64decode(encoded)
        if kind == "png":
            assert content.startswith(PNG), name
        else:
            ET.fromstring(content)
            assert b'xlink:href="http' not in content
    return page


def copied(run, path):
    """Copy the result alone, without the note of its input files."""
    path.mkdir()
    shutil.copy(run / "out" / "result.h5", path)
    return path


def edited(path, change):
    result = emc.Result.load(path / "result.h5")
    change(result)
    result.save(path / "result.h5")
    return path


# The whole report


def test_with_all_there_is(run, capsys):
    argv = ["report", run / "out", "--truth", run / "truth.h5"]
    assert main([str(word) for word in argv]) == 0
    path = run / "out" / "report.html"
    assert capsys.readouterr().out.startswith(f"{path}: ")
    page = read(path)
    frames = {name for name in page.figures if name.startswith("frame-")}
    assert len(frames) == 6
    assert page.figures.keys() == ALWAYS | OF_TRUTH | {"half-sets"} | frames
    summary = numbers.summarize(emc.Result.load(run / "out" / "result.h5"))
    assert f"{summary.n_orientations:,}" in page.words
    assert str(summary.resolution) in page.words
    for words in ("120", "photons per frame", "converged", "Pose error", "multiresolution"):
        assert words in page.words, words
    assert path.stat().st_size < 3e6


def test_without_truth_and_frames(run, tmp_path):
    page = read(write_report(copied(run, tmp_path / "r"), out=tmp_path / "x.html"))
    assert page.figures.keys() == ALWAYS | {"half-sets"}
    assert "Not shown: frames and detector are not known: give --frames" in page.words


def test_noted_frames_that_are_gone(run, tmp_path):
    folder = copied(run, tmp_path / "r")
    inputs.write_inputs(folder, {"frames": "/gone/f.emc", "detector": run / "detector.h5"})
    page = read(write_report(folder))
    assert "Not shown: cannot read /gone/f.emc: No such file or directory" in page.words
    with pytest.raises(InputError, match=r"cannot read /gone/g\.emc"):  # asked for by name
        write_report(folder, frames="/gone/g.emc")


def test_unfinished_run_without_scale_or_fluence(run, tmp_path):
    def change(result):
        result.half_sets = {}
        result.voxel_size = None
        result.schedule["converged"] = False
        result.config = emc.Config(fluence=False, num_div=3).to_toml()

    page = read(write_report(edited(copied(run, tmp_path / "r"), change)))
    assert page.figures.keys() == ALWAYS - {"fluence"}
    for words in ("not converged", "no half sets were made", "Fluences were not fitted"):
        assert words in page.words


def test_modes_and_patterns(run, tmp_path):
    def change(result):
        result.intensity = np.stack([result.intensity, 2.0 * result.intensity])
        result.weight = np.stack([result.weight, result.weight])
        n_pixels = 17 * 17
        result.patterns = np.ones((1, n_pixels), np.float32)
        result.mode = (np.arange(120) % 12 // 5).astype(np.int32)  # 50, 50 and 20 of the pattern
        result.orientation[result.mode == 2] = np.nan
        result.fluence[:4], result.mode[:4] = np.nan, -1

    folder = edited(copied(run, tmp_path / "r"), change)
    shutil.copy(run / "out" / "inputs.toml", folder)
    page = read(write_report(folder, truth=[run / "truth.h5"]))
    assert {f"slice-{m}-{a}" for m in (0, 1) for a in "xyz"} <= page.figures.keys()
    assert "frames: 46, 50; 20 in fixed patterns" in page.words
    assert "116 used" in page.words


@pytest.mark.parametrize(
    ("datasets", "text"),
    [
        ({"other": [1.0]}, "must have one of intensity, intens, orientation"),
        ({"orientation": np.zeros((3, 4))}, r"orientation .* shape \[120, 4\], got \[3, 4\]"),
        ({"fluence": np.ones(3)}, r"fluence of the truth must have shape \[120\], got \[3\]"),
    ],
)
def test_bad_truth(run, tmp_path, datasets, text):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.update(datasets)
    with pytest.raises(InputError, match=text):
        write_report(run / "out", out=tmp_path / "x.html", truth=[tmp_path / "t.h5"])
    assert not (tmp_path / "x.html").exists()


def test_truth_in_several_files_and_sizes(run, tmp_path):
    """Of another program: other names, a mode axis, a larger volume."""
    with h5py.File(run / "truth.h5") as truth, h5py.File(tmp_path / "i.h5", "w") as file:
        file["intens"] = np.pad(truth["intensity"][()], 3)[None]
        with h5py.File(tmp_path / "q.h5", "w") as poses:
            poses["quaternions_wxyz"] = truth["orientation"][()]
    paths = [tmp_path / "i.h5", tmp_path / "q.h5"]
    page = read(write_report(run / "out", out=tmp_path / "x.html", truth=paths))
    assert page.figures.keys() >= {"truth-correlation", "pose-errors"}
    assert "fluence-scatter" not in page.figures


def test_no_result(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("spicore: error: ")


def test_unwritable(run, tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*nowhere/x\.html: No such file"):
        write_report(copied(run, tmp_path / "r"), out=tmp_path / "nowhere" / "x.html")


def test_users_matplotlib_settings_do_not_matter(run, tmp_path):
    import matplotlib

    def picture():
        with style.drawing():
            return style.data_uri(figures.fluence_histogram(collected))

    collected = data.collect(run / "out", [], None, None, None, None)
    plain = picture()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert picture() == plain
        assert matplotlib.rcParams["font.size"] == 30


# Its parts


def test_comparison_with_the_truth_itself(run, tmp_path):
    """A result that is the truth, turned, has no error; random poses have that of chance."""
    turn = orientations.from_axis_angle([0.3, -0.5, 0.81], 40.0)
    with h5py.File(run / "truth.h5") as file:
        volume, true, fluence = (file[n][()] for n in ("intensity", "orientation", "fluence"))

    def change(result):
        result.intensity = metrics.rotate_volume(volume, orientations.conjugate(turn))
        result.weight = np.ones_like(volume)
        result.orientation = orientations.multiply(turn, true).astype(np.float32)
        result.fluence = fluence.astype(np.float32)

    folder = edited(copied(run, tmp_path / "r"), change)
    comparison = data.collect(folder, [run / "truth.h5"], None, None, None, None).comparison
    assert comparison.pose_errors.max() < 0.1
    assert 100 < comparison.random_error < 150
    assert comparison.cc[3:9].min() > 0.97  # resampled twice
    assert orientations.angle(comparison.alignment, turn) < 1.0
    np.testing.assert_allclose(*comparison.fluence, rtol=1e-5)


def test_example_tomograms_sum_to_the_photons(run):
    """The likelihood sets fluences so that expected and measured photons agree."""
    for one in data.collect(run / "out", [], None, None, None, None).examples:
        assert np.isnan(one.tomogram).sum() == np.isnan(one.frame).sum()
        assert np.nansum(one.frame) == one.photons
        assert np.nansum(one.tomogram) == pytest.approx(one.photons, rel=0.1)


def test_binning_keeps_photons_and_gaps():
    image = np.ones((300, 130))
    image[:, :6] = np.nan
    image[0, 6] = 5.0
    binned, k = data._binned(image)
    assert (k, binned.shape) == (3, (100, 44))
    assert np.nansum(binned) == np.nansum(image)
    assert np.isnan(binned[:, :2]).all()
    assert np.isfinite(binned[:, 2:]).all()


def test_pictures_are_cropped_to_the_photons(run):
    detector = Detector.load(run / "detector.h5")
    dense = np.zeros((6, 17, 17), np.int32)
    dense[:, 7:10, 7:10] = 100
    window, cropped = data._window(Frames.from_dense(dense), detector)
    assert cropped
    assert window == (slice(3, 14), slice(3, 14))  # 1.15 sqrt(2) + 3 pixels around the centre
    assert data._window(Frames.from_dense(1 + 0 * dense), detector) == (
        (slice(None), slice(None)),
        False,
    )


def test_count_ticks_keep_apart():
    for high in (1.0, 4.2, 30.0, 1e4):
        norm = figures.PowerNorm(0.45, 0.0, high)
        ticks = figures._count_ticks(norm)
        assert len(ticks) >= 2
        assert np.diff(sorted(float(norm(t)) for t in ticks)).min() > 0.08


@pytest.mark.parametrize("name", ["D2", "C3"])
def test_axes_of_a_symmetric_volume(name):
    """A particle that is symmetric about axes of its own, which are found to a degree."""
    density = simulate.particle(3, diameter=16.0, size=41)
    group = orientations.point_group(name)
    density = sum(metrics.rotate_volume(density, g) for g in group)
    turn = orientations.from_axis_angle([0.2, 0.9, -0.4], 37.0)
    volume = simulate.intensity(density, 41)
    turned = metrics.rotate_volume(volume, orientations.conjugate(turn))
    found, score = find_group(turned, name)
    assert score > 0.8  # the density was resampled
    expected = orientations.multiply(
        orientations.multiply(turn, group), orientations.conjugate(turn)
    )
    for element in expected:
        assert orientations.angle(found, element).min() < 2.0
    _, score = find_group(simulate.intensity(simulate.particle(3, diameter=16.0), 41), name)
    assert score < 0.5


@pytest.mark.parametrize(("have", "want"), [(7, 11), (11, 7), (8, 11), (11, 8), (7, 7)])
def test_resized_keeps_the_origin(have, want):
    volume = np.zeros((have,) * 3)
    volume[have // 2, have // 2, have // 2 + 2] = 1.0
    resized = data.resized(volume, want)
    assert resized.shape == (want,) * 3
    assert resized[want // 2, want // 2, want // 2 + 2] == 1.0


def test_density_of_directions():
    """Even directions give 1 within the noise that is promised; it averages to 1 anyway."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5000, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    longitude, latitude, density = figures._direction_density(vectors)
    area = np.cos(latitude)[:, None] * np.ones(longitude.size)
    assert np.average(density, weights=area) == pytest.approx(1.0, abs=0.02)
    assert 0.5 < density.std() / figures.COVERAGE_NOISE < 1.5
    *_, pole = figures._direction_density(np.tile([0.0, 0.0, 1.0], (5000, 1)))
    assert pole[-1].min() > 50
    assert pole[0].max() < 1e-6


def test_empty_directions(run):
    collected = data.collect(run / "out", [], None, None, None, None)
    assert figures.empty_directions(collected) < 0.1
    # poses within 60 degrees of the first axis: a quarter of the sphere
    quats = orientations.random(3000, np.random.default_rng(0))
    quats = quats[orientations.rotate(quats, np.array([0.0, 0.0, 1.0]))[:, 2] > 0.5]
    collected.result.orientation = np.resize(quats, (120, 4)).astype(np.float32)
    assert 0.35 < figures.empty_directions(collected) < 0.8  # few frames, smoothed widely


def test_directions_are_those_of_the_beam(run):
    collected = data.collect(run / "out", [], None, None, None, None)
    quats = collected.result.orientation.astype(np.float64)
    expected = [orientations.to_matrix(q / np.linalg.norm(q))[:, 2] for q in quats]
    np.testing.assert_allclose(data.directions(collected), expected, atol=1e-6)


@pytest.mark.parametrize("q_max", [0.0061, 0.05, 0.33, 2.1])
def test_periods_are_few_round_and_inside(q_max):
    periods = style.nice_periods(q_max)
    assert 3 <= len(periods) <= 5
    assert all(1.0 / d <= q_max * 1.0001 for d in periods)
    assert all(len(f"{d:g}".replace(".", "").strip("0")) <= 2 for d in periods)


# Numbers


def result_with(run, **changes):
    result = emc.Result.load(run / "out" / "result.h5")
    for name, value in changes.items():
        setattr(result, name, value)
    return result


def half(curve):
    return {"radius": np.arange(len(curve), dtype=float), "shell_cc": np.array(curve)}


@pytest.mark.parametrize(
    ("curve", "voxel_size", "text"),
    [
        ([1, 1, 1, 0.75, 0.25, 0, 0], None, "3.5 voxels"),
        ([1, 1, 1, 0.75, 0.25, 0, 0], 0.01, "28.6 Å"),
        ([1.0] * 7, 0.01, "≤ 16.7 Å"),
        ([1.0] * 7, None, "≥ 6.0 voxels"),
        ([0.3] * 7, 0.01, "half sets do not agree"),
    ],
)
def test_resolution(run, curve, voxel_size, text):
    result = result_with(run, half_sets=half(curve), voxel_size=voxel_size)
    assert str(numbers.half_set_resolution(result, 6)) == text


def test_notes_warn(run, tmp_path):
    """Of what a hasty reader would miss."""

    def change(result):
        result.half_sets = half([0.0] * 12)
        result.schedule["converged"] = False
        result.history["mutual_information"][:] = 0.1
        result.weight[:, :3] = result.weight[:, -3:] = 0.0
        result.weight[5:8] = 0.0
        result.fluence[:20] = 9.0

    folder = edited(copied(run, tmp_path / "r"), change)
    text = " ".join(build.notes(data.collect(folder, [], None, None, None, None)))
    for words in (
        "had not converged",
        "do not agree anywhere",
        "Frames tell little",
        "never observed",
        "17 % of the frames have a fluence",
    ):
        assert words in text, words
    assert build.notes(data.collect(run / "out", [], None, None, None, None)) == []


def test_featureless_has_no_correlation():
    volume = simulate.intensity(simulate.particle(0, diameter=8.0), 41)
    _, cc = metrics.shell_cc(numbers.featureless(volume), volume)
    assert np.nanmax(np.abs(cc[5:])) < 0.1


def test_dense_frames(run, tmp_path):
    """Real-valued frames have no photons to count, but all figures."""
    frames = Frames.open(run / "frames.emc")
    Frames.from_dense(frames.dense(0, 120) + 0.01).save_emc(tmp_path / "dense.emc")
    page = read(write_report(run / "out", out=tmp_path / "x.html", frames=tmp_path / "dense.emc"))
    assert len([name for name in page.figures if name.startswith("frame-")]) == 6
