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
import math
from collections.abc import Callable, Mapping, Sequence
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
            size = math.prod(shape)
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

    Raises
    ------
    ValueError
        The weights before have other names or shapes.
    """
    if before is not None and before.shapes != frame.shapes:
        raise ValueError("weights can be told apart only from those of the same network")
    base = None if before is None else before.numbers

    def planes_of(start: int) -> list[Plane]:
        part = slice(start, start + _CHUNK)
        numbers = frame.numbers[part]
        return _planes(numbers if base is None else _fold(numbers - base[part]))

    chunks = _in_threads(planes_of, frame.numbers.size, threads)
    planes = {_name(i, k): plane for i, chunk in enumerate(chunks) for k, plane in enumerate(chunk)}
    told = {
        "format": FORMAT,
        "digest": frame.digest,
        "before": "" if before is None else before.digest,
        "shapes": json.dumps({name: list(shape) for name, shape in frame.shapes.items()}),
    }
    others = {f"other.{name}": array for name, array in frame.others.items()}
    return bytes(save({**planes, **others}, metadata=told))


def unpack(chain: Sequence[bytes], threads: int = 1) -> Frame:
    """Return the frame of the last of these packed files.

    Parameters
    ----------
    chain : a key frame, and files of which each is told apart from the one before it

    Raises
    ------
    CheckpointError
        One is no packed file, or damaged, or needs other weights than those before it.
    """
    told = [_metadata(content) for content in chain]
    if [each["before"] for each in told] != ["", *(each["digest"] for each in told[:-1])]:
        raise CheckpointError("a packed checkpoint needs other weights than those before it")
    try:
        frame = _unpacked([load(content) for content in chain], told[-1]["shapes"], threads)
    except (ValueError, KeyError, SafetensorError, OSError) as error:
        raise CheckpointError(f"a packed checkpoint is damaged: {error}") from None
    if frame.digest != told[-1]["digest"]:
        raise CheckpointError("a packed checkpoint is damaged: its weights have another sha256")
    return frame


def _metadata(content: bytes) -> dict[str, str]:
    try:
        size = int.from_bytes(content[:8], "little")
        told: dict[str, str] = json.loads(content[8 : 8 + size])["__metadata__"]
        if told["format"] == FORMAT and told.keys() >= {"digest", "before", "shapes"}:
            return told
    except (ValueError, KeyError, TypeError):
        pass
    raise CheckpointError(f"no packed checkpoint (its format is not {FORMAT!r})")


def _unpacked(chain: Sequence[Mapping[str, NDArray[Any]]], told: str, threads: int) -> Frame:
    """Return the last frame; a part of all numbers goes through the whole chain at a time."""
    shapes = {name: tuple(shape) for name, shape in json.loads(told).items()}
    numbers = np.empty(sum(math.prod(shape) for shape in shapes.values()), np.int32)

    def fill(start: int) -> None:
        part = numbers[start : start + _CHUNK]
        names = [_name(start // _CHUNK, place) for place in range(4)]
        _join([chain[0][name] for name in names], part)
        differences = np.empty_like(part)
        for planes in chain[1:]:
            _join([planes[name] for name in names], differences)
            np.add(part, _unfold(differences), out=part)

    _in_threads(fill, numbers.size, threads)
    others = {n.removeprefix("other."): a for n, a in chain[-1].items() if n.startswith("other.")}
    return Frame(numbers, shapes, others)


def _name(chunk: int, plane: int) -> str:
    return f"{chunk:08d}.{plane}"


def _fold(differences: Integers) -> Integers:
    """Put each number's sign last, in place: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4."""
    signs = differences >> 31
    differences <<= 1
    differences ^= signs
    return differences


def _unfold(folded: Integers) -> Integers:
    """Undo `_fold`, in place."""
    signs = folded & 1
    np.negative(signs, out=signs)
    unsigned = folded.view(np.uint32)
    unsigned >>= 1
    folded ^= signs
    return folded


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
    places = numbers.view(np.uint8).reshape(-1, 4)
    for place, plane in enumerate(planes):
        if plane.size == numbers.size:
            places[:, place] = plane
        else:
            whole = _ZSTD.decompress(plane, numbers.size)
            places[:, place] = np.frombuffer(whole, np.uint8)


def _in_threads(work: Callable[[int], Any], size: int, threads: int) -> list[Any]:
    """Do something with each chunk's start; return what comes of it, in order."""
    starts = range(0, size, _CHUNK)
    if threads == 1:
        return [work(start) for start in starts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, starts))
