"""The simulated APIs of BFCL's multi-turn episodes: the official ones, of the package bfcl-eval.

The package is installed without its requirements (its providers' SDKs, and an old numpy): its back
ends need mpmath alone, which comes with math-verify.
"""

import copy
import decimal
import inspect
import json
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from openqwq.types import OpenQwQError

VERSION = "2026.3.23"
INSTALL = f"pip install --no-deps bfcl-eval=={VERSION}"
MODULES = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
# a class, and the name of its module and of its function documents
APIS: Mapping[str, str] = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
STATELESS = "MathAPI"
GREATEST = 10_000  # digits to compute, or an exponent: more would keep the judge busy
BOUNDED = ("precision", "exponent")


def require_backends() -> None:
    """Raise OpenQwQError unless bfcl-eval is installed, in the version that we know."""
    try:
        found = version("bfcl-eval")
    except PackageNotFoundError:
        raise OpenQwQError(
            f"BFCL's multi-turn episodes need the package bfcl-eval for its simulated APIs: "
            f"{INSTALL}, or choose other categories (--tasks bfcl/live)"
        ) from None
    if found != VERSION:
        raise OpenQwQError(
            f"bfcl-eval is {found}: its simulated APIs may differ from version to version, so "
            f"install the one that results are compared by: {INSTALL}"
        )


def open_api(name: str, config: Mapping[str, Any], long_context: bool) -> Any:
    """Return an API of the class `name` in its configured state."""
    api = getattr(import_module(f"{MODULES}.{APIS[name]}"), name)()
    if name != STATELESS:
        api._load_scenario(copy.deepcopy(dict(config)), long_context=long_context)
    return api


def functions(api: object) -> list[str]:
    """Return the names of the functions that an API offers."""
    methods = inspect.getmembers(api, inspect.ismethod)
    return [name for name, _ in methods if not name.startswith("_")]


def call(api: object, name: str, arguments: Mapping[str, Any]) -> str:
    """Return the result of one of `functions` as the text that a model sees, a failure too."""
    for argument in BOUNDED:
        given = arguments.get(argument)
        if isinstance(given, int | float) and abs(given) > GREATEST:
            return f"Error during execution: {argument} is above {GREATEST}"
    try:
        with decimal.localcontext():  # the precision that the API sets stays its own
            own = copy.deepcopy(dict(arguments))  # an API may keep a list and add to it
            return _text(getattr(api, name)(**own))
    except Exception as error:  # whatever arguments lead to: the model sees it
        return f"Error during execution: {error}"


def _text(result: object) -> str:
    if isinstance(result, dict):
        try:
            return json.dumps(result)
        except TypeError:  # it holds an object of the API
            return str(result)
    return str(result)


def failed(result: str) -> bool:
    """Whether the text of a result tells of a failure."""
    if result.startswith(("Error", "['Error")):
        return True
    try:
        data = json.loads(result)
    except ValueError:
        return False
    return isinstance(data, dict) and "error" in data


def differences(mine: object, theirs: object) -> list[str]:
    """Return the public attributes in which two APIs of one class differ."""
    names = []
    for name, value in vars(theirs).items():
        if not name.startswith("_") and getattr(mine, name) != value:
            names.append(name)
    return names
