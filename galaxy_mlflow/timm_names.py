"""Names of timm's architectures in a study file: `timm:NAME`, or `timm:NAME.WEIGHTS`.

timm is an extra of this package, and is imported only where a study names one of its models.
"""

from __future__ import annotations

from importlib.util import find_spec

from galaxy_mlflow.errors import did_you_mean

PREFIX = "timm:"
INSTALL = "pip install 'galaxy-mlflow[timm]'"


def is_timm(architecture: str) -> bool:
    """Whether an architecture is one of timm's."""
    return architecture.startswith(PREFIX)


def check_name(architecture: str) -> None:
    """Refuse what timm does not know.

    Raises
    ------
    ValueError
        timm is not installed, has no such model, or no such weights of it (`NAME.WEIGHTS`).
    """
    name = architecture.removeprefix(PREFIX)
    if find_spec("timm") is None:
        raise ValueError(f"architecture {architecture!r} needs timm: {INSTALL}")
    import timm

    model, _, weights = name.partition(".")
    known = timm.list_models()
    if model not in known:
        raise ValueError(f"timm has no model {model!r}{did_you_mean(model, known)}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{model}.*")]
    if weights and weights not in tags:
        near = did_you_mean(weights, tags)
        listed = ", ".join(sorted(tags)) or "none"
        raise ValueError(f"timm has no weights {weights!r} of {model}{near}; it has {listed}")
