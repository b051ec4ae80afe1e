"""Means of hue, saturation and brightness, colour names and the distance to all colours, of pictures worked by hand."""

import numpy as np
import pytest
from scipy.stats import circmean, circvar
from skimage.color import rgb2luv

from fastmmd.models.handcrafted.colour import COLOURS, distance_to_uniform, features
from fastmmd.models.handcrafted.views import Views
from tests.models.handcrafted.pictures import (
    BLACK,
    BLUE,
    CYAN,
    GREEN,
    GREY,
    MAGENTA,
    RED,
    WHITE,
    YELLOW,
    bands,
    hue,
    plain,
)


def of(rgb):
    return features(Views(rgb))


def test_plain_red():
    values = of(plain(RED))
    assert [values[name] for name in ("saturation", "brightness", "coloured", "warm", "cold", "red")] == [
        1,
        1,
        1,
        1,
        0,
        1,
    ]
    for kind in ("hue", "weighted_hue"):
        assert [values[f"{kind}_{part}"] for part in ("cos", "sin", "length")] == pytest.approx([1, 0, 1])


@pytest.mark.parametrize("grey", [BLACK, GREY, WHITE])
def test_greys_have_no_hue(grey):
    values = of(plain(grey))
    hues = [f"{kind}_{part}" for kind in ("hue", "weighted_hue") for part in ("cos", "sin", "length")]
    assert not any(values[name] for name in ["saturation", "coloured", "warm", "cold", *hues])
    assert values["brightness"] == grey[0]


def test_almost_grey_has_no_hue():
    assert of(plain([0.5, 0.5, 0.54]))["coloured"] == 0
    assert of(plain([0.5, 0.5, 0.56]))["coloured"] == 1


def test_what_is_nearly_black_is_not_saturated():
    """HSV has it that (2, 0, 0) of 255 is as saturated as red."""
    values = of(plain(np.array([2, 0, 0]) / 255))
    assert (values["saturation"], values["hue_length"]) == (0, 0)
    brightness = 2 / 255
    assert values["brightness"] == pytest.approx(brightness)
    weights = {"pleasure": 0.69, "arousal": -0.31, "dominance": -0.76}
    assert {name: values[name] for name in weights} == pytest.approx(
        {name: weight * brightness for name, weight in weights.items()}
    )


def test_greys_do_not_count_for_the_mean_hue():
    values = of(bands(BLUE, GREY, BLACK, WHITE))
    assert values["coloured"] == 0.25
    assert values["hue_length"] == pytest.approx(1)
    assert [values["hue_cos"], values["hue_sin"]] == pytest.approx([-0.5, -np.sqrt(0.75)])


def test_pleasure_arousal_and_dominance():
    """Half pink of saturation 0.5 and brightness 1, half black: the means are 0.25 and 0.5."""
    values = of(bands([1, 0.5, 0.5], BLACK))
    assert [values["saturation"], values["brightness"]] == pytest.approx([0.25, 0.5])
    assert [values[name] for name in ("pleasure", "arousal", "dominance")] == pytest.approx([0.4, -0.005, -0.3])


def test_less_light():
    rgb = np.random.default_rng(0).uniform(0.2, 1, (40, 50, 3))
    rgb[..., 0] = 0.05  # so that every pixel has a hue, halved too
    bright, dark = of(rgb), of(rgb / 2)
    assert dark["brightness"] == pytest.approx(bright["brightness"] / 2)
    assert dark["saturation"] == pytest.approx(bright["saturation"])


def test_mean_hue_around_red():
    values = of(bands(hue(350), hue(10)))
    assert np.arctan2(values["hue_sin"], values["hue_cos"]) == pytest.approx(0, abs=1e-9)
    assert values["hue_length"] == pytest.approx(np.cos(np.radians(10)))


