"""Detail, low depth of field, lines, the inner third, and skin, of pictures worked by hand."""

import numpy as np
import pytest
from matplotlib.colors import hsv_to_rgb
from scipy.ndimage import gaussian_filter

from fastmmd.models.data.paintings import painting
from fastmmd.models.handcrafted import content
from fastmmd.models.handcrafted.composition import features, lines
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
    noise,
    plain,
    stripes,
)


def test_detail_counts_squares_and_what_is_behind():
    rgb = plain(GREY, 200, 200)
    assert features(Views(rgb))["detail"] == 1
    for count, colour in enumerate((RED, YELLOW, BLACK, CYAN), 1):
        row, column = divmod(count - 1, 2)
        rgb[100 * row + 30 : 100 * row + 70, 100 * column + 30 : 100 * column + 70] = colour
        assert features(Views(rgb))["detail"] == count + 1


def test_detail_counts_bands():
    assert features(Views(bands(RED, GREEN, BLUE, WHITE, BLACK)))["detail"] == 5


def rough(channel):
    """Noise in hue, saturation or brightness alone; the others are plain."""
    hsv = plain([0.5, 0.5, 0.5], 128, 128)
    hsv[..., ("hue", "saturation", "brightness").index(channel)] = 0.2 + 0.6 * noise()[..., 0]
    return hsv_to_rgb(hsv)


@pytest.mark.parametrize("channel", ["hue", "saturation", "brightness"])
def test_low_depth_of_field(channel):
    centre = (slice(36, 92), slice(36, 92))
    everywhere = rough(channel)
    sharp_centre, sharp_rest = plain(everywhere.mean(axis=(0, 1)), 128, 128), everywhere.copy()
    sharp_centre[centre] = everywhere[centre]
    sharp_rest[28:100, 28:100] = everywhere.mean(axis=(0, 1))
    even, inside, outside = (
        features(Views(rgb))[f"low_depth_{channel}"] for rgb in (everywhere, sharp_centre, sharp_rest)
    )
    assert [even, inside, outside] == pytest.approx([0.25, 1, 0], abs=0.03)


@pytest.mark.parametrize("channel", ["hue", "saturation", "brightness"])
def test_low_depth_of_a_plain_picture_is_the_share_of_the_area(channel):
    assert features(Views(plain([0.3, 0.4, 0.6])))[f"low_depth_{channel}"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("degrees", "slant"), [(0, 0), (90, 0), (45, 1), (135, 1), (8, 0), (82, 0), (98, 0), (25, 1), (65, 1), (115, 1)]
)
def test_lines_of_stripes(degrees, slant):
    values = lines(Views(stripes(degrees, period=64)).grey)
    assert (values["slant_share"], values["slant_length_share"]) == (slant, slant)
    names = ("static", "slant")
    assert values[f"{names[slant]}_lines"] >= 4
    assert values[f"{names[slant]}_length"] > 0.25
    assert values[f"{names[1 - slant]}_lines"] == values[f"{names[1 - slant]}_length"] == 0


def smooth_edge(distance):
    """Black and white on the two sides of a line, grey on it, so that the edge is one pixel wide."""
    return np.clip(distance / 2 + 0.5, 0, 1)


def test_one_line_has_the_length_of_the_edge():
    rows, columns = np.indices((200, 200))
    for distance in (columns - 100, rows - 80):
        values = lines(smooth_edge(distance))
        assert (values["static_lines"], values["slant_lines"]) == (1, 0)
        assert values["static_length"] == pytest.approx(1, abs=0.03)
    values = lines(smooth_edge(rows - columns))
    assert (values["static_lines"], values["slant_lines"]) == (0, 1)
    assert values["slant_length"] == pytest.approx(np.sqrt(2), abs=0.03)


def test_shares_of_static_and_slant_lines():
    """An upright edge of 200 pixels, and one of 170 * sqrt 2 on the diagonal, right of it."""
    rows, columns = np.indices((200, 200))
    values = lines(smooth_edge(np.minimum(columns - 20, 230 - rows - columns)))
    assert (values["static_lines"], values["slant_lines"], values["slant_share"]) == (1, 1, 0.5)
    assert values["slant_length_share"] == pytest.approx(170 * np.sqrt(2) / (200 + 170 * np.sqrt(2)), abs=0.02)


