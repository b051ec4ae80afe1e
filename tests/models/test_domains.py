"""Splits, streams and batches of two domains."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from fastmmd.models.data import DomainPair, EvalTransform, TrainTransform
from fastmmd.models.data.folds import Split, stratified_split
from fastmmd.models.data.images import Preprocessing
from fastmmd.models.data.readers import MIKELS
from fastmmd.models.data.sampling import SeededView, StreamSampler, item_names
from fastmmd.models.data.stats import PAPER
from fastmmd.models.networks import TransferNet

from .conftest import Blobs, Trunk
from .folders import picture, write


def batches(first=0, steps=5, size=7, batch=3, seed=(0, 0)):
    return list(StreamSampler(size, batch, steps, seed, first=lambda: first))


def test_stream_resumes_anywhere():
    whole = batches(steps=20)
    for step in range(20):
        assert batches(first=step, steps=20 - step) == whole[step:]


def test_stream_passes_over_everything_again_and_again():
    items = [item for batch in batches(steps=14) for item, _ in batch]
    assert len(items) == 6 * 7
    passes = [items[k : k + 7] for k in range(0, len(items), 7)]
    assert all(sorted(order) == list(range(7)) for order in passes)
    assert len({tuple(order) for order in passes}) == 6


def test_batch_larger_than_domain():
    (batch,) = batches(steps=1, size=2, batch=5)
    assert sorted(Counter(item for item, _ in batch).values()) == [2, 3]


def test_streams_differ_by_seed_and_domain():
    assert batches(seed=(0, 0)) != batches(seed=(1, 0)) != batches(seed=(0, 1))


def test_processes_cut_one_stream():
    together = batches(batch=6, steps=9)
    shares = [list(StreamSampler(7, 3, 9, (0, 0), lambda: 0, rank=rank, ranks=2)) for rank in (0, 1)]
    assert [share + other_share for share, other_share in zip(*shares, strict=True)] == together
    later = StreamSampler(7, 3, 5, (0, 0), lambda: 4, rank=1, ranks=2)
    assert list(later) == shares[1][4:]


def test_balanced_stream_has_as_many_of_each_class():
    labels = [0] * 2 + [1] * 5 + [2] * 3
    sampler = StreamSampler(10, 5, 6, (0, 0), lambda: 0, labels)
    items = [item for batch in sampler for item, _ in batch]
    for k in (0, 15):  # a pass: three classes as large as the largest
        once = items[k : k + 15]
        assert Counter(labels[item] for item in once) == {0: 5, 1: 5, 2: 5}
        assert set(once) == set(range(10))
    assert items[:15] != items[15:]
    assert list(StreamSampler(10, 5, 4, (0, 0), lambda: 2, labels)) == list(sampler)[2:]


def test_random_transform_depends_on_its_seed_alone():
    data = Blobs()
    view = SeededView(data, range(10, 20), lambda image: image + torch.rand(4))
    torch.manual_seed(1)
    first = view[3, 77][0]
    state = torch.get_rng_state()
    assert torch.equal(view[3, 77][0], first)
    assert not torch.equal(view[3, 78][0], first)
    assert torch.equal(torch.get_rng_state(), state)
    assert view[3, 77][1] == data.targets[13]


def test_splits_are_disjoint_complete_and_stratified(blobs):
    data = blobs()
    train, validation = data.items["target"]
    assert sorted(train + validation + data.test_items) == list(range(48))
    assert (len(train), len(validation), len(data.test_items)) == (19, 5, 24)
    labels = Counter(data.domains["target"].targets[item] for item in data.test_items)
    assert labels == {0: 8, 1: 8, 2: 8}
    assert sorted([*data.items["source"][0], *data.items["source"][1]]) == list(range(60))


def test_split_seed_is_not_the_seed(blobs):
    assert blobs(seed=1).test_items == blobs(seed=2).test_items
    assert blobs(split_seed=1).test_items != blobs(split_seed=2).test_items


def test_different_classes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"source has \['a', 'b', 'c'\], target has \['a', 'c', 'b'\]"):
        DomainPair(Blobs(), Blobs(classes=["a", "c", "b"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_per_class": 0}, "target_per_class: expected at least 1, .* got 0"),
        ({"target_per_class": -3}, "target_per_class: expected at least 1, .* got -3"),
        ({"target_test": 0.6, "target_validation": 0.6}, "got target_validation 0.6, target_test 0.6"),
        ({"target_test": -0.1}, "got target_validation 0.1, target_test -0.1"),
        ({"target_test": 15}, "target_test 15"),
        ({"source_validation": 1.0}, "got source_validation 1.0"),
    ],
)
def test_shares_that_leave_nothing_are_refused(blobs, settings, message):
    with pytest.raises(ValueError, match=message):
        blobs(**settings)


def test_class_that_is_too_small_to_split_is_named():
    target = Blobs()
    target.targets = [0] * 30 + [1] * 29 + [2]
    with pytest.raises(ValueError, match=r"target: cannot hold out 50% of 60 items .* is 'c' with 1"):
        DomainPair(Blobs(), target)


@pytest.mark.parametrize("known", [True, False])
def test_item_that_cannot_be_read_is_named(known):
    class Broken(Blobs):
        def __getitem__(self, item):
            raise OSError("image file is truncated")

    data = Broken()
    if known:
        data.samples = [(f"folder/{k}.jpg", 0) for k in range(60)]
    name = "folder/17.jpg" if known else "17"
    with pytest.raises(RuntimeError, match=f"cannot read item {name}: OSError: image file is truncated"):
        SeededView(data, range(10, 20), None)[7, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers(blobs, workers):
    data = blobs(train_transform=v2.GaussianNoise(), workers=workers)
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=3))
    task = SimpleNamespace(seen=["source", "target"])
    data.trainer = SimpleNamespace(fit_loop=loop, global_rank=0, world_size=1, lightning_module=task)
    (images, labels), target = next(iter(data.train_dataloader()))[0].values()
    assert (len(labels), len(target[1])) == (9, 6)
    stream = StreamSampler(54, 9, 1, seed=(0, 0), first=lambda: 4)
    view = SeededView(data.domains["source"], data.items["source"][0], v2.GaussianNoise())
    expected = [view[key] for key in next(iter(stream))]
    assert torch.equal(images, torch.stack([image for image, _ in expected]))
    assert labels.tolist() == [label for _, label in expected]


# Protocols


class Emotions(Blobs):
    """Vectors in the numbers of one of the paper's data sets, with names."""

    def __init__(self, name, names="{}.jpg"):
        counts = PAPER[name][0]
        self.classes = list(MIKELS)
        self.targets = [label for label, count in enumerate(counts) for _ in range(count)]
        self.names = [names.format(k) for k in range(len(self.targets))]
        self.images = torch.zeros(len(self.targets), 4)


