"""Settings from TOML files and `key=value` overrides, and back to TOML."""

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openqwq.config.build import build_dataclass, key_of, near
from openqwq.config.checks import check_config
from openqwq.config.defaults import with_defaults
from openqwq.config.tree import Config
from openqwq.types import OpenQwQError

Tree = dict[str, Any]

# Keys of a [data] table that name files.
DATA_FILES = ("rows", "held_out")
SHIPPED = Path(__file__).parents[1] / "configs"
USER_CODE = re.compile(r"[^:]+\.py:[A-Za-z_]\w*")


def find_config(name: str) -> Path:
    """A file, or the name of a config that comes with the package."""
    shipped = SHIPPED / f"{name.removesuffix('.toml')}.toml"
    return shipped if shipped.exists() and not Path(name).exists() else Path(name)


def load_config(files: Sequence[Path], overrides: Sequence[str] = ()) -> Config:
    """Defaults, then `files` from left to right, then `key.sub=value` overrides.

    Tables and stages are merged by name. Relative paths in a file start from that file's folder;
    those in overrides, from the working directory. Raises OpenQwQError naming the key, where it
    stands, its value and the nearest valid key.
    """
    tree: Tree = {}
    for file in files:
        _merge(tree, _read(file))
    for override in overrides:
        _override(tree, override)
    _anchor(tree, Path.cwd())
    where = ", ".join(map(str, files)) or "the overrides"
    config: Config = build_dataclass(Config, tree, "", where)
    config = with_defaults(config)
    check_config(config)
    return config


def dump_config(config: Config) -> str:
    """The resolved tree as TOML that `load_config` reads back to an equal tree."""
    import tomli_w

    return tomli_w.dumps(_plain(config))


def _read(file: Path) -> Tree:
    try:
        tree = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise OpenQwQError(f"config file {file} does not exist: check the path") from None
    except OSError as error:
        raise OpenQwQError(f"config file {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OpenQwQError(f"config file {file} is not valid TOML: {error}") from None
    for key in ("tasks", "sft", "rl", "stage2"):
        if key in tree:
            raise OpenQwQError(
                f"config file {file} has [{key}], the form before 0.2: name data in [data.NAME] "
                "and stages in [[stages]] (docs/your-data.md)"
            )
    _anchor(tree, file.resolve().parent)
    return tree


def _plain(value: Any) -> Any:
    """Tables and lists without absent values, which TOML cannot say."""
    if dataclasses.is_dataclass(value):
        fields = {
            key_of(field.name): getattr(value, field.name)
            for field in dataclasses.fields(value)
        }
        return _plain(fields)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _merge(tree: Tree, update: Mapping[str, Any]) -> None:
    for key, value in update.items():
        present = tree.get(key)
        if isinstance(value, Mapping) and isinstance(present, dict):
            _merge(present, value)
        elif key == "stages" and isinstance(value, list) and isinstance(present, list):
            _merge_stages(present, value)
        else:
            tree[key] = value


def _merge_stages(stages: list[Any], update: Sequence[Any]) -> None:
    """Change the stages that a later file names again, and add the others at the end."""
    by_name = {stage.get("name"): stage for stage in stages if isinstance(stage, dict)}
    for stage in update:
        if isinstance(stage, dict) and stage.get("name") in by_name:
            _merge(by_name[stage["name"]], stage)
        else:
            stages.append(stage)


def _override(tree: Tree, text: str) -> None:
    path, equals, value = text.partition("=")
    if not equals:
        raise OpenQwQError(f"override {text!r} has no '=': write key.sub=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string

    *parents, last = path.strip().split(".")
    node: Any = tree
    for parent in parents:
        if isinstance(node, dict):
            node = node.setdefault(parent, {})
        else:
            node = node[_index(node, parent, path)]
    if isinstance(node, dict):
        node[last] = parsed
    else:
        node[_index(node, last, path)] = parsed


def _index(node: Any, key: str, path: str) -> int:
    """Where `key`, a name or a number, stands in a list."""
    if not isinstance(node, list):
        raise OpenQwQError(
            f"override {path}: {key!r} does not exist, the key above it is {node!r}"
        )
    names = [item.get("name") for item in node if isinstance(item, dict)]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(node):
        return int(key)
    known = [name for name in names if name]
    advice = f"the list has {len(node)} items"
    if known:
        advice = f"did you mean {near(key, known)!r}?"
    raise OpenQwQError(f"override {path}: {key!r} does not exist: {advice}")


def _anchor(tree: Tree, folder: Path) -> None:
    """Make the paths of a tree absolute, starting from `folder`."""
    _anchor_model(tree, "model", folder)
    _anchor_model(tree.get("tokenizer"), "like", folder)

    evaluation = tree.get("evaluation")
    if isinstance(evaluation, dict):
        benchmarks = evaluation.get("benchmark_data")
        if isinstance(benchmarks, str) and benchmarks:
            evaluation["benchmark_data"] = _anchored(benchmarks, folder)

    data = tree.get("data")
    for table in data.values() if isinstance(data, dict) else ():
        if isinstance(table, dict):
            _anchor_table(table, folder)

    stages = tree.get("stages")
    for stage in stages if isinstance(stages, list) else ():
        if isinstance(stage, dict):
            _anchor_stage(stage, folder)


def _anchor_model(table: Any, key: str, folder: Path) -> None:
    """A model's place where it is on this disk; a hub id stays as it is."""
    if isinstance(table, dict):
        place = table.get(key)
        if isinstance(place, str) and place and Path(_anchored(place, folder)).exists():
            table[key] = _anchored(place, folder)


def _anchor_table(table: Tree, folder: Path) -> None:
    for key in DATA_FILES:
        value = table.get(key)
        if isinstance(value, str) and value and "://" not in value:
            table[key] = _anchored(value, folder)
    for key in ("source", "environment", "verifier"):
        if key in table:
            table[key] = _anchored_code(table[key], folder)


def _anchor_stage(stage: Tree, folder: Path) -> None:
    for key in ("from", "teacher", "reference"):
        value = stage.get(key)
        if isinstance(value, str) and ("/" in value or value.startswith(".")):
            if "://" not in value and Path(_anchored(value, folder)).exists():
                stage[key] = _anchored(value, folder)

    lists = [stage.get("rewards"), *_values(stage.get("rewards_of"))]
    for rewards in lists:
        for reward in rewards if isinstance(rewards, list) else ():
            if isinstance(reward, dict) and "use" in reward:
                reward["use"] = _anchored_code(reward["use"], folder)


def _values(table: Any) -> list[Any]:
    return list(table.values()) if isinstance(table, dict) else []


def _anchored_code(value: Any, folder: Path) -> Any:
    """`file.py:name` with the file's whole path; everything else as it is."""
    if isinstance(value, str) and USER_CODE.fullmatch(value):
        return _anchored(value, folder)
    return value


def _anchored(path: str, folder: Path) -> str:
    """A path that starts from `folder`, or from a home where it begins with `~`."""
    return str(folder / os.path.expanduser(path))  # Path's own raises for unknown users
