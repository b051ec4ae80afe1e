"""Tamura's features, wavelet energies and co-occurrence matrices of patterns worked by hand."""

import numpy as np
import pytest
from skimage.feature import graycomatrix, graycoprops

from fastmmd.models.handcrafted.texture import cooccurrence, features, tamura, wavelets
from fastmmd.models.handcrafted.views import Views
from tests.models.handcrafted.pictures import (
    BLACK,
    CYAN,
    GREY,
    RED,
    WHITE,
    bands,
    checkerboard,
    hue,
    noise,
    plain,
    stripes,
)

CHANNELS = ("hue", "saturation", "brightness")
PROPERTIES = ("contrast", "correlation", "energy", "homogeneity")


def grey(plane):
    return Views(np.asarray(plane, dtype=float)[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("colour", [BLACK, GREY, WHITE, RED, [0.3, 0.4, 0.6]])
def test_plain(colour):
    values = features(Views(plain(colour)))
    assert [values[name] for name in ("coarseness", "contrast", "directionality")] == [32, 0, 0]
    assert max(value for name, value in values.items() if "wavelet" in name) < 1e-20
    for channel in CHANNELS:
        assert [values[f"glcm_{channel}_{name}"] for name in PROPERTIES] == pytest.approx([0, 1, 1, 1])


@pytest.mark.parametrize("width", [2, 4, 8, 16])
def test_coarseness_is_the_width_of_stripes(width):
    """The first stripe is half as wide, so that the stripes go on as they are when mirrored at the border."""
    columns = (np.arange(192) + width // 2) // width % 2
    for plane in (np.tile(columns, (64, 1)), np.tile(columns, (64, 1)).T):
        assert tamura(grey(plane))["coarseness"] == pytest.approx(width, rel=0.03)


def test_coarseness_rises_with_the_pattern():
    assert tamura(Views(checkerboard(1)))["coarseness"] == pytest.approx(1, abs=0.05)
    coarseness = [tamura(Views(picture))["coarseness"] for picture in (noise(), *map(checkerboard, (4, 8, 16, 32)))]
    assert coarseness == sorted(coarseness)
    assert coarseness[-1] > 3 * coarseness[0]


def test_contrast():
    """Black and white halves: standard deviation 0.5, kurtosis 1. A quarter white: 3/16 over (21/256) ** 0.25."""
    assert tamura(Views(bands(BLACK, WHITE)))["contrast"] == pytest.approx(0.5)
    assert tamura(Views(bands(BLACK, BLACK, BLACK, WHITE)))["contrast"] == pytest.approx(0.1875 / (21 / 256) ** 0.25)


def test_contrast_scales_with_the_range_and_not_with_the_mean():
    whole, half, raised = (tamura(Views(rgb))["contrast"] for rgb in (noise(), noise() / 2, noise() / 2 + 0.3))
    assert [half, raised] == pytest.approx([whole / 2] * 2)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 135])
def test_stripes_have_a_direction(degrees):
    assert tamura(Views(stripes(degrees)))["directionality"] > 0.9


def test_directionality():
    rows, columns = np.indices((200, 200)) - 99.5
    rings = grey(np.sin(np.hypot(rows, columns) / 4) / 2 + 0.5)
    assert tamura(Views(noise()))["directionality"] < 0.1
    assert tamura(rings)["directionality"] < 0.1
    assert tamura(Views(checkerboard(16)))["directionality"] > 0.9


def test_directionality_falls_with_noise():
    mixtures = [(1 - part) * stripes(90, 8, 128) + part * noise() for part in (0, 0.4, 0.6, 0.8)]
    values = [tamura(Views(mixture))["directionality"] for mixture in mixtures]
    assert values == sorted(values, reverse=True)
    assert values[0] > 3 * values[-1]


def test_directionality_of_two_peaks():
    """40 % of the waves are upright, 40 % level, 10 % two bins from either: 1 - 2 peaks * 0.2 * 2 ** 2 / 21.5."""

    def waves(degrees, rows):
        down, across = np.indices((rows, 400))
        turn = np.radians(degrees)
        return np.sin((across * np.cos(turn) + down * np.sin(turn)) / 3) / 2 + 0.5

    panels = [waves(0, 800), waves(90, 800), waves(22.5, 200), waves(112.5, 200)]
    assert tamura(grey(np.concatenate(panels)))["directionality"] == pytest.approx(1 - 2 * 0.2 * 4 / 21.5, abs=0.015)


def test_tamura_turned():
    rgb = stripes(30, period=20)[:150]
    rgb[40:80, 30:90] = 0.7
    before = tamura(Views(rgb))
    for moved in (np.rot90(rgb), rgb[::-1], rgb[:, ::-1]):
        assert tamura(Views(moved)) == pytest.approx(before, rel=0.03)


def test_the_finest_checkerboard_is_in_the_finest_wavelets():
    """A checkerboard of 0 and 1: the diagonal details are +-1, the other two bands 0."""
    values = wavelets(Views(checkerboard(1)))
    assert values["wavelet_brightness_1"] == pytest.approx(1 / 3, rel=0.05)
    assert values["wavelet_brightness_2"] + values["wavelet_brightness_3"] < 0.05
    assert values["wavelet_hue"] == values["wavelet_saturation"] == 0


def test_wavelets_of_hue_and_saturation():
    """Red and cyan are 2 apart in the plane of hues, so four times the energy; red and white 1 in saturation."""
    values = wavelets(Views(checkerboard(1, RED, CYAN)))
    assert values["wavelet_hue_1"] == pytest.approx(4 / 3, rel=0.05)
    assert values["wavelet_saturation"] + values["wavelet_brightness"] < 1e-20
    assert wavelets(Views(checkerboard(1, RED, WHITE)))["wavelet_saturation_1"] == pytest.approx(1 / 3, rel=0.05)


def test_noise_in_the_dark_is_no_texture_of_saturation():
    values = features(Views(np.random.default_rng(0).integers(0, 3, (64, 64, 3)) / 255))
    assert [values[f"glcm_saturation_{name}"] for name in PROPERTIES] == [0, 1, 1, 1]
    assert values["wavelet_saturation"] == 0


def test_coarser_checkerboards_are_in_coarser_wavelets():
    levels = [f"wavelet_brightness_{k}" for k in (1, 2, 3)]
    strongest = [max(levels, key=wavelets(Views(checkerboard(side))).get) for side in (1, 3, 6)]
    assert strongest == levels


def test_wavelets_sum_and_scale():
    whole, half = wavelets(Views(noise())), wavelets(Views(noise() / 2))
    assert whole["wavelet_brightness"] == pytest.approx(sum(whole[f"wavelet_brightness_{k}"] for k in (1, 2, 3)))
    assert half["wavelet_brightness"] == pytest.approx(whole["wavelet_brightness"] / 4)


def test_wavelets_see_no_jump_at_red():
    values = wavelets(Views(checkerboard(1, hue(358), hue(2))))
    assert values["wavelet_hue"] < 0.01
    assert values["wavelet_hue"] == pytest.approx(wavelets(Views(checkerboard(1, hue(178), hue(182))))["wavelet_hue"])


def test_wavelets_do_not_change_with_the_axes():
    rgb = np.random.default_rng(0).random((64, 48, 3))
    assert wavelets(Views(rgb.transpose(1, 0, 2))) == pytest.approx(wavelets(Views(rgb)))
    # The channels in another order: every hue 120 degrees further.
    turned = wavelets(Views(rgb[..., [2, 0, 1]]))
    assert turned["wavelet_hue"] == pytest.approx(wavelets(Views(rgb))["wavelet_hue"])


def of_two_by_two(first, second):
    values = cooccurrence(Views(checkerboard(1, first, second, size=2)))
    return {channel: [values[f"glcm_{channel}_{name}"] for name in PROPERTIES] for channel in CHANNELS}


def test_cooccurrence_by_hand():
    """Beside and below each pixel is the other, levels 15 apart; on the diagonals it is the same."""
    assert of_two_by_two(BLACK, WHITE)["brightness"] == pytest.approx([225 / 2, 0, 0.5, (1 + 1 / 226) / 2])
    assert of_two_by_two(RED, WHITE)["saturation"] == pytest.approx([225 / 2, 0, 0.5, (1 + 1 / 226) / 2])


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        (RED, CYAN, 16 / np.pi),
        (RED, WHITE, 8 / np.pi),
        (hue(337.5), RED, 16 / np.pi * np.sin(np.pi / 16)),
        (hue(337.5), hue(22.5), 16 / np.pi * np.sin(np.pi / 8)),
    ],
)
def test_cooccurrence_of_hues_on_a_circle_of_16(first, second, apart):
    expected = [apart**2 / 2, 0, 0.5, (1 + 1 / (1 + apart**2)) / 2]
    assert of_two_by_two(first, second)["hue"] == pytest.approx(expected)


