"""Study files: TOML to a `Study`, with overrides, and errors that name file, line and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from galaxy_mlflow import config, data_settings, tune_settings
from galaxy_mlflow.errors import ConfigError, did_you_mean
from galaxy_mlflow.label_counts import COUNTS, way_of, with_each_count

Table = dict[str, Any]
SHARED = "training"
"""Settings under [training] hold for every arm; an arm's own table goes before them."""

_HERE = Path(__file__).resolve().parent
_SHIPPED = (_HERE / "experiments", _HERE.parent / "experiments")
_PATH_KEYS = ("path", "images")
_DATA_KINDS: dict[str, type[BaseModel]] = {
    kind.model_fields["kind"].annotation.__args__[0]: kind
    for kind in get_args(get_args(data_settings.DataSettings)[0])
}
_FORMS = (*_DATA_KINDS, tune_settings.CHOICES, tune_settings.RANGE)
"""What pydantic puts into the place of an error, and no file does."""
_ONE_SPACE = (
    "\nThere is no tuning of one arm's own: all arms have the same [tune.space] and as many trials,"
    " or their comparison would not be fair"
)


def find_study(name: str) -> Path:
    """Return the study file that `name` (a path, or the name of a shipped study) means.

    Raises
    ------
    ConfigError
        There is no such file; the message names the nearest shipped study.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        if path.is_file():
            return path
        raise ConfigError(f"{path}: no such study file{did_you_mean(path.stem, _shipped())}")
    shipped = _shipped()
    if name in shipped:
        return shipped[name]
    raise ConfigError(
        f"{name}: neither a study file nor a shipped study{did_you_mean(name, shipped)}; "
        f"shipped: {', '.join(sorted(shipped))}"
    )


def study_name(name: str) -> str:
    """Return the name of the study that `name` means: of a study file, or the name itself.

    Raises
    ------
    ConfigError
        `name` is a file that cannot be read.
    """
    if not name.endswith(".toml"):
        return name
    path = find_study(name)
    return str(_parse(path, _read(path)).get("name", path.stem))


def load_study_file(path: Path | str, overrides: Sequence[str] = ()) -> config.Study:
    """Read a study file and apply `key=value` overrides, as given with `--set`.

    Paths in the file are relative to the file, paths in overrides to the current folder.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds an unknown key, a wrong type or an impossible value.
    """
    path = find_study(str(path))
    text = _read(path)
    table = _parse(path, text)
    _anchor_paths(table, path.parent)
    for override in sorted(overrides, key=lambda text: not text.startswith("data.kind=")):
        _apply(table, override)
    table.setdefault("name", path.stem)
    try:
        merged = _with_shared(table)
    except ValueError as error:
        raise ConfigError(f"{_place(path, text, [SHARED, COUNTS])}: {error}") from None
    try:
        return config.Study.model_validate(merged)
    except ValidationError as error:
        problems = [_describe(path, text, table, detail) for detail in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def _shipped() -> dict[str, Path]:
    return {file.stem: file for folder in _SHIPPED for file in sorted(folder.glob("*.toml"))}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _parse(path: Path, text: str) -> Table:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+)", str(error))
        line = f":{place[1]}" if place else ""
        reason = re.sub(r" \(at .*\)$", "", str(error))
        again = re.search(r"Cannot declare \('arm', '([^']+)'\) twice", reason)
        if again:
            reason = f"arm {again[1]!r} stands twice: give each arm a name of its own"
        raise ConfigError(f"{path}{line}: {reason}") from None


def _anchor_paths(table: Table, folder: Path) -> None:
    """Make the paths of a study file absolute, seen from its folder."""
    data = table.get("data")
    if isinstance(data, dict):
        for key in _PATH_KEYS:
            if isinstance(data.get(key), str):
                data[key] = _absolute(data[key], folder)
    arms = table.get("arm")
    tables = [table.get(SHARED), *(arms.values() if isinstance(arms, dict) else ())]
    for arm in tables:
        if isinstance(arm, dict) and str(arm.get("weights", "")).startswith("file:"):
            arm["weights"] = f"file:{_absolute(arm['weights'][5:], folder)}"


def _absolute(text: str, folder: Path) -> str:
    try:
        return str((folder / Path(text).expanduser()).resolve())
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"path {text!r}: {error}") from None


def _apply(table: Table, override: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {override}: expected KEY=VALUE, such as arm.scratch.epochs=10")
    value = _override_value(names, text.strip())
    arms = table.get("arm", {})
    if len(names) > 2 and names[0] == "arm" and names[1] not in arms:
        near = did_you_mean(names[1], arms)
        raise ConfigError(f"--set {override}: no arm {names[1]!r}{near}; known: {', '.join(arms)}")
    before = table["data"].get("kind") if isinstance(table.get("data"), dict) else None
    inner = table
    for name in names[:-1]:
        inner = inner.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {name!r} is a value, not a table")
    inner[names[-1]] = value
    if names == ["data", "kind"] and value != before:
        _keep_only_keys_of(table["data"], text.strip().strip("\"'"))


def _override_value(names: list[str], text: str) -> Any:
    """Return the value of an override: TOML where it is TOML, else the text itself."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if names in (["name"], ["question"]):
        value = str(value) if isinstance(value, str) else text
    if names[0] == "data" and names[-1] in _PATH_KEYS and isinstance(value, str):
        return _absolute(value, Path.cwd())
    if names[-1] == "weights" and isinstance(value, str) and value.startswith("file:"):
        return f"file:{_absolute(value[5:], Path.cwd())}"
    return value


