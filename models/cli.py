"""Command line: `python -m fastmmd.models {inspect,fit,validate,test,predict} --config digits.yaml ...`.

Later configurations and arguments override earlier ones. A name without a folder that is no file here is looked up
among the packaged configurations. `fit --ckpt_path last` begins, or resumes where the last checkpoint was; the other
subcommands load the output's last checkpoint, or what `--ckpt_path {last,best,PATH}` says.

`--help` fits a screen, `--help=all` tells everything. A wrong name of an option, a class or a file is an error (exit
status 2) that names those near to it. What cannot be written or read is an error (exit status 1) with the path, found
before the training where possible; checkpoints are complete or absent, whatever ends the process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from fastmmd.models.callbacks import RandomState, ResultFiles
from fastmmd.models.checkpoints import AtomicCheckpointIO, damage_named, no_checkpoint
from fastmmd.models.data import DomainPair
from fastmmd.models.data.inspect import describe
from fastmmd.models.files import errors_named, require_writable
from fastmmd.models.module import PARTS, TransferTask
from fastmmd.models.usage import CONFIGS, SUBCOMMANDS, Parser, fault_of_file, short_help

PROG = "python -m fastmmd.models"


class TransferCLI(LightningCLI):
    """Lightning's command line for `TransferTask` on a `DomainPair`; `--output` is the folder for all it writes.

    Args:
        args: arguments; those of the process if not given.
        trainer_defaults: arguments of the trainer that configurations may override.
        kwargs: more of LightningCLI's options, such as `run=False` to build model, data and trainer only.
    """

    def __init__(
        self, args: Sequence[str] | None = None, trainer_defaults: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(
            TransferTask,
            DomainPair,
            args=args,
            # `DomainPair` shares items out among processes itself.
            trainer_defaults={"use_distributed_sampler": False, **(trainer_defaults or {})},
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": PROG},
            parser_class=Parser,
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--output", type=str, default="runs/transfer", help="folder for all that the run writes")
        parser.link_arguments("output", "trainer.default_root_dir")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")
        parser.link_arguments("data.num_classes", "model.network.init_args.num_classes", apply_on="instantiate")
        # Two callbacks, because Lightning's `save_last` follows `monitor`: its "last" is the last improvement.
        # "best" stands first, where `ckpt_path="best"` looks.
        for name in ("best", "last"):
            parser.add_lightning_class_args(ModelCheckpoint, name)
            parser.link_arguments(
                "output", f"{name}.dirpath", compute_fn=lambda output: str(Path(output) / "checkpoints")
            )
            parser.set_defaults({f"{name}.filename": name, f"{name}.enable_version_counter": False})
        parser.set_defaults({"best.monitor": "val/target_accuracy", "best.mode": "max"})
        # Without validation items of the target nothing can be best.
        parser.link_arguments("data.validated", "best.save_top_k", compute_fn=int, apply_on="instantiate")
        parser.add_lightning_class_args(RandomState, "random_state")
        parser.add_lightning_class_args(ResultFiles, "result_files")

    def parse_arguments(self, parser: LightningArgumentParser, args: Sequence[str] | None) -> None:
        words = packaged(sys.argv[1:] if args is None else args)
        parsers = getattr(self, "_subcommand_parsers", None)
        if parsers and {"-h", "--help"} & set(words):
            subcommand = next((word for word in words if word in SUBCOMMANDS), None)
            print(short_help(PROG, parsers.get(subcommand, parsers["fit"]), subcommand))
            raise SystemExit
        for path in files_of_settings(words):
            if fault := fault_of_file(path):
                parser.error(fault)
        self.config = parser.parse_args(["--help" if word == "--help=all" else word for word in words])
        subcommand = self.config.get("subcommand")
        if subcommand is not None:
            settings = self.config[subcommand]
            settings.ckpt_path = checkpoint_path(settings.ckpt_path, settings.output, subcommand)

    def _parse_ckpt_path(self) -> None:
        # Lightning would train with the model settings of the checkpoint in place of those asked for.
        subcommand = self.config.get("subcommand")
        if subcommand not in (None, "fit"):
            path = Path(self.config[subcommand].ckpt_path)
            with damage_named(path):
                try:
                    super()._parse_ckpt_path()
                except AttributeError as error:  # no dict
                    raise no_checkpoint(path) from error

    def after_instantiate_classes(self) -> None:
        # The parts are modules, which a checkpoint must not hold whole; their configuration it must.
        self.model.hparams.update({part: self.config_dump["model"][part] for part in PARTS})
        self.datamodule.hparams.update(self.config_dump["data"])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self._get(self.config_init, "trainer")
        if settings.logger is None:
            table = CSVLogger(settings.default_root_dir, name="logs")
            kwargs["logger"] = [
                table,
                TensorBoardLogger(settings.default_root_dir, name="logs", version=f"version_{table.version}"),
            ]
        plugins = settings.plugins if isinstance(settings.plugins, list) else [settings.plugins]
        for plugin in plugins:
            if isinstance(plugin, AsyncCheckpointIO):
                plugin.checkpoint_io = AtomicCheckpointIO()  # where it has none of its own
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # Lightning's own choice, and no user's
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def before_fit(self) -> None:
        """Finds out before the training whether its checkpoints can be written.

        Raises:
            OSError: they cannot; the error has the folder and says what to do.
        """
        if not self.trainer.fast_dev_run:
            for callback in self.trainer.checkpoint_callbacks:
                require_writable(Path(getattr(callback, "dirpath", None) or self.trainer.default_root_dir))

    def _run_subcommand(self, subcommand: str) -> None:
        # Loggers write by ways of their own, whose errors name no file.
        with errors_named(Path(self._get(self.config, "output"))):
            try:
                super()._run_subcommand(subcommand)
            except KeyError as error:
                if error.args != ("pytorch-lightning_version",):  # which every checkpoint has
                    raise
                raise no_checkpoint(Path(self.trainer.ckpt_path)) from error


def checkpoint_folder(output: str) -> str:
    """Where a run's checkpoints are; without an output in the working folder, and not in the root of the disk."""
    return str(Path(output) / "checkpoints")


