"""Programs whose functions are called: main guards, `Solution`, and what numpy makes."""

from collections.abc import AsyncIterator

import pytest

from openqwq.sandbox.local import LocalSandbox
from openqwq.types import CodeTests, Score, Task, TestCase
from openqwq.verify.code import CodeVerifier

CALL = CodeTests("call", (TestCase([2], 3),), entry_point="f")
LIST = CodeTests("call", (TestCase([[1, 2]], [2, 4]),), entry_point="f")
GUARDED = "def f(x): return x + 1\nif __name__ == '__main__':\n    print(f(int(input())))"


def script(text: str) -> CodeTests:
    return CodeTests("script", script=f"import numpy as np\n{text}", entry_point="f")


@pytest.fixture
async def verifier(layers: dict[str, str]) -> AsyncIterator[CodeVerifier]:
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    async with LocalSandbox(1, packages=("numpy",)) as sandbox:
        yield CodeVerifier(sandbox, thinking=False)


async def judged(verifier: CodeVerifier, tests: CodeTests, program: str) -> Score:
    task = Task("one", "code", (), "code", tests=tests)
    return await verifier.score(task, f"```python\n{program}\n```")


@pytest.mark.parametrize(
    ("tests", "program", "expected"),
    [
        (CALL, GUARDED, "correct"),
        (
            CodeTests("script", script="assert f(2) == 3", entry_point="f"),
            GUARDED,
            "correct",
        ),
        (CodeTests("stdin", (TestCase("2\n", "3\n"),)), GUARDED, "correct"),
        (CALL, "f = None\nif __name__ != '__main__':\n    f = lambda x: x + 1", "wrong"),
        (CALL, "class Solution:\n    def f(self, x): return x + 1", "correct"),
        (CALL, "class Solution:\n    def f(self, x): return x + 2", "wrong"),
        (CALL, "import numpy as np\ndef f(x): return np.int64(x + 1)", "correct"),
        (CALL, "import numpy as np\ndef f(x): return np.float32(x + 1)", "correct"),
        (CALL, "import numpy as np\ndef f(x): return np.int64(x + 2)", "wrong"),
        (LIST, "import numpy as np\ndef f(x): return np.array(x) * 2", "correct"),
        (LIST, "import numpy as np\ndef f(x): return list(np.array(x) * 2)", "correct"),
        (LIST, "import numpy as np\ndef f(x): return np.array(x) * 3", "wrong"),
        (
            script("assert f(np.array([1, 2])) == 3"),
            "def f(x): return int(x.sum())",
            "correct",
        ),
        (
            script("assert f([1, 2]).tolist() == [2, 4]"),
            "import numpy as np\ndef f(x): return np.array(x) * 2",
            "correct",
        ),
        (
            script("assert np.allclose(f([1.5, 2]), [3, 5])"),
            "import numpy as np\ndef f(x): return np.array(x) * 2",
            "wrong",
        ),
    ],
)
async def test_a_function_is_judged_by_what_it_returns(
    verifier: CodeVerifier, tests: CodeTests, program: str, expected: str
) -> None:
    score = await judged(verifier, tests, program)
    assert score.status == expected, score.detail
