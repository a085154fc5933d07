"""Settings of the sandbox: limits and packages, from a config, a request, a task and the server."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving import serving

from openqwq.config import SandboxConfig, dump_config, load_config
from openqwq.sandbox.client import RemoteSandbox
from openqwq.sandbox.installed import find_packages, modules
from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import DEFAULT, Case, Limits, RunRequest
from openqwq.sandbox.server import SandboxServer
from openqwq.types import CodeTests, OpenQwQError, Task, TestCase
from openqwq.verify.code import CodeVerifier

GREEDY = "x = bytearray(2 ** 28); print(len(x))"
NUMPY = "import numpy as np; print(int(np.arange(int(input())).sum()))"


@pytest.fixture
def isolated(layers: dict[str, str]) -> None:
    """Skip where no program can be isolated."""
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")


async def test_the_sandboxs_limits_hold_where_a_request_names_none(isolated: None) -> None:
    small = Limits(memory_bytes=2**27)
    async with LocalSandbox(workers=1, limits=small) as sandbox:
        assert (await sandbox.run(RunRequest(GREEDY))).status == "memory"
        assert (await sandbox.run(RunRequest(GREEDY, limits=DEFAULT))).status == "ok"
        session = await sandbox.session()
        assert (await session.run(GREEDY)).status == "memory"


async def test_a_config_sets_limits_and_packages(isolated: None, tmp_path: Path) -> None:
    (tmp_path / "granted.py").write_text("ANSWER = 42")
    file = tmp_path / "run.toml"
    file.write_text(
        "[sandbox]\nworkers = 1\nwall_seconds = 2\nmemory_bytes = 134217728\noutput_bytes = 1000\n"
        f'packages = ["{tmp_path}"]\n'
    )
    config = load_config([file])
    again = tmp_path / "again.toml"
    again.write_text(dump_config(config))
    assert load_config([again]) == config
    async with LocalSandbox.configured(config.sandbox) as sandbox:
        assert (await sandbox.run(RunRequest(GREEDY))).status == "memory"
        assert (await sandbox.run(RunRequest("print('x' * 2000)"))).status == "output_limit"
        slow = await sandbox.run(RunRequest("import time; time.sleep(60)"))
        assert (slow.status, slow.seconds < 10) == ("timeout", True)
        granted = await sandbox.run(RunRequest("import granted; print(granted.ANSWER)"))
        assert granted.cases[0].stdout == "42\n"


def test_a_config_may_ask_for_more_than_a_request_may() -> None:
    sandbox = LocalSandbox.configured(SandboxConfig(wall_seconds=300.0))
    assert (sandbox.limits.wall_seconds, sandbox.maximum.wall_seconds) == (300.0, 300.0)
    assert sandbox.maximum.cpu_seconds == 60.0


async def test_a_task_has_limits_of_its_own(sandbox: LocalSandbox) -> None:
    cases = (TestCase("", str(2**28)),)
    task = Task("one", "code", (), "code", tests=CodeTests("stdin", cases))
    small = replace(task, tests=CodeTests("stdin", cases, limits={"memory_bytes": 2**27}))
    wrong = replace(task, tests=CodeTests("stdin", cases, limits={"seconds": 2}))
    verifier = CodeVerifier(sandbox, thinking=False)
    assert (await verifier.score(task, GREEDY)).status == "correct"
    assert "MemoryError" in (await verifier.score(small, GREEDY)).detail
    refused = await verifier.score(wrong, GREEDY)
    assert (
        refused.status,
        "'seconds': it must be one of wall_seconds" in refused.detail,
    ) == (
        "error",
        True,
    )


async def test_numpy_is_allowed_by_name_and_draws_the_same_numbers(isolated: None) -> None:
    cases = Case("10"), Case("100")
    async with LocalSandbox(workers=1, packages=["numpy"]) as sandbox:
        request = RunRequest(NUMPY, cases=cases, packages=("numpy",))
        assert [case.stdout for case in (await sandbox.run(request)).cases] == [
            "45\n",
            "4950\n",
        ]
        draw = RunRequest("import numpy; print(numpy.random.rand())")
        assert await outputs(sandbox, draw) == await outputs(sandbox, draw)
        # nothing else of the directory that numpy is installed in
        seen = RunRequest(
            "import os; print(*sorted(os.listdir('/packages'))); import torch"
        )
        case = (await sandbox.run(seen)).cases[0]
        assert {name.split("-")[0].split(".")[0] for name in case.stdout.split()} == {
            "numpy"
        }
        assert "No module named 'torch'" in case.error
        products = "import numpy as np\na = np.ones((300, 300))\nprint((a @ a).sum())"
        assert await outputs(sandbox, RunRequest(products)) == ["27000000.0\n"]


async def outputs(sandbox: LocalSandbox, request: RunRequest) -> list[str]:
    return [case.stdout for case in (await sandbox.run(request)).cases]


async def test_a_package_that_the_sandbox_lacks_is_an_error_and_never_a_wrong_answer(
    sandbox: LocalSandbox,
) -> None:
    with pytest.raises(
        OpenQwQError, match="'numpy', and this sandbox has none: start it with"
    ):
        await sandbox.run(RunRequest("import numpy", packages=("numpy",)))
    tests = CodeTests("stdin", (TestCase("10", "45"),), packages=("numpy",))
    task = Task("one", "code", (), "code", tests=tests)
    score = await CodeVerifier(sandbox, thinking=False).score(task, NUMPY)
    assert (score.status, "'numpy'" in score.detail) == ("error", True)


async def test_the_http_api_takes_limits_and_packages(isolated: None) -> None:
    limits = Limits(memory_bytes=2**27)
    server = SandboxServer(LocalSandbox(workers=1, limits=limits, packages=["numpy"]))
    async with serving(server) as (remote, _):
        assert isinstance(remote, RemoteSandbox)
        health = (await remote.client.get("/health")).json()
        assert (health["packages"], health["limits"]["memory_bytes"]) == (["numpy"], 2**27)
        bodies: list[tuple[dict[str, Any], str]] = [
            ({"source": GREEDY}, "memory"),
            ({"source": GREEDY, "limits": None}, "memory"),
            ({"source": GREEDY, "limits": {"memory_bytes": 2**29}}, "ok"),
            ({"source": NUMPY, "cases": [{"stdin": "3"}], "packages": ["numpy"]}, "ok"),
        ]
        for body, status in bodies:
            answer = await remote.client.post("/run", json=body)
            assert answer.json()["status"] == status, answer.text
        answer = await remote.client.post(
            "/run", json={"source": "", "packages": ["scipy"]}
        )
        assert answer.status_code == 400
        assert "'scipy', and this sandbox has numpy" in answer.json()["error"]
        assert (await remote.run(RunRequest(GREEDY))).status == "memory"
        assert (await remote.run(RunRequest(GREEDY, limits=DEFAULT))).status == "ok"


def test_a_package_is_found_by_either_name_with_what_it_requires() -> None:
    entries = find_packages(["jsonschema"])
    assert {"jsonschema", "referencing", "attr"} <= set(entries)
    assert modules(["pyyaml"]) == modules(["yaml"]) == ["yaml"]
    with pytest.raises(
        OpenQwQError, match="'no_such_package', which is not installed here"
    ):
        find_packages(["no_such_package"])


def test_a_package_without_a_list_of_its_files_is_found_by_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "systems.py").write_text("")
    information = tmp_path / "systems-1.egg-info"
    information.mkdir()
    (information / "PKG-INFO").write_text(
        "Metadata-Version: 2.1\nName: systems\nVersion: 1\n"
    )
    (information / "top_level.txt").write_text("systems\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert find_packages(["systems"]) == {"systems.py": str(tmp_path / "systems.py")}


async def test_a_package_that_cannot_be_imported_stops_the_start_by_name(
    isolated: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('needs a licence')")
    information = tmp_path / "broken-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken\nVersion: 1\n"
    )
    (information / "RECORD").write_text("broken.py,,\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(OpenQwQError, match="broken: RuntimeError: needs a licence"):
        await LocalSandbox(workers=1, packages=["broken"]).start()
    (tmp_path / "broken.py").write_text("import os; os.abort()")
    with pytest.raises(
        OpenQwQError, match=r"cannot start: a sandbox worker died.*broken may have"
    ):
        await LocalSandbox(workers=1, packages=["broken"]).start()


def test_limits_above_the_maximum_stop_the_start() -> None:
    with pytest.raises(OpenQwQError, match=r"limits.processes is 9, above the maximum 4"):
        LocalSandbox(maximum=Limits(processes=4), limits=Limits(processes=9))