def test_opposite_hues_cancel():
    values = of(bands(RED, CYAN))
    assert [values[name] for name in ("hue_cos", "hue_sin", "hue_length")] == pytest.approx([0, 0, 0], abs=1e-12)


def test_hues_weighted_with_saturation():
    """Red of saturation 1, cyan of 0.5: (1 - 0.5) / 1.5."""
    values = of(bands(RED, hue(180, saturation=0.5)))
    assert [values["hue_cos"], values["weighted_hue_cos"]] == pytest.approx([0, 1 / 3], abs=1e-12)
    assert values["weighted_hue_length"] == pytest.approx(1 / 3)


def test_hue_against_scipy():
    degrees = np.random.default_rng(0).normal(300, 60, 50)
    values = of(np.array([[hue(angle) for angle in degrees]]))
    angle = np.arctan2(values["hue_sin"], values["hue_cos"]) % (2 * np.pi)
    assert angle == pytest.approx(circmean(np.radians(degrees)))
    assert 1 - values["hue_length"] == pytest.approx(circvar(np.radians(degrees)))


def test_warm_and_cold():
    for colour in (RED, YELLOW, MAGENTA, hue(300)):
        assert (of(plain(colour))["warm"], of(plain(colour))["cold"]) == (1, 0)
    for colour in (GREEN, CYAN, BLUE, hue(270)):
        assert (of(plain(colour))["warm"], of(plain(colour))["cold"]) == (0, 1)
    values = of(bands(RED, BLUE, YELLOW, GREY))
    assert (values["warm"], values["cold"]) == (0.5, 0.25)


def test_distance_to_uniform_of_all_colours_is_zero():
    steps = np.linspace(0.125, 0.875, 4)
    rgb = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(8, 8, 3)
    assert distance_to_uniform(rgb) == pytest.approx(0, abs=1e-6)


def test_distance_to_uniform_of_one_colour_is_the_mean_distance():
    steps = np.linspace(0.125, 0.875, 4)
    centres = rgb2luv(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(64, 3))
    black = rgb2luv(np.full(3, 0.125))
    assert distance_to_uniform(plain(BLACK, 5, 7)) == pytest.approx(np.linalg.norm(centres - black, axis=1).mean())


def test_distance_to_uniform_falls_with_the_number_of_colours():
    pictures = [plain(RED), bands(RED, BLUE), bands(RED, BLUE, GREEN, GREY)]
    one, two, four = map(distance_to_uniform, pictures)
    assert one > two > four


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        *zip(("red", "yellow", "green", "blue"), (RED, YELLOW, GREEN, BLUE), strict=True),
        *zip(("black", "grey", "white"), (BLACK, GREY, WHITE), strict=True),
        ("orange", [1, 0.55, 0]),
        ("brown", [0.45, 0.25, 0.1]),
        ("pink", [1, 0.75, 0.8]),
        ("purple", [0.5, 0, 0.5]),
        ("blue", [0.53, 0.81, 0.92]),
        ("blue", [0, 0, 0.4]),
        ("green", [0.1, 0.3, 0.1]),
        ("grey", [0.25, 0.25, 0.25]),
        ("grey", [0.85, 0.85, 0.85]),
        ("white", [0.97, 0.97, 0.97]),
    ],
)
def test_names_of_colours(name, colour):
    values = of(plain(colour))
    assert {other: values[other] for other in COLOURS} == {other: float(other == name) for other in COLOURS}


def test_shares_of_names():
    values = of(bands(RED, WHITE, RED, BLUE))
    assert [values[name] for name in ("red", "white", "blue", "green")] == [0.5, 0.25, 0.25, 0]


def test_no_matter_where_the_colours_are():
    rgb = np.random.default_rng(0).random((30, 40, 3))
    before = of(rgb)
    for moved in (rgb[::-1], rgb[:, ::-1], np.rot90(rgb), np.random.default_rng(1).permutation(rgb)):
        assert of(moved) == pytest.approx(before)
