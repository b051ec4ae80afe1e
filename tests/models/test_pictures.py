"""Pictures of filters, of predicted distributions and of retrieved images: known answers, and what is drawn."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.transforms import v2

from fastmmd.models.analysis import distributions, filters, receptive_fields, retrieval
from fastmmd.models.analysis.predictions import Predictions
from fastmmd.models.data.images import Preprocessing
from fastmmd.models.networks.mldrnet import MldrNet

RED, BLUE = (255, 0, 0), (0, 0, 255)
PREPROCESSING = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
NORMALISED = v2.Compose(
    [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(PREPROCESSING.mean, PREPROCESSING.std)]
)


class Pictures:
    """Pictures as a domain; their classes take turns."""

    def __init__(self, pictures, classes=1, names=None):
        self.pictures = pictures
        self.classes = [f"class {k}" for k in range(classes)]
        self.names = names or [f"{k:02d}.png" for k in range(len(pictures))]

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, item):
        return self.pictures[item], item % len(self.classes)


def plain(count, classes, size=(40, 30)):
    """Pictures of one colour each, the red of which is the picture's number."""
    return Pictures([Image.new("RGB", size if k % 2 else size[::-1], (k, 128, 0)) for k in range(count)], classes)


def predicted(probabilities, labels, names=None):
    probabilities = np.asarray(probabilities, dtype=float)
    names = names or [f"{k:02d}.png" for k in range(len(labels))]
    classes = tuple(f"class {k}" for k in range(probabilities.shape[1]))
    return Predictions(tuple(names), np.asarray(labels), probabilities.argmax(axis=1), probabilities, classes)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved in a test, in order."""
    figures_saved = []
    savefig = Figure.savefig

    def remember(figure, *args, **kwargs):
        if figure not in figures_saved:
            figures_saved.append(figure)
        savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures_saved


def assert_pictures(path):
    with Image.open(path) as image:
        assert np.asarray(image.convert("L")).std() > 5
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def no_overlap(figure):
    """Whether no text of a figure covers another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    hidden = [
        text
        for axes in figure.axes
        if not axes.axison
        for text in (*axes.xaxis.findobj(Text), *axes.yaxis.findobj(Text))
    ]
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in hidden]
    boxes = [text.get_window_extent(renderer).padded(-1) for text in texts]  # letters are lower than their line
    return not any(box.overlaps(other) for k, box in enumerate(boxes) for other in boxes[:k])


# Filters


class Chain(nn.Module):
    """Two convolutions: filter 1 of the first counts red pixels in 4x4 squares, the second copies it, doubled."""

    preprocessing = PREPROCESSING

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 2, 4, stride=4)
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(2, 3, 3, padding=1)
        mean, std = torch.tensor(PREPROCESSING.mean), torch.tensor(PREPROCESSING.std)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            # Of values in [0, 1]: the sum of red less green less blue, over 16 pixels.
            self.first.weight[1] = (torch.tensor([1.0, -1, -1]) * std)[:, None, None] / 16
            self.first.bias[1] = (torch.tensor([1.0, -1, -1]) * mean).sum()
            self.second.weight[2, 1, 1, 1] = 2

    def forward(self, images):
        return self.second(self.pool(self.first(images).relu())).relu().mean(dim=(2, 3))