@pytest.mark.parametrize(
    ("source", "target", "excluded", "tested", "validated"),
    [
        ("artphoto", "iaps", ["anger"], 54, 15),
        ("artphoto", "iaps", [], 55, 15),
        ("iaps", "artphoto", [], 117, 37),
    ],
)
def test_protocol_of_the_paper(source, target, excluded, tested, validated):
    folds = []
    for fold in range(5):
        data = DomainPair(
            Emotions(source), Emotions(target), source_validation=0, fold=fold, exclude_from_eval=excluded
        )
        (train, validation), test = data.items["target"], data.test_items
        assert (len(test), len(validation)) == (tested, validated)
        assert len(data.items["source"][0]) == len(data.domains["source"])
        assert data.items["source"][1] == []
        assert not {*train} & {*validation, *test}
        assert {data.classes[data.domains["target"].targets[item]] for item in train} == set(MIKELS)
        folds.append(test)
    assert len({item for test in folds for item in test}) == 5 * tested


def test_split_file_gives_the_same_parts_again(blobs, tmp_path):
    made = blobs(split_seed=5)
    made.split.write(tmp_path / "split.json")
    read = blobs(split=str(tmp_path / "split.json"), fold=0, split_seed=9)
    assert (read.items["target"], read.test_items) == (made.items["target"], made.test_items)


