"""Pictures of every kind whose right pixels are known: what training, test and prediction see of them."""

import io
import struct
import warnings
import zlib

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps, features

from fastmmd.models.data.pictures import extensions, is_picture, obstacle, read_picture

# 16-bit levels, of all bytes; as grey, the nearest of 256 levels.
LEVELS = np.array([[0, 1, 128, 129], [257, 385, 386, 32768], [65278, 65407, 65534, 65535]], dtype=np.uint16)
COLOURS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 255], [0, 0, 0], [200, 100, 50]]], dtype=np.uint8
)
# Colours that lossy formats keep nearly, in squares of 16 pixels.
SQUARES = COLOURS.repeat(16, axis=0).repeat(16, axis=1)


def png(pixels, colour, depth=8, *chunks):
    """A PNG file; pixels [h, w(, channels)] of unsigned integers."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    if depth < 8:
        bits = (pixels[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        lines = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        lines = pixels.reshape(height, -1).astype(f">u{depth // 8}").view(np.uint8)
    raw = b"".join(b"\0" + bytes(line) for line in lines)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(kind, content) for kind, content in chunks)]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")])


def tiff(pixels, photometric, bits, order="<", extra=(), **tags):
    """An uncompressed TIFF file of one strip; pixels are bytes, or an array that is written in this byte order."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    data = tags.pop("data", None) or pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    entries = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, [bits] * channels),
        259: (3, [1]),
        262: (3, [photometric]),
        273: (4, [0]),
        277: (3, [channels]),
        278: (3, [height]),
        279: (4, [len(data)]),
        **({338: (3, list(extra))} if extra else {}),
        **{int(tag[1:]): (3, [value]) for tag, value in tags.items()},
    }
    start = 8 + 2 + 12 * len(entries) + 4
    directory, behind = b"", b""
    for tag, (kind, values) in sorted(entries.items()):
        if tag == 273:
            values = [start + sum(2 * len(v) for k, v in entries.values() if k == 3 and len(v) > 2)]
        content = b"".join(struct.pack(order + {3: "H", 4: "I"}[kind], value) for value in values)
        if len(content) > 4:
            content, behind = struct.pack(order + "I", start + len(behind)), behind + content
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + struct.pack(order + "H", len(entries)) + directory + b"\0" * 4 + behind + data


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def image_of(pixels, mode=None):
    image = Image.fromarray(pixels)
    return image if mode is None else image.convert(mode)


def grey(levels):
    return np.repeat(np.asarray(levels, dtype=np.uint8)[..., None], 3, axis=2)


def scaled(levels, most=65535):
    return grey(np.rint(levels.astype(np.float64) * 255 / most))


def on_white(pixels, alpha):
    """Colours [..., 3] and transparency [...], both from 0 to 255."""
    share = np.asarray(alpha)[..., None] / 255
    return np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)


ALPHA = np.array([[255, 0, 128], [1, 254, 64]], dtype=np.uint8)
HIGH = COLOURS.astype(np.uint16) * 256 + 77  # the upper byte of 16 bits is what counts
GREYS = np.array([[0, 100, 255], [7, 200, 31]], dtype=np.uint8)
INDICES = np.array([[0, 1, 2], [3, 4, 5]], dtype=np.uint8)
PALETTE = (b"PLTE", COLOURS.tobytes())
CMYK = np.array([[[0, 255, 255, 0], [255, 0, 255, 0], [255, 255, 0, 0]], [[0] * 4, [0, 0, 0, 255], [0, 128, 191, 55]]])
MUTED = np.array([[[200, 100, 50], [90, 160, 120], [60, 70, 150]], [[255, 255, 255], [0, 0, 0], [128, 128, 128]]])


