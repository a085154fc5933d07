"""Options of the verbs that talk: flags, else QWQ_* variables, else TOML files, else defaults."""

import argparse
import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from openqwq.engine.verbs import add_model_options
from openqwq.types import OpenQwQError

FILES = (Path("~/.config/openqwq/config.toml"), Path("qwq.toml"))  # the later one wins

_ALIAS = (
    "another name for a model (the first if none is given); * stands for every other name"
)


def port(text: str) -> int:
    """A port to listen on, 0 for any free one; OpenQwQError for a number that is not a port."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise OpenQwQError(f"port is {number}: it must be from 0 (any free one) to 65535")
    return number


def add_talk_options(parser: argparse.ArgumentParser, model: str = "model") -> None:
    """The options of `qwq chat` and `qwq ask`."""
    add_model_options(parser, model)
    parser.add_argument("--url", help="an OpenAI-compatible endpoint to talk to instead")
    parser.add_argument("--api-key", help="the endpoint's key; better set as QWQ_API_KEY")
    parser.add_argument("--system", help="a system prompt")
    for name in ("temperature", "top-p", "min-p"):
        parser.add_argument(f"--{name}", type=float)
    for name in ("top-k", "max-tokens", "seed", "thinking-budget"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--reasoning-effort", choices=["none", "low", "medium", "high"])
    parser.add_argument("--hide-thinking", action="store_true")


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """The options of `qwq serve`."""
    add_model_options(parser)
    parser.add_argument(
        "more", nargs="*", metavar="MODEL", help="further models to serve under their names"
    )
    parser.add_argument(
        "--alias", action="append", default=[], metavar="NAME[=MODEL]", help=_ALIAS
    )
    parser.add_argument(
        "--loaded", type=int, default=0, help="models in memory at once (0: as many as fit)"
    )
    parser.add_argument(
        "--feedback",
        type=Path,
        metavar="FILE.db",
        help="keep readers' ratings in this file",
    )
    parser.add_argument(
        "--store",
        metavar="FILE",
        help="file for stored responses; none keeps them in memory",
    )
    parser.add_argument(
        "--slots", type=int, default=8, help="replies generated at the same time"
    )
    parser.add_argument(
        "--queue", type=int, default=64, help="replies that may wait; more are refused"
    )
    parser.add_argument(
        "--drain",
        type=float,
        default=30.0,
        help="seconds that running replies get to finish when the server stops",
    )
    parser.add_argument(
        "--tools",
        default="",
        help="tools that the server runs: python,calculator,files:DIR",
    )
    parser.add_argument(
        "--mcp",
        action="append",
        default=[],
        metavar="COMMAND|URL",
        help="an MCP server whose tools the server runs (may be repeated)",
    )
    _add_access_options(parser.add_argument_group("address and access"))


def _add_access_options(group: argparse._ArgumentGroup) -> None:
    """Where the server listens, and who may use it."""
    group.add_argument("--host", default="127.0.0.1")
    group.add_argument(
        "--port", type=port, default=8000, help="port to listen on (0: any free one)"
    )
    group.add_argument(
        "--api-key",
        help="key that every route but /health requires; better set as QWQ_API_KEY",
    )
    group.add_argument(
        "--insecure", action="store_true", help="allow a public address without a key"
    )
    group.add_argument(
        "--allow-host",
        default="",
        help="host names that requests may use, separated by commas",
    )
    group.add_argument(
        "--allow-origin",
        default="",
        help="origins of web pages that may use the server, separated by commas",
    )
    group.add_argument(
        "--connect",
        default="",
        help="origins that the web chat may call, separated by commas",
    )


def apply_settings(
    verbs: Mapping[str, argparse.ArgumentParser],
    verb: str,
    environment: Mapping[str, str],
    files: Iterable[Path] = FILES,
) -> None:
    """Make what `files` and `environment` say the defaults of a verb's options.

    A file holds `option = value` lines for every verb and tables such as `[serve]` for one.
    Raises OpenQwQError for a file that is not TOML, an unknown name or a value of the wrong kind.
    """
    options: dict[str, dict[str, argparse.Action]] = {}
    known: set[str] = set()
    for name, parser in verbs.items():
        options[name] = {action.dest: action for action in parser._actions}
        options[name].pop("help")
        known |= options[name].keys()
    given: dict[str, tuple[str, Any]] = {}
    for file in map(Path.expanduser, files):
        for table, key, value in _entries(file, verbs):
            names: Iterable[str] = known
            if table:
                names = options[table]
            if key not in names:
                raise OpenQwQError(f"{file}: unknown setting {key!r}{_nearest(key, names)}")
            if table in ("", verb):
                given[key] = (f"{file}: {key}", value)
    for key in options[verb]:
        name = f"QWQ_{key.upper()}"
        if name in environment:
            given[key] = (name, environment[name])
    for key, (source, value) in given.items():
        if action := options[verb].get(key):
            _set_default(action, source, value)


def _entries(file: Path, verbs: Iterable[str]) -> Iterator[tuple[str, str, Any]]:
    """Each (table or "", key, value); what stands in a table comes last, so that it wins."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise OpenQwQError(f"cannot read {file} ({error}): repair or remove it") from error
    tables = {key: value for key, value in data.items() if isinstance(value, dict)}
    for table in tables.keys() - set(verbs):
        raise OpenQwQError(f"{file}: unknown table [{table}]{_nearest(table, verbs)}")
    for key, value in data.items():
        if key not in tables:
            yield "", key, value
    for table, entries in tables.items():
        for key, value in entries.items():
            yield table, key, value


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    if not near:
        return ""
    return f": did you mean {near[0]!r}?"


def _set_default(action: argparse.Action, source: str, value: Any) -> None:
    """Set an option's default as if `value` had been given as its flag."""
    if action.nargs == 0:
        truth = {"true": True, "1": True, "false": False, "0": False}.get(
            str(value).lower()
        )
        if truth is None:
            raise OpenQwQError(f"{source} is {value!r}: it must be true or false")
        action.default = truth
        return
    convert = action.type if callable(action.type) else str
    several = isinstance(action.default, list)
    values = value if several and isinstance(value, list) else [value]
    try:
        converted = [convert(str(each)) for each in values]
    except (ValueError, TypeError) as error:
        raise OpenQwQError(f"{source} is {value!r}: not a valid value ({error})") from error
    if action.choices is not None and not set(converted) <= set(action.choices):
        raise OpenQwQError(
            f"{source} is {value!r}: choose from {', '.join(action.choices)}"
        )
    action.default = converted if several else converted[0]