def test_fold_of_a_split_file(blobs, tmp_path):
    names, classes = item_names(Blobs(48)), ["a", "b", "c"]
    split = stratified_split(names, [classes[k % 3] for k in range(48)], classes, folds=4)
    split.write(tmp_path / "split.json")
    tested = []
    for fold in range(4):
        data = blobs(split=str(tmp_path / "split.json"), fold=fold)
        assert not data.validated
        tested += data.test_items
    assert sorted(tested) == list(range(48))
    for wrong in (4, -1, None):
        with pytest.raises(ValueError, match=f"fold: expected one of 0..3, got {wrong}"):
            blobs(split=str(tmp_path / "split.json"), fold=wrong)
    with pytest.raises(ValueError, match="not the data set that was split; 12 missing"):
        DomainPair(Blobs(), Blobs(36), split=str(tmp_path / "split.json"), fold=0)


def test_every_split_is_kept(blobs):
    for settings in ({}, {"fold": 3}):
        data = blobs(**settings)
        assert isinstance(data.split, Split)
        fold, names = data.split.folds[settings.get("fold", 0)], item_names(Blobs(48))
        train, validation, test = (sorted(map(names.index, part)) for part in (fold.train, fold.validation, fold.test))
        assert (train, validation) == data.items["target"]
        assert test == data.test_items


def test_held_out_items_are_kept_out_of_the_source():
    settings = {"source_validation": 0.1, "fold": 2}
    data = DomainPair(Emotions("iaps"), Emotions("iaps"), exclude_held_out=True, **settings)
    source = {*data.items["source"][0], *data.items["source"][1]}
    target = {*data.items["target"][1], *data.test_items}
    assert not source & target
    assert source | target == set(range(385))
    other = DomainPair(Emotions("iaps", "other-{}.jpg"), Emotions("iaps"), exclude_held_out=True, **settings)
    assert len(other.items["source"][0]) + len(other.items["source"][1]) == 385


def test_class_to_exclude_must_be_one(blobs):
    with pytest.raises(ValueError, match=r"exclude_from_eval: expected some of .*'c'\], got \['anger'\]"):
        blobs(exclude_from_eval=["a", "anger"])


def test_excluded_class_is_trained_and_not_evaluated(blobs):
    data = blobs(exclude_from_eval=["b"])
    for name, (train, validation) in data.items.items():
        targets = data.domains[name].targets
        assert {targets[item] for item in train} == {0, 1, 2}
        assert {targets[item] for item in validation} == {0, 2}
    assert {data.domains["target"].targets[item] for item in data.test_items} == {0, 2}


def test_few_items_of_each_class(blobs):
    everything = blobs()
    five, two = (blobs(target_per_class=count) for count in (5, 2))
    labels = [five.domains["target"].targets[item] for item in five.items["target"][0]]
    assert Counter(labels) == {0: 5, 1: 5, 2: 5}
    assert set(two.items["target"][0]) < set(five.items["target"][0]) < set(everything.items["target"][0])
    assert five.items["target"][0] == sorted(five.items["target"][0]) == blobs(target_per_class=5).items["target"][0]
    assert (five.items["source"], five.test_items) == (everything.items["source"], everything.test_items)
    assert blobs(target_per_class=1000).items == everything.items


@pytest.mark.parametrize("count", [4, 20, 21, 23, 40, 41, 83])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_shares_are_complete_and_equally_many_batches(blobs, count, ranks):
    data = blobs(target_batch=1)  # four items per batch in evaluation
    items = list(range(count))
    data.domains["target"] = Blobs(100)
    shares = []
    for rank in range(ranks):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)
        shares.append(data._eval_loader("target", items))
    assert sorted(item for share in shares for item in share.dataset.indices) == items
    assert len({len(share) for share in shares}) == 1


