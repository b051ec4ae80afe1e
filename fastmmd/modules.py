"""The losses as modules: options and learned parameters held, functions called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

from torch import Tensor, nn

from fastmmd import checks, dispatch
from fastmmd.functional import JAN_KERNELS, Discrepancy, discrepancy, jmmd, mmd
from fastmmd.gaussian import Gaussian
from fastmmd.local_mmd import local_discrepancy


class _Loss(nn.Module):
    """Kernels and options, checked when built. Tensors of the kernels belong to the module and are read from it at each
    call, so that loading, moving, ``functional_call`` and ``parametrize`` act: ``bandwidth{l}`` and ``weights{l}`` of
    layer l, parameters where they are `nn.Parameter`, else buffers."""

    def __init__(self, *, kernels: tuple[Gaussian, ...], estimator: str, backend: str, precision: str | None) -> None:
        super().__init__()
        checks.check_options(estimator, precision)
        dispatch.check_name(backend)
        self._kernels = kernels
        self.estimator = estimator
        self.backend = backend
        self.precision = precision
        for layer, kernel in enumerate(kernels):
            for name, tensor in kernel.tensors.items():
                if isinstance(tensor, nn.Parameter):
                    self.register_parameter(f"{name}{layer}", tensor)
                elif tensor.requires_grad:
                    raise TypeError(
                        f"{name}: a loss module takes an nn.Parameter or a tensor that needs no gradient, got a tensor "
                        "with a graph, which the first backward would free. Use torch.nn.utils.parametrize on "
                        f"`{name}{layer}`, or call the function in every step: fastmmd.mmd(x, y, Gaussian({name}=...))"
                    )
                else:
                    self.register_buffer(f"{name}{layer}", tensor)

    @property
    def kernels(self) -> tuple[Gaussian, ...]:
        """The kernels with the module's present parameters."""
        return tuple([self._present(layer, kernel) for layer, kernel in enumerate(self._kernels)])

    def _present(self, layer: int, kernel: Gaussian) -> Gaussian:
        tensors = kernel.tensors
        if not tensors:
            return kernel
        try:
            present = {name: getattr(self, f"{name}{layer}") for name in tensors}
        except AttributeError as missing:  # inside a property it would be taken for the property's own
            raise RuntimeError(f"fastmmd: a loss lacks its own tensor: {missing}") from None
        unchanged = all(present[name] is tensors[name] for name in tensors)
        return kernel if unchanged else replace(kernel, **present)

    @property
    def _options(self) -> _Options:
        return {"estimator": self.estimator, "backend": self.backend, "precision": self.precision}

    def extra_repr(self) -> str:
        kernels = ", ".join([repr(kernel) for kernel in self.kernels])
        options = [f"{name}={value!r}" for name, value in self._options.items() if value not in ("auto", None)]
        return ", ".join([kernels, *options])


class _Options(TypedDict):
    estimator: str
    backend: str
    precision: str | None


class _Terms(TypedDict):
    joint: float
    marginal: float | Sequence[float]


class _Weights(TypedDict):
    source_weights: Tensor | None
    target_weights: Tensor | None


