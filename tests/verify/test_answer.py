"""What counts as the answer of a completion."""

from openqwq.verify.answer import final_answer, last_program


def test_only_the_text_after_the_first_end_of_thinking_counts() -> None:
    assert final_answer("so 7\n</think>\n8") == "\n8"
    assert final_answer("a</think>b</think>c") == "b</think>c"


def test_thinking_that_never_ends_has_no_answer() -> None:
    assert final_answer("so the answer is 7") is None
    assert final_answer("</think>") == ""


def test_a_model_that_does_not_think_answers_with_its_whole_text() -> None:
    assert final_answer("a</think>b", thinking=False) == "a</think>b"


def test_the_last_closed_code_block_is_the_program() -> None:
    answer = "First:\n```python\na = 1\n```\nbetter:\n  ```py\nb = 2\n\nc = 3\n  ```\nDone `x`."
    assert last_program(answer) == "b = 2\n\nc = 3\n"
    assert last_program("```\na = 1\n```\n```python\nb = 2") == "a = 1\n"


def test_an_answer_without_a_code_block_is_itself_the_program() -> None:
    assert last_program("print(1)\n") == "print(1)\n"
    assert last_program("inline ```x``` fence") == "inline ```x``` fence"
