"""The one way in which training, test and prediction read a picture: a file's content in, 8-bit RGB out.

| pixels                                | become                                                                      |
|---------------------------------------|-----------------------------------------------------------------------------|
| 8 bits of grey, palette, bilevel      | the same in three channels                                                  |
| 16 bits of grey, 12 in TIFF           | scaled by 255 / 65535 (255 / 4095) and rounded, never clipped               |
| 16 bits a channel of colour           | the upper 8 (Pillow's reading); TIFF's uncompressed planes are an error     |
| 32-bit integers                       | 8-bit levels if none is above 255, else 16-bit ones; above 65535 an error   |
| floating point, 32 bits of grey       | 0 to 1 is black to white; whole numbers up to 255 are levels; else an error |
| transparency (alpha, a palette's too) | laid on white, as browsers do: hidden colours are arbitrary                 |
| CMYK, YCbCr, HSV, LAB                 | Pillow's conversion; embedded colour profiles are not applied               |
| EXIF orientation                      | applied, as viewers do                                                      |
| several frames                        | the first; of HEIC the primary one                                          |
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# TIFF's tags.
_BITS, _PHOTOMETRIC, _PLANES, _SIGN = 258, 262, 284, 339
# Where a PNG file has the bits of a level.
_PNG_DEPTH = 24
_TIFF = (b"II*\0", b"MM\0*")
_UNKNOWN_TIFF = (
    "a TIFF of a kind that Pillow doesn't read, such as floating point with 16 or 64 bits or in colour; save it with 8 "
    "or 16 bits of integers"
)
# Formats that Pillow identifies but that hold no pixels for it (it needs Ghostscript, Windows, or another library).
_NO_RASTER = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
_HEIC = "needs Pillow's plugin: pip install pillow-heif"
_RAW = "a camera's raw file: develop it to JPEG, PNG or TIFF"
# Pictures elsewhere that Pillow alone doesn't read, with what to do.
_FOREIGN = {
    **dict.fromkeys((".heic", ".heif", ".hif"), _HEIC),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"), _RAW),
    **dict.fromkeys((".svg", ".eps", ".ps", ".wmf", ".emf"), "a drawing, not pixels: draw it to PNG"),
    ".jxl": "JPEG XL: convert it to PNG or JPEG",
    ".avif": "Pillow was built without AVIF: pip install -U pillow",
    ".webp": "Pillow was built without WebP: pip install -U pillow",
}


@cache
def extensions() -> frozenset[str]:
    """Lower-case extensions, with the dot, of the raster formats that Pillow opens here; HEIC with pillow-heif."""
    if find_spec("pillow_heif") is not None:
        import pillow_heif

        pillow_heif.register_heif_opener()
    opened = {"MPO", *Image.registered_extensions().values()} & {"MPO", *Image.OPEN} - _NO_RASTER
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in opened)


def is_picture(name: str) -> bool:
    """Whether a file of this name is read as a picture."""
    return PurePosixPath(name).suffix.lower() in extensions()


def obstacle(name: str) -> str | None:
    """Why a file that is a picture elsewhere isn't read here, and what to do; None for all other files."""
    return None if is_picture(name) else _FOREIGN.get(PurePosixPath(name).suffix.lower())


def read_picture(content: bytes) -> Image.Image:
    """The picture that an image file's content holds, as the table above says.

    Args:
        content: the whole file.

    Returns:
        An RGB picture, upright.

    Raises:
        Exception: Pillow raises nearly every type on a broken file, and `to_rgb` ValueError.
    """
    extensions()  # registers what a package adds, in worker processes too
    try:
        opened = Image.open(BytesIO(content))
    except UnidentifiedImageError:  # whose message names an object in memory
        raise UnidentifiedImageError(_UNKNOWN_TIFF if content[:4] in _TIFF else "no known image format") from None
    with opened as image:
        if image.format in ("JPEG", "MPO") and _ends_in_zeros(content):
            raise OSError("image file is truncated (its end is zeros, as of an unfinished download)")
        if image.format == "TIFF" and _planar_16(image):
            raise ValueError(
                "channels one after the other with 16 bits and no compression, which Pillow reads wrongly; save the "
                "picture with its channels interleaved or with 8 bits"
            )
        image.load()
        key = image.info.get("transparency")
        if image.format == "PNG" and image.mode == "L" and isinstance(key, int):
            # Pillow scales levels of 2 and 4 bits to 8, and leaves the one that stands for nothing as it is.
            image.info["transparency"] = key * 255 // (2 ** content[_PNG_DEPTH] - 1)
        return to_rgb(image)


def _ends_in_zeros(content: bytes) -> bool:
    """Whether a JPEG's data go over into zeros, which libjpeg takes for a grey area, before their end."""
    data = content.rstrip(b"\0")
    return len(content) - len(data) > 16 and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


def _planar_16(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS, (1,))
    return tags.get(_PLANES) == 2 and len(bits) > 1 and max(bits) > 8 and image.tile[0].codec_name == "raw"


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded picture of any mode as upright 8-bit RGB.

    Raises:
        ValueError: pixels whose white is unknown: floating point outside 0 to 1 that isn't whole levels up to 255,
            integers above 65535, negative values, NaN.
    """
    kind, tags = image.format, getattr(image, "tag_v2", {})  # of the file; what is made of the picture has none
    if kind == "TIFF" and tags.get(_SIGN, (1,))[0] == 2 and tags.get(_BITS, (0,))[0] == 8:
        raise ValueError("signed integer pixels of 8 bits, whose white is unknown; save the picture with unsigned ones")
    image = _upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _grey(image, kind, tags)
    if image.has_transparency_data:
        key = image.info.get("transparency")
        if isinstance(key, tuple) and max(key) > 255:  # of 16 bits, where the pixels have their upper 8
            image.info["transparency"] = tuple(level >> 8 for level in key)
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # as broken as files come; without EXIF that can be read there is no orientation
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _grey(image: Image.Image, kind: str | None, tags: Mapping[int, Any]) -> Image.Image:
    """Integers of more than 8 bits, or floating point, as 8-bit grey; `tags` are those of a TIFF file."""
    levels = np.asarray(image)
    least, most = levels.min(), levels.max()
    bits = tags.get(_BITS, (0,))[0]
    if image.mode == "F":
        if least >= 0 and most <= 1:
            scaled = levels * 255.0
        elif least >= 0 and most <= 255 and (levels == np.rint(levels)).all():
            scaled = levels
        else:
            raise ValueError(
                f"floating-point pixels from {least:.6g} to {most:.6g}, whose white is unknown: expected 0 to 1, or "
                "whole numbers up to 255; save the picture with 8 or 16 bits"
            )
        grey = np.rint(scaled).astype(np.uint8)
    elif least < 0 or most > 65535 or (image.mode == "I" and bits == 16):
        raise ValueError(
            f"{'signed ' if image.mode == 'I' else ''}integer pixels from {least} to {most}, whose white is unknown: "
            "expected 0 to 65535, unsigned; save the picture with 8 or 16 bits"
        )
    # Some versions of Pillow give 16-bit PNG and PGM files as 32-bit integers; TIFF's are 32 bits in the file.
    elif image.mode == "I" and kind not in ("PNG", "PPM") and most <= 255:
        grey = levels.astype(np.uint8)
    else:
        white = 4095 if bits == 12 else 65535
        grey = ((levels.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # white is 0, which Pillow minds in pictures of 8 bits only
        grey = 255 - grey
    picture = Image.fromarray(grey)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # a level that stands for nothing, in PNG files
        picture.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return picture
