"""Requests are checked against the very OpenAPI document that the server publishes.

What the document does not list is refused in OpenAI's error shape, so nothing is ignored in
silence and the document cannot differ from the behaviour.
"""

import asyncio
import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import jsonschema_rs
from starlette.requests import ClientDisconnect, Request

from openqwq.sandbox.ascii_json import AsciiJson
from openqwq.serve.shortened import shortened
from openqwq.types import OpenQwQError

Json = dict[str, Any]
PATH = Path(__file__).with_name("openapi.json")
ANTHROPIC = "/v1/messages"  # and what is below it
BODY_BYTES = 16 * 2**20
BODY_SECONDS = 60.0
SMALL = 4096  # characters of a body whose faults are all looked at
HISTORIES = ("messages", "input")  # fields of requests
# fields of histories and requests whose nulls mean something
VALUES = ("arguments", "input", "output")
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_ANTHROPIC_TYPES = {404: "not_found_error", 413: "request_too_large"}


class ApiError(OpenQwQError):
    """A refusal with its HTTP status, the field at fault and OpenAI's code for the fault."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """The JSON that OpenAI's clients read."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        if self.status >= 500:
            kind = "server_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def refusal(error: ApiError, path: str) -> AsciiJson:
    """The response to a request for `path` that is refused, in the shape of its API."""
    if path.startswith(ANTHROPIC):
        return AsciiJson(anthropic_error(error), error.status, error.headers)
    return AsciiJson(error.body(), error.status, error.headers)


def anthropic_error(error: ApiError) -> dict[str, Any]:
    """The JSON that Anthropic's clients read."""
    body = error.body()
    if error.status >= 500:
        body["error"]["type"] = "api_error"
    elif error.status in _ANTHROPIC_TYPES:
        body["error"]["type"] = _ANTHROPIC_TYPES[error.status]
    return {"type": "error", **body}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document, from the file next to this module."""
    loaded: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return loaded


@cache
def _validator(schema: str) -> Any:
    parts = {"components": document()["components"]}
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{schema}", **parts}
    )


def check(body: Any, schema: str) -> dict[str, Any]:
    """`body` without its null fields, once the document's `schema` accepts it; else ApiError.

    A null asks for nothing, so that it may stand in a field that nobody knows.
    """
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    given = _without_nulls(body)
    for key, value in given.items():
        if isinstance(value, dict) and key not in VALUES:
            given[key] = _without_nulls(value)
        elif key in HISTORIES:
            given[key] = _plain_history(value)
    validator = _validator(schema)
    if not validator.is_valid(given):
        _refuse(_faults(given, validator))
    return given


def _faults(given: Json, validator: Any) -> list[Any]:
    """What is wrong with a body: each fault of a small one, the first of a large one.

    All faults of a large body would take seconds to build, and hundreds of MiB.
    """
    short = given
    if len(json.dumps(given)) > SMALL:
        # one with too many lists stays long: its first fault is found all the same
        short = shortened(given, validator.is_valid) or given
    if len(json.dumps(short)) <= SMALL:
        return list(validator.iter_errors(short))
    faults: list[Any] = []
    try:
        validator.validate(short)
    except jsonschema_rs.ValidationError as error:
        faults.append(error)
    return faults


def _refuse(errors: list[Any]) -> NoReturn:
    """Raise the ApiError that says what is most likely wrong with a body."""
    error = _at_fault(_likeliest(errors))
    _refuse_kind(error)
    path = _written(error.instance_path)
    match error.kind:
        case jsonschema_rs.ValidationErrorKind.AdditionalProperties(unexpected=names):
            where = f"{path}.{names[0]}".lstrip(".")
            text = (
                f"unknown or unsupported parameter {where}: remove it (see /openapi.json)"
            )
            raise ApiError(400, text, where, "unknown_parameter")
        case jsonschema_rs.ValidationErrorKind.Required(property=name):
            where = f"{path}.{name}".lstrip(".")
            raise ApiError(400, f"{where} is missing", where, "missing_required_parameter")

    text = error.message
    if _forms(error) or len(text) >= 500:
        given = json.dumps(error.instance)
        text = f"{given:.200} has an unsupported form (see /openapi.json)"
    where = path.lstrip(".")
    raise ApiError(400, f"{where or 'the body'}: {text}", where or None, "invalid_value")


def _written(path: Iterable[str | int]) -> str:
    """A place in a body, such as `.messages[0].content`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text


def _without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: inner for key, inner in value.items() if inner is not None}


