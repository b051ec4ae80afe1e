"""The settings that a checkpoint was made with, against those of the run that would go on from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from pydoc import locate
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import rank_zero_warn

# Settings that change no result.
FREE = {"data.workers", "data.features", "data.source.cache", "data.target.cache"}
# Settings on which the accuracy of given weights depends, beside the division, which is the run's.
EVALUATION = ("data.eval_transform", "data.exclude_from_eval")
# Folders of files: where they are changes no result if the checkpoint has the files' hashes, which are compared.
ROOTS = {"source": "data.source.root", "target": "data.target.root"}


def refuse_other_settings(checkpoint: Mapping[str, Any], model: LightningModule, data: LightningDataModule) -> None:
    """Compares a checkpoint's settings of model and data with those of the run that would resume from it.

    The state dicts of different methods fit each other, because a transfer loss has no parameters; the settings differ.
    What the checkpoint does not name, because the setting is newer, had the value that is now the default; so too
    within the settings of a class, such as a network.

    Raises:
        ValueError: they differ; the error names every setting that does, with both values.
    """
    different = _different(checkpoint, model, data)
    if different:
        raise ValueError(
            "the checkpoint was made with other settings, so the run cannot resume from it; choose another --output, "
            f"or these settings: {'; '.join(different.values())}"
        )


def warn_of_other_evaluation(checkpoint: Mapping[str, Any], model: LightningModule, data: LightningDataModule) -> None:
    """Warns where what is evaluated, or how pictures are prepared for it, is not as the checkpoint's run had it."""
    different = _different(checkpoint, model, data)
    if told := [text for key, text in different.items() if key.startswith(EVALUATION)]:
        rank_zero_warn(
            f"this is evaluated otherwise than the checkpoint's run is, and gives other results: {'; '.join(told)}"
        )


def _different(checkpoint: Mapping[str, Any], model: LightningModule, data: LightningDataModule) -> dict[str, str]:
    """The settings that differ: name -> name and both values."""
    made, asked = {}, {}
    for name, part in (("model", model), ("data", data)):
        stored = checkpoint.get(part.CHECKPOINT_HYPER_PARAMS_KEY) if part is not None else None
        if stored is not None:
            defaults = _defaults(type(part))
            made |= _flat(name, {key: defaults[key] for key in part.hparams if key in defaults} | dict(stored))
            asked |= _flat(name, part.hparams)
    free = FREE | {ROOTS[name] for name in _hashed(checkpoint, data)}
    absent = "nothing"
    return {
        key: f"{key} ({made.get(key, absent)!r}, now {asked.get(key, absent)!r})"
        for key in dict.fromkeys([*made, *asked])
        if key.replace(".init_args.", ".") not in free and made.get(key, absent) != asked.get(key, absent)
    }


def _hashed(checkpoint: Mapping[str, Any], data: LightningDataModule) -> list[str]:
    """The domains whose files are known by their content."""
    division = checkpoint.get(type(data).__qualname__, {}).get("splits", {})
    return [name for name, split in division.items() if any("sha256" in item for item in split["items"].values())]


def _defaults(called: Callable[..., Any]) -> dict[str, Any]:
    """Argument -> default value, as configurations write it."""
    try:
        known = signature(called).parameters.values()
    except (TypeError, ValueError):  # built-in types have none
        return {}
    values = {one.name: one.default for one in known if one.default is not Parameter.empty}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _flat(name: str, value: Any) -> dict[str, Any]:
    """The leaves of nested mappings under their dotted names, with the defaults of classes that they name."""
    if not isinstance(value, Mapping):
        return {name: value}
    if "class_path" in value and (called := locate(value["class_path"])) is not None:
        value = {**value, "init_args": _defaults(called) | dict(value.get("init_args") or {})}
    return {key: leaf for part, inner in value.items() for key, leaf in _flat(f"{name}.{part}", inner).items()}
