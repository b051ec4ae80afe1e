"""The division of a run's pictures is the run's: whatever happens to the folders afterwards."""

import csv
import json
import os
import shutil
import warnings

import pytest
import torch
from PIL import Image

from fastmmd.models.data import DomainPair
from fastmmd.models.data.domain import UNLABELLED, ImageDomain
from fastmmd.models.data.folds import Split
from fastmmd.models.data.readers import read_domain
from fastmmd.models.experiment import _hush_warnings

from .conftest import Blobs
from .folders import CLASSES, picture, run, write


@pytest.fixture
def trained(tmp_path):
    """A folder with source, target and a run on them."""
    write(tmp_path / "source", 1)
    write(tmp_path / "target", 2)
    run("fit", tmp_path)
    return tmp_path


def split_of(folder):
    return Split.read(folder / "run" / "split.json")


def items_of(folder):
    with open(folder / "run" / "predictions.csv", newline="") as file:
        return [row["item"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("subcommand", ["test", "predict"])
def test_added_pictures_are_named_and_not_used(trained, subcommand):
    before = split_of(trained)
    for name in CLASSES:
        for k in range(20):
            picture([9, k]).save(trained / "target" / name / f"0{k}new.png")
    with pytest.warns(UserWarning, match=r"target: 60 items .* are new since the run began, not used by this run"):
        run(subcommand, trained)
    assert items_of(trained) == sorted(before.folds[0].test)
    assert split_of(trained) == before


def test_added_pictures_are_named_by_runs_of_a_comparison(trained):
    picture(5).save(trained / "target" / "awe" / "new.png")
    with warnings.catch_warnings(record=True) as told:
        _hush_warnings()
        run("test", trained)
    assert ["awe/new.png" in str(warning.message) for warning in told] == [True]


def test_removed_training_pictures_change_no_test(trained):
    before = split_of(trained)
    (trained / "target" / before.folds[0].train[0]).unlink()
    (trained / "source" / "awe" / "00.png").unlink()
    with pytest.warns(
        UserWarning, match=f"target: 1 items .* are missing .* not needed here: {before.folds[0].train[0]}"
    ):
        run("test", trained)
    assert items_of(trained) == sorted(before.folds[0].test)


@pytest.mark.parametrize("change", ["missing", "of another content", "of another class"])
def test_tested_picture_that_is_not_the_same_is_an_error(trained, change):
    name = split_of(trained).folds[0].test[0]
    path = trained / "target" / name
    if change == "missing":
        path.unlink()
    elif change == "of another content":
        picture(77).save(path)
    else:
        path = trained / "run" / "checkpoints" / "last.ckpt"
        stored = torch.load(path, weights_only=True)
        state = stored["DomainPair"]["splits"]
        state["target"] = relabelled(state["target"], name).content()
        torch.save(stored, path)
        (trained / "run" / "split.json").unlink()
    with pytest.raises(ValueError, match=rf"target: {trained}/target does not hold .* 1 {change}: {name}"):
        run("test", trained)


def relabelled(content, name):
    split = Split.from_content(content)
    other = next(label for label in CLASSES if label != split.labels[name])
    return Split(split.protocol, split.classes, {**split.labels, name: other}, split.folds, split.hashes)


def test_resume_names_new_pictures_and_refuses_missing_ones(trained):
    before = split_of(trained)
    more = ("--ckpt_path=last", "--trainer.max_epochs=2")
    picture(5).save(trained / "source" / "awe" / "99.png")
    with pytest.warns(UserWarning, match=r"source: 1 items .* are new since the run began.*: awe/99.png"):
        run("fit", trained, *more)
    assert split_of(trained) == before
    (trained / "source" / "joy" / "04.png").unlink()
    with pytest.raises(ValueError, match=r"source: .*source does not hold .*: 1 missing: joy/04.png"):
        run("fit", trained, *more)


def test_another_division_is_refused(trained):
    for args, message in (
        ({"split_seed": 3}, "seed 3"),
        ({"target_test": 0.5}, "test 0.5"),
        ({"fold": 1}, "fold 1"),
    ):
        with pytest.raises(ValueError, match=f"another division of the data than the run's.*asked for is .*{message}"):
            run("test", trained, **args)


def test_pictures_of_one_size_and_time_that_change_places_are_found(tmp_path):
    """As unpacked archives have them: what was seen of each file is kept from run to run, and would be the other's."""
    for folder, seed in (("source", 1), ("target", 2)):
        for path in write(tmp_path / folder, seed).rglob("*.png"):
            with Image.open(path) as image:
                image.save(path.with_suffix(".bmp"))
            path.unlink()
            os.utime(path.with_suffix(".bmp"), (1e9, 1e9))
    run("fit", tmp_path)
    before = read_domain("image_folder", str(tmp_path / "target"))
    first, *_, last = sorted(split_of(tmp_path).folds[0].test)
    earlier, later, aside = (tmp_path / "target" / name for name in (first, last, "aside"))
    earlier.rename(aside)
    later.rename(earlier)
    aside.rename(later)
    assert read_domain("image_folder", str(tmp_path / "target")).fingerprint != before.fingerprint
    with pytest.raises(ValueError, match=f"2 of another content: {first}, {last}"):
        run("test", tmp_path)


@pytest.mark.parametrize("subcommand", ["test", "predict"])
def test_classes_in_another_order_are_refused(trained, subcommand):
    """The network's outputs are in the run's order: the labels of any other would be tested wrongly."""
    other = [f"--data.{name}.classes={list(reversed(CLASSES))}" for name in ("source", "target")]
    with pytest.raises(ValueError, match=r"classes: the checkpoint has \['awe', .*the data have \['joy', "):
        run(subcommand, trained, *other)


def test_classes_that_are_new_are_named(trained):
    for name in ("source", "target"):
        write(trained / name, 3, classes=("anger",))
    with pytest.raises(ValueError, match=r"classes: the checkpoint has .*the data have .*'anger'"):
        run("test", trained)


def test_split_of_another_run_gives_its_test_pictures(trained, tmp_path):
    """A split of one fold needs no `fold`."""
    file = trained / "first.json"
    file.write_bytes((trained / "run" / "split.json").read_bytes())
    shutil.rmtree(trained / "run")
    run("fit", trained, "--data.split_seed=5", split=str(file))
    run("test", trained, "--data.split_seed=5", split=str(file))
    assert items_of(trained) == sorted(Split.read(file).folds[0].test)


@pytest.mark.parametrize("change", ["edited", "of another run"])
def test_split_file_that_is_not_the_checkpoints_is_refused(trained, change):
    path = trained / "run" / "split.json"
    if change == "edited":
        content = json.loads(path.read_text())
        content["folds"][0]["test"].pop()
        path.write_text(json.dumps(content))
    else:
        split = Split.read(path)
        Split(split.protocol, split.classes, split.labels, split.folds[:1], None).write(path)
    with pytest.raises(ValueError, match=r"split.json is (no split|not the division)"):
        run("test", trained)
    path.unlink()
    run("test", trained)  # the checkpoint has it
    assert path.is_file()


def test_checkpoint_without_a_division_is_warned_of(trained):
    """As one is that a trainer wrote which was given loaders."""
    path = trained / "run" / "checkpoints" / "last.ckpt"
    stored = torch.load(path, weights_only=True)
    del stored["DomainPair"]
    torch.save(stored, trained / "other.ckpt")
    with pytest.warns(UserWarning, match=r"does not say how its data were divided.*give data.split"):
        run("test", trained, f"--ckpt_path={trained / 'other.ckpt'}")


def test_moved_pictures_resume(trained):
    shutil.move(trained / "source", trained / "elsewhere")
    shutil.move(trained / "target", trained / "there")
    moved = {"source": "elsewhere", "target": "there"}
    more = ("--ckpt_path=last", "--trainer.max_epochs=2")
    run("fit", trained, *more, **moved)
    stored = torch.load(trained / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run("test", trained, **moved)
    picture(3).save(trained / "elsewhere" / "fear" / "00.png")
    with pytest.raises(ValueError, match=r"source: .*elsewhere does not hold .*1 of another content: fear/00.png"):
        run("fit", trained, *more, **moved)


def test_resume_after_an_addition_equals_an_uninterrupted_run(tmp_path):
    weights = []
    for name, epochs in (("whole", (3,)), ("parts", (1, 3))):
        folder = tmp_path / name
        write(folder / "source", 1)
        write(folder / "target", 2)
        for count in epochs:
            run("fit", folder, "--ckpt_path=last", f"--trainer.max_epochs={count}", target_per_class=4)
            picture(8).save(folder / "target" / "awe" / "000.png")
            picture(8).save(folder / "source" / "awe" / "000.png")
        weights.append(torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_other_evaluation_than_the_runs_is_warned_of(trained):
    with pytest.warns(UserWarning, match=r"evaluated otherwise .*: data.eval_transform.*resize \(8, now 9\)$"):
        run("test", trained, "--data.eval_transform.resize=9")


# Copies


@pytest.fixture
def copied(tmp_path):
    """Source and target, in which every picture of the target is also in the source, and twice in the target."""
    write(tmp_path / "source", 1)
    write(tmp_path / "target", 2)
    for name in CLASSES:
        for k in range(10):
            picture([2, CLASSES.index(name), k]).save(tmp_path / "source" / name / f"copy{k}.bmp")
            picture([2, CLASSES.index(name), k]).save(tmp_path / "target" / name / f"twin{k}.tiff")
    return tmp_path


def domains(folder, **options):
    return [read_domain("image_folder", str(folder / name), options) for name in ("source", "target")]


@pytest.mark.parametrize("torchvisions", [False, True])
def test_copies_of_held_out_pictures_are_left_out_whatever_their_format(copied, torchvisions):
    if torchvisions:
        from torchvision.datasets import ImageFolder

        source, target = (ImageFolder(copied / name) for name in ("source", "target"))
    else:
        source, target = domains(copied)
    data = DomainPair(source, target, exclude_held_out=True, target_test=0.3, target_validation=0.2)
    held_out = {data.names["target"][item][-6:-5] for item in (*data.test_items, *data.items["target"][1])}
    assert held_out
    pixels = [
        {data.domains[name].inspections[data.names[name][item]].pixels for item in items}
        for name, items in (
            ("target", [*data.test_items, *data.items["target"][1]]),
            ("target", data.items["target"][0]),
            ("source", [*data.items["source"][0], *data.items["source"][1]]),
        )
    ]
    assert not pixels[0] & pixels[1]
    assert not pixels[0] & pixels[2]
    assert len(data.items["source"][0]) + len(data.items["source"][1]) == 60 - len(pixels[0])
    assert list(data.division.left_out["source"]) == ["held out in the target, or a copy of such a picture"]
    plain = DomainPair(source, target, target_test=0.3, target_validation=0.2)
    assert len(plain.items["source"][0]) + len(plain.items["source"][1]) == 60


def test_copies_stay_out_when_features_stand_for_the_pictures(copied):
    """A resumed run knows its files although features have taken their place."""
    settings = {"exclude_held_out": True, "features": str(copied / "features"), "train_transform": None}
    frozen = "--model.network.init_args.freeze_backbone=true"
    run("fit", copied, frozen, **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*since the run began")
        run("fit", copied, frozen, "--ckpt_path=last", "--trainer.max_epochs=2", **settings)
        run("test", copied, frozen, **settings)
    text = (copied / "run" / "data.md").read_text()
    assert "* copies within the target: 60 pictures in 30 groups" in text
    assert "copy of a held-out picture" in text


# Targets without labels


def unlabelled(folder, seed=2, count=20):
    folder.mkdir(parents=True)
    for k in range(count):
        picture([seed, 50 + k]).save(folder / f"{k:02}.png")
    return folder


def test_folder_without_labels_as_target(tmp_path):
    write(tmp_path / "source", 1)
    unlabelled(tmp_path / "target")
    flat = ("--data.target.reader=unlabelled", "--model.target_labels=ignored")
    run("fit", tmp_path, *flat)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["last.ckpt"]
    with pytest.raises(ValueError, match=r"no test items, for want of labels"):
        run("test", tmp_path, *flat)
    run("predict", tmp_path, *flat)
    with open(tmp_path / "run" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["item"] for row in rows] == [f"{k:02}.png" for k in range(20)]
    assert {row["label"] for row in rows} == {""}
    assert {row["prediction"] for row in rows} <= set(CLASSES)
    with pytest.raises(ValueError, match="target_labels: 20 of the target's training items have no label"):
        run("fit", tmp_path, flat[0], "--model.target_labels=used")


class Partly(Blobs):
    """Blobs of which every second has no label."""

    def __init__(self, count=60):
        super().__init__(count)
        self.targets = [UNLABELLED if k % 2 else target for k, target in enumerate(self.targets)]


def test_items_without_a_label_are_for_training():
    data = DomainPair(Blobs(60), Partly(), target_test=0.3, target_validation=0.2, target_per_class=2)
    train, validation = data.items["target"]
    bare = set(range(1, 60, 2))
    assert bare <= set(train)
    assert not bare & {*validation, *data.test_items}
    assert len(set(train) - bare) == 6
    with pytest.raises(ValueError, match="source: expected a label for every item"):
        DomainPair(Partly(), Blobs())


# Data sets that divide themselves


def divided(folder, parts, seed=0):
    names, targets = [], []
    for k, part in enumerate(parts):
        name = f"{part}/{CLASSES[k % 3]}/{k:03}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture([seed, k]).save(folder / name)
        names.append(name)
        targets.append(k % 3)
    return ImageDomain(folder, names, targets, CLASSES, parts=parts)


def test_parts_of_a_data_set_are_taken(tmp_path):
    parts = ["train"] * 30 + ["val"] * 6 + ["test"] * 12
    source, target = (divided(tmp_path / name, parts, seed) for seed, name in enumerate(("source", "target")))
    data = DomainPair(source, target)
    assert data.items["target"] == (list(range(30)), list(range(30, 36)))
    assert data.test_items == list(range(36, 48))
    assert data.items["source"] == (list(range(30)), list(range(30, 36)))
    assert data.division.left_out["source"] == {"the test part, of use in a target only": source.names[36:]}
    drawn = DomainPair(source, target, fold=0)
    assert {target.parts[item] for item in drawn.test_items} != {"test"}


def test_test_part_of_a_source_is_not_new_in_a_resumed_run(tmp_path):
    for seed, name in enumerate(("source", "target")):
        divided(tmp_path / name, ["train"] * 30 + ["test"] * 12, seed)
    run("fit", tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*since the run began")
        run("test", tmp_path)
        run("fit", tmp_path, "--ckpt_path=last", "--trainer.max_epochs=2")


@pytest.mark.parametrize(("given", "drawn"), [("val", "test"), ("test", "validation")])
def test_part_that_a_data_set_lacks_is_drawn_from_its_training_part(tmp_path, given, drawn):
    target = divided(tmp_path, ["train"] * 30 + [given] * 9)
    data = DomainPair(Blobs(60, classes=list(CLASSES)), target, target_validation=0.2, target_test=0.2)
    train, validation = data.items["target"]
    kept, new = (validation, data.test_items) if given == "val" else (data.test_items, validation)
    assert kept == list(range(30, 39))
    assert len(new) == 6
    assert sorted([*train, *new]) == list(range(30))


# Small classes


class Numbers(list):
    """(number, label) of every label in a list of them."""

    def __init__(self, targets):
        super().__init__(enumerate(targets))
        self.targets = targets
        self.classes = [f"c{k:02}" for k in range(31)]


@pytest.mark.parametrize("part", [0.05, 0.15])
def test_small_classes_are_held_out_as_far_as_they_go(part):
    """As Office-31's DSLR: 498 pictures in 31 classes, the smallest with 7."""
    sizes = [7, 10, 12] + [17] * 27 + [10]
    target = Numbers([label for label, size in enumerate(sizes) for _ in range(size)])
    data = DomainPair(Numbers(list(range(31)) * 10), target, target_validation=0.05, target_test=part)
    assert len(data.items["target"][1]) == pytest.approx(0.05 * sum(sizes), abs=1)
    assert len(data.test_items) == pytest.approx(part * sum(sizes), abs=1)
    train = {target.targets[item] for item in data.items["target"][0]}
    assert train == set(range(31))


def test_class_of_one_names_the_setting():
    target = Blobs()
    target.targets = [0] * 30 + [1] * 29 + [2]
    with pytest.raises(ValueError, match=r"'c' with 1; see data.target_test"):
        DomainPair(Blobs(), target)