def test_too_few_items_for_the_processes(blobs):
    data = blobs()
    data.trainer = SimpleNamespace(global_rank=0, world_size=25)
    with pytest.raises(ValueError, match="target: 24 items to evaluate are too few for 25 processes"):
        data.test_dataloader()


def test_transforms_follow_the_backbone(blobs):
    train, evaluation = TrainTransform(), EvalTransform(resize=40)
    data = blobs(train_transform=train, eval_transform=evaluation)
    expected = Preprocessing((0.0,) * 3, (0.5,) * 3, "bicubic", 50, 32)
    trunk = Trunk()
    trunk.preprocessing = expected
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(network=TransferNet(trunk, 3)))
    white = v2.functional.to_pil_image(torch.ones(3, 60, 60))
    assert evaluation(white).shape == (3, 224, 224)
    data.setup("fit")
    assert evaluation(white).shape == train(white).shape == (3, 32, 32)
    assert torch.equal(evaluation(white), torch.full((3, 32, 32), 2.0))
    sides = [step.size for step in evaluation.steps.transforms if isinstance(step, v2.Resize)]
    assert sides == [[40, 40]]  # what was given stays
    resize = train.steps.transforms[1]
    assert (resize.size, resize.interpolation) == ([50, 50], v2.InterpolationMode.BICUBIC)


def test_domain_that_the_task_does_not_see_is_not_loaded(blobs):
    for seen in (["source"], ["target"], ["source", "target"]):
        data = blobs()
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=-1))
        task = SimpleNamespace(seen=seen)
        data.trainer = SimpleNamespace(fit_loop=loop, global_rank=0, world_size=1, lightning_module=task)
        batch, *_ = next(iter(data.train_dataloader()))
        assert list(batch) == seen


class Other(Dataset):
    """Pictures that no one has named the classes of."""


def test_a_data_set_without_classes_is_no_domain():
    with pytest.raises(ValueError, match="attributes classes and targets; Other has no classes"):
        DomainPair(Other(), Blobs())


def test_what_torchvisions_folder_leaves_out_is_told(tmp_path):
    for name in ("source", "target"):
        write(tmp_path / name, len(name))
    picture(3).save(tmp_path / "source" / "joy" / "moving.gif")
    domains = [ImageFolder(tmp_path / name) for name in ("source", "target")]
    data = DomainPair(*domains)
    assert data.domains["source"].dropped == {"not read by torchvision's ImageFolder": ["joy/moving.gif"]}
    assert not data.domains["target"].dropped
    named = ImageFolder(tmp_path / "target", loader=lambda path: Path(path).name)
    assert DomainPair(domains[0], named).domains["target"][0] == ("00.png", 0)


def test_torchvisions_folder_takes_no_parts_for_classes(tmp_path):
    write(tmp_path, classes=("train", "val"))
    with pytest.raises(ValueError, match=r"takes the parts train, val for classes; use .*image_folder"):
        DomainPair(ImageFolder(tmp_path), ImageFolder(tmp_path))


def test_one_set_as_both_domains(blobs):
    domain = blobs().domains["target"]
    data = DomainPair(domain, domain, exclude_held_out=True, source_validation=0.0, eval_batch=5)
    (train, validation), (source, nothing) = data.items["target"], data.items["source"]
    assert source == train
    assert not nothing
    assert sorted([*source, *validation, *data.test_items]) == list(range(48))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)
    assert len(next(iter(data.test_dataloader()))[1]) == 5
    assert [len(next(iter(loader))[1]) for loader in data.samples().values()] == [5, 5]


@pytest.mark.parametrize("name", ["source_batch", "target_batch", "steps_per_epoch", "eval_batch"])
def test_nothing_is_trained_on_no_items_or_steps(blobs, name):
    for wrong in (0, -3):
        with pytest.raises(ValueError, match=f"^{name}: expected 1 or more, got {wrong}$"):
            blobs(**{name: wrong})


def test_split_file_of_one_fold_needs_no_fold(blobs, tmp_path):
    first = blobs(split_seed=1)
    first.split.write(tmp_path / "split.json")
    assert blobs(split=str(tmp_path / "split.json")).test_items == first.test_items
