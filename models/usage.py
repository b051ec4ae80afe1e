"""What the command line says about itself: a help that fits a screen, and errors that name near words."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from pydoc import locate
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

CONFIGS = Path(__file__).parent / "configs"
COLUMNS = 100
SUBCOMMANDS = {
    "inspect": "what the domains hold, how they are divided, what is left out (options of fit)",
    "fit": "train; with --ckpt_path last go on from the output's last checkpoint, if there is one",
    "validate": "accuracy on the validation parts of source and target",
    "test": "accuracy on the target's test part, with predictions.csv and two pictures",
    "predict": "predictions.csv of the target's test part",
}
# What is set most often, in the help's order, and how it is described.
USUAL = {
    "output": "folder for all that the run writes",
    "ckpt_path": "weights to load or to go on from: last, best or a path",
    "seed_everything": "seed of initial weights, batches and dropout",
    "data.source": "to learn from; its folder is --data.source.root",
    "data.target": "to transfer to, likewise",
    "data.source_batch": "items of the source in a training batch",
    "data.target_batch": "items of the target in a training batch",
    "data.steps_per_epoch": "training batches in an epoch",
    "data.target_validation": "part of the target that is kept for validation",
    "data.target_test": "part of the target that is kept for the test",
    "data.fold": "which of five folds to test; none: random parts",
    "data.split": "file of a split, such as another run's split.json",
    "data.workers": "loader processes of each domain",
    "model.network": "class; its weights: --model.network.backbone.weights",
    "model.transfer": "class of the transfer term, such as fastmmd.TransferLoss",
    "model.target_labels": "whether the target's training labels are used or ignored",
    "model.learning_rate": "of the new layers, at the first step",
    "trainer.max_epochs": "length of the training",
    "trainer.accelerator": "cpu, gpu or auto",
    "trainer.devices": "number of devices",
    "trainer.precision": "such as bf16-mixed",
}
KINDS = {
    "recipes": "network and training, most with data",
    "methods": "behind a recipe",
    "tasks": "data sets, behind a recipe",
    "variants": "another network, behind a recipe",
}


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors name what is near to a wrong word."""

    def print_usage(self, file: Any = None) -> None:  # all options would be a hundred lines
        print(f"usage: {self.prog.replace(' [options]', '')} --config FILE ... [--OPTION VALUE ...]", file=file)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        lines = [f"  {line}" for line in dict.fromkeys(advice(message, parser)) if line not in message]
        super().error("\n".join([message, *lines]), ex)