def checkpoint_path(wanted: str | None, output: str, subcommand: str) -> str | None:
    """The checkpoint that a subcommand loads: "last" and "best" are files of the output folder, "last" the default.

    `fit` needs none: its default is a new run, and its "last", which Lightning looks up, may be absent.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if subcommand == "fit" and wanted in (None, "last"):
        return wanted
    named = wanted in (None, "last", "best")
    path = Path(checkpoint_folder(output)) / f"{wanted or 'last'}.ckpt" if named else Path(wanted)
    if not path.is_file():
        remedy = "run fit with the same --output first, or give --ckpt_path PATH"
        if wanted == "best" and path.with_name("last.ckpt").is_file():
            remedy = "without validation items of the target nothing is best; --ckpt_path last is there"
        raise FileNotFoundError(f"{subcommand}: no checkpoint {path}; {remedy}")
    return str(path)


def files_of_settings(args: Sequence[str]) -> list[Path]:
    """The files among `args` that `--config` names."""
    named = [value for option, value in pairwise(args) if option in ("-c", "--config")]
    named += [arg.partition("=")[2] for arg in args if arg.startswith(("-c=", "--config="))]
    return [Path(name) for name in named if Path(name).is_file()]


def packaged(args: Sequence[str]) -> list[str]:
    """`args` with the names of packaged configurations replaced by their paths."""

    def found(name: str) -> str:
        path = CONFIGS / name
        return str(path) if not Path(name).exists() and path.is_file() else name

    result: list[str] = []
    for arg in args:
        option, equals, value = arg.partition("=")
        if result and result[-1] in ("-c", "--config"):
            arg = found(arg)
        elif option in ("-c", "--config") and equals:
            arg = f"{option}={found(value)}"
        result.append(arg)
    return result


class ArgumentsOnly(TransferCLI):
    """A command line whose arguments are read, and of which the data can be built."""

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(args, run=False)

    def data(self, settings: Any = None) -> DomainPair:
        """The domains, without network and trainer.

        Args:
            settings: those of `data`, as the parser gives them; this command line's if not given.
        """
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(DomainPair, "data", sub_configs=True)
        return parser.instantiate(parser.parse_object({"data": settings or self.config.data})).data

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def after_instantiate_classes(self) -> None:
        pass


def inspect(args: Sequence[str]) -> None:
    """Prints what the arguments' domains hold and how they are divided, see `data.inspect.describe`."""
    print(describe(ArgumentsOnly(args).data()))


def main(args: Sequence[str] | None = None) -> None:
    args = sys.argv[1:] if args is None else args
    if args and args[0] == "inspect" and not {"-h", "--help", "--help=all"} & set(args):
        inspect(args[1:])
    else:
        TransferCLI(args)