def lab(pixels):
    """CIE L*a*b* of 8 bits (a and b signed, in two's complement), with the white D50, of sRGB colours."""
    share = pixels / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.43607, 0.38506, 0.14308], [0.22250, 0.71688, 0.06062], [0.01393, 0.09710, 0.71417]])
    xyz = linear @ matrix.T / matrix.sum(axis=1)
    x, y, z = np.moveaxis(np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116), -1, 0)
    values = np.stack([(116 * y - 16) * 2.55, 500 * (x - y), 200 * (y - z)], axis=-1)
    return np.rint(values).astype(np.int16).astype(np.uint8)


TWELVE = np.array([[0, 1, 8, 9], [2047, 2048, 4094, 4095]], dtype=np.uint16)
TWELVE_BYTES = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in TWELVE.reshape(-1, 2).tolist())
FLOATS = np.array([[0, 0.25, 0.5], [1, 0.0019, 0.002]], dtype=np.float32)


def frames(kind, **options):
    """Two frames, of which the second is another picture."""
    first, second = (Image.fromarray(pixels) for pixels in (COLOURS, 255 - COLOURS))
    return saved(first, kind, save_all=True, append_images=[second], **options)


def qoi(pixels):
    height, width, _ = pixels.shape
    content = b"".join(b"\xfe" + bytes(pixel) for row in pixels for pixel in row)
    return b"qoif" + struct.pack(">IIBB", width, height, 3, 0) + content + b"\0" * 7 + b"\1"


