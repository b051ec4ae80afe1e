"""What saved figures are checked for where their content is not what is tested."""

from PIL import Image


def assert_drawn(path):
    """The file is a PNG that shows something: lines and letters have many shades of grey, a blank page has one."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors()) > 10