def test_the_same_lines_each_time():
    grey = gaussian_filter(noise(200)[..., 0], 3) * 8 % 1
    values = lines(grey)
    assert values["static_lines"] + values["slant_lines"] > 5
    assert all(lines(grey) == values for _ in range(3))


@pytest.mark.parametrize("levels", [4, 15, 60, 255])
def test_a_faint_edge_is_a_line(levels):
    """4 of 255 grey levels, or all."""
    grey = smooth_edge(np.indices((150, 200))[1] - 100) * levels / 255
    for edge in (grey, 1 - grey):
        values = lines(edge)
        assert (values["static_lines"], values["slant_lines"]) == (1, 0)
        assert values["static_length"] == pytest.approx(150 / 200, abs=0.03)


@pytest.mark.parametrize("contrast", [0.5, 0.15])
def test_the_same_lines_with_less_contrast(contrast):
    grey = Views.of(painting(0, 0, size=128)).grey
    grey = (grey - grey.min()) / np.ptp(grey)
    assert lines(grey)["slant_lines"] > 5
    assert lines(0.3 + contrast * grey) == pytest.approx(lines(grey), rel=0.1)


def test_an_edge_is_fainter_in_a_picture_of_more_contrast():
    grey = (np.indices((150, 200))[1] >= 100) * 15 / 255
    grey[:, :30] = 1
    assert lines(grey)["static_lines"] == 1


def test_no_lines():
    assert set(lines(np.full((50, 60), 0.3)).values()) == {0}


@pytest.mark.parametrize("levels", [1, 2, 4, 15, 60, 255])
def test_ramps_of_8_bits_have_no_lines(levels):
    rows, columns = np.indices((150, 200))
    for ramp in (columns / 199, rows / 149, (rows + columns) / 348, np.hypot(rows - 75, columns - 100) / 125):
        assert set(lines(np.round(ramp * levels) / 255).values()) == {0}


def test_a_short_ramp_is_an_edge():
    ramp = np.tile(np.linspace(0, 1, 60), (200, 1))
    assert set(lines(ramp).values()) == {0}
    assert lines(ramp[:, :24])["static_lines"] > 0


def test_nothing_dark_is_saturated_at_the_centre():
    rgb = np.random.default_rng(0).integers(0, 3, (90, 120, 3)) / 255
    values = features(Views(rgb))
    assert values["thirds_saturation"] == 0
    assert values["low_depth_saturation"] == pytest.approx(0.25)


def test_inner_third():
    rgb = plain(hue(240, 0.5, 0.5), 90, 120)
    rgb[30:60, 40:80] = hue(90, 0.8, 0.6)
    values = features(Views(rgb))
    names = ("hue_cos", "hue_sin", "saturation", "brightness")
    assert [values[f"thirds_{name}"] for name in names] == pytest.approx([0, 1, 0.8, 0.6])


def test_inner_third_around_red():
    values = features(Views(bands(hue(350), hue(10))))
    assert [values["thirds_hue_cos"], values["thirds_hue_sin"]] == pytest.approx([np.cos(np.radians(10)), 0], abs=1e-9)


@pytest.mark.parametrize(
    ("colour", "skin"),
    [
        ([224, 172, 105], 1),
        ([255, 219, 172], 1),
        ([141, 85, 36], 1),
        ([204, 140, 26], 0),  # Cb is too small
        ([220, 150, 200], 0),  # Cb is too large
        ([140, 150, 80], 0),  # Cr is too small
        ([255, 60, 90], 0),  # Cr is too large
        ([0, 0, 255], 0),
        ([60, 160, 60], 0),
        ([128, 128, 128], 0),
        ([255, 255, 255], 0),
    ],
)
def test_skin(colour, skin):
    rgb = np.array(colour) / 255
    assert content.features(Views(plain(rgb)))["skin"] == skin
    assert content.features(Views(bands(rgb, BLUE)))["skin"] == skin / 2
