"""The box around a final answer."""

from openqwq.verify.boxes import last_box


def test_the_last_box_counts_with_the_braces_inside_it() -> None:
    assert last_box("\\boxed{1}, so \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    assert last_box("so 1/2") is None


def test_a_box_without_its_end_counts_only_where_it_may_be_open() -> None:
    cut_off = "\\boxed{1}, so \\boxed{\\frac{1}{2"
    assert last_box(cut_off) is None
    assert last_box(cut_off, may_be_open=True) == "\\frac{1}{2"
