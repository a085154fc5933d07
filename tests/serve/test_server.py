"""The HTTP surface: bad input, places and aborts, drain, and replies that fit the document."""

import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from openqwq.engine.open import OpenedModel
from openqwq.serve.protocol import BODY_BYTES, ApiError, check, document
from openqwq.serve.server import ServerOptions, listening

Build = Callable[..., OpenedModel]
CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 12}

TURN = {"role": "user", "content": "hi"}
TEXT = {"type": "text", "text": "hi"}


def fits(value: Any, schema: str) -> bool:
    """Whether a reply is what the document says, to the field."""
    root = {
        "$ref": f"#/components/schemas/{schema}",
        "components": document()["components"],
    }
    jsonschema_rs.validate(root, value)
    return True


def events(text: str) -> list[dict[str, Any]]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


BAD = {
    "no JSON": ("{", 400, None),
    "no object": ("[1]", 400, None),
    "NaN": ('{"model": NaN}', 400, None),
    "too large a number": ('{"model": 1e999}', 400, None),
    "huge integer": ('{"model": ' + "1" * 5000 + "}", 400, None),
    "deep nesting": ("[" * 100_000, 400, None),
    "a key given twice": ('{"model": "tiny", "messages": [], "model": "x"}', 400, None),
    "bytes": (b"\xff\xfe", 400, None),
    "lone surrogate": ('{"model": "\\ud800"}', 400, None),
    "unknown model": ({**BODY, "model": "gpt-x"}, 404, "model"),
    "unknown parameter": ({**BODY, "frobnicate": 1}, 400, "frobnicate"),
    "too large a penalty": ({**BODY, "frequency_penalty": 3}, 400, "frequency_penalty"),
    "a bias for no token": ({**BODY, "logit_bias": {"99999": 1}}, 400, "logit_bias"),
    "a bias for a word": ({**BODY, "logit_bias": {"word": 1}}, 400, "logit_bias"),
    "audio": ({**BODY, "modalities": ["audio"]}, 400, "modalities"),
    "usage without a stream": ({**BODY, "stream_options": {}}, 400, "stream_options"),
    "negative tokens": ({**BODY, "max_tokens": -2}, 400, "max_tokens"),
    "negative n": ({**BODY, "n": -3}, 400, "n"),
    "no replies": ({**BODY, "n": 0}, 400, "n"),
    "too many replies": ({**BODY, "n": 128}, 400, "n"),
    "negative temperature": ({**BODY, "temperature": -0.1}, 400, "temperature"),
    "a number as text": ({**BODY, "temperature": "1"}, 400, "temperature"),
    "no messages": ({**BODY, "messages": []}, 400, "messages"),
    "unknown role": (
        {**BODY, "messages": [{"role": "x", "content": ""}]},
        400,
        "messages[0].role",
    ),
    "image": (
        {
            **BODY,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "x"}}],
                }
            ],
        },
        400,
        "messages[0].content[0].type",
    ),
    "10,000 messages": ({**BODY, "messages": BODY["messages"] * 10_000}, 400, "messages"),  # type: ignore[operator]
}