def _keep_only_keys_of(data: Table, kind: str) -> None:
    """Forget settings of the kind of data set that an override replaces."""
    model = _DATA_KINDS.get(kind)
    if model is not None:
        for key in [key for key in data if key not in model.model_fields or key == "labels"]:
            del data[key]


def _with_shared(table: Table) -> Table:
    """Return the table with the shared settings laid under every arm."""
    merged = {key: value for key, value in table.items() if key != SHARED}
    shared, arms = table.get(SHARED, {}), table.get("arm")
    if not isinstance(shared, dict):
        raise ConfigError(f"{SHARED}: expected a table of settings for every arm")
    if isinstance(arms, dict):
        laid = {
            name: {**shared, **arm} if isinstance(arm, dict) else arm for name, arm in arms.items()
        }
        merged["arm"] = with_each_count(laid)
    return _paths_as_paths(merged)


def _paths_as_paths(table: Table) -> Table:
    data = table.get("data")
    if isinstance(data, dict):
        paths = {k: Path(data[k]) for k in _PATH_KEYS if isinstance(data.get(k), str)}
        table["data"] = {**data, **paths}
    return table


def _describe(path: Path, text: str, table: Table, error: ErrorDetails) -> str:
    keys = [str(part) for part in error["loc"] if part not in _FORMS]
    if len(keys) > 1 and keys[0] == "arm":
        keys[1] = way_of(keys[1], _inner(table, ["arm"]))
    if len(keys) == 3 and keys[0] == "arm" and keys[2] not in _inner(table, keys[:2]):
        keys = [SHARED, keys[2]] if keys[2] in _inner(table, [SHARED]) else keys
    name = ".".join(keys)
    return f"{_place(path, text, keys)}: {f'{name}: ' if name else ''}{_reason(error, keys)}"


def _place(path: Path, text: str, keys: Sequence[str]) -> str:
    line = _line_of(text, keys)
    return f"{path}:{line}" if line else f"{path}"


def _reason(error: ErrorDetails, keys: list[str]) -> str:
    kind, message = error["type"], error["msg"]
    if kind == "extra_forbidden":
        known = _known_keys(keys, error)
        near = did_you_mean(keys[-1], known)
        own = _ONE_SPACE if keys[0] == "arm" and keys[-1] == "tune" else ""
        own = _ONE_SPACE if keys[0] == "tune" and isinstance(error["input"], Mapping) else own
        return f"unknown key {keys[-1]!r}{near}; known: {', '.join(known)}{own}"
    if kind == "missing":
        return "is missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        given = error["input"].get("kind") if isinstance(error["input"], Mapping) else None
        near = did_you_mean(str(given), _DATA_KINDS) if given else ""
        return f"kind is {given!r}{near}; known: {', '.join(_DATA_KINDS)}"
    if kind == "literal_error":
        options = re.findall(r"'([^']+)'", message)
        return f"{error['input']!r}{did_you_mean(str(error['input']), options)}: {message}"
    message = message.removeprefix("Value error, ")
    shown = error["input"]
    return message if isinstance(shown, BaseModel | Mapping) else f"{message}, found {shown!r}"


def _known_keys(keys: list[str], error: ErrorDetails) -> list[str]:
    """Return the names that may stand where the unknown key stands."""
    kinds = [part for part in error["loc"] if part in _DATA_KINDS]
    models: dict[str, type[BaseModel]] = {
        "": config.Study,
        "data": _DATA_KINDS[str(kinds[0])] if kinds else data_settings.ImageSettings,
        "data.classes": data_settings.ClassRules,
        "splits": config.SplitSettings,
        "augmentation": config.AugmentationSettings,
        "fractal": config.FractalSettings,
        "checkpoints": config.CheckpointSettings,
        "resources": config.ResourceSettings,
        "tune": tune_settings.TuneSettings,
        "tune.space": tune_settings.SpaceSettings,
        "tuned": tune_settings.TunedSettings,
    }
    parent = "tuned" if keys[0] == "tuned" else ".".join(keys[:-1])
    model = models.get(parent, config.ArmSettings)
    if parent.startswith("tune.space."):
        model = tune_settings.Span
    return [*model.model_fields, *([SHARED] if model is config.Study else [])]


def _inner(table: Table, keys: Sequence[str]) -> Table:
    for key in keys:
        table = table.get(key, {}) if isinstance(table, dict) else {}
    return table if isinstance(table, dict) else {}


def _line_of(text: str, keys: Sequence[str]) -> int | None:
    """Return the line where a key, or else its table, stands in a TOML text."""
    header, table_line = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        table = re.match(r"\s*\[\[?([^\]]+)\]", line)
        if table:
            header = table[1].replace('"', "").replace(" ", "")
            if header == ".".join(keys):
                return number
            if header == ".".join(keys[:-1]):
                table_line = number
        key = re.match(r"\s*([A-Za-z0-9_.\"-]+)\s*=", line)
        if key and [*filter(None, header.split(".")), *key[1].replace('"', "").split(".")] == list(
            keys
        ):
            return number
    return table_line
