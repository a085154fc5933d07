"""The server: the same answers over HTTP, clear refusals, back-pressure, metrics and drain."""

import asyncio
import socket
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from serving import serving

from openqwq.sandbox.client import RemoteSandbox
from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import DEFAULT, MAXIMUM, Case, RunRequest
from openqwq.sandbox.server import SandboxServer, limits_from, serve
from openqwq.types import OpenQwQError


@pytest.fixture
async def server(layers: dict[str, str]) -> SandboxServer:
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    return SandboxServer(LocalSandbox(workers=1, sessions=1), queue=4, body_bytes=10_000)


async def test_http_and_local_give_equal_results(
    server: SandboxServer, sandbox: LocalSandbox
) -> None:
    requests = [
        RunRequest("print(input())", cases=(Case("a"), Case("ü\0"))),
        RunRequest(
            "def f(x): return {(x, 1.5): {x}}",
            "call",
            (Case(arguments=(3,)),),
            entry_point="f",
        ),
        RunRequest(
            "def f(x): return x", "script", entry_point="f", script="assert f((1,)) == (1,)"
        ),
        RunRequest("1 / 0"),
        RunRequest("x = ("),
        RunRequest(r"raise ValueError('\ud800')"),
        RunRequest("x = '\ud800'"),
        RunRequest(r"def f(): return '\ud800', float('nan') > 0", "call", entry_point="f"),
    ]
    async with serving(server) as (client, _):
        for request in requests:
            near, far = await sandbox.run(request), await client.run(request)
            assert far.status == near.status
            blank = [replace(case, seconds=0, cpu_seconds=0) for case in near.cases]
            assert [replace(case, seconds=0, cpu_seconds=0) for case in far.cases] == blank


async def test_bad_requests_are_refused_with_the_field_and_the_rule(
    server: SandboxServer,
) -> None:
    async with serving(server) as (remote, _):
        client = remote.client
        for body, status, text in [
            (b"{", 400, "not JSON"),
            (b"[" * 5000, 400, "not JSON"),
            (b"[]", 400, "must be a JSON object"),
            (b"{}", 400, "source"),
            (b'{"source": 1}', 400, "source is '1'"),
            (b'{"source": "", "language": "c"}', 400, "language"),
            (b'{"source": "", "form": "c"}', 400, "form is 'c'"),
            (b'{"source": "", "form": "call"}', 400, "entry_point is missing"),
            (b'{"source": "", "cases": [{"stdin": 1}]}', 400, "stdin"),
            (b'{"source": "", "cases": [{"arguments": 1}]}', 400, "malformed"),
            (
                b'{"source": "", "limits": {"wall_seconds": 61}}',
                400,
                "wall_seconds is 61, above",
            ),
            (b'{"source": "", "limits": {"processes": -1}}', 400, "processes is -1"),
            (b" " * 10_001, 413, "10000 bytes"),
        ]:
            answer = await client.post("/run", content=body)
            assert (answer.status_code, text in answer.text) == (status, True), answer.text
        assert (await client.get("/run")).status_code == 405
        assert (await client.get("/nothing")).status_code == 404


async def test_a_refusal_reaches_the_client_as_its_error(server: SandboxServer) -> None:
    async with serving(server) as (client, _):
        with pytest.raises(OpenQwQError, match=r"wall_seconds is 100\.0"):
            await client.run(RunRequest("", limits=replace(DEFAULT, wall_seconds=100.0)))


async def test_a_full_queue_says_when_to_come_again_and_clients_wait(
    server: SandboxServer,
) -> None:
    slow = RunRequest("import time; time.sleep(0.2)")
    async with serving(server) as (client, _):
        answers = await asyncio.gather(
            *[client.client.post("/run", json=slow.to_json()) for _ in range(8)]
        )
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len(refused) == 4
        assert all(answer.headers["Retry-After"] == "1" for answer in refused)
        results = await asyncio.gather(*[client.run(slow) for _ in range(12)])
        assert {result.status for result in results} == {"ok"}
        text = (await client.client.get("/metrics")).text
        assert 'openqwq_sandbox_results_total{status="ok"} 16\n' in text
        assert "openqwq_sandbox_pending 0\n" in text
        assert (await client.client.get("/health")).json()["status"] == "ok"