@pytest.mark.parametrize(("body", "status", "param"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_in_openais_shape(
    tiny: Any, body: Any, status: int, param: str | None
) -> None:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    headers = {"content-type": "application/json"}
    answer = httpx.post(tiny.url + CHAT, content=content, headers=headers, timeout=60)
    assert answer.status_code == status, answer.text
    assert fits(answer.json(), "Error") and answer.json()["error"]["param"] == param
    tiny.wait_until_idle()


CHOICE = {"type": "string", "enum": [f"value {i}" for i in range(20)]}
CHOICES = {"type": "object", "properties": {f"p{i}": CHOICE for i in range(7)}}
CHOOSES = {"type": "function", "function": {"name": "f", "parameters": CHOICES}}
LARGE = {
    "no message": ({"messages": [0] * 30_000}, "messages[0]"),
    "no part": (
        {"messages": [{"role": "user", "content": [0] * 30_000}]},
        "messages[0].content[0]",
    ),
    "a late fault": ({"messages": [*[TURN] * 40_000, 0]}, "messages[40000]"),
    "behind long parts": (
        {"messages": [*[{"role": "user", "content": [TEXT] * 20}] * 100, 0]},
        "messages[100]",
    ),
    "no bias": ({"logit_bias": {str(i): "x" for i in range(30_000)}}, "logit_bias"),
    "many fields": ({f"field_{i}": [0] * 20 for i in range(30_000)}, "field_0"),
    "next to many lists": ({"tools": [CHOOSES] * 12, "foo": 1}, "foo"),
    "next to many parts": (
        {"messages": [{"role": "user", "content": [TEXT] * 20_000}] * 16, "foo": 1},
        "foo",
    ),
}


@pytest.mark.parametrize(("fields", "param"), LARGE.values(), ids=LARGE)
def test_a_large_body_is_refused_at_once_with_its_first_fault(
    fields: dict[str, Any], param: str | None
) -> None:
    started = time.process_time()
    with pytest.raises(ApiError) as refused:
        check({**BODY, **fields}, "ChatRequest")
    assert refused.value.param == param
    assert time.process_time() - started < 1


def test_a_key_given_twice_is_named_at_once_however_many_there_are(tiny: Any) -> None:
    keys = "".join(f'"k{i}": 0, ' for i in range(30_000))
    content = f'{{{keys}"k29999": 0}}'
    headers = {"content-type": "application/json"}
    started = time.monotonic()
    answer = httpx.post(tiny.url + CHAT, content=content, headers=headers, timeout=60)
    assert "'k29999' is given twice" in answer.json()["error"]["message"]
    assert time.monotonic() - started < 3


def test_a_body_above_the_limit_is_refused_declared_or_not(tiny: Any) -> None:
    headers = {"content-type": "application/json", "content-length": str(BODY_BYTES + 1)}
    with socket.create_connection(("127.0.0.1", tiny.port)) as client:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        client.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n".encode())
        assert b" 413 " in client.recv(100)

    def chunks() -> Any:
        for _ in range(BODY_BYTES // 2**16 + 2):
            yield b" " * 2**16

    kind = {"content-type": "application/json"}
    with contextlib.suppress(httpx.TransportError):  # refused so early that sending went on
        assert (
            httpx.post(tiny.url + CHAT, content=chunks(), headers=kind).status_code == 413
        )
    tiny.wait_until_idle()


def test_a_body_that_does_not_come_is_not_waited_for(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openqwq.serve.protocol.BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", tiny.port)) as client:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        )
        client.sendall(f"{head}content-length: 50\r\n\r\n{{".encode())
        assert b" 408 " in client.recv(100)


def test_a_client_that_leaves_inside_its_body_is_no_failure(
    tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(caplog.handler)
    with socket.create_connection(("127.0.0.1", tiny.port)) as client:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        )
        client.sendall(f"{head}transfer-encoding: chunked\r\n\r\nzz\r\n".encode())
        assert b" 400 " in client.recv(100)
    assert httpx.get(tiny.url + "/health").status_code == 200
    logger.removeHandler(caplog.handler)
    assert not [record for record in caplog.records if record.exc_info]


def test_other_methods_paths_and_kinds_are_refused_in_openais_shape(tiny: Any) -> None:
    for method, path, status in (
        ("GET", CHAT, 405),
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/models/other", 404),
        ("POST", f"{CHAT}/chatcmpl-0/answer_now", 404),
    ):
        answer = httpx.request(method, tiny.url + path)
        assert answer.status_code == status and fits(answer.json(), "Error")
    form = httpx.post(tiny.url + CHAT, content="{}", headers={"content-type": "text/plain"})
    assert form.status_code == 415


def test_replies_fit_the_document(tiny: Any) -> None:
    more = {"logprobs": True, "top_logprobs": 2, "n": 2, "seed": 3, "stop": ["zz"]}
    post = lambda path, body: httpx.post(tiny.url + path, json=body, timeout=60)  # noqa: E731
    for extra in (
        {},
        more,
        {"reasoning_effort": "none"},
        {"reasoning_format": "reasoning"},
    ):
        whole = post(CHAT, {**BODY, **extra}).json()
        assert fits(whole, "ChatCompletion")
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = events(post(CHAT, {**BODY, **extra, **options}).text)
        assert all(fits(chunk, "ChatChunk") for chunk in chunks)
        if "seed" in extra:
            assert chunks[-1]["usage"] == whole["usage"]
    text = {"model": "tiny", "prompt": ["the", "fox"], "logprobs": 2, "max_tokens": 4}
    assert fits(post("/v1/completions", text).json(), "Completion")
    for chunk in events(post("/v1/completions", {**text, "stream": True}).text):
        assert fits(chunk, "Completion")
    response = {"model": "tiny", "input": "hi", "max_output_tokens": 12}
    assert fits(post("/v1/responses", response).json(), "Response")
    last = events(post("/v1/responses", {**response, "stream": True}).text)[-1]
    assert fits(last["response"], "Response")
    for path, schema in (("/v1/models", "ModelList"), ("/health", "Health")):
        assert fits(httpx.get(tiny.url + path).json(), schema)
    assert httpx.get(tiny.url + "/openapi.json").json()["openapi"] == "3.1.0"


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
def test_events_end_with_bare_newlines_as_openais_do(tiny: Any, path: str) -> None:
    body = {**BODY, "stream": True}
    if path != CHAT:
        body = {"model": "tiny", "input": "hi", "max_output_tokens": 12, "stream": True}
    content = httpx.post(tiny.url + path, json=body, timeout=60).content
    assert b"\r" not in content and content.endswith(b"\n\n")
    assert content.count(b"\n\n") == content.count(b"data: ") > 3


def test_a_seed_fixes_the_reply_whatever_shares_the_batch(tiny: Any) -> None:
    def ask(seed: int, n: int = 1) -> list[Any]:
        body = {**BODY, "seed": seed, "n": n, "temperature": 1.0}
        got = httpx.post(tiny.url + CHAT, json=body, timeout=60).json()
        return [choice["message"] for choice in got["choices"]]

    alone = ask(5)
    assert alone == ask(5) and alone != ask(6)
    assert ask(4, n=3)[1] == alone[0]  # reply i uses seed + i


def test_a_whole_number_may_be_written_as_a_float(tiny: Any) -> None:
    body = json.dumps({**BODY, "seed": 1}).replace(
        '"max_tokens": 12', '"max_tokens": 3.0, "n": 2.0'
    )
    headers = {"content-type": "application/json"}
    answer = httpx.post(tiny.url + CHAT, content=body, headers=headers)
    assert answer.status_code == 200 and len(answer.json()["choices"]) == 2


def test_a_reply_that_ignores_its_end_has_every_token_it_may(tiny: Any) -> None:
    body = {
        "model": "tiny",
        "prompt": "fox",
        "max_tokens": 900,
        "seed": 0,
        "stop_loops": False,
    }
    # even the end of text is likely then
    body |= {"temperature": 2, "top_k": 0, "top_p": 1}
    post = lambda **more: httpx.post(  # noqa: E731
        f"{tiny.url}/v1/completions", json={**body, **more}, timeout=60
    ).json()
    ended, endless = post(), post(ignore_eos=True)
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert endless["choices"][0]["finish_reason"] == "length"
    assert endless["usage"]["completion_tokens"] == 900
    assert endless["choices"][0]["text"].startswith(ended["choices"][0]["text"])


def test_tokenize_and_back(tiny: Any) -> None:
    post = lambda path, body: httpx.post(tiny.url + path, json=body).json()  # noqa: E731
    plain = post("/tokenize", {"text": "the fox <think>"})
    assert fits(plain, "Tokens") and plain["count"] == len(plain["tokens"])
    assert post("/detokenize", {"tokens": plain["tokens"]}) == {"text": "the fox <think>"}
    marked = post("/tokenize", {"text": "the fox <think>", "allow_special": True})
    assert marked["count"] < plain["count"]
    chat = post("/tokenize", {"messages": BODY["messages"]})
    assert chat["tokens"][-2] == tiny.model.tokenizer.think_open_id


def test_an_id_that_is_no_token_is_named(tiny: Any) -> None:
    unknown = tiny.model.tokenizer.vocab_size + 7
    for path, field in (("/detokenize", "tokens"), ("/v1/completions", "prompt")):
        answer = httpx.post(tiny.url + path, json={"model": "tiny", field: [3, unknown, 4]})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, field)
        assert f"token id {unknown} " in error["message"]


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"type": "string", "pattern": "("}]
)
def test_a_schema_that_cannot_be_enforced_is_refused_before_a_stream_begins(
    tiny: Any, schema: dict[str, Any]
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = httpx.post(
        tiny.url + CHAT, json={**BODY, "stream": True, "response_format": form}
    )
    assert answer.status_code == 400 and fits(answer.json(), "Error")


def test_responses_take_back_a_message_between_a_call_and_its_result(tiny: Any) -> None:
    call = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}
    said = {"type": "message", "role": "assistant", "content": "a moment"}
    result = {"type": "function_call_output", "call_id": "c", "output": "1"}
    items = [*BODY["messages"], call, said, result]  # type: ignore[misc]
    body = {"model": "tiny", "input": items, "max_output_tokens": 9}
    answer = httpx.post(tiny.url + "/v1/responses", json=body, timeout=60)
    assert answer.status_code == 200, answer.text


