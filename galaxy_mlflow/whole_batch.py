"""A network on some rows of a batch, computing what it would on the whole batch.

Two things in networks look beyond one image: batch norm, whose statistics are the batch's, and
random masks, which are drawn for the batch one after another. While `SplitBatch` lasts, batch norm
takes the statistics of all ranks' rows together, and masks are drawn for the whole batch, the same
on every rank, and each rank uses its rows of them. So ranks that begin with equal generators drop
the very units that one process drops, and go on with equal generators.

It works on torch's functions, not on layers: a layer of any library that calls them is covered, and
names and classes of layers, and so checkpoints, stay what they are. Not covered is what draws by
other functions, such as dropout inside torch's fused attention: each rank draws that by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import FunctionCtx
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.sampler import Share

_MASKING = (
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
)


class SplitBatch(TorchFunctionMode):
    """While it lasts, functions of networks see a rank's rows as part of the whole batch.

    Parameters
    ----------
    share : the batch, and the rank's rows of it

    Raises
    ------
    ConfigError
        The network draws random numbers that are neither by image nor one for all.
    """

    def __init__(self, share: Share) -> None:
        super().__init__()
        self._share = share

    def __torch_function__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Compute a function of torch, on the whole batch where that makes a difference."""
        kwargs = kwargs or {}
        if func is functional.batch_norm:
            return self._normalise(_BatchNorm(*args, **kwargs))
        if func in _MASKING:
            return self._mask(func, _Dropout(*args, **kwargs))
        if func is Tensor.bernoulli_:
            return self._draw(*args, **kwargs)
        return func(*args, **kwargs)

    def _mask(self, func: Callable[..., Tensor], call: _Dropout) -> Tensor:
        values = call.input
        if not call.training:
            return values
        mask = func(self._like_whole(values).fill_(1), call.p, training=True)
        own = mask[self._rows_of(values)]
        return values.mul_(own) if call.inplace else values * own

    def _draw(self, values: Tensor, p: float = 0.5) -> Tensor:
        whole = self._like_whole(values).bernoulli_(p)
        return values.copy_(whole[self._rows_of(values)])

    def _like_whole(self, values: Tensor) -> Tensor:
        """Return an empty tensor as the whole batch has it where this rank has `values`."""
        shape = (values.shape[0] * self._share.rows.size // self._n_own, *values.shape[1:])
        if self._is_one_for_all(values):
            shape = tuple(values.shape)
        order = sorted(
            range(values.ndim), key=values.stride, reverse=True
        )  # numbers are drawn in it
        return torch.empty_permuted(shape, order, dtype=values.dtype, device=values.device)

    def _rows_of(self, values: Tensor) -> slice:
        """Return this rank's places in what the whole batch has for `values`."""
        if self._is_one_for_all(values):
            return slice(None)
        each = values.shape[0] // self._n_own  # windows or tokens of an image, one after another
        return slice(self._share.trained.start * each, self._share.trained.stop * each)

    def _is_one_for_all(self, values: Tensor) -> bool:
        if values.shape[0] == 1 < self._n_own:
            return True
        if values.shape[0] % self._n_own:
            raise ConfigError(
                "this network draws random numbers that are not by image: it cannot be trained by "
                "several ranks; set ranks = 1 under [resources]"
            )
        return False

    @property
    def _n_own(self) -> int:
        trained = self._share.trained
        return int(trained.stop - trained.start)

    def _normalise(self, call: _BatchNorm) -> Tensor:
        if not call.training or self._share.is_whole:
            return functional.batch_norm(**vars(call))
        values = call.input
        count = values.numel() // values.shape[1] * self._share.rows.size // self._n_own
        mean, var = _statistics(values.detach(), self._n_own / self._share.rows.size)
        if call.running_mean is not None and call.running_var is not None:
            call.running_mean.lerp_(mean, call.momentum)
            call.running_var.lerp_(var * (count / (count - 1)), call.momentum)
        weight = torch.ones_like(mean) if call.weight is None else call.weight
        bias = torch.zeros_like(mean) if call.bias is None else call.bias
        moments = _Moments(mean, var, call.eps, count)
        return cast(Tensor, _Normalise.apply(values, weight, bias, moments))


@dataclass(frozen=True)
class _Dropout:
    """Arguments of `functional.dropout` and its like, in their order."""

    input: Tensor
    p: float = 0.5
    training: bool = True
    inplace: bool = False


@dataclass(frozen=True)
class _BatchNorm:
    """Arguments of `functional.batch_norm`, in their order."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5


@dataclass(frozen=True)
class _Moments:
    """Mean and variance of each channel over the whole batch.

    Attributes
    ----------
    mean, var : float32 (float64 where values are), (channels,); the variance is the biased one
    eps : what is added to it
    count : values of a channel in the whole batch
    """

    mean: Tensor
    var: Tensor
    eps: float
    count: int


def _statistics(values: Tensor, part: float) -> tuple[Tensor, Tensor]:
    """Return each channel's mean and biased variance over all ranks' rows.

    Partial means and variances are put together as Chan, Golub and LeVeque (1983) do: sums of
    squares would cancel.

    Parameters
    ----------
    values : (n, channels, ...)
    part : of the whole batch that is here
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    scratch = torch.zeros(2, values.shape[1], dtype=dtype, device=values.device)
    here = torch.stack(torch.batch_norm_update_stats(values, scratch[0], scratch[1], 0.1))
    told = torch.cat([here.flatten(), here.new_full((1,), part)])
    parts = [torch.empty_like(told) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, told)
    each = torch.stack(parts).double()
    weights, means, variances = each[:, -1:], *each[:, :-1].chunk(2, dim=1)
    mean = (weights * means).sum(0)
    var = (weights * (variances + (means - mean) ** 2)).sum(0)
    return mean.to(dtype), var.to(dtype)


class _Normalise(torch.autograd.Function):
    """Batch norm by given moments, to which every rank's rows have contributed.

    Gradients of weight and bias are those of the rows here, as all gradients of parameters: ranks
    add them up later. The gradient of the values has terms by way of the moments, and therefore
    sums over all ranks (Ioffe and Szegedy 2015, "Batch Normalization", section 3).
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, values: Tensor, weight: Tensor, bias: Tensor, moments: _Moments
    ) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.moments = moments  # type: ignore[attr-defined]
        out: Tensor = torch.native_batch_norm(
            values, weight, bias, moments.mean, moments.var, False, 0.0, moments.eps
        )[0]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        values, weight = ctx.saved_tensors
        moments: _Moments = ctx.moments
        by_values, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            grad, values, weight, moments.mean, moments.var, None, None,
            False, moments.eps, [True, True, True],
        )  # fmt: skip
        sums = torch.stack([by_weight, by_bias])
        dist.all_reduce(sums)
        along, across = (sums / moments.count).to(weight.dtype)
        scale = torch.rsqrt(moments.var + moments.eps)
        per_channel = torch.stack(
            [moments.mean, weight * along * scale**2, weight * across * scale]
        )
        mean, slope, level = per_channel.view(3, 1, -1, *[1] * (values.ndim - 2))
        by_values -= (values - mean) * slope + level
        return by_values, by_weight, by_bias, None
