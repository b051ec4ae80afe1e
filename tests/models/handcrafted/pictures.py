"""Pictures whose features are known: arrays [h, w, 3] in 0..1."""

import numpy as np
from matplotlib.colors import hsv_to_rgb

RED, YELLOW, GREEN, CYAN, BLUE, MAGENTA = np.array([[1.0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]])
BLACK, GREY, WHITE = np.full((3, 3), [[0.0], [0.5], [1]])


def hue(degrees, saturation=1.0, value=1.0):
    return hsv_to_rgb(np.array([degrees / 360 % 1, saturation, value]))


def plain(colour, height=120, width=120):
    return np.tile(colour, (height, width, 1)).astype(float)


def bands(*colours, height=120, width=120):
    """Upright bands of the same width."""
    return np.repeat(np.array(colours, dtype=float)[None], height, axis=0).repeat(width // len(colours), axis=1)


def checkerboard(side, first=BLACK, second=WHITE, size=128):
    rows, columns = np.indices((size, size)) // side
    return np.where((rows + columns)[..., None] % 2 == 0, first, second)


def stripes(degrees, period=32, size=200):
    """Black and white; 0 degrees are level, 90 upright."""
    rows, columns = np.indices((size, size))
    turn = np.radians(degrees)
    across = columns * np.sin(turn) - rows * np.cos(turn)
    return plain(WHITE, size, size) * (np.floor(across * 2 / period) % 2)[..., None]


def noise(size=128, seed=0):
    """Every pixel grey, by chance."""
    return np.random.default_rng(seed).random((size, size, 1)).repeat(3, axis=2)
