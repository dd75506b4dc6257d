"""The authors' master record of the published study: a dict saved by torch, read as plain values.

It is loaded with `weights_only`, so that opening a file from elsewhere runs no code of that file.
What its keys and lengths must be is checked where it is used, in `analysis.paper.master`.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from galaxy_mlflow.errors import DataError


def read_master_record(path: Path) -> dict[str, Any]:
    """Read a dict saved by `torch.save`; tensors become numpy arrays, all else stays as it is.

    Raises
    ------
    DataError
        The file is missing, is not one that torch saved, would need code of its own to be read,
        or holds something else than a dict.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; the master record is sample_perf_history_master.tar"
        )
    content = _load(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; the master record is a dict")
    return {str(key): _plain(value, f"{path}: {key}") for key, value in content.items()}


def _load(path: Path) -> Any:
    """Return what torch reads. Its own words are not passed on: they advise to trust the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DataError(
            f"{path}: not read: the file is damaged, was not saved by torch, or holds more than "
            "numbers, lists, dicts and tensors, which only code of its own could read"
        ) from None
    except Exception:  # torch's reader fails in many ways on a file of another kind
        raise DataError(f"{path}: not a file saved by torch, or damaged") from None


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, torch.Tensor):
        try:
            return value.detach().numpy()
        except (TypeError, RuntimeError):
            raise DataError(
                f"{where}: a {value.dtype} tensor, where plain numbers belong"
            ) from None
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}, {key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    return value
