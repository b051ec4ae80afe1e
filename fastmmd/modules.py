"""The losses as modules: options and learned parameters held, functions called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from fastmmd import checks, dispatch
from fastmmd.functional import JAN_KERNELS, Discrepancy, discrepancy, jmmd, mmd
from fastmmd.gaussian import Gaussian


class _Loss(nn.Module):
    """Kernels and options, checked when built. Tensors of the kernels belong to the module and are read from it at each
    call, so that loading, moving, ``functional_call`` and ``parametrize`` act: ``bandwidth{l}`` and ``weights{l}`` of
    layer l, parameters where they are `nn.Parameter`, else buffers."""

    def __init__(self, kernels: tuple[Gaussian, ...], estimator: str, backend: str, precision: str | None) -> None:
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

    def _options(self) -> dict[str, str | None]:
        return {"estimator": self.estimator, "backend": self.backend, "precision": self.precision}

    def extra_repr(self) -> str:
        return f"kernels={self.kernels}, estimator={self.estimator!r}"


class TransferLoss(_Loss):
    """He & Ding 2020, eqs. 11-13: ``joint * JMMD(all layers) + sum_l marginal[l] * MMD(layer l)``, in one pass.

    The defaults are the paper's: layers (features, softmax outputs), lambda = 0.2 on the joint term, eta = 0.3 on the
    marginal term of the features. Arguments, dtypes and errors as in `fastmmd.discrepancy`; whatever can be checked
    without data is checked when the module is built.

    Example:
        >>> import torch, fastmmd
        >>> features_s, features_t = torch.randn(8, 16, requires_grad=True), torch.randn(6, 16)
        >>> probs_s, probs_t = torch.rand(8, 3).softmax(1), torch.rand(6, 3).softmax(1)
        >>> loss = fastmmd.TransferLoss()((features_s, probs_s), (features_t, probs_t))
        >>> loss.backward()
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
        super().__init__(kernels, estimator, backend, precision)
        self.joint = joint
        self.marginal = marginal

    def discrepancy(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Discrepancy:
        """The loss with its parts and bandwidths, for logging."""
        return discrepancy(
            sources,
            targets,
            self.kernels,
            joint=self.joint,
            marginal=self.marginal,
            **self._options(),  # type: ignore[arg-type]
        )

    def forward(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """``sources[l] [n_s, d_l]``, ``targets[l] [n_t, d_l]`` -> 0-d."""
        return self.discrepancy(sources, targets).loss

    def extra_repr(self) -> str:
        return f"joint={self.joint}, marginal={self.marginal}, {super().extra_repr()}"


class JMMDLoss(_Loss):
    """JAN's loss, the joint MMD (Long et al. 2017): ``JMMDLoss()((features_s, probs_s), (features_t, probs_t))``.

    The kernels are JAN's; the estimator is the biased one, never negative. JAN's released code takes
    ``estimator="unbiased"``. ``squared=False`` as in `fastmmd.jmmd`.
    """

    def __init__(
        self,
        kernels: Sequence[Gaussian] = JAN_KERNELS,
        estimator: str = "biased",
        backend: str = "auto",
        precision: str | None = None,
        squared: bool = True,
    ) -> None:
        super().__init__(checks.check_kernels(kernels), estimator, backend, precision)
        checks.check_flag("squared", squared)
        self.squared = squared

    def discrepancy(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Discrepancy:
        """The squared loss with its parts and bandwidths, for logging."""
        return discrepancy(sources, targets, self.kernels, **self._options())  # type: ignore[arg-type]

    def forward(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """``sources[l] [n_s, d_l]``, ``targets[l] [n_t, d_l]`` -> 0-d."""
        return jmmd(sources, targets, self.kernels, squared=self.squared, **self._options())  # type: ignore[arg-type]


class MMDLoss(_Loss):
    """DAN's loss for one layer (Long et al. 2015): the MMD. ``MMDLoss()(features_s, features_t)``.

    ``squared=False`` as in `fastmmd.mmd`.
    """

    def __init__(
        self,
        kernel: Gaussian = JAN_KERNELS[0],
        estimator: str = "biased",
        backend: str = "auto",
        precision: str | None = None,
        squared: bool = True,
    ) -> None:
        super().__init__(checks.check_kernel(kernel), estimator, backend, precision)
        checks.check_flag("squared", squared)
        self.squared = squared

    def discrepancy(self, source: Tensor, target: Tensor) -> Discrepancy:
        """The squared loss with its parts and bandwidth; ``source [n_s, d]``, ``target [n_t, d]``."""
        return discrepancy((source,), (target,), self.kernels, **self._options())  # type: ignore[arg-type]

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """``source [n_s, d]``, ``target [n_t, d]`` -> 0-d."""
        return mmd(source, target, self.kernels[0], squared=self.squared, **self._options())  # type: ignore[arg-type]
