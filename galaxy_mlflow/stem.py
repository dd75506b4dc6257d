"""First layers of networks, computed so that a processor's matrix units have work.

A network's first convolution has three channels in and a long stride: AlexNet's is 11 x 11 by
steps of 4. Kernels of processors pad those channels to 16 or 32 of which they use three, and that
layer alone takes a fifth of AlexNet's time. The same sums are had from the image folded by the
stride (space to depth): 48 channels in, 3 x 3, by steps of 1.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

_FEW_CHANNELS = 4


class FoldedConv2d(nn.Conv2d):
    """A convolution by long strides as one by steps of 1 on folded images.

    It has the parameters, names and outputs of the `nn.Conv2d` that it replaces, but for the order
    in which products are summed.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return what the convolution by strides gives: (n, out_channels, height, width)."""
        stride, kernel, padding = self.stride[0], self.kernel_size[0], int(self.padding[0])
        blocks = -(-kernel // stride)
        sides = [(side + 2 * padding - kernel) // stride + blocks for side in input.shape[2:]]
        images = _padded(input, [side * stride for side in sides], padding)
        spare = blocks * stride - kernel
        weight = functional.pad(self.weight, (0, spare, 0, spare))
        return functional.conv2d(_folded(images, stride), _folded(weight, stride), self.bias)


def fold_stem(model: nn.Module) -> None:
    """Let the model's convolutions of few channels and long strides work on folded images."""
    for layer in model.modules():
        if _suits(layer):
            layer.__class__ = FoldedConv2d  # its parameters, names and hooks stay


def _suits(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv2d
        and layer.in_channels <= _FEW_CHANNELS
        and layer.stride[0] == layer.stride[1] > 1
        and layer.kernel_size[0] == layer.kernel_size[1]
        and not isinstance(layer.padding, str)
        and layer.padding[0] == layer.padding[1]
        and (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")
    )


def _padded(images: Tensor, sides: list[int], padding: int) -> Tensor:
    """Pad by zeros before, and after up to `sides`; what no window reaches is cut off."""
    height, width = (
        side - padding - given for side, given in zip(sides, images.shape[2:], strict=True)
    )
    return functional.pad(images, (padding, width, padding, height))


def _folded(images: Tensor, stride: int) -> Tensor:
    """Fold blocks of stride x stride pixels into channels: space to depth, channels last."""
    n, channels, height, width = images.shape
    blocks = images.permute(0, 2, 3, 1).reshape(
        n, height // stride, stride, width // stride, stride, channels
    )
    folded = blocks.permute(0, 1, 3, 2, 4, 5).flatten(3)
    return folded.permute(0, 3, 1, 2)
