"""Our own tools: exact arithmetic that never hangs, files that stay in their folder, Python."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwq.agent.calculator import calculator
from openqwq.agent.call import CallLimits, run_calls
from openqwq.agent.files import Folder
from openqwq.agent.python_session import PythonSession
from openqwq.agent.toolbox import toolbox
from openqwq.agent.tools import by_name
from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import Limits
from openqwq.types import OpenQwQError, ToolCall


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", "14"),
        ("123456789 * 987654321", "121932631112635269"),
        ("7 / 2", "7/2 = 3.5"),
        ("6 / 3", "2"),
        ("1/3 + 1/6", "1/2 = 0.5"),
        ("2 ** 100", str(2**100)),
        ("2 ^ 10", "1024"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("2 ** -2", "1/4 = 0.25"),
        ("2 ** 0.5", "1.4142135623730951"),
        ("sqrt(16) + abs(-2)", "6.0"),
        ("max(1, 2/3, gcd(12, 18))", "6"),
        ("round(22/7, 2)", "157/50 = 3.14"),
        ("(-1) ** 1000000001", "-1"),
        ("2 ** 4000", str(2**4000)),
        ("10 ** 1200", str(10**1200)),
        ("0 ** 5000", "0"),
        ("cos(pi)", "-1.0"),
    ],
)
def test_arithmetic_is_exact(expression: str, value: str) -> None:
    assert calculator(expression) == value


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("9 ** 9 ** 9", "over 4096 bits"),
        ("10 ** 2000", "over 4096 bits"),
        ("3 ** 4000", "over 4096 bits"),
        ("(1/3) ** 99999999", "over 4096 bits"),
        ("(3 // 1) ** 10000000", "over 4096 bits"),
        ("(2 ** 4000 // 1) * (2 ** 4000 // 1)", "over 4096 bits"),
        ("round(7/2, 1000000000)", "at most 100 digits"),
        ("1e308 * 10", "not a finite real number"),
        ("(-8) ** (1/3)", "not a finite real number"),
        ("1 / 0", "divides by zero"),
        ("sqrt(-1)", "cannot be worked out"),
        ("__import__('os').system('true')", "is not arithmetic"),
        ("(lambda: 1)()", "is not arithmetic"),
        ("[1] * 9", "is not arithmetic"),
        ("'a' * 9", "is not arithmetic"),
        ("True + 1", "is not arithmetic"),
        ("abs(x=1)", "is not arithmetic"),
        ("gcd(1.5, 2)", "whole numbers"),
        ("2 +", "not an arithmetic expression"),
        ("", "not an arithmetic expression"),
        ("(" * 900, "not an arithmetic expression"),
        ("1+" * 600 + "1", "over 1000 characters"),
    ],
)
def test_what_is_no_arithmetic_or_too_much_is_refused_at_once(
    expression: str, problem: str
) -> None:
    started = time.process_time()
    with pytest.raises(OpenQwQError, match=problem):
        calculator(expression)
    assert time.process_time() - started < 2


@given(st.text(st.sampled_from("0123456789+-*/%().e ,sqrtroundgcdpi^'_[]"), max_size=40))
def test_any_text_gives_a_number_or_a_clear_error(text: str) -> None:
    try:
        assert calculator(text)
    except OpenQwQError as error:
        assert str(error)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("".join(f"line {n}\n" for n in range(1, 301)))
    (root / "sub" / "b.txt").write_bytes(b"Hello \xff World\n")
    (root / "sub" / "binary").write_bytes(b"\0hello")
    (tmp_path / "secret.txt").write_text("hello secret")
    (root / "out").symlink_to(tmp_path / "secret.txt")
    (root / "up").symlink_to(tmp_path)
    (root / "circle").symlink_to(root / "circle")
    return Folder(root)


def test_a_file_is_read_by_lines_and_says_what_is_left(folder: Folder) -> None:
    text = folder.read_file("a.txt", first_line=2, lines=2)
    assert text == "line 2\nline 3\n[297 more lines: ask with first_line=4]"
    assert folder.read_file("a.txt", first_line=300) == "line 300"
    assert folder.read_file("sub/b.txt") == "Hello \ufffd World"


@pytest.mark.parametrize(
    "path", ["out", "up/secret.txt", "../secret.txt", "/etc/passwd", "sub/../../secret.txt"]
)
def test_no_path_and_no_link_leads_out_of_the_folder(folder: Folder, path: str) -> None:
    for method in (folder.read_file, folder.list_folder):
        with pytest.raises(OpenQwQError, match="outside the folder"):
            method(path)
    with pytest.raises(OpenQwQError, match="outside the folder"):
        folder.search_folder("hello", path)


@pytest.mark.parametrize("path", ["circle", "nothing", "a\0b", "x" * 5000])
def test_what_is_not_there_is_told_without_the_folders_own_path(
    folder: Folder, path: str
) -> None:
    with pytest.raises(OpenQwQError, match="there is no") as caught:
        folder.read_file(path)
    assert str(folder.root) not in str(caught.value)


def test_a_search_finds_lines_by_path_and_number_and_never_follows_links(
    folder: Folder,
) -> None:
    assert folder.search_folder("HELLO") == "sub/b.txt:1: Hello \ufffd World"
    assert folder.search_folder("line 300", ".") == "a.txt:300: line 300"
    assert folder.search_folder("absent") == "no line contains 'absent'"
    assert "[more matches left out]" in folder.search_folder("line")


def test_a_search_skips_what_cannot_be_read_and_says_so(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.open

    def guarded(path: Path, *rest: Any, **more: Any) -> Any:
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, *rest, **more)

    monkeypatch.setattr(Path, "open", guarded)
    note = "[files that cannot be read: 1]"
    assert folder.search_folder("HELLO") == f"sub/b.txt:1: Hello \ufffd World\n{note}"
    assert folder.search_folder("line 3") == f"no line contains 'line 3'\n{note}"
    with pytest.raises(OpenQwQError, match=r"'a\.txt' cannot be read: Permission denied$"):
        folder.read_file("a.txt")


def test_a_folder_lists_its_entries(folder: Folder) -> None:
    assert folder.list_folder() == "a.txt\ncircle\nout\nsub/\nup"
    with pytest.raises(OpenQwQError, match="is not a folder"):
        folder.list_folder("a.txt")


def test_a_pipe_and_a_large_file_are_refused(folder: Folder) -> None:
    os.mkfifo(folder.root / "pipe")
    with pytest.raises(OpenQwQError, match="'pipe' is not a file"):
        folder.read_file("pipe")
    with (folder.root / "large").open("wb") as file:
        file.truncate(3 * 2**20)
    with pytest.raises(OpenQwQError, match="too large"):
        folder.read_file("large")
    assert "large" not in folder.search_folder("hello")


async def test_python_keeps_its_variables_and_says_when_they_are_lost(
    sandbox: LocalSandbox,
) -> None:
    session = PythonSession(sandbox, Limits(wall_seconds=1.0, cpu_seconds=1.0))
    call = session.tool().call
    assert await call({"code": "x = 20"}) == "(no output)"
    assert await call({"code": "print(x)\nx + 1"}) == "20\n21"
    assert (await call({"code": "1 / 0"})).endswith("ZeroDivisionError: division by zero")
    assert await call({"code": "x"}) == "20"
    assert "timeout" in await call({"code": "while True: pass"})
    lost = await call({"code": "x"})
    assert (
        lost.startswith("(a new session: earlier variables are lost)")
        and "NameError" in lost
    )
    await session.close()
    assert not sandbox.open_sessions and not session.failure


async def test_python_calls_of_one_reply_share_a_session_and_run_in_their_order(
    sandbox: LocalSandbox,
) -> None:
    session = PythonSession(sandbox)
    tools = by_name([session.tool()])
    calls: list[ToolCall] = [
        {"name": "python", "arguments": {"code": code}} for code in ("x = 1", "x += 1", "x")
    ]
    results = await run_calls(tools, calls)
    assert [result.text for result in results] == ["(no output)", "(no output)", "2"]
    assert len(sandbox.open_sessions) == 1
    await session.close()


async def test_a_python_session_that_was_given_up_or_idle_is_replaced(
    sandbox: LocalSandbox,
) -> None:
    session = PythonSession(sandbox)
    tools = by_name([session.tool()])

    async def run(code: str, seconds: float = 30.0) -> str:
        call: ToolCall = {"name": "python", "arguments": {"code": code}}
        return (await run_calls(tools, [call], limits=CallLimits(seconds)))[0].text

    await run("x = 1")
    assert "took longer than 0.3 s" in await run("while True: pass", 0.3)
    await asyncio.sleep(0.1)
    assert await run("1 + 1") == "(a new session: earlier variables are lost)\n2"
    (opened,) = sandbox.open_sessions
    await opened.close()  # as it does when it was idle for long
    assert await run("1 + 1") == "(a new session: earlier variables are lost)\n2"
    assert await run("2 + 2") == "4" and not session.failure
    await session.close()


async def test_a_users_tools_are_opened_by_name_and_unknown_ones_refused(
    tmp_path: Path,
) -> None:
    async with toolbox(["calculator", f"files:{tmp_path}"]) as tools:
        assert [*tools] == ["calculator", "read_file", "list_folder", "search_folder"]
        assert not any(tool.acts for tool in tools.values())
    for names, problem in [
        (["abacus"], "unknown tool 'abacus'"),
        (["files:/no/such"], "/no/such is not a directory"),
        (["files:"], "unknown tool 'files:': use .* files:DIRECTORY"),
        (["calculator", "calculator"], "two tools are named 'calculator'"),
    ]:
        with pytest.raises(OpenQwQError, match=problem):
            async with toolbox(names):
                pass
