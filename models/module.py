"""The transfer task: one LightningModule whose switches make every method that the papers compare."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, softmax
from torchmetrics.classification import MulticlassAccuracy

from fastmmd import LMMDLoss, TransferLoss
from fastmmd.functional import Discrepancy
from fastmmd.models.networks import ContrastiveLoss, Network
from fastmmd.models.networks.network import Outputs, over_crops
from fastmmd.models.schedules import inverse_decay, ramp
from fastmmd.models.settings import refuse_other_settings, warn_of_other_evaluation

DOMAINS = ("source", "target")
PARTS = ("network", "transfer", "contrastive")
Labels = Literal["used", "ignored"]
Batch = Mapping[str, tuple[Tensor, Tensor]]


class TransferTask(LightningModule):
    """Minimises `L = [L_s] + [L_t] + ramp * (lambda * JMMD(layers) + eta * MMD(layers)) [+ contrastive terms]`.

    Equations 11-13 of He & Ding 2020. `L_s` and `L_t` are mean cross-entropies on the labelled source and target
    batches (the paper prints 1/n_s in front of L_t, a misprint for 1/n_t); the rest is `fastmmd.TransferLoss` over
    `layers`, in the paper the bottleneck's features and the head's softmax. Its argument `joint` is lambda, the weight
    over all layers together, `marginal` is eta, a weight each. The methods are settings:

    | method                     | source_labels | target_labels | transfer                   |
    |----------------------------|---------------|---------------|----------------------------|
    | source only                | used          | ignored       | none                       |
    | batch statistics only      | used          | ignored       | none, see "both"           |
    | CTD, target only           | ignored       | used          | none                       |
    | CBD, both without transfer | used          | used          | none                       |
    | DAN                        | used          | either        | joint 0, marginal (1, 0)   |
    | JAN                        | used          | either        | joint 1, marginal (0, 0)   |
    | He & Ding                  | used          | either        | joint .2, marginal (.3, 0) |
    | DSAN, with ramp            | used          | either        | `fastmmd.LMMDLoss`         |

    With `target_labels="used"` the transfer is supervised, as in He & Ding's experiments; with "ignored" unsupervised,
    as in the papers of DAN, JAN and DSAN.

    DSAN's term (Zhu et al. 2021) compares the domains class by class. A row's share in a class is that of its label,
    and where the target's labels are ignored, the network's softmax, through which no gradient flows.

    All domains that are seen go through the network in one forward pass, so they share batch statistics. With batch
    norm that alone adapts a network to the target, which `see="both"` without a transfer term measures.

    With mixed precision the network runs in it and the loss in fp32. With several processes each has the loss of its
    own batch, MMD and JMMD too, and the gradients are averaged: that is not the MMD of all batches together. The same
    holds for batches whose gradients are accumulated (`trainer.accumulate_grad_batches`), and for the contrastive term,
    which sees the pairs of one batch.

    Training is SGD with momentum under the "inv" schedule. He & Ding give neither; the defaults are JAN's published
    recipe. The schedule and the ramp count steps of the optimiser, not batches.

    The terms are logged every `trainer.log_every_n_steps` steps, and once an epoch where that or the training has
    fewer; 0 is never.

    Args:
        network: maps images to (layers, logits), see `Network`.
        classes: class names in label order.
        transfer: the transfer term, or `None` for none. An `LMMDLoss` needs `source_labels`.
        layers: what the transfer term sees, in the order of its kernels and marginal weights: names of the network's
            layers, "logits" or "softmax". The joint term is over all of them; a marginal weight of 0 leaves a layer out
            of the marginal terms.
        source_labels, target_labels: whether L_s and L_t are part of the loss.
        see: the domains that go through the network in training: those that a term needs, or both.
        label_smoothing: of L_s and L_t, in [0, 1).
        ramp: raise the transfer term's weight over the whole training (see `schedules.ramp`); the paper does not.
        learning_rate: of the new layers, at step 0.
        backbone_rate: the learning rate of the network's backbone, if it has one, as a factor on `learning_rate`.
        momentum, weight_decay: of SGD.
        nesterov: whether the momentum is Nesterov's.
        decay_rate, decay_power: of the schedule (see `schedules.inverse_decay`); a power of 0 keeps the rate.
        contrastive: a second loss on the labelled images of each domain, of the network's combined layers: that of
            Zhu et al., see `ContrastiveLoss`. He & Ding have none.

    Raises:
        ValueError: no term is left: labels of both domains ignored; or the source's, which an `LMMDLoss` needs. In
            training: `layers` names one that the network does not have, or the transfer term sees fixed layers only.
    """

    def __init__(
        self,
        network: Network,
        classes: Sequence[str],
        transfer: TransferLoss | LMMDLoss | None = None,
        layers: Sequence[str] = ("features", "softmax"),
        source_labels: Labels = "used",
        target_labels: Labels = "ignored",
        see: Literal["needed", "both"] = "needed",
        label_smoothing: float = 0.0,
        ramp: bool = False,
        learning_rate: float = 3e-3,
        backbone_rate: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        decay_rate: float = 3e-4,
        decay_power: float = 0.75,
        nesterov: bool = True,
        contrastive: ContrastiveLoss | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=PARTS)
        # The layout convolutions are fastest in, on one CPU thread: a step of DigitCNN takes 3.8 ms, not 5.9; MldrNet
        # forward and backward 250 ms, not 262, for two images of 375 pixels, and 31, not 42, in its small form.
        self.network = network.to(memory_format=torch.channels_last)
        self.transfer = transfer
        self.contrastive = contrastive
        labels = dict(zip(DOMAINS, (source_labels, target_labels), strict=True))
        self.labelled = [domain for domain in DOMAINS if labels[domain] == "used"]
        if not self.labelled:
            raise ValueError("source_labels and target_labels are both 'ignored': nothing would be learned")
        self.by_class = isinstance(transfer, LMMDLoss)
        if self.by_class and source_labels == "ignored":
            raise ValueError("source_labels: expected 'used' with an LMMDLoss, which compares classes, got 'ignored'")
        self.seen = self.labelled if transfer is None and see == "needed" else list(DOMAINS)
        self.ramp_steps = 0  # see `on_train_start`
        self.val_accuracy = nn.ModuleDict({d: MulticlassAccuracy(len(classes), average="micro") for d in DOMAINS})
        self.test_accuracy = MulticlassAccuracy(len(classes), average="micro")

    def forward(self, images: Tensor) -> Outputs:
        """Images [n, c, h, w] to the network's layers, each [n, width], and logits [n, classes]."""
        return self.network(images)

    def objective(self, batch: Batch, weight: float = 1.0, trace: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and the values of its terms.

        Args:
            batch: domain -> (images [n, c, h, w], labels [n] int64); n may differ between domains.
            weight: factor on the transfer term.
            trace: also measure the transfer term's pull, the norm of its gradient with respect to all layers of the
                network together, through the softmax too; with respect to the logits where all layers are fixed. Its
                value hardly moves while it works; the pull shows that it does.

        Returns:
            The loss (0-d, with gradient), and the detached terms by name.
        """
        images = [batch[domain][0] for domain in self.seen]
        own_layers, logits = self(torch.cat(images))
        if self.contrastive is not None:  # the network's own layers, in its own precision
            sizes = [len(part) for part in images]
            parts = zip(
                self.seen, zip(*(layer.split(sizes) for layer in own_layers.values()), strict=True), strict=True
            )
            combined = {d: self.network.combine(part) for d, part in parts if d in self.labelled}
        with torch.autocast(logits.device.type, enabled=False):
            layers = self._by_domain(own_layers, logits, [len(part) for part in images])
            smoothing = self.hparams.label_smoothing
            terms = {
                f"{d}_loss": cross_entropy(layers["logits"][d], batch[d][1], label_smoothing=smoothing)
                for d in self.labelled
            }
            if self.contrastive is not None:
                for d in self.labelled:
                    terms[f"{d}_contrastive"] = self.contrastive(combined[d], batch[d][1])
            loss = torch.stack(list(terms.values())).sum()
            if self.transfer is not None:
                names = self.hparams.layers
                if absent := [name for name in names if name not in layers]:
                    raise ValueError(f"layers: the network has no {', '.join(absent)}; there are {', '.join(layers)}")
                if torch.is_grad_enabled():
                    self._refuse_fixed(layers)
                found = self._discrepancy(layers, batch)
                transfer = weight * found.loss
                loss = loss + transfer
                local = "local_" if self.by_class else ""
                terms |= {"transfer_loss": transfer, f"{local}jmmd": found.joint}
                for name, mmd, bandwidth in zip(names, found.marginals, found.bandwidths, strict=True):
                    terms |= {f"{local}mmd_{name}": mmd, f"bandwidth_{name}": bandwidth}
                if trace:
                    # A linear probe's layers are fixed: all its pull goes through the logits.
                    inputs = [layer for layer in own_layers.values() if layer.requires_grad] or [logits]
                    pulls = torch.autograd.grad(
                        transfer, inputs, retain_graph=True, allow_unused=True, materialize_grads=True
                    )
                    terms["transfer_gradient"] = torch.cat(pulls, dim=1).norm()
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in terms.items()}

    def _discrepancy(self, layers: Mapping[str, Mapping[str, Tensor]], batch: Batch) -> Discrepancy:
        """The transfer term with its parts."""
        source, target = ([layers[name][domain] for name in self.hparams.layers] for domain in DOMAINS)
        if not self.by_class:
            return self.transfer.discrepancy(source, target)
        probabilities = layers["softmax"]["target"]
        if "target" in self.labelled:
            probabilities = one_hot(batch["target"][1], probabilities.shape[1]).to(probabilities.dtype)
        return self.transfer.discrepancy(source, target, batch["source"][1], probabilities)

    def _refuse_fixed(self, layers: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Raises ValueError if the transfer term sees only layers behind which nothing is trained."""
        marginal, names = self.transfer.marginal, self.hparams.layers
        weights = marginal if isinstance(marginal, Sequence) else [marginal] * len(names)
        seen = [name for name, weight in zip(names, weights, strict=True) if weight or self.transfer.joint]
        if seen and not any(layers[name][domain].requires_grad for name in seen for domain in DOMAINS):
            raise ValueError(
                f"transfer: nothing that is trained has a part in its term over {', '.join(seen)}, so it would change "
                "nothing: a frozen backbone's features are fixed; give the joint term a weight (with the softmax), or "
                "train a layer behind the backbone (TransferNet)"
            )

    def _by_domain(
        self, own_layers: Mapping[str, Tensor], logits: Tensor, sizes: Sequence[int]
    ) -> dict[str, dict[str, Tensor]]:
        """layer -> domain -> its rows, in fp32 at least; `sizes` are the rows of the domains that are seen."""
        layers = {
            name: layer.to(torch.promote_types(layer.dtype, torch.float32))
            for name, layer in {**own_layers, "logits": logits}.items()
        }
        layers["softmax"] = softmax(layers["logits"], dim=1)
        return {name: dict(zip(self.seen, layer.split(sizes), strict=True)) for name, layer in layers.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = None if self._trainer is None else self.trainer.datamodule
        if self._trainer is not None and self.trainer.training:
            refuse_other_settings(checkpoint, self, data)
        elif data is not None and data.hparams:
            warn_of_other_evaluation(checkpoint, self, data)
        if hasattr(data, "division") and type(data).__qualname__ not in checkpoint:
            rank_zero_warn(
                "the checkpoint does not say how its data were divided: they are divided anew, and what is tested may "
                "have been trained on; give data.split the split.json of its run"
            )
        trained = list(checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, self.hparams)["classes"])
        if trained != list(self.hparams["classes"]):  # outputs in another order would be tested as if in this one
            raise ValueError(
                f"classes: the checkpoint has {trained}, in this order; the data have {list(self.hparams['classes'])}. "
                "Give both domains the checkpoint's classes, or begin a new run with another --output"
            )

    def on_fit_start(self) -> None:
        # Of the interval that `on_train_start` shortens.
        warnings.filterwarnings("ignore", ".*is smaller than the logging interval")

    def on_train_start(self) -> None:
        # Every epoch logs its loss once at least, whatever the trainer's interval is; 0 stays "never".
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        if self.trainer.max_steps > 0:
            steps = min(steps, self.trainer.max_steps)
        self.trainer.log_every_n_steps = min(self.trainer.log_every_n_steps, steps)
        if self.hparams.ramp:
            self.ramp_steps = self.trainer.estimated_stepping_batches
            if math.isinf(self.ramp_steps):
                raise ValueError("ramp: the training has no end; set trainer.max_epochs or trainer.max_steps")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Values are handed over only in the steps in which the trainer writes its logs: handing them over in every
        # step took 40 % of the time of a run on digits.
        every = self.trainer.log_every_n_steps
        logs = every > 0 and (self.global_step + 1) % every == 0
        loss, terms = self.objective(batch, ramp(self.global_step, self.ramp_steps), trace=logs)
        # The last batch of an epoch is looked at too, so that no checkpoint follows a loss that is not finite.
        if (logs or self.trainer.is_last_batch) and not loss.isfinite():
            values = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
            raise FloatingPointError(f"the loss is not finite at step {self.global_step}: {values}")
        if logs:
            self.log("loss", terms["loss"], prog_bar=True, logger=False)
            self.log_dict({f"train/{name}": value for name, value in terms.items()})
            self.log_dict({f"rate/{group['name']}": group["lr"] for group in self.optimizers().param_groups})
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        images, labels = batch
        domain = DOMAINS[dataloader_idx]
        accuracy = self.val_accuracy[domain]
        accuracy(over_crops(self, images)[1], labels)
        self.log(f"val/{domain}_accuracy", accuracy, prog_bar=True, add_dataloader_idx=False)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        outputs = self.predict_step(batch)
        self.test_accuracy(outputs["probabilities"], outputs["labels"])
        self.log("test/accuracy", self.test_accuracy)
        return outputs

    def predict_step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Class probabilities [n, classes] of a batch, means over an image's crops, beside its labels [n]."""
        images, labels = batch
        return {"labels": labels, "probabilities": over_crops(self, images)[1]}

    def configure_optimizers(self) -> dict[str, Any]:
        settings = self.hparams
        factors = {"backbone": settings.backbone_rate, "new layers": 1.0}
        groups: dict[str, list[nn.Parameter]] = {name: [] for name in factors}
        for name, value in self.network.named_parameters():
            if value.requires_grad:
                groups["backbone" if name.startswith("backbone.") else "new layers"].append(value)
        optimizer = torch.optim.SGD(
            [
                {"name": name, "params": values, "lr": settings.learning_rate * factors[name]}
                for name, values in groups.items()
                if values
            ],
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov and settings.momentum > 0,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: inverse_decay(step, settings.decay_rate, settings.decay_power)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
