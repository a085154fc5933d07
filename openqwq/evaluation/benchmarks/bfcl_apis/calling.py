"""Calls a back end's documented functions, and tells its state."""

import copy
import json
import random
import re
from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """What an API refuses to do; the model sees the message."""


def call(api: object, name: str, arguments: Mapping[str, Any]) -> str:
    """The result of a documented function as the text that a model sees; failures are results.

    Names in camel case become ours. The caller makes sure that `name` is a documented function.
    """
    method = getattr(type(api), f"_{snake(name)}")
    try:
        result = method(api, **{snake(key): value for key, value in arguments.items()})
    except ApiError as error:
        result = {"error": str(error)}
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
        return f"Error during execution: {error}"  # arguments of a kind that was not foreseen
    return "None" if result is None else json.dumps(result, default=str)


def state(api: object) -> dict[str, Any]:
    """A copy of the public attributes."""
    public = {name: value for name, value in vars(api).items() if not name.startswith("_")}
    return copy.deepcopy(public)


def snake(name: str) -> str:
    """`pressBrakePedal` as `press_brake_pedal`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def seeded(seed: int) -> random.Random:
    """The generator of an API's ids, which ground truths name."""
    return random.Random(seed)


def require(holds: object, message: str) -> None:
    """Raise ApiError with `message` unless `holds`."""
    if not holds:
        raise ApiError(message)