def _plain_history(value: Any) -> Any:
    """A history without the nulls that clients echo, but for those inside of values."""
    if isinstance(value, list):
        return [_plain_history(each) for each in value]
    if not isinstance(value, dict):
        return value
    plain: dict[str, Any] = {}
    for key, inner in _without_nulls(value).items():
        is_value = key in VALUES or (key == "content" and isinstance(inner, dict))
        plain[key] = inner if is_value else _plain_history(inner)
    return plain


def _forms(error: Any) -> list[list[Any]]:
    """The faults by each form that a value may have; none where there is one form only."""
    return getattr(error.kind, "context", None) or []


def _at_fault(error: Any) -> Any:
    """The innermost fault: of the several forms a value may have, the one that it meant to have."""
    while forms := _forms(error):
        place = list(error.instance_path)
        meant: list[list[Any]] = []
        for faults in forms:
            is_other = any(_means_other_form(fault, place) for fault in faults)
            if faults and not is_other:
                meant.append(faults)
        if not meant:
            return error
        error = _likeliest(min(meant, key=len))
    return error


def _means_other_form(fault: Any, place: list[str | int]) -> bool:
    """Whether the value at `place` is of another JSON type, or says that it is another form."""
    path = list(fault.instance_path)
    if path in ([*place, "role"], [*place, "type"]):
        return True
    if path != place:
        return False
    if isinstance(fault.kind, jsonschema_rs.ValidationErrorKind.Type):
        return True
    is_word = isinstance(fault.kind, jsonschema_rs.ValidationErrorKind.Enum)
    return is_word and isinstance(fault.instance, dict)


def _likeliest(faults: list[Any]) -> Any:
    """The first fault that says what a value is, or else the first of all."""
    return (_of_wrong_kind(faults) or faults)[0]


def _of_wrong_kind(faults: list[Any]) -> list[Any]:
    """Those that say what a value is: what else such a value lacks does not matter."""
    return [
        fault for fault in faults if list(fault.instance_path)[-1:] in (["role"], ["type"])
    ]


def _refuse_kind(error: Any) -> None:
    """Raise ApiError for a value that says itself to be of a kind that is not known here."""
    faults = [error]
    forms = _forms(error)
    if forms:
        place = list(error.instance_path)
        says_kind = ([*place, "role"], [*place, "type"])
        faults = []
        for form in forms:
            faults += [fault for fault in form if list(fault.instance_path) in says_kind]

    known = _known_kinds(_of_wrong_kind(faults))
    if not known:
        return
    where = _written(faults[0].instance_path).lstrip(".")
    given = json.dumps(faults[0].instance)
    supported = ", ".join(dict.fromkeys(known))
    text = f"{where}: {given:.200} is not supported here: use {supported}"
    raise ApiError(400, text, where, "invalid_value")


def _known_kinds(faults: list[Any]) -> list[Any]:
    """The names that would have been right where `faults` are."""
    known: list[Any] = []
    for fault in faults:
        match fault.kind:
            case jsonschema_rs.ValidationErrorKind.Constant(expected_value=name):
                known.append(name)
            case jsonschema_rs.ValidationErrorKind.Enum(options=names):
                known += filter(None, names)
    return known


async def read_body(request: Request, limit: int = BODY_BYTES) -> Any:
    """The body as JSON; ApiError 413 above `limit` bytes, 415 and 400 where it is not JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"content-type is {kind!r}: send application/json")
    length = request.headers.get("content-length", "0")
    body = bytearray()
    if length.isdigit() and int(length) <= limit:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        break
        except TimeoutError:
            text = f"the body did not arrive within {BODY_SECONDS:g} seconds"
            raise ApiError(408, text, headers={"Connection": "close"}) from None
        except ClientDisconnect:
            raise ApiError(
                400, "the client disconnected before it had sent the whole body"
            ) from None
    if len(body) > limit or not length.isdigit() or int(length) > limit:
        raise ApiError(
            413,
            f"the body is above the maximum of {limit} bytes",
            headers={"Connection": "close"},
        )
    try:
        value = json.loads(
            body, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_unique
        )
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates are not text
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from error
    return value


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: Json = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is given twice")
        found[name] = value
    return found


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large a number")
    if value.is_integer():
        return int(value)  # JSON Schema takes 2.0 for an integer
    return value


def as_api_error(error: OpenQwQError) -> ApiError:
    """What the rooms below refuse, as a refused request."""
    text = str(error)
    if "too many for a context" in text:
        return ApiError(400, text, "messages", "context_length_exceeded")
    return ApiError(400, text)