def slow(scripted: Build, words: int = 400) -> OpenedModel:
    return scripted("thinking " * words + "</think>\n\nthe answer", delay=0.005)


def chat(**more: Any) -> dict[str, Any]:
    return {**BODY, "model": "scripted", "max_tokens": None, **more}


def raw(server: Any, body: dict[str, Any]) -> socket.socket:
    """A client by hand, which can leave in any manner."""
    client = socket.create_connection(("127.0.0.1", server.port))
    data = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    client.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    while not server.server.running.admitted:
        time.sleep(0.005)
    return client


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("leave", ["close", "half-close", "reset"])
def test_a_client_that_leaves_frees_its_slot(
    scripted: Build, serve: Any, stream: bool, leave: str
) -> None:
    with serve(slow(scripted)) as server:
        client = raw(server, chat(stream=stream))
        while not server.model.generate.open:
            time.sleep(0.005)
        if leave == "half-close":
            client.shutdown(socket.SHUT_WR)
        elif leave == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if leave != "half-close":
            client.close()
        server.wait_until_idle(2)
        assert server.model.generate.open == 0
        counted = server.server.running.registry.get_sample_value(
            "openqwq_requests_total", {"route": CHAT, "outcome": "aborted"}
        )
        assert counted == 1
        client.close()


