"""Packed weights: the same bits back, fewer bytes, and a word where they cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from galaxy_mlflow.errors import CheckpointError
from galaxy_mlflow.kept import KEY_EVERY, base_of, packed_name, write_plain
from galaxy_mlflow.packing import Frame, pack, unpack

Weights = dict[str, NDArray[Any]]
ODD = np.array(
    [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38, -3e38], np.float32
)


def weights(seed: int, scale: float = 0.02, n: int = 600_000) -> Weights:
    rng = np.random.default_rng(seed)
    return {
        "one": rng.normal(0, scale, n).astype(np.float32).reshape(-1, 3),
        "two": rng.normal(0, scale, 7).astype(np.float32),
        "none": np.empty((0, 4), np.float32),
        "scalar": np.array(scale, np.float32),
        "count": np.array(seed, np.int64),
    }


def trained_on(before: Weights, seed: int) -> Weights:
    step = weights(seed, 1e-5)
    return {
        name: array + step[name] if array.dtype == np.float32 else step[name]
        for name, array in before.items()
    }


def assert_same_bits(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_chain_of_epochs_comes_back_to_the_bit(threads: int) -> None:
    epochs = [weights(0)]
    for seed in range(1, 4):
        epochs.append(trained_on(epochs[-1], seed))
    frames = [Frame.of(epoch) for epoch in epochs]
    files = [pack(frames[0], threads=threads)]
    files += [pack(frame, frames[i], threads) for i, frame in enumerate(frames[1:])]

    for epoch, expected in enumerate(epochs):
        assert_same_bits(unpack(files[: epoch + 1], threads).weights, expected)


def test_any_weights_are_at_most_three_differences_from_whole_ones() -> None:
    ways = {}
    for number in range(3 * KEY_EVERY):
        base = base_of(number)
        assert base <= number
        ways[number] = 0 if base == number else ways[base] + 1
    assert max(ways.values()) == 3
    assert [number for number, way in ways.items() if way == 0] == [0, KEY_EVERY, 2 * KEY_EVERY]


def test_a_name_says_what_weights_are_told_apart_from() -> None:
    assert (packed_name(16), packed_name(7, 6)) == (
        "epoch-0016.packed",
        "epoch-0007-on-0006.packed",
    )


def test_numbers_that_are_no_numbers_come_back_too() -> None:
    before, after = Frame.of({"w": ODD}), Frame.of({"w": ODD[::-1].copy()})
    assert_same_bits(unpack([pack(before), pack(after, before)]).weights, {"w": ODD[::-1].copy()})


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=50))
def test_any_bits_come_back(pairs: list[tuple[int, int]]) -> None:
    bits = np.array(pairs, dtype=np.uint32).reshape(-1, 2)
    before, after = (Frame.of({"w": bits[:, i].copy().view(np.float32)}) for i in (0, 1))
    assert (unpack([pack(before), pack(after, before)]).numbers == after.numbers).all()
    assert (unpack([pack(after)]).numbers == after.numbers).all()


def test_an_epoch_after_another_takes_far_fewer_bytes_than_a_whole_one() -> None:
    first = weights(0)
    whole = Frame.of(first)
    plain = sum(array.nbytes for array in first.values())
    assert len(pack(whole)) < 0.9 * plain
    assert len(pack(Frame.of(trained_on(first, 1)), whole)) < 0.6 * plain


def test_the_same_weights_again_take_next_to_nothing() -> None:
    frame = Frame.of(weights(0))
    assert len(pack(frame, frame)) < 0.01 * frame.numbers.nbytes


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="same network"):
        pack(Frame.of(weights(0)), Frame.of(weights(1, n=30)))


def test_it_is_not_unpacked_with_other_weights_before_it() -> None:
    first, second = Frame.of(weights(0)), Frame.of(weights(1))
    for before in (None, second):
        with pytest.raises(CheckpointError, match="needs other weights"):
            unpack([*([pack(before)] if before else []), pack(second, first)])


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 100, (10).to_bytes(8, "little") + b"[]"])
def test_what_is_no_packed_file_is_told(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="no packed checkpoint"):
        unpack([content])


@pytest.mark.parametrize("at", [0.3, 0.7, 0.999])
def test_a_damaged_file_is_told(at: float) -> None:
    content = bytearray(pack(Frame.of(weights(0))))
    content[int(at * len(content))] ^= 1
    with pytest.raises(CheckpointError, match="damaged"):
        unpack([bytes(content)])


def test_a_file_cut_short_is_told() -> None:
    content = pack(Frame.of(weights(0)))
    with pytest.raises(CheckpointError, match="damaged"):
        unpack([content[:-100]])


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_plain_files_hold_the_weights(tmp_path: Path, name: str) -> None:
    expected = weights(0)
    write_plain(Frame.of(expected).weights, tmp_path / name)
    if name.endswith(".pt"):
        found = torch.load(tmp_path / name, weights_only=True)
        assert_same_bits({key: value.numpy() for key, value in found.items()}, expected)
    else:
        assert_same_bits(load_file(tmp_path / name), expected)


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"end its name in \.safetensors or \.pt"):
        write_plain({}, tmp_path / "weights.h5")
