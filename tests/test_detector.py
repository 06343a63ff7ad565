"""Detector: geometry against Dragonfly's own files, every file form, every message."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from spicore.detector import HC_EV_ANGSTROM, Detector
from spicore.errors import InputError
from spicore.io import crystfel

PANEL = """
photon_energy = 9.5 keV
clen = 200 mm   ; comment
res = 10000
p0/min_fs = 0
p0/max_fs = 3
p0/min_ss = 0
p0/max_ss = 2
p0/corner_x = -2
p0/corner_y = -1.5
"""

SECOND = """
p1/min_fs = 0
p1/max_fs = 1
p1/min_ss = 3
p1/max_ss = 4
p1/corner_x = 10
p1/corner_y = 20
p1/fs = -y
p1/ss = +1.0x + 0.0y
p1/coffset = 0.01
"""


def same(a: Detector, b: Detector, rtol: float = 0.0) -> None:
    """Assert equal pixels; `rtol` of q relative to q_max, of corrections to each."""
    np.testing.assert_allclose(a.q_voxels, b.q_voxels, rtol=0, atol=rtol * b.q_max)
    np.testing.assert_allclose(a.correction, b.correction, rtol=rtol)
    np.testing.assert_array_equal(a.mask, b.mask)
    assert (a.ewald_radius, a.distance_pixels) == pytest.approx(
        (b.ewald_radius, b.distance_pixels), rel=1e-12
    )


def fields(n: int = 9) -> dict:
    """Arguments of a valid detector of n x n pixels."""
    det = Detector.square(n, 1e-3, 0.1, 2000)
    return {
        "q_voxels": det.q_voxels.copy(),
        "correction": det.correction.copy(),
        "mask": det.mask.copy(),
        "ewald_radius": det.ewald_radius,
        "distance_pixels": det.distance_pixels,
    }


def geom(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "any.name"
    path.write_text(text)
    return path


# --- geometry ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n_pixels", "pixel_size", "stop", "size"),
    [("sim_4bed", 150, 0.512e-3, 10, 213), ("dragonfly_parity", 61, 1.28e-3, 4, 87)],
)
def test_square_equals_dragonfly(shared_data, name, n_pixels, pixel_size, stop, size):
    ours = Detector.square(n_pixels, pixel_size, 0.3, HC_EV_ANGSTROM / 6.2, stop, "x")
    theirs = Detector.load(shared_data / name / "detector.h5")
    same(ours, theirs, rtol=1e-13)  # both are float64 of the same formula
    assert ours.size == theirs.size == size
    assert ours.wavelength == pytest.approx(6.2)
    assert theirs.voxel_size is None
    assert theirs.wavelength is None


def test_square_masks_of_dragonflys_test_detector():
    det = Detector.square(101, 0.512e-3, 0.3, HC_EV_ANGSTROM / 6.2, stop_radius=10)
    assert np.bincount(det.mask).tolist() == [7540, 2356, 305]
    assert det.size == 145


@pytest.mark.parametrize("polarization", ["x", "y", "none"])
def test_square_follows_the_formulas(polarization):
    det = Detector.square(7, 2e-3, 0.05, 1000, polarization=polarization)
    assert det.shape == (7, 7)
    x, y = np.indices((7, 7)).reshape(2, -1) - 3.0
    distance = 25.0
    length = np.sqrt(x**2 + y**2 + distance**2)
    q = distance * np.stack([x / length, y / length, distance / length - 1], axis=1)
    lost = {"x": x**2, "y": y**2, "none": (x**2 + y**2) / 2}[polarization]
    correction = (1 - lost / length**2) / length**3
    np.testing.assert_allclose(det.q_voxels, q, atol=1e-14)
    np.testing.assert_allclose(det.correction, correction / correction.mean(), rtol=1e-14)


def test_units_and_derived_values():
    det = Detector.square(9, 1e-3, 0.1, HC_EV_ANGSTROM / 2.0)
    assert det.n_pixels == 81
    assert det.wavelength == pytest.approx(2.0)
    # |q| = 2 sin(theta) / lambda at the middle of an edge, 4 pixels of 1 mm at 100 mm
    theta = np.arctan(4 / 100) / 2
    np.testing.assert_allclose(np.linalg.norm(det.q[4]), 2 * np.sin(theta) / 2.0)
    np.testing.assert_allclose(det.pixel_xy[[0, 1, 9]], [[-4, -4], [-4, -3], [-3, -4]], atol=1e-12)
    assert "n_pixels=81" in repr(det)


def test_tilted_or_larger_pixels_collect_in_proportion():
    positions = np.array([[0.0, 0, 0.1], [0, 0.01, 0.1], [0, -0.01, 0.1]])
    normals = np.array([[0, 0, 1.0], positions[1] / np.linalg.norm(positions[1]), [0, 0, 1]])
    det = Detector.from_geometry(
        positions, pixel_size=[1e-3, 1e-3, 2e-3], wavelength=1.0, normals=normals
    )
    relative = det.correction / det.correction[0]
    cosine = 0.1 / np.hypot(0.1, 0.01)
    np.testing.assert_allclose(relative, [1, cosine**2, 4 * cosine**3], rtol=1e-14)


def test_elements_without_pixel_are_left_out():
    positions = np.array([[-1e-3, 0, 0.1], [1e-3, 0, 0.1], [np.nan] * 3, [0, 0, -0.1]])
    det = Detector.from_geometry(positions, pixel_size=1e-3, wavelength=1.0, mask=[0, 1, 2, 2])
    assert np.isfinite(det.q_voxels).all()
    assert det.correction[2:].tolist() == [0, 0]
    assert det.correction.mean() == pytest.approx(1)
    image = det.to_image([5, 6, 7, 8], fill=-1)
    assert image.tolist() == [[5], [-1], [6]]


def test_to_image_of_a_square_is_the_frame():
    for n in (8, 9):
        det = Detector.square(n, 1e-3, 0.1, 2000, stop_radius=1)
        frame = np.arange(n * n)
        np.testing.assert_array_equal(det.to_image(frame), frame.reshape(n, n))


def test_to_image_refuses_scattered_pixels():
    positions = np.array([[0.0, 0, 1], [10, 0, 1], [0, 10, 1]])
    det = Detector.from_geometry(positions, pixel_size=1e-6, wavelength=1.0)
    with pytest.raises(InputError, match="must fit a picture"):
        det.to_image(np.zeros(3))
    with pytest.raises(InputError, match=r"values must have shape \[3\], got \[4\]"):
        det.to_image(np.zeros(4))


# --- file forms -------------------------------------------------------------------------------


def test_own_form_keeps_every_bit(tmp_path):
    det = Detector(**fields(), voxel_size=1e-3, shape=(9, 9), background=np.linspace(0, 1, 81))
    det.save(tmp_path / "d")
    back = Detector.load(tmp_path / "d")
    same(back, det)
    assert (back.voxel_size, back.shape) == (det.voxel_size, det.shape)
    np.testing.assert_array_equal(back.background, det.background)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    Detector(**fields()).save(tmp_path / "d")
    bare = Detector.load(tmp_path / "d")
    assert (bare.voxel_size, bare.shape, bare.background) == (None, None, None)


@pytest.mark.parametrize("suffix", [".dat", ".h5"])
def test_dragonfly_forms_round_trip(tmp_path, suffix):
    det = Detector.square(9, 1e-3, 0.1, 2000, stop_radius=2)
    det.save_dragonfly(tmp_path / f"d{suffix}")
    (tmp_path / f"d{suffix}").rename(tmp_path / "unhelpful.name")
    back = Detector.load(tmp_path / "unhelpful.name", energy_ev=2000)
    same(back, det, rtol=1e-15)
    assert back.voxel_size == pytest.approx(det.voxel_size)
    assert back.shape is None


def test_dragonfly_hdf5_of_any_integer_and_shape(tmp_path):
    det = Detector.square(5, 1e-3, 0.1, 2000)
    with h5py.File(tmp_path / "d", "w") as file:
        for name, column in zip(("qx", "qy", "qz"), det.q_voxels.T, strict=True):
            file[name] = column.reshape(5, 5)
        file["corr"] = 1e-6 * det.correction.reshape(5, 5)
        file["mask"] = det.mask.reshape(5, 5).astype(">i8")
        file["background"] = np.full((5, 5), 0.5)
        file["detd"], file["ewald_rad"] = [100], [100.0]
    back = Detector.load(tmp_path / "d")
    same(back, det, rtol=1e-14)
    assert back.shape == (5, 5)
    assert back.background.tolist() == [0.5] * 25


def test_old_text_form_tells_the_ewald_radius_by_its_rows(tmp_path):
    det = Detector.square(9, 1e-3, 0.1, 2000)
    det.save_dragonfly(tmp_path / "d.dat")
    header, _, rows = (tmp_path / "d.dat").read_text().partition("\n")
    path = geom(tmp_path, f"{header.split()[0]}\r\n" + rows.replace("\n", "\r\n") + "\n\n")
    same(Detector.load(path), det, rtol=1e-13)


def test_mask_override(tmp_path):
    det = Detector.square(5, 1e-3, 0.1, 2000)
    det.save(tmp_path / "d")
    mask = np.full((5, 5), 2)
    mask[2, 2] = 0
    back = Detector.load(tmp_path / "d", mask)
    assert back.mask.tolist() == mask.ravel().tolist()


def test_pixels_with_unusable_values_are_harmless_where_ignored(tmp_path):
    values = fields()
    values["mask"][:3] = 2
    values["q_voxels"][0] = np.nan
    values["correction"][1:3] = [np.inf, -1]
    det = Detector(**values, background=np.where(values["mask"] == 2, np.nan, 0.5))
    assert det.q_voxels[:3].tolist() == [[0, 0, 0]] * 3
    assert det.correction[:3].tolist() == [0, 0, 0]
    assert det.background[2:4].tolist() == [0, 0.5]
    det.save_dragonfly(tmp_path / "d.h5")
    same(Detector.load(tmp_path / "d.h5"), det)


# --- CrystFEL ---------------------------------------------------------------------------------


def test_crystfel_single_panel_equals_square(tmp_path):
    text = (
        "wavelength = 2.0 A\nclen = 0.1\nres = 1000\n"
        "p/min_fs = 0\np/max_fs = 8\np/min_ss = 0\np/max_ss = 8\n"
        # x is the slow axis of Detector.square
        "p/fs = y\np/ss = x\np/corner_x = -4.5\np/corner_y = -4.5\n"
    )
    det = Detector.load(geom(tmp_path, text), polarization="y")
    square = Detector.square(9, 1e-3, 0.1, HC_EV_ANGSTROM / 2.0, polarization="y")
    np.testing.assert_allclose(det.q_voxels, square.q_voxels, atol=1e-12)
    np.testing.assert_allclose(det.correction, square.correction, rtol=1e-12)
    assert det.voxel_size == pytest.approx(square.voxel_size)
    assert (det.shape, det.mask.max()) == ((9, 9), 0)


def test_crystfel_panels_gaps_and_units(tmp_path):
    geometry = crystfel.parse(PANEL + SECOND)
    assert geometry.shape == (5, 4)
    assert geometry.wavelength == pytest.approx(HC_EV_ANGSTROM / 9500)
    positions = geometry.positions.reshape(5, 4, 3)
    np.testing.assert_allclose(positions[0, 0], [-1.5e-4, -1e-4, 0.2])
    np.testing.assert_allclose(positions[2, 3], [1.5e-4, 1e-4, 0.2])
    # second panel: fs along -y, ss along +x, 10 mm further away
    np.testing.assert_allclose(positions[4, 1], [11.5e-4, 18.5e-4, 0.21])
    uncovered = np.zeros((5, 4), dtype=bool)
    uncovered[3:, 2:] = True
    np.testing.assert_array_equal(np.isnan(positions).any(axis=2), uncovered)
    det = Detector.load(geom(tmp_path, PANEL + SECOND))
    np.testing.assert_array_equal(det.mask.reshape(5, 4), np.where(uncovered, 2, 0))
    assert det.ewald_radius == pytest.approx(2000)
    level = Detector.load(geom(tmp_path, PANEL + SECOND.replace("0.01", "0")))
    assert np.isfinite(level.to_image(np.ones(20))).sum() == 16


def test_crystfel_values_apply_to_panels_mentioned_later():
    text = PANEL + "res = 5000\n" + SECOND + "p0/no_index = 0\n"
    geometry = crystfel.parse(text)
    sizes = geometry.pixel_size.reshape(5, 4)
    assert (sizes[0, 0], sizes[4, 0]) == pytest.approx((1e-4, 2e-4))


def test_crystfel_camera_length_per_panel_as_in_old_files():
    text = PANEL.replace("clen = 200 mm", "") + SECOND + "p0/clen = 0.2\np1/clen = 300 mm"
    z = crystfel.parse(text).positions.reshape(5, 4, 3)[..., 2]
    assert (z[0, 0], z[4, 0]) == pytest.approx((0.2, 0.31))


def test_crystfel_panel_index_axis():
    dims = "q{0}/dim1 = {0}\nq{0}/dim2 = ss\nq{0}/dim3 = fs\n"
    panel = PANEL.replace("p0/", "q{0}/").replace("-1.5", "{0}0") + dims
    geometry = crystfel.parse("dim0 = %\n" + "".join(panel.format(n) for n in range(3)))
    assert geometry.shape == (3, 3, 4)
    positions = geometry.positions.reshape(3, 3, 4, 3)
    np.testing.assert_allclose(positions[2, 1, 3], [1.5e-4, 21.5e-4, 0.2])


def test_crystfel_detector_shift_moves_all_panels():
    geometry = crystfel.parse(PANEL + "detector_shift_x = 3 mm\ndetector_shift_y = -1e-3 m")
    np.testing.assert_allclose(geometry.positions[0], [28.5e-4, -11e-4, 0.2])


@pytest.mark.parametrize(
    ("region", "bad"),
    [
        ("min_fs = 1\nbad/max_fs = 2\nbad/min_ss = 0\nbad/max_ss = 0\nbad/panel = p0", [1, 2]),
        ("min_fs = 0\nbad/max_fs = 0\nbad/min_ss = 2\nbad/max_ss = 3", [8, 12]),
        ("min_x = -1\nbad/max_x = 1\nbad/min_y = 0.5\nbad/max_y = 2", [9, 10]),
    ],
)
def test_crystfel_bad_regions(region, bad):
    mask = crystfel.parse(PANEL + SECOND + "bad/" + region).mask
    assert np.flatnonzero(mask == 2).tolist() == sorted([*bad, 14, 15, 18, 19])


def test_crystfel_ignored_panel_and_edges():
    mask = crystfel.parse(PANEL + "p0/mask_edge_pixels = 1").mask
    assert np.flatnonzero(mask == 0).tolist() == [5, 6]
    mask = crystfel.parse(PANEL + SECOND + "p1/no_index = true").mask
    assert np.flatnonzero(mask == 0).tolist() == list(range(12))


def test_crystfel_arguments_replace_the_file(tmp_path):
    path = geom(tmp_path, PANEL)
    det = Detector.load(path, energy_ev=5000, distance=0.1)
    assert det.wavelength == pytest.approx(HC_EV_ANGSTROM / 5000)
    assert det.distance_pixels == pytest.approx(1000)


@pytest.mark.parametrize(
    ("name", "shape", "given", "pixels"),
    [
        ("agipd_simple_2d", (8192, 128), {}, 128 * 64 * 128),
        ("jungfrau_extra_geom", (4096, 1024), {}, 64 * 256 * 256),
        (
            "agipd_p7927_r0292",
            (16, 512, 128),
            {"energy_ev": 9300.0, "distance": 0.22},
            128 * 64 * 128,
        ),
    ],
)
def test_crystfel_real_files(shared_data, name, shape, given, pixels):
    det = Detector.load(shared_data / "detectors" / f"{name}.geom", **given)
    assert (det.shape, det.n_pixels) == (shape, pixels)
    assert (det.mask == 0).all()
    if name == "agipd_p7927_r0292":
        # pixel (module 0, ss 64, fs 0) is the first of p0a1; its plane is 5.007 mm further away
        corner = np.array([-467.1844708862305, 643.938617553711])
        steps = 0.5 * np.array([0.003364 + 0.999995, -0.999995 + 0.003364])
        z = (0.22 + 0.005007) * 5000
        t = np.ravel_multi_index((0, 64, 0), shape)
        expected = (corner + steps) / z * det.distance_pixels
        np.testing.assert_allclose(det.pixel_xy[t], expected, rtol=1e-9)
    else:
        # panels along the axes: no two pixels share an element, half-pixel offsets included
        assert np.isfinite(det.to_image(np.ones(pixels))).sum() == pixels


def test_crystfel_file_without_energy_and_distance(shared_data):
    path = shared_data / "detectors" / "agipd_p7927_r0292.geom"
    with pytest.raises(InputError, match=r"photon_energy is missing.*energy_ev=.*clen.*distance="):
        Detector.load(path)
    with pytest.raises(InputError, match=r"r0292.geom: clen is missing \(give distance="):
        Detector.load(path, energy_ev=9300)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (
            "9.5 keV",
            "/LCLS/energy eV",
            r"photon_energy is '/LCLS/energy eV', a location.*energy_ev",
        ),
        ("200 mm", "/LCLS/clen", r"clen is '/LCLS/clen', a location.*distance="),
        ("9.5 keV", "9.5 kV", r"photon_energy must be a number \(units: eV, keV\), got '9.5 kV'"),
        ("9.5 keV", "1e999", "photon_energy must be a number"),
        ("9.5 keV", "9.5", "between 10 and 1e7 eV, got 9.5"),
        ("photon_energy = 9.5 keV", "wavelength = 1.3", "between 10 and 1e7 eV"),
        ("p0/min_fs = 0\n", "", "p0/min_fs is missing"),
        ("res = 10000\n", "", "p0/res is missing"),
        ("res = 10000", "res = -1", "p0/res must be positive, got -1"),
        ("max_fs = 3", "max_fs = -3", "min_fs = 0 exceeds max_fs = -3"),
        ("min_fs = 0", "min_fs = -1", "p0/min_fs must be an array index, got -1"),
        ("max_fs = 3", "max_fs = three", r"p0/max_fs must be a number .*got 'three'"),
        ("max_fs = 3", "max_fs = 20000000", "more than 33554432 elements"),
        ("res = 10000", "res = 10000\nstray words", "must be 'key = value', got 'stray words'"),
        ("p0/max_ss", "p0/fs = 1.0w\np0/max_ss", r"p0/fs must be like '\+1.0x -0.1y', got '1.0w'"),
        ("p0/max_ss", "p0/dim0 = ss\np0/max_ss", "must name ss and fs once each, got ss"),
        ("p0/max_ss", "p0/dim0 = q\np0/max_ss", "p0/dim0 must be a number"),
        ("p0/max_ss", "bad1/min_x = 2\np0/max_ss", "bad1/max_x is missing"),
        ("p0/max_ss", "bad1/min_fs = 2\nbad1/panel = p9\np0/max_ss", "no panel.*got 'p9'"),
        ("200 mm", "-200 mm", r"downstream of the sample \(z > 0\)"),
        ("p0/max_ss", "p0/no_index = 1\np0/max_ss", "must leave a pixel to orient with"),
    ],
)
def test_crystfel_errors(tmp_path, old, new, match):
    assert old in PANEL
    with pytest.raises(InputError, match=match) as caught:
        Detector.load(geom(tmp_path, PANEL.replace(old, new, 1)))
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("clen = 1\nphoton_energy = 1000", "has no panel"),
        (PANEL + SECOND.replace("min_ss = 3", "min_ss = 2"), "p1 overlaps another panel"),
        (PANEL + SECOND + "p1/data = /b", "one dataset, got '/data/data' and '/b'"),
        (PANEL + SECOND + "p1/dim0 = 1\np1/dim1 = ss\np1/dim2 = fs", "p0 and p1 have different"),
    ],
)
def test_crystfel_errors_of_the_whole(tmp_path, text, match):
    with pytest.raises(InputError, match=match):
        Detector.load(geom(tmp_path, text))


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("q_voxels", np.zeros((81, 2)), r"q_voxels must have shape \[any, 3\], got \[81, 2\]"),
        ("q_voxels", np.zeros((0, 3)), r"correction must have shape \[0\]"),
        ("correction", np.ones(80), r"correction must have shape \[81\], got \[80\]"),
        ("mask", np.zeros(80, int), "mask must have 81 values, one per pixel, got 80"),
        ("mask", np.zeros(81, bool), "mask must hold integers 0, 1 or 2, got bool"),
        ("mask", [0] * 80 + [256], "mask must be 0, 1 or 2, got 1 other values, first 256"),
        ("mask", [[0], [0, 1]], "mask must be an array"),
        ("mask", np.ones(81, int), "must leave a pixel to orient with .* got none of 81"),
        ("ewald_radius", 0, "ewald_radius must be positive, got 0"),
        ("ewald_radius", 1.5, "no longer than 2 ewald_radius = 3 where mask < 2"),
        ("distance_pixels", np.nan, "distance_pixels must be between"),
        ("voxel_size", "x", "voxel_size must be a number, got 'x'"),
        ("shape", (9, 8), r"shape must hold 81 pixels, got \[9, 8\]"),
        ("shape", ("a",), r"shape must be a tuple of integers, got \('a',\)"),
        ("background", np.full(81, -1.0), "background must be finite and not negative.*pixel 0"),
        ("background", np.ones(3), r"background must have shape \[81\]"),
    ],
)
def test_constructor_errors(name, value, match):
    with pytest.raises(InputError, match=match):
        Detector(**(fields() | {name: value}))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_in_use_must_be_usable(bad):
    values = fields()
    values["q_voxels"][7, 1] = bad
    with pytest.raises(InputError, match=r"q_voxels must be finite .* at pixel 7"):
        Detector(**values)
    for value in (bad, 0.0, -1.0):
        values = fields()
        values["correction"][7] = value
        with pytest.raises(InputError, match=r"correction must be finite and positive.*at pixel 7"):
            Detector(**values)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"n_pixels": 9.5}, "n_pixels must be an integer, got 9.5"),
        ({"n_pixels": 2}, "n_pixels must be between 3 and"),
        ({"pixel_size": 0}, "pixel_size must be positive"),
        ({"distance": -1}, "distance must be between"),
        ({"energy_ev": 4.6}, "energy_ev must be between 10 and 1e.07, got 4.6"),
        ({"stop_radius": 99}, "must leave a pixel to orient with"),
        ({"polarization": "z"}, "polarization must be one of x, y, none, got 'z'"),
    ],
)
def test_square_errors(arguments, match):
    with pytest.raises(InputError, match=match):
        Detector.square(**({"n_pixels": 9} | arguments))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"positions": np.zeros((2, 3))}, r"downstream of the sample \(z > 0\)"),
        ({"positions": np.full((2, 3), np.nan)}, "positions must be finite"),
        ({"pixel_size": [1e-3]}, r"pixel_size must have shape \[2\], got \[1\]"),
        ({"pixel_size": -1e-3}, "pixel_size must be between"),
        ({"wavelength": 0}, "wavelength must be positive"),
        ({"normals": [0, 0, 1]}, r"normals must have shape \[2, 3\], got \[3\]"),
        ({"mask": [0, 3]}, "mask must be 0, 1 or 2, got 1 other values, first 3"),
    ],
)
def test_from_geometry_errors(arguments, match):
    valid = {"positions": [[0, 0, 0.1], [1e-3, 0, 0.1]], "pixel_size": 1e-3, "wavelength": 1.0}
    with pytest.raises(InputError, match=match):
        Detector.from_geometry(**(valid | arguments))


def test_q_needs_a_voxel_size():
    with pytest.raises(InputError, match=r"voxel_size of the detector is unknown: .*energy_ev="):
        _ = Detector(**fields()).q


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "got an empty file"),
        (b" \n ", "got an empty file"),
        (b"\x00\x01\x02", "got other binary data"),
        (b"hello world", "got text that begins 'hello world'"),
        (b"; only a comment", "got text that begins ''"),
        (b"2 100.0\n", "header must be 'num_pix detd ewald_rad', got '2 100.0'"),
        (b"0 1 1\n", "header must be"),
        (b"2 100 100\n", "announces 2 pixels, got no rows"),
        (b"2 100 100\n0 0 0 1 0\n", "announces 2 rows of 5 values, got 1 rows of 5"),
        (b"2 100 100\n0 0 0 1 0\n0 0 0", "rows must be 'qx qy qz corr mask'"),
        (b"1 100 100\n0 0 0 1 x\n", "rows must be 'qx qy qz corr mask'"),
        (b"1 100 100\n0 0 0 1 0.5\n", "mask must hold integers"),
        (b"1 100 100\n0 0 0 1 nan\n", "mask must hold integers"),
        (b"1 100 100\n0 0 0 nan 0\n", "correction must be finite"),
        (b"1 nan 100\n0 0 0 1 0\n", "distance_pixels must be between"),
        (b"1\n3 4 0 1 0\n", "do not lie on one Ewald sphere"),
        (b"2\n3 4 -1 1 0\n3 4 -2 1 0\n", "do not lie on one Ewald sphere"),
        (b"\x89HDF\r\n\x1a\n rest", "cannot be read"),
    ],
)
def test_content_errors(tmp_path, content, match):
    path = tmp_path / "d.h5"
    path.write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        Detector.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_truncated_hdf5(tmp_path):
    for save in (Detector.save, Detector.save_dragonfly):
        save(Detector.square(9, 1e-3, 0.1, 2000), tmp_path / "d.h5")
        content = (tmp_path / "d.h5").read_bytes()
        (tmp_path / "d.h5").write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=r"d\.h5: cannot be read as HDF5: .*truncated"):
            Detector.load(tmp_path / "d.h5")


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("qz", None, "'qz' is missing; the file has corr, detd, ewald_rad, mask, qx, qy"),
        ("detd", None, "'detd' is missing"),
        ("qy", np.zeros(5), "'qy' must have 81 values like qx, got 5"),
        ("corr", np.zeros(81, "S3"), r"'corr' must hold real numbers, got \|S3"),
        ("corr", h5py.Empty("f8"), "'corr' must hold real numbers"),
        ("mask", np.zeros(81), "mask must hold integers 0, 1 or 2, got float64"),
        ("ewald_rad", [1.0, 2.0], r"'ewald_rad' must be one number, got shape \[2\]"),
    ],
)
def test_dragonfly_hdf5_errors(tmp_path, name, value, match):
    path = tmp_path / "d.h5"
    Detector.square(9, 1e-3, 0.1, 2000).save_dragonfly(path)
    with h5py.File(path, "a") as file:
        del file[name]
        if value is not None:
            file[name] = value
    with pytest.raises(InputError, match=match):
        Detector.load(path)


def test_own_form_errors(tmp_path):
    path = tmp_path / "d"
    Detector.square(9, 1e-3, 0.1, 2000).save(path)
    with h5py.File(path, "a") as file:
        del file.attrs["ewald_radius"]
    with pytest.raises(InputError, match="d: ewald_radius must be a number, got None"):
        Detector.load(path)
    with h5py.File(path, "a") as file:
        del file["correction"]
    with pytest.raises(InputError, match="'correction' is missing; the file has mask, q_voxels"):
        Detector.load(path)
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = 9
    with pytest.raises(InputError, match="format_version must be 1, got 9"):
        Detector.load(path)


def test_load_argument_errors(tmp_path):
    path = tmp_path / "d.h5"
    Detector.square(9, 1e-3, 0.1, 2000).save_dragonfly(path)
    with pytest.raises(InputError, match="missing: cannot be read: No such file"):
        Detector.load(tmp_path / "missing")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        Detector.load(tmp_path)
    with pytest.raises(InputError, match="distance is for CrystFEL geometry"):
        Detector.load(path, distance=0.1)
    with pytest.raises(InputError, match="energy_ev must be between 10 and"):
        Detector.load(path, energy_ev=8)
    with pytest.raises(InputError, match=r"d\.h5: mask must have 81 values"):
        Detector.load(path, mask=[0, 1])
    with pytest.raises(InputError, match="distance must be positive"):
        Detector.load(geom(tmp_path, PANEL), distance=0)


def test_failed_writes_leave_nothing_behind(tmp_path):
    det = Detector(**fields(), background=np.zeros(81))
    with pytest.raises(InputError, match=r"cannot write .*no/d"):
        det.save(tmp_path / "no" / "d")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*folder"):
        det.save(tmp_path / "folder")
    with pytest.raises(InputError, match=r"the suffix must be one of \.dat, \.h5, got '\.txt'"):
        det.save_dragonfly(tmp_path / "d.txt")
    with pytest.raises(InputError, match="cannot hold a background"):
        det.save_dragonfly(tmp_path / "d.dat")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