# name -> (file, RGB pixels, how far a lossy format may be from them). What stands before a blank is a file's name.
MADE = {
    "grey16.png": (png(LEVELS, 0, 16), scaled(LEVELS), 0),
    "dark16.png": (png(LEVELS[:1], 0, 16), scaled(LEVELS[:1]), 0),
    "grey16.tif little-endian": (tiff(LEVELS, 1, 16), scaled(LEVELS), 0),
    "grey16.tif big-endian": (tiff(LEVELS, 1, 16, ">"), scaled(LEVELS), 0),
    "grey16.tif white is 0": (tiff(LEVELS, 0, 16), 255 - scaled(LEVELS), 0),
    "dark16.tif": (tiff(LEVELS[:1], 1, 16), scaled(LEVELS[:1]), 0),
    "grey16.jp2": (saved(Image.fromarray(LEVELS.repeat(9, axis=0)), "JPEG2000"), scaled(LEVELS.repeat(9, axis=0)), 0),
    "grey16.pgm": (b"P5\n4 3\n65535\n" + LEVELS.astype(">u2").tobytes(), scaled(LEVELS), 0),
    "dark16.pgm": (b"P5\n4 1\n65535\n" + LEVELS[:1].astype(">u2").tobytes(), scaled(LEVELS[:1]), 0),
    "grey12.pgm": (b"P5\n4 2\n4095\n" + TWELVE.astype(">u2").tobytes(), scaled(TWELVE, 4095), 0),
    "grey12.tif": (tiff(TWELVE, 1, 12, data=TWELVE_BYTES), scaled(TWELVE, 4095), 0),
    "grey8.png": (png(GREYS, 0), grey(GREYS), 0),
    "grey8.tif white is 0": (tiff(GREYS, 0, 8), grey(255 - GREYS), 0),
    "grey4.png": (png(INDICES, 0, 4), grey(INDICES * 17), 0),
    "rgb16.png": (png(HIGH, 2, 16), COLOURS, 0),
    "rgb16.tif little-endian": (tiff(HIGH, 2, 16), COLOURS, 0),
    "rgb16.tif big-endian": (tiff(HIGH, 2, 16, ">"), COLOURS, 0),
    "rgba16.png": (png(np.dstack([HIGH, ALPHA.astype(np.uint16) * 257]), 6, 16), on_white(COLOURS, ALPHA), 1),
    "grey_alpha16.png": (
        png(np.dstack([GREYS, ALPHA]).astype(np.uint16) * 257, 4, 16),
        on_white(grey(GREYS), ALPHA),
        1,
    ),
    "grey_alpha.png": (png(np.dstack([GREYS, ALPHA]), 4), on_white(grey(GREYS), ALPHA), 1),
    "rgba.png": (png(np.dstack([COLOURS, ALPHA]), 6), on_white(COLOURS, ALPHA), 1),
    "rgba.tif": (tiff(np.dstack([COLOURS, ALPHA]), 2, 8, extra=(2,)), on_white(COLOURS, ALPHA), 1),
    "rgba.webp": (
        saved(image_of(np.dstack([COLOURS, ALPHA])), "WEBP", lossless=True, exact=True),
        on_white(COLOURS, ALPHA),
        1,
    ),
    "rgba.tga": (saved(image_of(np.dstack([COLOURS, ALPHA])), "TGA"), on_white(COLOURS, ALPHA), 1),
    "grey_transparent8.png": (
        png(GREYS, 0, 8, (b"tRNS", b"\0\x64")),
        on_white(grey(GREYS), np.where(GREYS == 100, 0, 255)),
        0,
    ),
    "grey_transparent16.png": (
        png(LEVELS, 0, 16, (b"tRNS", b"\x80\0")),
        on_white(scaled(LEVELS), np.where(LEVELS == 32768, 0, 255)),
        0,
    ),
    "rgb_transparent8.png": (
        png(COLOURS, 2, 8, (b"tRNS", b"\0\xc8\0\x64\0\x32")),
        on_white(COLOURS, [[255] * 3, [255, 255, 0]]),
        0,
    ),
    "rgb_transparent16.png": (
        png(HIGH, 2, 16, (b"tRNS", bytes(HIGH[1, 2].astype(">u2").tobytes()))),
        on_white(COLOURS, [[255] * 3, [255, 255, 0]]),
        0,
    ),
    "palette.png": (png(INDICES, 3, 8, PALETTE), COLOURS, 0),
    "palette4.png": (png(INDICES, 3, 4, PALETTE), COLOURS, 0),
    "palette_transparent.png": (png(INDICES, 3, 8, PALETTE, (b"tRNS", ALPHA.tobytes())), on_white(COLOURS, ALPHA), 1),
    "palette_transparent.png of one entry": (
        png(INDICES, 3, 8, PALETTE, (b"tRNS", b"\xff\xff\0")),
        on_white(COLOURS, [[255, 255, 0], [255] * 3]),
        0,
    ),
    "palette.gif": (saved(image_of(COLOURS), "GIF"), COLOURS, 0),
    "palette_transparent.gif": (
        saved(Image.open(io.BytesIO(png(INDICES, 3, 8, PALETTE))), "GIF", transparency=4),
        on_white(COLOURS, [[255] * 3, [255, 0, 255]]),
        0,
    ),
    "bilevel.png": (png(GREYS > 50, 0, 1), grey(np.where(GREYS > 50, 255, 0)), 0),
    "bilevel.tif white is 0": (tiff(GREYS[:, :1], 0, 1, data=b"\x80\0"), grey([[0], [255]]), 0),
    "bilevel.pbm": (b"P1\n3 2\n0 1 1\n1 0 1\n", grey([[255, 0, 0], [0, 255, 0]]), 0),
    "cmyk.jpg as Adobe writes it, inverted": (
        saved(
            Image.fromarray(CMYK.astype(np.uint8).repeat(16, axis=0).repeat(16, axis=1), "CMYK"), "JPEG", quality=100
        ),
        SQUARES,
        3,
    ),
    "cmyk.tif": (tiff(CMYK.astype(np.uint8), 5, 8), COLOURS, 1),
    "lab.tif": (tiff(lab(MUTED), 8, 8), MUTED, 4),
    "jpeg.tif": (saved(image_of(SQUARES[16:, 32:]), "TIFF", compression="jpeg", quality=100), SQUARES[16:, 32:], 3),
    "float.tif white is 0": (tiff(FLOATS, 0, 32, t339=3), 255 - grey(np.rint(FLOATS * 255)), 0),
    "float.tif": (tiff(FLOATS, 1, 32, t339=3), grey(np.rint(FLOATS * 255)), 0),
    "float_levels.tif": (tiff(GREYS.astype(np.float32), 1, 32, t339=3), grey(GREYS), 0),
    "int32.tif levels": (tiff(GREYS.astype(np.int32), 1, 32, t339=2), grey(GREYS), 0),
    "int32.tif of 16 bits": (tiff(LEVELS.astype(np.int32), 1, 32, t339=2), scaled(LEVELS), 0),
    "rgb.jpg": (saved(image_of(SQUARES), "JPEG", quality=100, subsampling=0), SQUARES, 3),
    "rgb.jfif": (saved(image_of(SQUARES), "JPEG", quality=100, subsampling=0), SQUARES, 3),
    "rgb.mpo": (
        saved(
            image_of(SQUARES), "MPO", save_all=True, append_images=[image_of(255 - SQUARES)], quality=100, subsampling=0
        ),
        SQUARES,
        5,
    ),
    "rgb.webp": (saved(image_of(COLOURS), "WEBP", lossless=True), COLOURS, 0),
    "rgb.bmp": (saved(image_of(COLOURS), "BMP"), COLOURS, 0),
    "rgb.tga": (saved(image_of(COLOURS), "TGA"), COLOURS, 0),
    "rgb.ppm": (b"P6\n3 2\n255\n" + COLOURS.tobytes(), COLOURS, 0),
    "rgb16.ppm": (b"P6\n3 2\n65535\n" + (COLOURS.astype(">u2") * 257).tobytes(), COLOURS, 0),
    "rgb.qoi": (qoi(COLOURS), COLOURS, 0),
    "rgb.ico": (saved(image_of(SQUARES[:32, :32]), "ICO", sizes=[(32, 32)]), SQUARES[:32, :32], 0),
    "rgb.jp2": (saved(image_of(SQUARES), "JPEG2000"), SQUARES, 0),
    "frames.gif": (frames("GIF"), COLOURS, 0),
    "frames.png": (frames("PNG"), COLOURS, 0),
    "frames.webp": (frames("WEBP", lossless=True), COLOURS, 0),
    "frames.tif": (frames("TIFF"), COLOURS, 0),
}
if int(PIL.__version__.split(".")[0]) >= 13:  # older ones refuse it
    MADE["ycbcr.tif"] = (saved(image_of(COLOURS, "YCbCr"), "TIFF"), COLOURS, 3)
