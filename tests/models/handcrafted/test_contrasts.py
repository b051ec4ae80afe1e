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


def of(*colours):
    return features(Views(bands(*colours)))


@pytest.mark.parametrize("colour", [BLACK, GREY, WHITE, RED, [0.3, 0.4, 0.6]])
def test_a_plain_picture_has_no_contrast(colour):
    found = features(Views(plain(colour)))
    assert [found[name] for name in CONTRASTS] == pytest.approx([0] * 7, abs=1e-9)


def test_light_and_dark():
    assert of(BLACK, WHITE)["light_dark"] == pytest.approx(0.5)
    assert of(BLACK, WHITE, WHITE, WHITE)["light_dark"] == pytest.approx(np.sqrt(3) / 4)
    assert of(BLACK, GREY)["light_dark"] == pytest.approx(0.25)
    assert of(RED, BLUE)["light_dark"] == pytest.approx(0)


def test_black_and_white_have_no_other_contrast():
    found = of(BLACK, WHITE)
    assert [found[name] for name in CONTRASTS[1:]] == pytest.approx([0] * 6, abs=1e-9)


def test_saturation():
    assert of(RED, WHITE)["saturation"] == pytest.approx(0.5)
    assert of(RED, hue(0, saturation=0.5))["saturation"] == pytest.approx(0.25)
    assert of(RED, BLUE)["saturation"] == pytest.approx(0)


def test_hue():
    assert of(RED, GREEN, BLUE)["hue"] == pytest.approx(1)
    assert of(hue(350), hue(30))["hue"] == pytest.approx(1 - np.cos(np.radians(20)), abs=1e-3)
    assert of(RED, WHITE, GREY)["hue"] == pytest.approx(0, abs=1e-9)


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
    assert of(RED, WHITE)["simultaneous"] == pytest.approx(1)
    assert of(RED, GREY)["simultaneous"] == pytest.approx(0.5)
    assert of(RED, BLUE)["simultaneous"] == pytest.approx(0)
    assert of(GREY, WHITE)["simultaneous"] == pytest.approx(0)
    assert of(RED, WHITE, BLACK)["simultaneous"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        ([BLACK, WHITE], {"very_dark": 0.5, "very_light": 0.5, "weak": 1}),
        ([[0.25] * 3], {"dark": 1, "weak": 1}),
        ([[0.375] * 3], {"dark": 0.5, "middle": 0.5, "weak": 1}),
        ([[0.75, 0.375, 0.375]], {"light": 1, "moderate": 1}),
        ([RED, hue(0, saturation=0.25)], {"very_light": 1, "strong": 0.5, "weak": 0.25, "moderate": 0.25}),
    ],
)
def test_classes(colours, expected):
    found = of(*colours)
    classes = {name: value for name, value in found.items() if name not in CONTRASTS}
    assert classes == pytest.approx({name: expected.get(name, 0) for name in classes})


def test_turned_and_mirrored():
    rgb = bands(RED, BLUE, GREY)
    rgb[:50] = YELLOW
    before = features(Views(rgb))
    assert before["simultaneous"] > 0.1
    for moved in (rgb[::-1], rgb[:, ::-1], np.rot90(rgb)):
        assert features(Views(moved)) == pytest.approx(before, abs=0.02)
