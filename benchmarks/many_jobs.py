"""Several small networks trained as one (`torch.func.vmap`), against one after another.

What was tried for studies whose networks cannot fill a device: the weights of a few networks are
stacked, and one call computes the steps of all, each on a batch of its own. The product does not
do so: the ratio says why, here for a small convolutional network without batch norm (whose
running means `vmap` refuses), in fp32. No bar.

    python benchmarks/many_jobs.py [--device cpu] [--networks 4] [--side 64] [--batch 32]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from galaxy_mlflow.processes import available_cores

LEARNING_RATE = 0.01
Weights = dict[str, Tensor]


def small_network() -> nn.Module:
    """Return a network of three convolutions and one linear layer, 60,000 weights."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(1024, 4),
    )


def one_by_one(networks: list[nn.Module], images: Tensor, labels: Tensor) -> None:
    """Take one step of each network on its batch."""
    for network, batch, wanted in zip(networks, images, labels, strict=True):
        functional.cross_entropy(network(batch), wanted).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for weight in network.parameters():
                if weight.grad is not None:
                    weight.sub_(LEARNING_RATE * weight.grad)
                weight.grad = None


def together(networks: list[nn.Module]) -> tuple[Weights, Callable[[Tensor, Tensor], None]]:
    """Return the stacked weights, and a step of all networks at once."""
    weights, buffers = stack_module_state(networks)
    weights = {name: weight.detach() for name, weight in weights.items()}

    def loss(own: Weights, state: Weights, batch: Tensor, wanted: Tensor) -> Tensor:
        logits = functional_call(networks[0], (own, state), (batch,))
        return functional.cross_entropy(logits, wanted)

    slopes = vmap(grad(loss))

    def step(images: Tensor, labels: Tensor) -> None:
        for name, slope in slopes(weights, buffers, images, labels).items():
            weights[name].sub_(LEARNING_RATE * slope)

    return weights, step


def seconds(step: Callable[[], None], device: str) -> float:
    """Return the wall time of ten steps."""
    start = time.perf_counter()
    for _ in range(10):
        step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def difference(networks: list[nn.Module], weights: Weights) -> float:
    """Return the largest difference between weights trained in the two ways."""
    alone, _ = stack_module_state(networks)
    alone = {name: weight.detach() for name, weight in alone.items()}
    return max(float((alone[name] - weight).abs().max()) for name, weight in weights.items())


def main() -> None:
    """Take turns; print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    for name, default in (("networks", 4), ("side", 64), ("batch", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(available_cores())
    torch.manual_seed(0)
    networks = [small_network().to(given.device) for _ in range(given.networks)]
    shape = (given.networks, given.batch)
    images = torch.rand(*shape, 3, given.side, given.side, device=given.device)
    labels = torch.randint(0, 4, shape, device=given.device)
    weights, step = together(networks)
    ways: dict[str, Callable[[], None]] = {
        "alone": lambda: one_by_one(networks, images, labels),
        "together": lambda: step(images, labels),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for counted in (False, *[True] * 7):
        for way, work in ways.items():
            passed = seconds(work, given.device)
            found[way] += [passed] * counted
    alone, stacked = median(found["alone"]), median(found["together"])
    print(f"{given.networks} networks, {given.batch} images of {given.side} px each")
    print(f"one by one {1e2 * alone:.1f} ms a step of all, stacked {1e2 * stacked:.1f} ms")
    apart = difference(networks, weights)
    print(f"{alone / stacked:.2f} times as fast; weights differ by {apart:.1e} at most")


if __name__ == "__main__":
    main()