def square(left, top, colour, shade=255):
    picture = Image.new("RGB", (48, 32), "white")
    picture.paste(tuple(value * shade // 255 for value in colour), (left, top, left + 4, top + 4))
    return picture


@pytest.fixture
def chain():
    return Chain()


def test_strongest_filter_image_and_patch(chain):
    domain = Pictures([square(8, 4, BLUE), square(40, 28, RED, 200), square(20, 12, RED), square(0, 0, RED, 100)])
    first, second = filters.strongest(chain, domain, NORMALISED, count=2)
    assert (first.layer, first.chosen, first.filters, first.field) == ("first", 1, 2, receptive_fields.Field(4, 4, 0))
    assert first.weights.shape == (3, 4, 4)
    assert [image.name for image in first.images] == ["02.png", "01.png"]
    assert [float(image.responses.max()) for image in first.images] == pytest.approx([1, 200 / 255], abs=1e-5)
    for image, (left, top), shade in zip(first.images, [(20, 12), (40, 28)], [1, 200 / 255], strict=True):
        assert (image.rows, image.columns) == (slice(top, top + 4), slice(left, left + 4))
        np.testing.assert_allclose(image.patch, np.full((4, 4, 3), [shade, 0, 0]), atol=1e-6)
        assert image.picture.shape == (32, 48, 3)
    # A place of the second sees 4 + 4 pixels, and one place of 8 more on either side, some of them outside.
    assert (second.layer, second.chosen, second.field) == ("second", 2, receptive_fields.Field(24, 8, -8))
    assert [(image.rows, image.columns) for image in second.images] == [
        (slice(0, 24), slice(8, 32)),
        (slice(16, 32), slice(32, 48)),
    ]
    assert float(second.images[0].responses.max()) == pytest.approx(2, abs=1e-5)


def test_images_that_excite_nothing_are_left_out_and_equal_ones_keep_their_order(chain):
    domain = Pictures([square(0, 0, RED), square(0, 0, BLUE), square(8, 8, RED)])
    first, _ = filters.strongest(chain, domain, NORMALISED, count=3)
    assert [image.name for image in first.images] == ["00.png", "02.png"]


def test_the_network_stays_as_it_was(chain):
    chain.train()
    filters.strongest(chain, Pictures([square(0, 0, RED)]), NORMALISED)
    assert chain.training
    assert not chain.first._forward_hooks
    assert chain.first.weight.grad is None


def test_strongest_refuses(chain):
    domain = Pictures([square(0, 0, RED)])
    with pytest.raises(ValueError, match=re.escape("one crop of an image, got [1, 3, 32, 48]")):
        filters.strongest(chain, domain, lambda picture: NORMALISED(picture)[None])
    with pytest.raises(ValueError, match="found none"):
        filters.strongest(nn.Conv2d(3, 2, 1), domain, NORMALISED)
    with pytest.raises(ValueError, match="expected a chain"):
        filters.strongest(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(8, 4, 3)), domain, NORMALISED)


NETWORKS = {
    **{
        f"MldrNet {depth} {stride} {pool}": (
            lambda depth=depth, stride=stride, pool=pool: MldrNet(
                2, depth, channels=[2] * depth, stride=stride, pool=pool, branch_channels=2, width=2, branch_map=1
            )
        )
        for depth, stride, pool in [(1, 1, 3), (2, 2, 3), (3, 4, 3), (4, 1, 3), (4, 2, 5), (4, 4, 3)]
    },
    "AlexNet": lambda: models.alexnet(weights=None, num_classes=2).features,
    "dilated": lambda: nn.Sequential(nn.Conv2d(3, 2, 3, 2, dilation=2), nn.AvgPool2d(2), nn.Conv2d(2, 2, 3, padding=1)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_receptive_fields_are_where_the_gradient_is(name):
    """Weights are positive, images too; mean pooling in place of maximum pooling, for all of a window to count."""
    network = NETWORKS[name]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.01)
    fields = receptive_fields.receptive_fields(network)
    for path, layer in list(network.named_modules()):
        if isinstance(layer, nn.MaxPool2d):
            network.set_submodule(path, nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding))
    maps = {}
    for path in fields:
        network.get_submodule(path).register_forward_hook(lambda _, __, output, path=path: maps.update({path: output}))
    images = torch.ones(1, 3, 160, 250, requires_grad=True)
    network.eval()(images)
    for path, field in fields.items():
        height, width = maps[path].shape[2:]
        used = seen(maps[path].sum(), images)  # all but what a stride leaves over at the border, or a dilation within
        for row, column in [(0, 0), (height // 2, width // 3), (height - 1, width - 1)]:
            expected = torch.zeros_like(used)
            expected[field.pixels(row, 160), field.pixels(column, 250)] = True
            assert torch.equal(seen(maps[path][0, 0, row, column], images), expected & used), path


def seen(value, images):
    """Which pixels a value depends on, [h, w]."""
    (gradient,) = torch.autograd.grad(value, images, retain_graph=True)
    return gradient[0].abs().sum(dim=0) > 0


def test_places_of_pixels():
    assert receptive_fields.Field(4, 4, 0).places(9, 2).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert receptive_fields.Field(3, 1, -1).places(4, 4).tolist() == [0, 1, 2, 3]


def test_filters_drawn(tmp_path, chain, drawn):
    domain = Pictures([square(40, 28, RED, 200), square(20, 12, RED), square(0, 0, BLUE)])
    filters.draw(filters.strongest(chain, domain, NORMALISED), tmp_path / "filters.png", "title")
    assert_pictures(tmp_path / "filters.png")
    first, second = drawn[0].subfigs
    assert second.get_suptitle() == "Convolution 2 (second): filter 2 of 3, sees 24 x 24 pixels"
    assert [axes.get_title() for axes in first.axes] == ["weights", "around patch 1", "patch 1: 1", "patch 2: 0.784"]
    assert second.axes[0].get_title() == "response"
    weights, _, patch, _ = (axes.images[0].get_array() for axes in first.axes)
    assert weights.min() >= 0
    assert weights.max() <= 1
    np.testing.assert_allclose(patch, np.full((4, 4, 3), [1, 0, 0]), atol=1e-6)
    frame = first.axes[1].patches[0]
    assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == (19.5, 11.5, 4, 4)
    response = second.axes[0].images[0].get_array()
    np.testing.assert_allclose(response[10, 18], 1, atol=1e-5)  # the place that responds, pixels 8..15 and 16..23
    np.testing.assert_allclose(response[10, 26], 0.15, atol=1e-5)  # its neighbour does not
    # A patch that is cut at the border has the scale of the others.
    whole, cut = second.axes[2:]
    assert np.ptp(whole.get_xlim()) == np.ptp(cut.get_xlim()) == np.ptp(cut.get_ylim()) == 24
    assert no_overlap(drawn[0])


def test_filters_that_nothing_excites(tmp_path, chain, drawn):
    filters.draw(filters.strongest(chain, Pictures([square(0, 0, BLUE)]), NORMALISED), tmp_path / "filters.png")
    assert_pictures(tmp_path / "filters.png")
    assert [len(axes.images) for axes in drawn[0].subfigs[0].axes] == [1, 0]
    assert [text.get_text() for text in drawn[0].subfigs[1].axes[0].texts] == ["No image excites this layer."]


# Distributions


def test_chosen_images_are_even_whatever_was_predicted():
    labels = [0] * 9 + [2] * 3 + [1]
    names = [f"{k:02d}.png" for k in range(13)]
    right, wrong = np.eye(3)[labels], np.roll(np.eye(3), 1, axis=0)[labels]
    for probabilities in (right, wrong):
        for order in (range(13), range(12, -1, -1)):
            predictions = predicted(
                probabilities[list(order)], np.array(labels)[list(order)], [names[k] for k in order]
            )
            assert distributions.choose(predictions, 3) == ("04.png", "12.png", "10.png")
            assert distributions.choose(predictions, 8) == (
                *("01.png", "04.png", "07.png"),  # of nine
                "12.png",  # all there are
                *("09.png", "11.png"),
            )
            assert distributions.choose(predictions, 1) == ("04.png",)
            assert distributions.choose(predictions, 0) == ()
            assert len(distributions.choose(predictions, 100)) == 13


def test_pictures_by_name():
    domain = Pictures([Image.new("RGB", (1000, 500), RED), Image.new("RGB", (20, 30), BLUE)])
    blue, red = distributions.pictures(domain, ["01.png", "00.png"])
    assert (blue.size, red.size) == ((20, 30), (distributions.SIDE, distributions.SIDE // 2))
    assert (blue.getpixel((0, 0)), red.getpixel((0, 0))) == (BLUE, RED)
    assert domain[0][0].size == (1000, 500)
    with pytest.raises(ValueError, match=re.escape("got ['02.png']")):
        distributions.pictures(domain, ["00.png", "02.png"])


@pytest.mark.parametrize(("classes", "count", "methods"), [(1, 1, 1), (8, 3, 2), (12, 2, 3), (2, 9, 1)])
def test_distributions_drawn(tmp_path, drawn, classes, count, methods):
    random = np.random.default_rng(0)
    labels = np.arange(count) % classes
    predictions = {f"method {k}": predicted(random.dirichlet(np.ones(classes), count), labels) for k in range(methods)}
    names = [f"{k:02d}.png" for k in reversed(range(count))]
    distributions.draw(plain(count, classes), predictions, names, tmp_path / "bars.png", "title")
    assert_pictures(tmp_path / "bars.png")
    axes = [ax for ax in drawn[0].axes if ax.has_data()]
    for left, right, name in zip(axes[::2], axes[1::2], names, strict=True):
        item = int(name[:2])
        assert left.get_title() == name
        assert left.images[0].get_array()[0, 0, 0] == item
        widths = [[bar.get_width() for bar in bars] for bars in right.containers]
        np.testing.assert_allclose(widths, [100 * method.probabilities[item] for method in predictions.values()])
        bold = [text.get_text() for text in right.get_yticklabels() if text.get_fontweight() == "bold"]
        assert bold == [f"class {item % classes}"]
        assert right.yaxis_inverted()
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == (list(predictions) if methods > 1 else [])
    assert no_overlap(drawn[0])


def test_distributions_follow_each_methods_own_order(tmp_path, drawn):
    first = predicted([[0.9, 0.1], [0.2, 0.8]], [0, 1])
    second = predicted([[0.7, 0.3], [0.4, 0.6]], [1, 0], ["01.png", "00.png"])
    distributions.draw(plain(2, 2), {"one": first, "other": second}, ["00.png"], tmp_path / "bars.png")
    assert [[bar.get_width() for bar in bars] for bars in drawn[0].axes[1].containers] == [
        pytest.approx([90, 10]),
        pytest.approx([40, 60]),
    ]


def test_distributions_refuse(tmp_path):
    predictions, domain, path = predicted([[0.9, 0.1], [0.2, 0.8]], [0, 1]), plain(3, 2), tmp_path / "bars.png"
    with pytest.raises(ValueError, match="at least one image"):
        distributions.draw(domain, {"one": predictions}, [], path)
    with pytest.raises(ValueError, match=re.escape("none of ['02.png']")):
        distributions.draw(domain, {"one": predictions}, ["02.png"], path)
    with pytest.raises(ValueError, match="other: expected the classes"):
        distributions.draw(domain, {"one": predictions, "other": predicted([[1.0], [1.0]], [0, 0])}, ["00.png"], path)


# Retrieval

SURE = [[0.6, 0.4], [0.9, 0.1], [0.6, 0.4], [0.1, 0.9], [0.3, 0.7]]


def test_top_is_ordered_by_probability_then_name():
    predictions = predicted(SURE, [0, 0, 1, 1, 0], ["d", "c", "b", "a", "e"])
    assert retrieval.top(predictions, 3).tolist() == [[1, 2, 0], [3, 4, 2]]
    assert retrieval.top(predictions, 9).tolist() == [[1, 2, 0, 4, 3], [3, 4, 2, 0, 1]]
    with pytest.raises(ValueError, match="at least 1"):
        retrieval.top(predictions, 0)


def test_precision():
    predictions = predicted(SURE, [0, 0, 1, 1, 0], ["d", "c", "b", "a", "e"])
    np.testing.assert_allclose(retrieval.precision(predictions, 1), [1, 1])
    np.testing.assert_allclose(retrieval.precision(predictions, 2), [1 / 2, 1 / 2])
    np.testing.assert_allclose(retrieval.precision(predictions, 3), [2 / 3, 2 / 3])
    np.testing.assert_allclose(retrieval.precision(predictions, 9), [3 / 5, 2 / 5])


def test_retrieval_drawn(tmp_path, drawn):
    retrieval.draw(plain(5, 2), predicted(SURE, [0, 0, 1, 1, 0]), tmp_path / "top.png", 3, "title")
    assert_pictures(tmp_path / "top.png")
    grid = drawn[0].axes
    assert [axes.images[0].get_array()[0, 0, 0] for axes in grid] == [1, 0, 2, 3, 4, 0]
    assert [axes.get_xlabel().split() for axes in grid[:3]] == [["90%"], ["60%"], ["60%:", "class", "1"]]
    assert [axes.get_ylabel() for axes in grid[::3]] == ["class 0\n2 of 3", "class 1\n1 of 3"]
    right, wrong = (retrieval.RIGHT["color"], retrieval.WRONG["color"])
    frames = [to_hex(axes.spines["left"].get_edgecolor()).upper() for axes in grid]
    assert frames == [right, right, wrong, right, wrong, wrong]
    assert len({spine.get_linestyle() for axes in grid[1:3] for spine in axes.spines.values()}) == 2
    assert no_overlap(drawn[0])


@pytest.mark.parametrize(("classes", "count"), [(1, 1), (12, 2)])
def test_retrieval_of_few_and_many(tmp_path, drawn, classes, count):
    predictions = predicted(np.random.default_rng(0).dirichlet(np.ones(classes), count), np.arange(count) % classes)
    predictions = replace(predictions, classes=tuple(f"an emotion of long name {k}" for k in range(classes)))
    retrieval.draw(plain(count, classes), predictions, tmp_path / "top.png")
    assert_pictures(tmp_path / "top.png")
    assert len(drawn[0].axes) == classes * min(5, count)
    assert no_overlap(drawn[0])
