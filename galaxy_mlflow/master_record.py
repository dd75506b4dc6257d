"""The authors' master record of the published study: a dict saved by torch, read as plain values.

It is loaded with `weights_only`, so that opening a file from elsewhere runs no code of that file.
What its keys and lengths must be is checked where it is used, in `analysis.paper.master`.
"""

from __future__ import annotations

import pickle
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
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: not read: the file is damaged, was not saved by torch, or holds more than "
            f"numbers, lists, dicts and tensors, which only code could read "
            f"({str(error).splitlines()[0][:200]})"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise DataError(f"{path}: not a file saved by torch, or damaged: {reason}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; the master record is a dict")
    return {str(key): _plain(value) for key, value in content.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
