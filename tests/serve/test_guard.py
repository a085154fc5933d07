"""Keys, Host, Origin and CORS; who may listen in public; the page's policy."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from openqwq.engine.open import OpenedModel
from openqwq.serve.guard import Access
from openqwq.serve.page import page_routes
from openqwq.serve.protocol import document
from openqwq.serve.server import Server, ServerOptions
from openqwq.types import OpenQwQError

KEY = "sécret-key"
FRIEND = "https://chat.example.org"


@pytest.fixture
def locked(scripted: Callable[..., OpenedModel], serve: Any) -> Iterator[Any]:
    access = Access(KEY, ["model.example.org"], [FRIEND])
    with serve(scripted("</think>ok"), ServerOptions(access, slots=2)) as server:
        yield server


def bearer(key: str) -> dict[str, Any]:
    return {"authorization": f"Bearer {key}".encode()}


def test_every_route_but_health_needs_the_key(locked: Any) -> None:
    routes = [
        (method, path.replace("{id}", "x").replace("{model}", "m"))
        for path, methods in document()["paths"].items()
        for method in methods
    ]
    for method, path in [
        *routes,
        ("get", "/"),
        ("get", "/openapi.json"),
        ("get", "/nowhere"),
    ]:
        for headers in (
            {},
            bearer("wrong"),
            {"authorization": "Bearer"},
            {"authorization": "Basic !!"},
        ):
            answer = httpx.request(method, locked.url + path, headers=headers)
            expected = 200 if path == "/health" else 401
            assert answer.status_code == expected, (path, headers)
            if expected == 401:
                assert answer.json()["error"]["type"] == "authentication_error"
                assert answer.headers["www-authenticate"]
    assert httpx.get(locked.url + "/v1/models", headers=bearer(KEY)).status_code == 200


def test_a_browser_may_send_the_key_as_a_password(locked: Any) -> None:
    word = base64.b64encode(f"me:{KEY}".encode()).decode()
    answer = httpx.get(locked.url + "/", headers={"authorization": f"Basic {word}"})
    assert answer.status_code == 200 and "text/html" in answer.headers["content-type"]
    asked = httpx.get(locked.url + "/").headers["www-authenticate"]
    assert asked.startswith("Basic ")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("192.168.1.7:8000", 200),
        ("[::1]:8000", 200),
        ("model.example.org", 200),
        ("rebound.example.com:8000", 403),
        ("localhost.example.com", 403),
        ("", 403),
        ("[", 403),
    ],
)
def test_a_name_that_is_not_ours_is_refused(locked: Any, host: str, status: int) -> None:
    answer = httpx.get(locked.url + "/v1/models", headers={**bearer(KEY), "host": host})
    assert answer.status_code == status
    health = httpx.get(locked.url + "/health", headers={"host": host})
    assert health.status_code == status


def test_pages_of_other_origins_are_refused_and_friends_get_cors(locked: Any) -> None:
    own = f"http://127.0.0.1:{locked.port}"
    strangers = ("https://evil.example", "null", "http://[")
    for origin, status in ((own, 200), (FRIEND, 200), *((name, 403) for name in strangers)):
        answer = httpx.get(
            locked.url + "/v1/models", headers={**bearer(KEY), "origin": origin}
        )
        assert answer.status_code == status
        allowed = answer.headers.get("access-control-allow-origin")
        assert allowed == (FRIEND if origin == FRIEND else None)
    asked = {"origin": FRIEND, "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "authorization,x-stainless-os"
    before = httpx.options(locked.url + "/v1/chat/completions", headers=asked)
    assert before.status_code == 204
    assert before.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    asked["origin"] = "https://evil.example"
    assert httpx.options(locked.url + "/v1/models", headers=asked).status_code == 403


PREFLIGHT = {"origin": FRIEND, "access-control-request-method": "POST"}


@pytest.mark.parametrize(
    ("left_out", "status"),
    [
        ((), 204),
        (("origin",), 401),
        (("access-control-request-method",), 401),
        (PREFLIGHT, 401),
    ],
)
def test_only_a_friends_preflight_needs_no_key(
    locked: Any, left_out: Any, status: int
) -> None:
    headers = {name: value for name, value in PREFLIGHT.items() if name not in left_out}
    answer = httpx.options(locked.url + "/v1/chat/completions", headers=headers)
    assert answer.status_code == status and not answer.content.startswith(b'{"object"')
    other = httpx.request("GET", locked.url + "/v1/models", headers=headers)
    assert other.status_code == 401


def test_anthropics_clients_send_the_key_in_a_header_of_their_own(locked: Any) -> None:
    for key, status in ((KEY.encode(), 200), (b"wrong", 401)):
        answer = httpx.get(locked.url + "/v1/models", headers={b"x-api-key": key})
        assert answer.status_code == status
    refused = httpx.post(locked.url + "/v1/messages", json={}).json()
    assert refused["type"] == "error" and refused["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("host", "key", "insecure", "refused"),
    [
        ("127.0.0.1", None, False, False),
        ("localhost", None, False, False),
        ("::1", None, False, False),
        ("0.0.0.0", None, False, True),
        ("192.168.1.7", None, False, True),
        ("example.org", None, False, True),
        ("0.0.0.0", "key", False, False),
        ("0.0.0.0", None, True, False),
    ],
)
def test_listening_in_public_needs_a_key_or_a_word(
    host: str, key: str | None, insecure: bool, refused: bool
) -> None:
    if refused:
        with pytest.raises(OpenQwQError, match="--insecure"):
            Access(key).require_safe(host, insecure)
    else:
        Access(key).require_safe(host, insecure)


def test_an_empty_key_is_no_key() -> None:
    with pytest.raises(OpenQwQError, match="empty"):
        Access("")


async def test_page_files_have_a_strict_policy_and_nothing_else_is_served(
    tmp_path: Path,
) -> None:
    (tmp_path / "index.html").write_text("<p>hello")
    (tmp_path / "app.js").write_text("1")
    routes = page_routes(("https://api.example.org",), tmp_path)
    assert sorted(route.path for route in routes) == ["/", "/app.js", "/index.html"]
    answer = await routes[0].endpoint(None)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert "connect-src 'self' https://api.example.org;" in policy
    assert "frame-ancestors 'none'" in policy


async def test_without_a_bundle_the_page_says_what_to_do(tmp_path: Path) -> None:
    (route,) = page_routes((), tmp_path)
    assert b"npm" in (await route.endpoint(None)).body


@pytest.mark.parametrize("field", ["slots", "queue", "drain_seconds"])
def test_senseless_options_are_refused(field: str) -> None:
    with pytest.raises(OpenQwQError, match=f"{field} is -1"):
        ServerOptions(**{field: -1})


def test_the_document_asks_for_a_key_only_where_there_is_one(
    scripted: Callable[..., OpenedModel], serve: Any, locked: Any
) -> None:
    with serve(scripted("x")) as open_server:
        assert httpx.get(open_server.url + "/openapi.json").json()["security"] == []
    asked = httpx.get(locked.url + "/openapi.json", headers=bearer(KEY)).json()["security"]
    assert asked == [{"key": []}]
    assert isinstance(locked.server, Server)