if features.check("avif"):
    MADE["rgb.avif"] = (saved(image_of(SQUARES), "AVIF", quality=100, subsampling="4:4:4"), SQUARES, 4)
if is_picture("a.heic"):
    MADE["rgb.heic"] = (saved(image_of(SQUARES), "HEIF", quality=100, chroma=444), SQUARES, 6)


def far(picture, expected):
    return np.abs(np.asarray(picture).astype(int) - expected.astype(int)).max()


@pytest.mark.parametrize("name", MADE)
def test_pixels_are_the_right_ones(name):
    content, expected, tolerance = MADE[name]
    assert is_picture(name.split()[0])
    picture = read_picture(content)
    assert picture.mode == "RGB"
    assert np.asarray(picture).shape == expected.shape
    assert far(picture, expected) <= tolerance
    assert far(read_picture(content), np.asarray(picture)) == 0


@pytest.mark.parametrize(
    "pixels",
    [
        np.array([[0, 1.5]]),
        np.array([[-0.1, 1]]),
        np.array([[0, 256.0]]),
        np.array([[0, np.nan]]),
        np.array([[0, np.inf]]),
        np.array([[0, 65536]], dtype=np.int32),
        np.array([[-1, 3]], dtype=np.int32),
        np.array([[0, 32767]], dtype=np.int16),
    ],
)
def test_pixels_whose_white_is_unknown_are_refused(pixels):
    if pixels.dtype == np.float64:
        content = tiff(pixels.astype(np.float32), 1, 32, t339=3)
    else:
        content = tiff(pixels, 1, 8 * pixels.itemsize, t339=2)
    with pytest.raises(ValueError, match="whose white is unknown"):
        read_picture(content)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=40), st.sampled_from(["png", "<", ">", "pgm", "jp2"]))
