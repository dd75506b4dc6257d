"""Weights in a fraction of their bytes, exact to the bit: what changed since the epoch before.

Weights that have trained for one more epoch differ from those before in their last bits. So the
bits of each float32 are read as an integer, the difference to the integer before is folded so that
small ones of either sign are small, and the four bytes of all differences are put apart: the upper
ones are mostly zero. Each plane of bytes goes through zstd, or stays as it is where that gives
nothing. Without weights before, the integers themselves are put apart: a key frame.

A packed file is a safetensors file of byte planes. Its metadata say what the weights are, their
sha256, and that of those before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from galaxy_mlflow.errors import CheckpointError

Integers = NDArray[np.int32]
Plane = NDArray[np.uint8]

FORMAT: Final = "galaxy-mlflow planes 1"
_CHUNK: Final = 2**18
"""Numbers packed at once: with their planes they stay in a processor's cache."""
_SAMPLE: Final = 2**14
_WORTH: Final = 0.97
"""Of a sample's bytes: a plane that zstd leaves larger than this is kept as it is."""
_ZSTD: Final = pa.Codec("zstd", 1)


@dataclass(frozen=True)
class Frame:
    """The weights of one epoch.

    Attributes
    ----------
    numbers : the bits of all float32 arrays, one after the other
    shapes : name -> shape, in that order
    others : arrays of other types, such as counters, by name
    """

    numbers: Integers
    shapes: Mapping[str, tuple[int, ...]]
    others: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, weights: Mapping[str, NDArray[Any]]) -> Frame:
        """Return a frame that holds a copy of the weights."""
        floats = {name: array for name, array in weights.items() if array.dtype == np.float32}
        shapes = {name: array.shape for name, array in floats.items()}
        flat = [array.reshape(-1).view(np.int32) for array in floats.values()]
        numbers = np.concatenate(flat) if flat else np.empty(0, np.int32)
        others = {name: np.array(a) for name, a in weights.items() if name not in floats}
        return cls(numbers, shapes, others)

    @property
    def weights(self) -> dict[str, NDArray[Any]]:
        """The weights by name."""
        found, start = dict(self.others), 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape, dtype=np.int64))
            found[name] = self.numbers[start : start + size].view(np.float32).reshape(shape)
            start += size
        return found

    @cached_property
    def digest(self) -> str:
        """The sha256 of names, shapes and bytes, in hexadecimal."""
        told = hashlib.sha256(json.dumps({k: list(v) for k, v in self.shapes.items()}).encode())
        told.update(self.numbers.data)
        for name, array in sorted(self.others.items()):
            told.update(f"{name} {array.dtype} {array.shape}".encode())
            told.update(array.tobytes())
        return told.hexdigest()


def pack(frame: Frame, before: Frame | None = None, threads: int = 1) -> bytes:
    """Return a frame as a packed file.

    Parameters
    ----------
    before : weights of the same names and shapes; without them it is a key frame
    """
    base = before.numbers if before is not None and before.shapes == frame.shapes else None

    def planes_of(start: int) -> list[Plane]:
        part = slice(start, start + _CHUNK)
        numbers = frame.numbers[part]
        return _planes(numbers if base is None else _fold(numbers - base[part]))

    chunks = _in_threads(planes_of, frame.numbers.size, threads)
    planes = {_name(i, k): plane for i, chunk in enumerate(chunks) for k, plane in enumerate(chunk)}
    told = {
        "format": FORMAT,
        "digest": frame.digest,
        "before": before.digest if before is not None and base is not None else "",
        "shapes": json.dumps({name: list(shape) for name, shape in frame.shapes.items()}),
    }
    others = {f"other.{name}": array for name, array in frame.others.items()}
    return bytes(save({**planes, **others}, metadata=told))


