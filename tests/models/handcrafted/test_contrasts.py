"""Itten's contrasts of pictures of a few plain fields, worked by hand."""

import numpy as np
import pytest

from fastmmd.models.handcrafted.contrasts import features
from fastmmd.models.handcrafted.views import Views
from tests.models.handcrafted.pictures import (
    BLACK,
    BLUE,
    CYAN,
    GREEN,
    GREY,
    RED,
    WHITE,
    YELLOW,
    bands,
    hue,
    plain,
)

CONTRASTS = ("light_dark", "saturation", "hue", "complementary", "warm_cold", "extension", "simultaneous")


# L* / 100 of sRGB's primaries, from tables.
LIGHTNESS = {"red": 0.5324, "yellow": 0.9714, "blue": 0.3230, "white": 1.0}


def of(*colours):
    return features(Views(bands(*colours)))


def of_luminance(colour, luminance):
    """A pure colour made darker: its channels that are not 0 get the same value of sRGB."""
    linear = luminance / (np.array([0.2126, 0.7152, 0.0722]) @ colour)
    return (1.055 * linear ** (1 / 2.4) - 0.055) * np.array(colour)


def grey_of(lightness):
    """CIE's formula for L* / 100 above 0.08, solved for the luminance."""
    return of_luminance(WHITE, ((100 * lightness + 16) / 116) ** 3)


@pytest.mark.parametrize("colour", [BLACK, GREY, WHITE, RED, [0.3, 0.4, 0.6]])
def test_a_plain_picture_has_no_contrast(colour):
    values = features(Views(plain(colour)))
    assert [values[name] for name in CONTRASTS] == pytest.approx([0] * 7, abs=1e-9)


def test_light_and_dark():
    assert of(BLACK, WHITE)["light_dark"] == pytest.approx(0.5)
    assert of(BLACK, WHITE, WHITE, WHITE)["light_dark"] == pytest.approx(np.sqrt(3) / 4)
    assert of(BLACK, grey_of(0.5))["light_dark"] == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize(
    ("light", "dark"), [("yellow", "blue"), ("white", "blue"), ("white", "yellow"), ("red", "blue")]
)
def test_light_and_dark_colours(light, dark):
    pure = {"red": RED, "yellow": YELLOW, "blue": BLUE, "white": WHITE}
    half = (LIGHTNESS[light] - LIGHTNESS[dark]) / 2
    assert of(pure[light], pure[dark])["light_dark"] == pytest.approx(half, abs=1e-3)


def test_colours_of_one_lightness_are_not_light_and_dark():
    colours = [of_luminance(colour, 0.07) for colour in (RED, GREEN, BLUE, WHITE)]
    assert np.ptp(np.max(colours, axis=1)) > 0.5
    assert of(*colours)["light_dark"] == pytest.approx(0, abs=1e-3)


def test_black_and_white_have_no_other_contrast():
    values = of(BLACK, WHITE)
    assert [values[name] for name in CONTRASTS[1:]] == pytest.approx([0] * 6, abs=1e-9)


def test_saturation():
    assert of(RED, WHITE)["saturation"] == pytest.approx(0.5)
    assert of(RED, hue(0, saturation=0.5))["saturation"] == pytest.approx(0.25)
    assert of(RED, BLUE)["saturation"] == pytest.approx(0)
    assert of(np.array([2, 0, 0]) / 255, WHITE)["saturation"] == 0


def test_hue():
    assert of(RED, GREEN, BLUE)["hue"] == pytest.approx(1)
    assert of(hue(350), hue(30))["hue"] == pytest.approx(1 - np.cos(np.radians(20)), abs=1e-3)
    assert of(RED, WHITE, GREY)["hue"] == pytest.approx(0, abs=1e-9)
    assert of(RED, CYAN, GREY, BLACK)["hue"] == pytest.approx(0.5)


def test_two_specks_are_little_contrast_of_hue():
    rgb = plain(GREY)
    assert features(Views(rgb))["hue"] == 0
    rgb[30:42, 30:42], rgb[80:92, 80:92] = RED, CYAN
    assert features(Views(rgb))["hue"] == pytest.approx(2 * 12**2 / 120**2, abs=0.004)


def test_complementary():
    assert of(RED, CYAN)["complementary"] == pytest.approx(1)
    assert of(YELLOW, BLUE)["complementary"] == pytest.approx(1)
    assert of(RED, GREEN)["complementary"] == pytest.approx(0.5)
    assert of(RED, YELLOW)["complementary"] == pytest.approx(0)
    assert of(RED, CYAN, GREY, BLACK)["complementary"] == pytest.approx(0.25)


def test_warm_and_cold():
    assert of(hue(15), hue(195))["warm_cold"] == pytest.approx(1)
    assert of(hue(350), hue(40))["warm_cold"] == pytest.approx(0, abs=1e-9)
    assert of(hue(15), GREY)["warm_cold"] == pytest.approx(0.5)


def test_extension():
    assert of(RED, BLUE)["extension"] == pytest.approx(0)
    assert of(RED, BLUE, BLUE, BLUE)["extension"] == pytest.approx(0.5)


def test_simultaneous():
    for colour in (RED, GREEN, BLUE):
        assert of(colour, of_luminance(WHITE, [0.2126, 0.7152, 0.0722] @ colour))["simultaneous"] == pytest.approx(
            1, abs=1e-3
        )
    assert of(BLUE, WHITE)["simultaneous"] == pytest.approx(LIGHTNESS["blue"], abs=1e-3)
    assert of(RED, WHITE)["simultaneous"] == pytest.approx(LIGHTNESS["red"], abs=1e-3)
    assert of(RED, BLUE)["simultaneous"] == pytest.approx(0)
    assert of(GREY, WHITE)["simultaneous"] == pytest.approx(0)
    assert of(RED, WHITE, BLACK)["simultaneous"] == pytest.approx(LIGHTNESS["red"] / 2, abs=1e-3)


@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        ([BLACK, WHITE], {"very_dark": 0.5, "very_light": 0.5, "weak": 1}),
        ([grey_of(0.25)], {"dark": 1, "weak": 1}),
        ([grey_of(0.375)], {"dark": 0.5, "middle": 0.5, "weak": 1}),
        ([grey_of(0.75)], {"light": 1, "weak": 1}),
        # 0.323 is 0.292 of the way from dark to middle, 0.9714 0.8856 of that from light to very light.
        ([BLUE], {"dark": 0.708, "middle": 0.292, "strong": 1}),
        ([YELLOW], {"very_light": 0.8856, "light": 0.1144, "strong": 1}),
        ([of_luminance(RED, 0.0442), grey_of(0.25)], {"dark": 1, "strong": 0.5, "weak": 0.5}),
    ],
)
def test_classes(colours, expected):
    values = of(*colours)
    classes = {name: value for name, value in values.items() if name not in CONTRASTS}
    assert classes == pytest.approx({name: expected.get(name, 0) for name in classes}, abs=2e-3)


def test_classes_of_saturation():
    values = of(RED, hue(0, saturation=0.25))
    assert [values[name] for name in ("weak", "moderate", "strong")] == pytest.approx([0.25, 0.25, 0.5])
    assert of(np.array([2, 0, 0]) / 255)["weak"] == 1


def test_turned_and_mirrored():
    rgb = bands(RED, BLUE, GREY)
    rgb[:50] = YELLOW
    before = features(Views(rgb))
    assert before["simultaneous"] > 0.1
    for moved in (rgb[::-1], rgb[:, ::-1], np.rot90(rgb)):
        assert features(Views(moved)) == pytest.approx(before, abs=0.02)
