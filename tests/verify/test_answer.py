"""What counts as the answer of a completion."""

import time
from textwrap import indent

import pytest

from openqwq.verify.answer import final_answer, last_block, last_program


def test_only_the_text_after_the_first_end_of_thinking_counts() -> None:
    assert final_answer("so 7\n</think>\n8") == "\n8"
    assert final_answer("a</think>b</think>c") == "b</think>c"


def test_thinking_that_never_ends_has_no_answer() -> None:
    assert final_answer("so the answer is 7") is None
    assert final_answer("</think>") == ""


def test_a_model_that_does_not_think_answers_with_its_whole_text() -> None:
    assert final_answer("a</think>b", thinking=False) == "a</think>b"


PROGRAM = "a, b = map(int, input().split())\nprint(a + b)\n"


@pytest.mark.parametrize(
    "answer",
    [
        f"```python\n{PROGRAM}```",
        f"```\nold = 1\n```\n```python\nold = 2\n```\nbetter:\n```py\n{PROGRAM}```\nDone `x`.",
        f"```python\n{PROGRAM}```\nIt prints:\n```\n3\n```",
        f"```\n{PROGRAM}```\nIt prints:\n```\n3\n```",
        f"```python\n{PROGRAM}```\nRun:\n```bash\npython main.py <<< '1 2'\n```",
        f"```Python 3\n{PROGRAM}```\n```text\nfor 1 2: 3\n```",
        f"```{{.python .numberLines}}\n{PROGRAM}```\n```c++\nint a;\n```",
        f"~~~python\n{PROGRAM}~~~\n~~~\n3\n~~~",
        f"````python\n{PROGRAM}````\n```\n3\n```",
        f"Sure: ```python\n{PROGRAM}```",
        f"1. Do this:\n   ```python\n{indent(PROGRAM, '   ')}   ```\n2. Done.",
        f"```python\n{indent(PROGRAM, '    ')}```",
        f"The program:\n```python\n{PROGRAM}",
        f"```python\n{PROGRAM.rstrip()}```",
        PROGRAM,
        f"{PROGRAM}```",
        f"```\n{PROGRAM}```",
        f"<answer>\n{PROGRAM}</answer>",
        f"<answer>```python\n{PROGRAM}```</answer>",
    ],
)
def test_the_program_is_the_last_python_block(answer: str) -> None:
    assert last_program(answer).strip() == PROGRAM.strip()


def test_a_fence_within_the_program_does_not_end_it() -> None:
    program = 'def f():\n    """Use:\n\n    ```\n    f()\n    ```\n    """\n'
    assert last_program(f"```python\n{program}```\n") == program


@pytest.mark.parametrize("closing", ["   ```", "````"])
def test_a_block_ends_with_a_fence_that_is_longer_or_indented_a_little(
    closing: str,
) -> None:
    assert last_program(f"```python\nx = 1\n{closing}\nThat is all.") == "x = 1\n"


@pytest.mark.parametrize("other", ["    ```", "~~~"])
def test_a_fence_of_another_kind_or_further_in_stays_in_the_program(other: str) -> None:
    program = f"x = 1\n{other}\ny = 2\n"
    assert last_program(f"```python\n{program}```") == program


def test_a_program_in_another_language_is_what_the_answer_gives() -> None:
    assert last_program("```cpp\nint main() {}\n```") == "int main() {}\n"
    assert last_program("inline ```x``` fence") == "inline ```x``` fence"


def test_the_last_block_counts_whatever_its_language() -> None:
    assert last_block("```python\na = 1\n```\n```json\n[1]\n```") == "[1]\n"
    assert last_block("[1]") == "[1]"


@pytest.mark.parametrize(
    "text", ["`" * 30_000 + "x`", "```python\n" * 5_000, "a " * 50_000 + "\n```"]
)
def test_reading_an_endless_answer_takes_no_time(text: str) -> None:
    start = time.process_time()
    last_program(text)
    assert time.process_time() - start < 1