async def test_sessions_work_over_http_and_end_clearly(server: SandboxServer) -> None:
    async with serving(server, patience=0.1) as (client, _):
        session = await client.session(replace(DEFAULT, wall_seconds=1.0))
        assert (await session.run("x = 5")).status == "ok"
        assert (await session.run("x")).stdout == "5\n"
        full = await client.client.post("/sessions", json={})
        assert (full.status_code, full.headers["Retry-After"]) == (503, "10")
        assert (await session.run("while True: pass")).status == "timeout"
        with pytest.raises(OpenQwQError, match=r"timeout.*open a new session"):
            await session.run("x")
        await session.close()
        with pytest.raises(OpenQwQError, match="no such session"):
            await session.run("x")
        assert (await (await client.session()).run("1")).stdout == "1\n"


async def test_stopping_the_server_lets_running_requests_finish(
    server: SandboxServer,
) -> None:
    async with serving(server) as (client, running):
        slow = asyncio.create_task(
            client.run(RunRequest("import time; time.sleep(1); print(7)"))
        )
        await asyncio.sleep(0.5)
        running.should_exit = True
        assert (await slow).cases[0].stdout == "7\n"


async def test_a_server_that_is_gone_is_an_infrastructure_error() -> None:
    async with RemoteSandbox("http://127.0.0.1:9") as client:
        result = await client.run(RunRequest(""))
    assert (result.status, "sandbox server" in result.error) == ("error", True)


async def test_a_key_is_asked_for_and_web_pages_are_refused(server: SandboxServer) -> None:
    server.api_key = "secret"
    async with serving(server, api_key="secret") as (remote, _):
        assert (await remote.run(RunRequest("print(1)"))).cases[0].stdout == "1\n"
        for header in ({"Authorization": "Bearer wrong"}, {"Authorization": ""}):
            for path in ("/run", "/sessions", "/metrics", "/nothing"):
                answer = await remote.client.post(path, headers=header)
                assert (answer.status_code, "API key" in answer.text) == (401, True)
            assert (await remote.client.get("/health", headers=header)).status_code == 200
        page = {"Origin": "https://example.com"}
        assert (await remote.client.post("/run", headers=page, json={})).status_code == 403


async def test_limits_that_a_request_does_not_name_fit_the_server(
    layers: dict[str, str],
) -> None:
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    maximum = limits_from(["wall_seconds=5", "memory_bytes=100000000"])
    async with serving(SandboxServer(LocalSandbox(workers=1, maximum=maximum))) as (
        remote,
        _,
    ):
        for body in ({"source": "x = bytearray(2 ** 28)"}, {"source": "1", "limits": {}}):
            answer = await remote.client.post("/run", json=body)
            assert answer.json()["status"] == ("memory" if "limits" not in body else "ok")
        session = (await remote.client.post("/sessions", json={})).json()["id"]
        code = {"source": "x = bytearray(2 ** 28)"}
        answer = await remote.client.post(f"/sessions/{session}/run", json=code)
        assert answer.json()["status"] == "memory"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "host is '0.0.0.0'.*QWQ_SANDBOX_KEY"),
        ({"maximum": ["seconds=1"]}, "limit is 'seconds=1'.*wall_seconds"),
        ({"maximum": ["processes=many"]}, "limit processes is 'many': it must be a number"),
        ({"maximum": ["processes=0"]}, "limits.processes is 0"),
        ({"limit": ["processes=99"]}, "limits.processes is 99, above the maximum 16"),
        (
            {"packages": ["no_such_package"]},
            "'no_such_package', which is not installed here",
        ),
        ({"level": "none"}, "full, no-landlock"),
        ({"packages": ["/nowhere"]}, "packages is '/nowhere'"),
    ],
)
def test_a_server_with_a_mistake_in_its_settings_does_not_start(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(OpenQwQError, match=message):
        serve(**settings)


def test_settings_change_only_the_maxima_they_name() -> None:
    assert limits_from(["processes=3"]) == replace(MAXIMUM, processes=3)


def test_the_command_serves_and_ends_what_it_has_begun(layers: dict[str, str]) -> None:
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [
        "sandbox",
        "serve",
        "--port",
        str(port),
        "--workers",
        "1",
        "--maximum",
        "processes=1",
    ]
    command = [sys.executable, "-m", "openqwq.cli", *words]

    async def use(process: subprocess.Popen[str]) -> str:
        assert process.stderr
        while "running on" not in (line := process.stderr.readline()):
            assert line, "the server ended"
        async with RemoteSandbox(f"http://127.0.0.1:{port}") as client:
            running = asyncio.create_task(
                client.run(RunRequest("import time; time.sleep(1); print(7)"))
            )
            with pytest.raises(OpenQwQError, match="processes is 2, above the maximum 1"):
                await client.run(RunRequest("", limits=replace(DEFAULT, processes=2)))
            await asyncio.sleep(0.2)
            process.terminate()
            return (await running).cases[0].stdout

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert asyncio.run(use(process)) == "7\n"
        finally:
            process.terminate()