def test_an_abort_frees_the_real_engines_slot(tiny: Any) -> None:
    scheduler = tiny.model.generate.scheduler
    body = {**BODY, "max_tokens": 400, "stream": True, "n": 3, "stop_loops": False}
    client = raw(tiny, body)
    while len(scheduler.running) < 3:
        time.sleep(0.005)
    client.close()
    tiny.wait_until_idle()
    end = time.monotonic() + 60
    while scheduler.unfinished() and time.monotonic() < end:
        time.sleep(0.01)
    assert not scheduler.unfinished()


def test_a_reader_that_stops_reading_is_given_up(
    scripted: Build, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openqwq.serve.running.SEND_SECONDS", 0.5)
    model = scripted("x" * 40_000 + "</think>", context=100_000)
    data = json.dumps(chat(stream=True)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with serve(model) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        while not server.server.running.admitted:
            time.sleep(0.01)
        server.wait_until_idle()


def test_a_full_queue_says_when_to_come_again(scripted: Build, serve: Any) -> None:
    with serve(slow(scripted), ServerOptions(slots=1, queue=1)) as server:
        clients = [raw(server, chat(stream=True)) for _ in range(2)]
        while server.server.running.admitted < 2:
            time.sleep(0.005)
        answer = httpx.post(server.url + CHAT, json=chat())
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "queue_full"
        metrics = httpx.get(server.url + "/metrics").text
        assert (
            "openqwq_replies_running 1.0" in metrics
            and "openqwq_replies_waiting 1.0" in metrics
        )
        for client in clients:
            client.close()
        server.wait_until_idle()
        assert httpx.post(server.url + CHAT, json=chat(max_tokens=3)).status_code == 200


def test_answer_now_ends_the_thinking_of_a_running_reply(tiny: Any) -> None:
    body = {**BODY, "max_tokens": 450, "stream": True, "seed": 1, "stop_loops": False}
    with httpx.stream("POST", tiny.url + CHAT, json=body, timeout=60) as answer:
        lines = (line[6:] for line in answer.iter_lines() if line.startswith("data: {"))
        first = json.loads(next(lines))
        while "reasoning_content" not in json.loads(next(lines))["choices"][0]["delta"]:
            pass
        said = httpx.post(f"{tiny.url}{CHAT}/{first['id']}/answer_now")
        assert said.status_code == 200 and fits(said.json(), "AnswerNow")
        kinds = [
            next(iter(json.loads(line)["choices"][0]["delta"]), "end") for line in lines
        ]
    thinking = kinds.count("reasoning_content")
    assert kinds.count("content") > 0 and thinking < 350
    assert kinds.index("content") >= thinking  # no thinking after the answer began


def test_an_engine_that_fails_is_a_500_and_an_event(
    scripted: Build, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scripted("x")
    with serve(model) as server:

        async def broken(*_: Any) -> Any:
            raise RuntimeError("the engine broke")
            yield

        monkeypatch.setattr(model.generate, "stream", broken)
        whole = httpx.post(server.url + CHAT, json=chat())
        assert (
            whole.status_code == 500
            and "the engine broke" in whole.json()["error"]["message"]
        )
        stream = httpx.post(server.url + CHAT, json=chat(stream=True))
        assert events(stream.text)[-1]["error"]["type"] == "server_error"
        assert stream.text.rstrip().endswith("[DONE]")
        server.wait_until_idle()


def test_sigterm_lets_running_replies_finish(saved: Path) -> None:
    command = [sys.executable, "-m", "openqwq.cli", "serve", str(saved)]
    command += ["--port", "0", "--store", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split(" at ")[1].split()[0]
        body = {**BODY, "max_tokens": 450, "stream": True, "stop_loops": False, "seed": 1}
        got: list[str] = []

        def read() -> None:
            with httpx.stream("POST", url + CHAT, json=body, timeout=60) as answer:
                got.extend(answer.iter_lines())

        reader = threading.Thread(target=read)
        reader.start()
        while httpx.get(url + "/metrics").text.find("openqwq_replies_running 1.0") < 0:
            assert reader.is_alive() or got
        process.send_signal(signal.SIGTERM)
        reader.join()
        process.wait(timeout=30)
    assert "data: [DONE]" in got
    with pytest.raises(httpx.ConnectError):
        httpx.get(url + "/health")


def test_each_event_is_sent_at_once() -> None:
    """Not after the receipt of the last one, which a client may put off for 40 ms."""
    with listening("127.0.0.1", 0) as listener:
        address = listener.getsockname()[:2]
        with socket.create_connection(address), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