def advice(message: str, parser: ArgumentParser) -> Iterator[str]:
    """Lines to be read below an error of jsonargparse: near names for those that it calls wrong.

    Args:
        message: the error.
        parser: whose options were meant.
    """
    for words in re.findall(r"unrecognized arguments: (.*)", message):
        for word in words.split():
            if word.startswith("--"):
                yield from _near_option(word[2:].partition("=")[0], parser)
            elif Path(word).suffix in (".yaml", ".yml"):
                yield f"a configuration takes its option: --config {word}"
    for name in re.findall(r"does not accept option '([^']*)'|^Option '([^']*)' is not accepted$", message, re.M):
        yield from _near_option("".join(name), parser)
    for module, name in re.findall(r"module '([^']*)' has no attribute '([^']*)'", message):
        if near := _near(name, [name for name in dir(locate(module)) if not name.startswith("_")]):
            yield f"near to {module}.{name}: {near}"
    for name, choices in re.findall(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
        known = re.findall(r"[\w-]+", choices)
        if near := _near(name, SUBCOMMANDS if "fit" in known else known):
            yield f"near to {name}: {near}"
    for name in re.findall(r"File does not exist: '([^']*)'", message):
        packaged = sorted(file.name for file in CONFIGS.glob("*.yaml"))
        near = _near(Path(name).name, packaged)
        yield f"near to it among the packaged configurations: {near}" if near else f"packaged: {', '.join(packaged)}"
    if "before subcommand" in message:
        yield "options and configurations stand behind the subcommand, as in: fit --config digits.yaml"
    if "arguments are required" in message:
        yield "a recipe sets them, as in: --config digits.yaml --config jan.yaml (--help lists all that are packaged)"


def fault_of_file(path: Path) -> str | None:
    """What is wrong with a file of settings as a whole, and where; None if it can be read and names settings."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        return f"configuration {path}: expected UTF-8, got byte {error.start} otherwise; save it as UTF-8"
    except yaml.YAMLError as error:
        return f"configuration {path}: no YAML: {error}"
    if not isinstance(content, dict):
        return f"configuration {path}: expected settings, such as data: {{seed: 1}}, got {content!r}"
    return None


def _near_option(name: str, parser: ArgumentParser) -> Iterator[str]:
    """Near options of a parser: of the whole name, of what precedes an argument of a class, or of its last part."""
    known = [word[2:] for action in parser._actions for word in action.option_strings if word.startswith("--")]
    known = [word for word in known if not word.endswith(("help", "print_config"))]
    last = {word: word.rpartition(".")[2] for word in known}
    parts = name.split(".")
    found: list[str] = []
    for count in range(len(parts), 0, -1):
        rest = "".join(f".{part}" for part in parts[count:])
        found = found or [near + rest for near in get_close_matches(".".join(parts[:count]), known, cutoff=0.8)]
    ends = get_close_matches(parts[-1], set(last.values()), cutoff=0.8)
    found = found or [word for word in known if last[word] in ends] or get_close_matches(name, known)
    mark = "--" if parser.exit_on_error else ""  # arguments of a class have a parser of their own
    if found:
        yield f"near to {mark}{name}: {', '.join(mark + word for word in found[:3])}"
    elif mark:
        yield f"nothing is near to --{name}; --help=all lists all options"
    else:
        yield f"accepted: {', '.join(known)}"


def _near(name: str, known: Iterable[str]) -> str:
    return ", ".join(get_close_matches(name, list(known)))


def short_help(prog: str, parser: ArgumentParser, subcommand: str | None) -> str:
    """At most a screen: what the command does, the usual options with their defaults, the packaged configurations.

    Args:
        prog: the command without a subcommand.
        parser: of the subcommand, or of "fit" where none is given.
        subcommand: which is asked about.
    """
    lines = [
        f"usage: {prog} {subcommand or 'COMMAND'} --config FILE ... [--OPTION VALUE ...]",
        "",
        "Trains a network on a labelled source and a target with a loss of MMD or JMMD, and tests it.",
        "",
    ]
    shown = SUBCOMMANDS if subcommand is None else {subcommand: SUBCOMMANDS[subcommand]}
    lines += [f"  {name:<10}{text}" for name, text in shown.items()]
    lines += ["", "Options, with what they are where no configuration says more:", ""]
    defaults = {action.dest: action.default for action in parser._actions}
    for name, text in USUAL.items():
        default = "-" if defaults[name] is None else defaults[name]
        lines.append(f"  --{name:<24}{default!s:<15}{text}")
    lines += ["", "Packaged configurations; --config NAME, several, of which the later override the earlier:", ""]
    for kind, files in packaged_by_kind().items():
        text = f"{kind} ({KINDS[kind]}): {', '.join(files)}"
        lines += textwrap.wrap(text, COLUMNS, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    lines += [
        "",
        "What each is stands in its first lines; --print_config shows what they come to. For example",
        "",
        f"  {prog} fit --config digits.yaml --config jan.yaml --output runs/jan",
        f"  {prog} test --config digits.yaml --config jan.yaml --output runs/jan",
        "",
        f"Everything that can be set: {prog} {subcommand or 'fit'} --help=all",
    ]
    return "\n".join(lines)


def packaged_by_kind() -> dict[str, list[str]]:
    """Kind -> packaged configurations, by what they set."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for file in sorted(CONFIGS.glob("*.yaml")):
        content = yaml.safe_load(file.read_text())
        data, network = "source" in content.get("data", {}), "network" in content.get("model", {})
        whole = network and "source_labels" in content["model"]
        kind = "recipes" if whole else "tasks" if data else "variants" if network else "methods"
        found[kind].append(file.name)
    return found
