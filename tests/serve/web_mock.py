"""An OpenAI-compatible server that recites scripts, and serves the web chat beside them.

The last user message names the script ("markdown", "hostile", ...). What the page asked can be
read back from `/mock/requests`. Under the path `/keyed` the API key `secret` is needed.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parents[2] / "openqwq" / "serve" / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' {elsewhere}; "
    "img-src 'self' data:; font-src 'self'; worker-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PREVIEW_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; "
    "font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
    "sandbox allow-scripts"
)
Json = dict[str, Any]
Refusal = tuple[int, Json, dict[str, str]]

MARKDOWN = r"""## Result

The sum is **finite**, *converges*, and `sum(x)` says so. See [the proof](https://example.org/a).

1. First step
   - nested point
2. Second step, with $e^{i\pi} + 1 = 0$ inline and \(a_1 \le \sqrt{x}\) too

> Quoted: it costs $5 and then $10.

| term | value |
| :--- | ----: |
| a | 1 |
| b | 22 |

$$\int_0^1 x^2\,dx = \frac{1}{3}$$

\[
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\]

```python
def area(radius: float) -> float:
    # A comment, a number and a string
    return 3.14159 * radius**2 + len("x")
```

![a picture](https://example.org/picture.png) and https://example.org/bare

~~Not this.~~ Done."""
HOSTILE = (
    r"""<script>window.hacked = 1</script>
<img src=x onerror="window.hacked = 2"><svg onload="window.hacked = 3"></svg>
<iframe src="data:text/html,<script>parent.hacked = 4</script>"></iframe>
<style>body { display: none }</style><a href="javascript:window.hacked = 5">html link</a>

[script link](javascript:window.hacked=6) [data link](data:text/html,<script>1</script>)
[entity](&#106;avascript:window.hacked=7) ![remote](https://tracker.example/pixel.png)
[![inside](https://tracker.example/p2.png)](https://example.org/ "onclick=alert(1)")
[vb](vbscript:x) <https://example.org/auto> [relative](/v1/models)

$\href{javascript:window.hacked=8}{x}$ $\htmlStyle{color:red}{y}$ $\includegraphics{https://tracker.example/i.png}$
$$\rule{99999em}{99999em} \fcolorbox{red}{blue}{z} \def\a{\a\a}\a$$

```html"><script>window.hacked=9</script>
<script>window.hacked = 10</script>
```

"""
    + "W" * 3000
    + "\n\n"
    + "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd\n\n"
)
NESTED = (
    ">" * 3000 + " deep\n\n" + "".join(f"{'  ' * n}- item\n" for n in range(300)) + "\n"
)
BRACKETS = "[" * 12000 + "\n\n" + "*a_" * 5000 + "\n\n" + "x" + "`" * 9000 + "\n\n"
RENDERING = r"""**注意：**这里要小心。**“引号”**也是。

\boxed{\frac{1}{2}}

\begin{align}
a &= b + c \\

d &= e
\end{align}

H<sub>2</sub>O and x<sup>2</sup><br>on the next line, but <b>this</b> stays.

- [ ] to do
- [x] done

* שלום
* עולם

| a | b |
| - | - |
| one<br>two | \(x\) |
"""
ROWS = "".join(f"| {row} | a cell of row {row} with **bold** |\n" for row in range(2000))
PREVIEW = """```html
<style>h1 { color: rgb(200, 0, 0) }</style><h1 onclick="parent.hacked = 1">A page</h1>
<script>parent.hacked = 2; top.location = "/x"</script>
<img src="https://tracker.example/pixel.png" onerror="parent.hacked = 3">
<iframe src="javascript:parent.hacked = 4"></iframe><form action="/x"><button>go</button></form>
<meta http-equiv="refresh" content="0; url=https://tracker.example/">
<a href="javascript:parent.hacked = 5" target="_top">link</a>
```

```svg
<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90" onload="parent.hacked = 6">
<script>parent.hacked = 7</script><circle cx="45" cy="45" r="40" fill="teal"/>
<foreignObject><iframe src="https://tracker.example/"/></foreignObject></svg>
```
"""
CONTENT = {
    "markdown": MARKDOWN,
    "preview": PREVIEW,
    "rendering": RENDERING,
    "table": f"A table:\n| number | text |\n| -: | :- |\n{ROWS}\nAfter the table.",
    "word": "W" * 24_000 + "\n\nAfter the word.",
    "hostile": HOSTILE + NESTED + BRACKETS + "THE END",
    "plain": "A short answer. It has two sentences.",
}
PIECES = {"hostile": 64, "table": 512, "word": 96}  # characters of a chunk; else 7
WEATHER_CALL = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": ""},
}


def pieces(text: str, size: int) -> Iterator[str]:
    """`text` cut at every `size` characters."""
    return (text[start : start + size] for start in range(0, len(text), size))


def delta(finish: str | None = None, **fields: Any) -> Json:
    """One choice of a chunk."""
    return {"index": 0, "delta": fields, "finish_reason": finish}


def thinking(server: "MockServer", field: str) -> Iterator[Json]:
    """Thinks until asked to answer, for 12 seconds at most."""
    server.answer_now.clear()
    for number in range(240):
        if server.answer_now.wait(0.05):
            break
        yield delta(
            **{field: f"Step {number}: let me check that $x_{{{number}}}$ holds.\n\n"}
        )
    yield from (
        delta(content=part) for part in ("The answer", " is **42**. ", "It is final.")
    )
    yield delta("stop")


def tool_call() -> Iterator[Json]:
    """Asks the client for the weather."""
    yield delta(reasoning_content="I need the weather.")
    yield delta(tool_calls=[WEATHER_CALL])
    for part in ('{"city"', ': "Paris"}'):
        yield delta(tool_calls=[{"index": 0, "function": {"arguments": part}}])
    yield delta("tool_calls")


def server_tools() -> Iterator[Json]:
    """Runs two tools itself; the second fails."""
    yield delta(reasoning_content="I will run Python.")
    step = {
        "id": "s1",
        "name": "python",
        "arguments": {"code": "print(6 * 7)"},
        "error": False,
    }
    yield delta(tool_steps=[{**step, "result": None, "seconds": None}])
    time.sleep(0.4)
    yield delta(tool_steps=[{**step, "result": "42\n", "seconds": 0.4}])
    yield delta(reasoning_content="Now search.")
    step = {
        "id": "s2",
        "name": "search",
        "arguments": {"query": "<b>life</b>"},
        "seconds": 0.1,
    }
    yield delta(tool_steps=[{**step, "result": "no network", "error": True}])
    yield delta(content="It is 42.")
    yield delta("stop")


def slow(text: str) -> Iterator[Json]:
    """A word every 50 ms, for 15 seconds at most."""
    for number in range(300):
        time.sleep(0.05)
        yield delta(content=f"{text} {number}. ")
    yield delta("stop")


def script(server: "MockServer", name: str, body: Json) -> Iterator[Json]:
    """The choices that a script streams."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        yield from (delta(content=f"The tool said: {last['content']}."), delta("stop"))
    elif name in ("think", "reason"):
        yield from thinking(
            server, "reasoning" if name == "reason" else "reasoning_content"
        )
    elif name == "tools":
        yield from tool_call()
    elif name == "server":
        yield from server_tools()
    elif name == "slow":
        yield from slow("word")
    elif name == "foreign":
        text = "<think>\nforeign thoughts\n</think>\n\nThe visible answer with `<think>` quoted."
        yield from (delta(content=part) for part in pieces(text, 3))
        yield delta("stop")
    elif name == "opened":
        text = "thoughts without opening\n</think>\n\nThe visible answer."
        yield from (delta(content=part) for part in pieces(text, 5))
        yield delta("stop")
    elif name == "loop":
        yield delta(content="again again again")
        yield {
            **delta("stop"),
            "finish_details": {"type": "loop", "message": "It repeats itself."},
        }
    elif name == "cut":
        yield delta(content="Half of an ans")
    elif name == "length":
        yield from (delta(content="Too long"), delta("length"))
    elif name == "big":
        line = 'value = compute("argument", 12345)  # a line of the huge block\n'
        text = "```python\n" + line * (1_000_000 // len(line)) + "```\n\nAfter the block."
        yield from (delta(content=part) for part in pieces(text, 8192))
        yield delta("stop")
    else:
        text = CONTENT.get(name, f"You said: {name}")
        yield from (delta(content=part) for part in pieces(text, PIECES.get(name, 7)))
        yield delta("stop")


def refusal(name: str) -> Refusal | None:
    """The status, body and headers of a script that refuses."""
    error = {
        "error401": (401, "Incorrect API key provided.", "invalid_api_key", {}),
        "error429": (429, "Queue is full.", "rate_limit_exceeded", {"Retry-After": "2"}),
        "error500": (500, "Something broke.", "server_error", {}),
        "error400": (
            400,
            "top_k is -1: it must be at least 0",
            "invalid_request_error",
            {},
        ),
        "overflow": (
            400,
            "The prompt is 1200 tokens over the context of 4096.",
            "context_length_exceeded",
            {},
        ),
    }.get(name)
    if error is None:
        return None
    status, message, code, headers = error
    return status, {"error": {"message": message, "code": code, "type": code}}, headers


class MockServer(ThreadingHTTPServer):
    """The server and what it remembers of the requests."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.requests: list[Json] = []
        self.answer_now = threading.Event()
        self.disconnects = 0


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: MockServer
    protocol_version = "HTTP/1.1"

    def do_OPTIONS(self) -> None:
        """CORS preflight."""
        self.reply(204, b"", "text/plain")

    def do_GET(self) -> None:
        """Models, what was asked, or a static file."""
        path = self.path.partition("?")[0]
        if path.endswith("/v1/models"):
            if self.authorised():
                self.json({"data": [{"id": "mock-qwq"}, {"id": "mock-other"}]})
        elif path == "/mock/requests":
            self.json(
                {"requests": self.server.requests, "disconnects": self.server.disconnects}
            )
        else:
            self.static(path)

    def do_POST(self) -> None:
        """A chat completion, or "answer now"."""
        body = json.loads(
            self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}"
        )
        if not self.authorised():
            return
        if self.path.endswith("/answer_now"):
            self.answer(body)
            return
        self.server.requests.append(body)
        users = [m["content"] for m in body["messages"] if m["role"] == "user"]
        words = str(users[-1]).split("\n\n")[-1].split()
        if refused := refusal(words[0]):
            self.json(refused[1], refused[0], refused[2])
        elif words[0] == "whole":
            message = {"role": "assistant", "content": "Not streamed.", "reasoning": "hm"}
            self.json(
                {"id": "c", "choices": [{"message": message, "finish_reason": "stop"}]}
            )
        else:
            self.stream(words[0], body)

    def answer(self, body: Json) -> None:
        """End the thinking, as long as the name of the reply is right."""
        if "chatcmpl-mock" not in self.path:
            self.json({"error": {"message": "no such reply"}}, 404)
            return
        self.server.answer_now.set()
        self.json({"object": "answer_now"})

    def stream(self, name: str, body: Json) -> None:
        """Server-sent events, one a choice; then usage."""
        self.send_response(200)
        self.cross_origin()
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        # A name that answer_now does not know: this server then lacks it.
        identity = "unknown" if name == "reason" else "chatcmpl-mock"
        head = {"id": identity, "object": "chat.completion.chunk", "model": body["model"]}
        try:
            for choice in script(self.server, name, body):
                self.event({**head, "choices": [choice]})
            if name == "midstream":
                self.event(
                    {"error": {"message": "The engine stopped.", "code": "server_error"}}
                )
            details = {"reasoning_tokens": 1200}
            usage = {"prompt_tokens": 9, "completion_tokens": 1234}
            usage["completion_tokens_details"] = details  # type: ignore[assignment]
            if name != "cut":
                self.event({**head, "choices": [], "usage": usage})
                self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            self.server.disconnects += 1
        self.close_connection = True

    def event(self, data: Json) -> None:
        """One event; CRLF and a comment line show that the reader takes both."""
        self.wfile.write(b": ping\r\ndata: " + json.dumps(data).encode() + b"\r\n\r\n")

    def authorised(self) -> bool:
        """Whether the key is right where one is needed; refuses otherwise."""
        if not self.path.startswith("/keyed"):
            return True
        if self.headers.get("Authorization") == "Bearer secret":
            return True
        status, body, headers = refusal("error401") or (401, {}, {})
        self.json(body, status, headers)
        return False

    def static(self, path: str) -> None:
        """A file of the bundle, with the headers that `qwq serve` sends."""
        file = (STATIC / (path.lstrip("/") or "index.html")).resolve()
        if not file.is_file() or STATIC.resolve() not in file.parents:
            self.json({"error": {"message": "no such page"}}, 404)
            return
        port = self.server.server_address[1]
        policy = POLICY.format(elsewhere=f"http://localhost:{port}")
        if file.name == "preview.html":
            policy = PREVIEW_POLICY
        headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        self.reply(200, file.read_bytes(), TYPES.get(file.suffix, "text/plain"), headers)

    def json(
        self, body: Json, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """A JSON reply."""
        self.reply(status, json.dumps(body).encode(), "application/json", headers)

    def reply(
        self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        """A whole reply."""
        self.send_response(status)
        self.cross_origin()
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def cross_origin(self) -> None:
        """The page may also come from another address of this machine."""
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Allow-Headers", "*")
        self.send_header("Access-Control-Expose-Headers", "Retry-After")

    log_message: Callable[..., None] = lambda *_: None


if __name__ == "__main__":
    mock = MockServer(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    print(mock.server_address[1], flush=True)
    mock.serve_forever()