@settings(deadline=None, max_examples=60)
def test_16_bits_of_grey_in_every_format(levels, kind):
    pixels = np.array([levels], dtype=np.uint16)
    if kind == "png":
        content = png(pixels, 0, 16)
    elif kind == "pgm":
        content = b"P5\n%d 1\n65535\n" % len(levels) + pixels.astype(">u2").tobytes()
    elif kind == "jp2":
        pixels = pixels.repeat(8, axis=0)
        content = saved(Image.fromarray(pixels), "JPEG2000", num_resolutions=1)
    else:
        content = tiff(pixels, 1, 16, kind)
    assert far(read_picture(content), scaled(pixels)) == 0


@given(
    st.lists(st.tuples(*[st.integers(0, 255)] * 4), min_size=1, max_size=30), st.sampled_from(["PNG", "WEBP", "TIFF"])
)
@settings(deadline=None, max_examples=60)
def test_transparency_is_laid_on_white_in_every_format(pixels, kind):
    pixels = np.array([pixels], dtype=np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    picture = read_picture(saved(Image.fromarray(pixels), kind, **options))
    assert far(picture, on_white(pixels[..., :3], pixels[..., 3])) <= 1


# Orientation: what the stored rows and columns are of the upright picture, by EXIF's number.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
ORIENTED = ["JPEG", "PNG", "WEBP", "TIFF", "MPO", "PNG16", "TIFF16", *(["AVIF"] if features.check("avif") else [])]


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", [*ORIENTED, *(["HEIF"] if is_picture("a.heic") else [])])
def test_orientation_is_applied_once(kind, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if kind.endswith("16"):
        expected = scaled(LEVELS)
        stored = np.ascontiguousarray(STORED[orientation](LEVELS))
        if kind == "TIFF16":
            content = tiff(stored, 1, 16, t274=orientation)
        else:
            content = png(stored, 0, 16, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    else:
        expected = SQUARES
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](SQUARES)))
        options = {
            "JPEG": {"quality": 100, "subsampling": 0},
            "MPO": {"quality": 100, "subsampling": 0, "save_all": True, "append_images": [stored]},
            "WEBP": {"lossless": True},
            "AVIF": {"quality": 100, "subsampling": "4:4:4"},
            "HEIF": {"quality": 100, "chroma": 444},
        }.get(kind, {})
        content = saved(stored, kind, exif=exif.tobytes(), **options)
    picture = read_picture(content)
    assert np.asarray(picture).shape == expected.shape
    assert far(picture, expected) <= (6 if kind in ("JPEG", "MPO", "AVIF", "HEIF") else 0)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"junk"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_turns_nothing(kind, exif):
    content = saved(
        image_of(SQUARES),
        kind,
        exif=exif,
        **{"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert far(read_picture(content), SQUARES) <= 3


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert far(read_picture(saved(image_of(SQUARES), "PNG", exif=exif)), SQUARES) == 0


def test_names_of_pictures():
    for name in ("a.jpg", "A.JPEG", "b/c.Tiff", "x.y.png", "a.jfif", "a.gif", "a.mpo"):
        assert is_picture(name)
        assert obstacle(name) is None
    for name in ("a", "a.txt", "jpg", "a.jpg.txt", "a.pdf", "a.mpg", "a.h5"):
        assert not is_picture(name)
        assert obstacle(name) is None
    for name, remedy in (("a.CR2", "raw file"), ("a.svg", "drawing"), ("a.jxl", "convert it"), ("a.eps", "drawing")):
        assert remedy in obstacle(name)
    assert {".bmp", ".jpg", ".png", ".tif", ".webp"} <= extensions()


def test_exif_transpose_of_the_library_agrees():
    """That the table above means what EXIF means."""
    for orientation, stored in STORED.items():
        image = Image.fromarray(np.ascontiguousarray(stored(SQUARES)))
        image.getexif()[ExifTags.Base.Orientation] = orientation
        assert far(ImageOps.exif_transpose(image), SQUARES) == 0


# What Pillow reads wrongly, or says nothing of


def test_jpeg_whose_rest_is_zeros_is_refused():
    """As programs leave it that reserve a file's space before they load it: libjpeg reads grey."""
    picture = Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8))
    file = io.BytesIO()
    picture.save(file, "JPEG")
    whole = file.getvalue()
    for start in (len(whole) // 2, len(whole) - 20):
        with pytest.raises(OSError, match=r"truncated .*zeros"):
            read_picture(whole[:start] + bytes(len(whole) - start))
    assert read_picture(whole + bytes(1000)).tobytes() == read_picture(whole).tobytes()


@pytest.mark.parametrize("order", "<>")
def test_planes_of_16_bits_are_refused(order):
    """Pillow reads their bytes as if they were 8-bit levels."""
    planes = np.moveaxis(COLOURS.astype(np.uint16) * 257, 2, 0).astype(f"{order}u2")
    with pytest.raises(ValueError, match=r"channels one after the other .*save"):
        read_picture(planar(planes, 16, order))
    eight = read_picture(planar(np.moveaxis(COLOURS, 2, 0), 8, order))
    assert np.array_equal(np.asarray(eight), COLOURS)


def planar(planes, bits, order):
    """A TIFF file whose channels are one after the other."""
    count, height, width = planes.shape
    size = planes[0].nbytes
    fields = {256: width, 257: height, 259: 1, 262: 2, 277: count, 278: height, 284: 2}
    lists = {258: ("H", [bits] * count), 273: ("I", [8 + k * size for k in range(count)]), 279: ("I", [size] * count)}
    data = planes.tobytes()
    offset = 8 + len(data)
    entries = []
    for tag in sorted([*fields, *lists]):
        if tag in fields:
            entries.append(struct.pack(order + "HHIHH", tag, 3, 1, fields[tag], 0))
        else:
            kind, values = lists[tag]
            content = struct.pack(f"{order}{len(values)}{kind}", *values)
            entries.append(struct.pack(order + "HHII", tag, 3 if kind == "H" else 4, len(values), offset))
            data += content
            offset += len(content)
    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, offset)
    return header + data + struct.pack(order + "H", len(entries)) + b"".join(entries) + struct.pack(order + "I", 0)


def test_formats_that_are_not_known_are_told_without_an_address():
    for content, message in ((b"", "no known image format"), (b"<html>", "no known image format")):
        with pytest.raises(PIL.UnidentifiedImageError, match=f"^{message}$"):
            read_picture(content)
    halves = tiff(np.zeros((2, 3), dtype=np.float16), 1, 16, t339=3)
    with pytest.raises(PIL.UnidentifiedImageError, match=r"a TIFF of a kind that Pillow doesn't read.*save it"):
        read_picture(halves)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_grey_level_that_stands_for_nothing(depth):
    levels = np.array([[0, 1], [1, 0]], dtype=np.uint8)
    picture = np.asarray(read_picture(png(levels, 0, depth, (b"tRNS", struct.pack(">H", 1)))))
    assert np.array_equal(picture[..., 0], np.array([[0, 255], [255, 0]]))


def test_signed_levels_of_8_bits_are_refused():
    with pytest.raises(ValueError, match="signed integer pixels of 8 bits"):
        read_picture(tiff(np.array([[0, 200]], dtype=np.uint8), 1, 8, t339=2))
