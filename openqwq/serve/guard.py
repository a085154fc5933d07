"""Who may talk to the server: the key, the Host and Origin of a browser's request, CORS."""

import base64
import binascii
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openqwq.serve.protocol import ApiError, refusal
from openqwq.types import OpenQwQError


@dataclass(frozen=True)
class Access:
    """Who may come in.

    A Host must be an IP address, localhost, or one of `hosts`: a page that points its own name
    at this machine (DNS rebinding) has another. An Origin must be this server or one of `origins`,
    which also get CORS headers.
    """

    api_key: str | None = None
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.api_key is not None and not self.api_key.strip():
            raise OpenQwQError("the API key is empty: give one, or leave the setting out")

    def require_safe(self, host: str, insecure: bool) -> None:
        """Raise OpenQwQError where anybody on the network could use the server without a key."""
        if self.api_key is None and not _is_loopback(host) and not insecure:
            raise OpenQwQError(
                f"host {host} can be reached from other machines and there is no API key: set "
                "QWQ_API_KEY or --api-key, or pass --insecure if everybody may use the model"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parts(address: str) -> SplitResult:
    """The parts of an address, all empty where it is not one."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


class Guard:
    """The ASGI layer around everything; only /health needs no key."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        shared = origin in self._access.origins
        response: Response | None = None
        try:
            self._require_host(headers.get("host", ""))
            if origin is not None and not shared:
                self._require_same_origin(origin, headers.get("host", ""))
            if shared and _is_preflight(scope["method"], headers):
                response = _preflight(headers.get("access-control-request-headers", ""))
            elif scope["path"] != "/health":
                self._require_key(headers, scope["path"])
        except ApiError as error:
            response = refusal(error, scope["path"])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                own["X-Content-Type-Options"] = "nosniff"
                if shared and origin:
                    own["Access-Control-Allow-Origin"] = origin
                    own["Vary"] = "Origin"
            await send(message)

        await (response or self._app)(scope, receive, send_with_headers)

    def _require_host(self, host: str) -> None:
        name = _parts(f"//{host}").hostname or ""
        if name == "localhost" or name in map(str.lower, self._access.hosts):
            return
        try:
            ipaddress.ip_address(name)
        except ValueError:
            text = f"host {host!r} is not served here: start with --allow-host {name or 'NAME'}"
            raise ApiError(403, text, code="host_not_allowed") from None

    def _require_same_origin(self, origin: str, host: str) -> None:
        if _parts(origin).netloc != host:
            text = f"origin {origin!r} may not use this server: start with --allow-origin {origin}"
            raise ApiError(403, text, code="origin_not_allowed")

    def _require_key(self, headers: Headers, path: str) -> None:
        key = self._access.api_key
        if key is None:
            return
        given = _given_key(headers)
        if not secrets.compare_digest(given, key.encode()):
            what = "is wrong" if given else "is missing: send Authorization: Bearer KEY"
            ask = (
                "Bearer" if path.startswith("/v1/") else 'Basic realm="API key as password"'
            )
            raise ApiError(
                401,
                f"the API key {what}",
                code="invalid_api_key",
                headers={"WWW-Authenticate": ask},
            )


def _given_key(headers: Headers) -> bytes:
    """The key of a request, as the bytes that were sent; empty without one."""
    if "x-api-key" in headers:  # Anthropic's clients
        return headers["x-api-key"].strip().encode("latin-1")
    scheme, _, text = headers.get("authorization", "").partition(" ")
    given = text.strip().encode("latin-1")
    if scheme.lower() != "basic":
        return given
    try:  # what a browser sends once a person typed the key
        return base64.b64decode(given, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _is_preflight(method: str, headers: Headers) -> bool:
    """Whether a browser asks what it may send: such a request has no key and changes nothing."""
    return method == "OPTIONS" and "access-control-request-method" in headers


def _preflight(wanted: str) -> Response:
    headers = {
        "Access-Control-Allow-Methods": "GET, POST, DELETE",
        "Access-Control-Allow-Headers": wanted,
        "Access-Control-Max-Age": "600",
    }
    return Response(status_code=204, headers=headers)