def test_cooccurrence_does_not_change_when_all_hues_turn():
    degrees = 22.5 * np.random.default_rng(0).integers(-1, 2, (20, 30)).cumsum(axis=1)
    before, after = (
        cooccurrence(Views(np.array([[hue(angle + turn) for angle in row] for row in degrees]))) for turn in (0, 90)
    )
    assert 0.1 < before["glcm_hue_correlation"] < 0.99
    assert after == pytest.approx(before)


def test_hues_on_both_sides_of_red_are_one_level():
    assert of_two_by_two(hue(355), hue(5))["hue"] == pytest.approx([0, 1, 1, 1])


def test_cooccurrence_against_skimage():
    rgb = np.random.default_rng(0).random((20, 30, 3)).cumsum(axis=1) % 1
    levels = (rgb.max(axis=2) * 16).astype(np.uint8)
    matrix = graycomatrix(levels, [1], np.arange(4) * np.pi / 4, 16, symmetric=True, normed=True)
    matrix = matrix.mean(axis=3, keepdims=True)
    values = cooccurrence(Views(rgb))
    for name in PROPERTIES:
        assert values[f"glcm_brightness_{name}"] == pytest.approx(graycoprops(matrix, name).item())


def test_cooccurrence_turned_and_mirrored():
    rgb = np.random.default_rng(0).random((20, 30, 3)).cumsum(axis=1) % 1
    before = cooccurrence(Views(rgb))
    for moved in (np.rot90(rgb), rgb[::-1], rgb[:, ::-1]):
        assert cooccurrence(Views(moved)) == pytest.approx(before)