class TransferLoss(_Loss):
    """The whole transfer term of He & Ding 2020, eqs. 11-13, in one pass:
    ``joint * JMMD(all layers) + sum_l marginal[l] * MMD(layer l)``.

    The defaults are the paper's: layers (features, softmax outputs), lambda = 0.2 on the joint term, eta = 0.3 on the
    marginal term of the features. Whatever can be checked without data is checked when the module is built.

    Args:
        joint, marginal, kernels, estimator, backend, precision: as those of `fastmmd.discrepancy`, whose shapes, dtypes
            and errors hold too.

    Example:
        >>> import torch, fastmmd
        >>> features_s, features_t = torch.randn(8, 16, requires_grad=True), torch.randn(6, 16)
        >>> probs_s, probs_t = torch.rand(8, 3).softmax(1), torch.rand(6, 3).softmax(1)
        >>> loss = fastmmd.TransferLoss()((features_s, probs_s), (features_t, probs_t))
        >>> loss.backward()
        >>> features_s.grad.shape
        torch.Size([8, 16])
        >>> fastmmd.TransferLoss()
        TransferLoss(joint=0.2, marginal=(0.3, 0.0), Gaussian(), Gaussian(1.68, (1.0,)), estimator='biased')
    """

    def __init__(
        self,
        joint: float = 0.2,
        marginal: float | Sequence[float] = (0.3, 0.0),
        kernels: Sequence[Gaussian] = JAN_KERNELS,
        estimator: str = "biased",
        backend: str = "auto",
        precision: str | None = None,
    ) -> None:
        kernels = checks.check_kernels(kernels)
        checks.check_weights(joint, marginal, len(kernels))
        super().__init__(kernels=kernels, estimator=estimator, backend=backend, precision=precision)
        self.joint = joint
        self.marginal = marginal

    def discrepancy(
        self,
        sources: Sequence[Tensor],
        targets: Sequence[Tensor],
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> Discrepancy:
        """The loss with its parts and bandwidths, for logging. Arguments as those of ``forward``."""
        weights: _Weights = {"source_weights": source_weights, "target_weights": target_weights}
        terms: _Terms = {"joint": self.joint, "marginal": self.marginal}
        return discrepancy(sources, targets, self.kernels, **terms, **weights, **self._options)

    def forward(
        self,
        sources: Sequence[Tensor],
        targets: Sequence[Tensor],
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> Tensor:
        """The loss, 0-d, of ``sources[l] [n_s, d_l]`` and ``targets[l] [n_t, d_l]``, of rows with weights ``[n_s]`` and
        ``[n_t]``, if any (`fastmmd.discrepancy`)."""
        return self.discrepancy(sources, targets, source_weights, target_weights).loss

    def extra_repr(self) -> str:
        return f"joint={self.joint}, marginal={self.marginal}, {super().extra_repr()}"


class JMMDLoss(_Loss):
    """JAN's loss, the squared joint MMD of several layers (Long et al. 2017; He & Ding 2020, eq. 10).

    The default kernels are JAN's for (features, softmax outputs). The default estimator is the biased one, never
    negative; JAN's released code takes ``estimator="unbiased"``.

    Args:
        kernels, estimator, backend, precision, squared: as those of `fastmmd.jmmd`, whose shapes, dtypes and errors
            hold too.

    Example:
        >>> import torch, fastmmd
        >>> features_s, features_t = torch.zeros(8, 16), torch.ones(6, 16)
        >>> probs_s, probs_t = torch.full((8, 3), 1 / 3), torch.full((6, 3), 1 / 3)
        >>> fastmmd.JMMDLoss()((features_s, probs_s), (features_t, probs_t))
        tensor(7.6333)
        >>> fastmmd.JMMDLoss(squared=False)((features_s, probs_s), (features_s, probs_s))
        tensor(0.)
    """

    def __init__(
        self,
        kernels: Sequence[Gaussian] = JAN_KERNELS,
        estimator: str = "biased",
        backend: str = "auto",
        precision: str | None = None,
        squared: bool = True,
    ) -> None:
        kernels = checks.check_kernels(kernels)
        super().__init__(kernels=kernels, estimator=estimator, backend=backend, precision=precision)
        checks.check_flag("squared", squared)
        self.squared = squared

    def discrepancy(
        self,
        sources: Sequence[Tensor],
        targets: Sequence[Tensor],
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> Discrepancy:
        """The squared loss with its parts and bandwidths, for logging. Arguments as those of ``forward``."""
        weights: _Weights = {"source_weights": source_weights, "target_weights": target_weights}
        return discrepancy(sources, targets, self.kernels, **weights, **self._options)

    def forward(
        self,
        sources: Sequence[Tensor],
        targets: Sequence[Tensor],
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> Tensor:
        """The loss, 0-d, of ``sources[l] [n_s, d_l]`` and ``targets[l] [n_t, d_l]``, of rows with weights ``[n_s]`` and
        ``[n_t]``, if any (`fastmmd.discrepancy`)."""
        weights: _Weights = {"source_weights": source_weights, "target_weights": target_weights}
        return jmmd(sources, targets, self.kernels, squared=self.squared, **weights, **self._options)


class MMDLoss(_Loss):
    """DAN's loss for one layer, the squared MMD (Long et al. 2015; He & Ding 2020, eq. 7).

    Args:
        kernel, estimator, backend, precision, squared: as those of `fastmmd.mmd`, whose shapes, dtypes and errors hold
            too.

    Example:
        >>> import torch, fastmmd
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> loss = fastmmd.MMDLoss(fastmmd.Gaussian(1.0, (1,)))
        >>> loss(x, x + 1)
        tensor(0.4908)
        >>> loss
        MMDLoss(Gaussian(1.0, (1.0,)), estimator='biased')
    """

    def __init__(
        self,
        kernel: Gaussian = JAN_KERNELS[0],
        estimator: str = "biased",
        backend: str = "auto",
        precision: str | None = None,
        squared: bool = True,
    ) -> None:
        kernels = checks.check_kernel(kernel)
        super().__init__(kernels=kernels, estimator=estimator, backend=backend, precision=precision)
        checks.check_flag("squared", squared)
        self.squared = squared

    def discrepancy(
        self,
        source: Tensor,
        target: Tensor,
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> Discrepancy:
        """The squared loss with its parts and bandwidth, for logging. Arguments as those of ``forward``."""
        weights: _Weights = {"source_weights": source_weights, "target_weights": target_weights}
        return discrepancy((source,), (target,), self.kernels, **weights, **self._options)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_weights: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> Tensor:
        """The loss, 0-d, of ``source [n_s, d]`` and ``target [n_t, d]``, of rows with weights ``[n_s]`` and ``[n_t]``,
        if any (`fastmmd.discrepancy`)."""
        weights: _Weights = {"source_weights": source_weights, "target_weights": target_weights}
        return mmd(source, target, self.kernels[0], squared=self.squared, **weights, **self._options)


class LMMDLoss(_Loss):
    """DSAN's loss, the local MMD: domains compared class by class (Zhu et al. 2021).

    Args:
        num_classes: C, at least 1, which the probabilities must then have. None: whatever they have.
        kernel, joint, marginal, estimator, backend, precision: as those of `fastmmd.lmmd`, whose shapes, dtypes and
            errors hold too.

    Example:
        >>> import torch, fastmmd
        >>> x = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
        >>> labels, probabilities = torch.tensor([0, 0, 1, 1]), torch.eye(2)[[0, 0, 1, 1]]
        >>> fastmmd.LMMDLoss(2, fastmmd.Gaussian(1.0, (1,)))(x, x + 1, labels, probabilities)
        tensor(0.4908)
    """

    def __init__(
        self,
        num_classes: int | None = None,
        kernel: Gaussian | Sequence[Gaussian] = JAN_KERNELS[:1],
        joint: float = 1.0,
        marginal: float | Sequence[float] = 0.0,
        estimator: str = "biased",
        backend: str = "auto",
        precision: str | None = None,
    ) -> None:
        if num_classes is not None:
            checks.check_count("num_classes", num_classes)
        kernels = checks.check_kernels((kernel,) if isinstance(kernel, Gaussian) else kernel)
        checks.check_weights(joint, marginal, len(kernels))
        checks.check_choice("estimator", estimator, ("biased", "unbiased"))
        super().__init__(kernels=kernels, estimator=estimator, backend=backend, precision=precision)
        self.num_classes = num_classes
        self.joint = joint
        self.marginal = marginal

    def discrepancy(
        self,
        source: Tensor | Sequence[Tensor],
        target: Tensor | Sequence[Tensor],
        source_labels: Tensor,
        target_probabilities: Tensor,
    ) -> Discrepancy:
        """The loss with its parts, which are local MMDs, and bandwidths, for logging. Arguments as those of
        ``forward``."""
        if self.num_classes is not None and isinstance(target_probabilities, Tensor):
            shape = tuple(target_probabilities.shape)
            if shape[1:] != (self.num_classes,):
                raise ValueError(f"target_probabilities: expected shape [n_t, {self.num_classes}], got {shape}")
        terms: _Terms = {"joint": self.joint, "marginal": self.marginal}
        return local_discrepancy(
            source, target, source_labels, target_probabilities, self.kernels, **terms, **self._options
        )

    def forward(
        self,
        source: Tensor | Sequence[Tensor],
        target: Tensor | Sequence[Tensor],
        source_labels: Tensor,
        target_probabilities: Tensor,
    ) -> Tensor:
        """The loss, 0-d, of ``source [n_s, d]`` with labels ``[n_s]`` and ``target [n_t, d]`` with probabilities
        ``[n_t, num_classes]``, or of lists of layers."""
        return self.discrepancy(source, target, source_labels, target_probabilities).loss

    def extra_repr(self) -> str:
        return f"{self.num_classes}, joint={self.joint}, marginal={self.marginal}, {super().extra_repr()}"