def unpack(content: bytes, before: Frame | None = None, threads: int = 1) -> Frame:
    """Return the frame of a packed file.

    Parameters
    ----------
    before : the weights that it is told apart from (`needs`); None for a key frame

    Raises
    ------
    CheckpointError
        It is no packed file, it is damaged, or it needs other weights.
    """
    told = _metadata(content)
    if told["before"] != ("" if before is None else before.digest):
        raise CheckpointError("a packed checkpoint needs the weights of the epoch before it")
    try:
        frame = _unpacked(content, told, before, threads)
    except (ValueError, KeyError, SafetensorError, OSError) as error:
        raise CheckpointError(f"a packed checkpoint is damaged: {error}") from None
    if frame.digest != told["digest"]:
        raise CheckpointError("a packed checkpoint is damaged: its weights have another sha256")
    return frame


def needs(content: bytes) -> str:
    """Return the digest of the weights that a packed file is told apart from; "" for none.

    Raises
    ------
    CheckpointError
        It is no packed file.
    """
    return _metadata(content)["before"]


def _metadata(content: bytes) -> dict[str, str]:
    try:
        size = int.from_bytes(content[:8], "little")
        told: dict[str, str] = json.loads(content[8 : 8 + size])["__metadata__"]
        if told["format"] == FORMAT and told.keys() >= {"digest", "before", "shapes"}:
            return told
    except (ValueError, KeyError, TypeError):
        pass
    raise CheckpointError(f"no packed checkpoint (its format is not {FORMAT!r})")


def _unpacked(content: bytes, told: Mapping[str, str], before: Frame | None, threads: int) -> Frame:
    arrays = load(content)
    shapes = {name: tuple(shape) for name, shape in json.loads(told["shapes"]).items()}
    size = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
    numbers = np.empty(size, np.int32)

    def fill(start: int) -> None:
        part = slice(start, start + _CHUNK)
        planes = [arrays[_name(start // _CHUNK, k)] for k in range(4)]
        _join(planes, numbers[part])
        if before is not None:
            numbers[part] = _unfold(numbers[part]) + before.numbers[part]

    _in_threads(fill, size, threads)
    others = {n.removeprefix("other."): a for n, a in arrays.items() if n.startswith("other.")}
    return Frame(numbers, shapes, others)


def _name(chunk: int, plane: int) -> str:
    return f"{chunk:08d}.{plane}"


def _fold(differences: Integers) -> Integers:
    """Put the sign of each number last: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4."""
    folded: Integers = (differences << 1) ^ (differences >> 31)
    return folded


def _unfold(folded: Integers) -> Integers:
    unsigned = folded.view(np.uint32) >> 1
    found: Integers = unsigned.view(np.int32) ^ -(folded & 1)
    return found


def _planes(numbers: Integers) -> list[Plane]:
    """Return the lowest bytes of all numbers, the next ones, and so on, each packed if it pays."""
    words = numbers.view(np.uint32)
    return [_squeezed((words >> np.uint32(8 * place)).astype(np.uint8)) for place in range(4)]


def _squeezed(plane: Plane) -> Plane:
    sample = plane[:_SAMPLE]
    if len(_ZSTD.compress(sample)) > _WORTH * sample.size:
        return plane
    packed = np.frombuffer(_ZSTD.compress(plane), np.uint8)
    return packed if packed.size < plane.size else plane


def _join(planes: list[Plane], numbers: Integers) -> None:
    """Write the numbers of which these are the bytes."""
    words = numbers.view(np.uint32)
    words[:] = 0
    for place, plane in enumerate(planes):
        whole = plane
        if plane.size != words.size:
            whole = np.frombuffer(_ZSTD.decompress(plane, words.size), np.uint8)
        words |= whole.astype(np.uint32) << np.uint32(8 * place)


def _in_threads(work: Callable[[int], Any], size: int, threads: int) -> list[Any]:
    """Do something with each chunk's start; return what comes of it, in order."""
    starts = range(0, size, _CHUNK)
    if threads == 1:
        return [work(start) for start in starts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, starts))
