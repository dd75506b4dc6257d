"""What other systems call a metric, and where a path says which run it is of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from typing import Final

from galaxy_mlflow import schema
from galaxy_mlflow.errors import ConfigError, DataError, did_you_mean

EPOCH, METRIC, VALUE = "epoch", "metric", "value"
SIZES: Final = (schema.N_TRAIN, schema.N_TEST)
COLUMNS: Final = (schema.SPLIT, schema.ARM, EPOCH, METRIC, VALUE, *SIZES)
"""What a column may be other than a metric."""
METRICS: Final = (
    *schema.epoch_metrics((), with_validation=True),
    schema.ENERGY_JOULES,
)
PER_CLASS: Final = tuple(f"test_{score}_" for score in schema.PER_CLASS_SCORES)
_WORDS: Final = {
    "acc": "accuracy", "lr": "learning_rate", "training": "train", "valid": "val",
    "validation": "val", "testing": "test",
}  # fmt: skip
_PARTS: Final = ("train", "val", "test")
_NO_METRIC: Final = ("step", "*_step", "*/*_step", "time", "wall_time", "hp_metric",
                     "*evaluation_*_vs_iterations")  # fmt: skip
"""What Lightning and Keras write beside metrics."""


def is_metric(name: str) -> bool:
    """Whether a name is one of ours for a value each epoch."""
    return name in METRICS or any(
        name.startswith(prefix) and name != prefix for prefix in PER_CLASS
    )


def is_fraction(metric: str) -> bool:
    """Whether a metric lies between 0 and 1."""
    return "accuracy" in metric or metric.startswith(PER_CLASS) or metric.endswith("_f1")


@dataclass(frozen=True)
class Names:
    """How names found in a source become ours.

    Attributes
    ----------
    given : theirs -> ours, as the user says; it goes before what is known by itself
    ignored : patterns (`*` and `?`) of names to leave out
    columns : whether `split`, `arm`, `epoch` and the like are wanted beside metrics
    """

    given: Mapping[str, str] = field(default_factory=dict)
    ignored: Sequence[str] = ()
    columns: bool = True

    @classmethod
    def of(cls, pairs: Sequence[str], ignored: Sequence[str], *, columns: bool = True) -> Names:
        """Read `theirs=ours` pairs.

        Raises
        ------
        ConfigError
            A pair has no `=`, or what it maps to is no name of ours.
        """
        given = {}
        for pair in pairs:
            theirs, equals, ours = pair.rpartition("=")
            if not (equals and theirs.strip()):
                raise ConfigError(f"--map {pair}: expected THEIRS=OURS, such as acc=test_accuracy")
            if not is_metric(ours) and not (columns and ours in COLUMNS):
                known = (*COLUMNS, *METRICS) if columns else METRICS
                raise ConfigError(
                    f"--map {pair}: {ours!r} is none of our names{did_you_mean(ours, known)}; "
                    f"{_known(known)}"
                )
            given[theirs.strip().lower()] = ours
        return cls(given, tuple(name.lower() for name in ignored), columns)

    def known(self, found: Iterable[str], where: str) -> dict[str, str]:
        """Return theirs -> ours for the names found; those to be left out are not in it.

        Raises
        ------
        DataError
            Some names are unknown, all listed, or two are the same metric of ours.
        """
        ours = {name: self._one(name) for name in found}
        unknown = [name for name, one in ours.items() if one is None]
        if unknown:
            raise DataError(f"{where}: {self._unknown(unknown)}")
        wanted = {name: one for name, one in ours.items() if one}
        for name, one in wanted.items():
            twice = [other for other in wanted if other != name and wanted[other] == one]
            if twice:
                raise DataError(
                    f"{where}: {name!r} and {twice[0]!r} are both {one}: leave one of them out "
                    f"with --ignore, or say what it is with --map"
                )
        return wanted

    def _one(self, name: str) -> str | None:
        """Return our name; "" for one to leave out, None for one that is not known."""
        lower = name.lower()
        if lower in self.given:
            return self.given[lower]
        if self.columns and lower in COLUMNS:
            return lower
        if _matches(lower, self.ignored):
            return ""
        if is_metric(lower):
            return lower
        if _matches(lower, _NO_METRIC):
            return ""
        usual = _usual(lower)
        return usual if is_metric(usual) else None

    def _unknown(self, names: Sequence[str]) -> str:
        known = (*COLUMNS, *METRICS) if self.columns else METRICS
        near = {name: did_you_mean(_part_first(name), known) for name in names[:10]}
        listed = ", ".join(f"{name!r}{hint}" for name, hint in near.items())
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        example = names[0]
        return (
            f"not known as a metric: {listed}{more}. Say what it is, as in "
            f"--map '{example}=test_accuracy', or leave it out with --ignore '{example}'; "
            f"{_known(known)}"
        )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _known(names: Sequence[str]) -> str:
    return f"our names: {', '.join(names)}, {', '.join(f'{prefix}CLASS' for prefix in PER_CLASS)}"


def _usual(name: str) -> str:
    """Return what Keras, Lightning or PyTorch's examples mean, in our words.

    >>> _usual("validation/epoch_accuracy"), _usual("Loss/train"), _usual("val_acc_epoch")
    ('val_accuracy', 'train_loss', 'val_accuracy')
    """
    words = _words(name)
    parts = [word for word in words if word in _PARTS]
    rest = "_".join(word for word in words if word not in (*_PARTS, EPOCH, ""))
    if rest == schema.LEARNING_RATE:
        return rest
    return f"{parts[0] if parts else 'train'}_{rest}"


def _words(name: str) -> list[str]:
    return [_WORDS.get(word, word) for word in re.split(r"[^a-z0-9]+", name.lower())]


def _part_first(name: str) -> str:
    return "_".join(sorted(_words(name), key=lambda word: word not in _PARTS))


@dataclass(frozen=True)
class PathPattern:
    """Where in a path the arm and the split stand, as in `{arm}/split-{split}/metrics.csv`.

    `*` is anything within one folder's or file's name, `**` anything.
    """

    text: str

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        pieces = re.split(r"(\{[^}]*\}|\*\*|\*)", self.text)
        meaning = {
            "{arm}": "(?P<arm>[^/]+?)", "{split}": r"(?P<split>\d+)", "**": ".*", "*": "[^/]*",
        }  # fmt: skip
        strange = [p for p in pieces if p.startswith("{") and p not in meaning]
        doubled = any(self.text.count(name) > 1 for name in ("{arm}", "{split}"))
        if strange or doubled or "{" not in self.text:
            raise ConfigError(
                f"--pattern {self.text}: expected {{arm}} and {{split}}, each once at most, as in "
                "'{arm}/split-{split}/metrics.csv'"
            )
        return re.compile("".join(meaning.get(piece, re.escape(piece)) for piece in pieces))

    def names(self) -> tuple[str, ...]:
        """Return what the pattern says of a path: `arm`, `split` or both."""
        return tuple(self._compiled.groupindex)

    def read(self, path: str) -> dict[str, str] | None:
        """Return what a path says; None where it is not as the pattern has it."""
        found = self._compiled.fullmatch(path)
        return found.groupdict() if found else None
