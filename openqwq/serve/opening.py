"""From the command line of `qwq serve` to the models that it serves, the first one loaded."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from openqwq.engine.open import OpenedModel, locate, open_model
from openqwq.engine.verbs import adapters_named, llama_options
from openqwq.serve.catalogue import Catalogue, CatalogueEntry
from openqwq.types import OpenQwQError


def open_catalogue(options: Any) -> Catalogue:
    """The models that the options name; raises OpenQwQError for one that is not there."""
    named = [name for name in (options.model, *options.more) if name]
    if not named:
        raise OpenQwQError(
            "no model is named: give one, e.g. runs/demo/stage1 (see qwq models)"
        )
    adapters = adapters_named(options.adapter)  # of the first model, whose shapes they have
    entries = [_entry(named[0], options, adapters)]
    entries += [_entry(name, options, {}) for name in named[1:]]
    catalogue = Catalogue(entries, _aliases(options.alias, entries[0].name), options.loaded)
    entries[0].model = entries[0].load()
    return catalogue


def _entry(model: str, options: Any, adapters: dict[str, Path]) -> CatalogueEntry:
    name = model
    size = 0
    if Path(model).expanduser().exists():
        path = locate(model, weights=False)
        name = path.stem if path.is_file() else path.resolve().name
        size = _size(path)
    load = partial(_load, model, name, options, adapters)
    return CatalogueEntry(name, load, size, tuple(adapters))


def _load(model: str, name: str, options: Any, adapters: dict[str, Path]) -> OpenedModel:
    opened = open_model(
        model,
        options.engine,
        options.slots,
        options.context,
        precision=options.precision,
        device=options.device,
        adapters=adapters,
        llama=llama_options(options),
    )
    return replace(opened, name=name)


def _size(path: Path) -> int:
    """The bytes of a model's weights on disk."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def _aliases(given: list[str], first: str) -> dict[str, str]:
    """`NAME=MODEL`, or `NAME` for the first model; several may stand between commas."""
    aliases: dict[str, str] = {}
    for text in given:
        for alias in filter(None, text.split(",")):
            name, _, model = alias.partition("=")
            aliases[name] = model or first
    return aliases


def store_path(given: str | None) -> Path | None:
    """Where stored responses are kept: the file that is `given`, or the user's own; none: None."""
    if given == "none":
        return None
    if given:
        return Path(given).expanduser()
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "openqwq" / "responses.sqlite"
