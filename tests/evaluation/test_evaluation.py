"""Runs of benchmarks: what is saved, resumed, judged again, compared, and never dropped."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from openqwq.evaluation import responders
from openqwq.evaluation.benchmarks.benchmark import Benchmark, seed_of
from openqwq.evaluation.benchmarks.mathematics import voted_answer
from openqwq.evaluation.evaluation import (
    PRESETS,
    EvaluationSettings,
    Selection,
    compare_runs,
    evaluate,
    open_run,
    rescore,
    select,
)
from openqwq.evaluation.responders import ChatReply, PatientResponder, Tools
from openqwq.evaluation.results import Record, RecordFile, Summary
from openqwq.types import Message, OpenQwQError, SamplingParams, Score, Task, Verifier


class Equal:
    """Right if the answer is the gold, letter by letter; an answer "?" breaks it."""

    async def score(self, task: Task, completion: str) -> Score:
        answer = completion.partition("</think>")[2]
        if answer == "?":
            return Score(0.0, "error", detail="the judge broke")
        return Score(
            float(answer == task.answer), "correct" if answer == task.answer else "wrong"
        )


JUDGES: dict[str, Verifier] = {"math": Equal()}
Answer = Callable[[str, int], str]


class Answering:
    """A chat that answers by a function of the question and the seed, and counts its calls."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.calls = answer, 0

    async def reply(
        self, messages: Sequence[Message], tools: Tools, params: SamplingParams
    ) -> ChatReply:
        self.calls += 1
        text = self.answer(messages[-1]["content"], params.seed)
        if text == "cut":
            return ChatReply("so", None, "length", 3, 9, 9)
        return ChatReply("so", text, "stop", 3, 1, 4)


def items(count: int = 4, kind: str = "easy") -> list[Task]:
    return [
        Task(f"t/{i}", kind, ({"role": "user", "content": str(i)},), "math", answer=str(i))
        for i in range(count)
    ]


def selection(count: int = 4) -> Selection:
    return Selection(Benchmark("toy", "Toy", 1, lambda _: items(count)), "", items(count))


def run(directory: Path, chat: object, count: int = 4, samples: int = 1) -> Summary:
    settings = EvaluationSettings(
        "model", "qwq", PRESETS["qwq"], samples=samples, concurrency=2
    )
    chosen = [selection(count)]
    open_run(directory, settings, chosen, {"file": "abc"}, resume=True)
    return asyncio.run(evaluate(directory, settings, chosen, chat, JUDGES))["toy"]  # type: ignore[arg-type]


def records(directory: Path) -> dict[tuple[str, int], Record]:
    return {record.key: record for record in RecordFile(directory / "toy.jsonl").read()}


def test_known_answers_score_one_and_others_nothing(tmp_path: Path) -> None:
    right = run(tmp_path / "a", Answering(lambda question, _: question))
    assert (right.headline.value, right.errors, right.items) == (1.0, 0.0, 4)
    wrong = run(tmp_path / "b", Answering(lambda question, _: question + "!"))
    assert (wrong.headline.value, wrong.errors) == (0.0, 0.0)
    saved = records(tmp_path / "a")["t/2", 0]
    assert saved.messages == [{"role": "user", "content": "2"}]
    assert (saved.answer, saved.reasoning, saved.status) == ("2", "so", "correct")


def test_each_reply_has_a_seed_of_its_own_that_only_its_item_and_sample_decide() -> None:
    seeds = {seed_of(0, item, sample) for item in "abc" for sample in range(9)}
    assert len(seeds) == 27
    assert seed_of(0, "a", 3) == seed_of(0, "a", 3) != seed_of(1, "a", 3)


def test_samples_give_pass_at_k_and_consensus(tmp_path: Path) -> None:
    found = run(
        tmp_path, Answering(lambda q, seed: q if seed % 2 else "9"), count=6, samples=4
    )
    share = [r.value for r in records(tmp_path).values()]
    assert found.headline.value == pytest.approx(sum(share) / len(share))
    assert 0 < found.headline.value < 1
    assert found.pass_at[1] == pytest.approx(found.headline.value)
    assert found.pass_at[1] < found.pass_at[2] < found.pass_at[4]
    assert found.consensus is not None


def test_failures_cut_thoughts_and_broken_judges_stay_in_the_denominator(
    tmp_path: Path,
) -> None:
    def answer(question: str, _: int) -> str:
        if question == "1":
            raise OpenQwQError("the endpoint hung up")
        return {"0": "0", "2": "cut", "3": "?"}[question]

    found = run(tmp_path, Answering(answer))
    assert found.headline.value == pytest.approx(0.25)
    assert (found.items, found.errors, found.truncated) == (4, 0.5, 0.25)
    saved = records(tmp_path)
    assert saved["t/1", 0].detail == "no reply: the endpoint hung up"
    assert not saved["t/1", 0].generated
    assert saved["t/2", 0].status == "truncated"
    assert (saved["t/3", 0].status, saved["t/3", 0].generated) == ("error", True)


def test_a_resumed_run_asks_only_for_what_is_missing_or_failed(tmp_path: Path) -> None:
    def failing(question: str, _: int) -> str:
        if question in "13":
            raise OpenQwQError("busy")
        return question

    run(tmp_path, Answering(failing))
    chat = Answering(lambda question, _: question)
    assert run(tmp_path, chat).headline.value == 1.0
    assert chat.calls == 2


def test_a_line_cut_short_by_a_kill_is_asked_for_again(tmp_path: Path) -> None:
    run(tmp_path, Answering(lambda question, _: question))
    before = records(tmp_path)
    path = tmp_path / "toy.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    chat = Answering(lambda question, _: question)
    run(tmp_path, chat)
    assert chat.calls == 1
    assert records(tmp_path) == before


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run(tmp_path, Answering(lambda question, _: question))
    path = tmp_path / "toy.jsonl"
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(OpenQwQError, match=r"toy\.jsonl line 1 is damaged"):
        RecordFile(path).read()


def test_an_endpoint_that_never_answers_stops_the_run(tmp_path: Path) -> None:
    def dead(question: str, _: int) -> str:
        raise OpenQwQError("connection refused")

    chat = Answering(dead)
    with pytest.raises(OpenQwQError, match=r"all 16 replies failed .connection refused"):
        run(tmp_path, chat, count=40)
    assert chat.calls < 20


def test_a_run_is_not_continued_with_other_settings_or_data(tmp_path: Path) -> None:
    settings = EvaluationSettings("model", "qwq", PRESETS["qwq"])
    open_run(tmp_path, settings, [selection()], {"file": "abc"}, resume=False)
    with pytest.raises(OpenQwQError, match="holds a run: go on with --resume"):
        open_run(tmp_path, settings, [selection()], {"file": "abc"}, resume=False)
    hotter = replace(settings, params=replace(settings.params, temperature=1.0))
    with pytest.raises(OpenQwQError, match=r"params was .*0\.6"):
        open_run(tmp_path, hotter, [selection()], {"file": "abc"}, resume=True)
    with pytest.raises(OpenQwQError, match=r"data was .*abc.* is .*def"):
        open_run(tmp_path, settings, [selection()], {"file": "def"}, resume=True)
    whole = selection(5)
    shifted = replace(whole, tasks=whole.tasks[1:])  # as many items, but others
    with pytest.raises(
        OpenQwQError, match=r"tasks was .*'items': 4.*--lcb-window.*another --out"
    ):
        open_run(tmp_path, settings, [shifted], {"file": "abc"}, resume=True)
    open_run(tmp_path, settings, [selection()], {"file": "abc"}, resume=True)


def test_rescoring_judges_saved_replies_without_asking(tmp_path: Path) -> None:
    run(tmp_path, Answering(lambda question, _: f" {question}"))

    class Lenient:
        async def score(self, task: Task, completion: str) -> Score:
            good = completion.partition("</think>")[2].strip() == task.answer
            return Score(float(good), "correct" if good else "wrong")

    found = asyncio.run(rescore(tmp_path, [selection()], {"math": Lenient()}))
    assert found["toy"].headline.value == 1.0
    assert (
        json.loads((tmp_path / "scores.json").read_text())["toy"]["headline"]["value"]
        == 1.0
    )
    with pytest.raises(OpenQwQError, match="holds no replies"):
        asyncio.run(rescore(tmp_path / "empty", [selection()], JUDGES))


def test_rescoring_keeps_the_replies_outside_the_selection(tmp_path: Path) -> None:
    run(tmp_path, Answering(lambda question, _: "?" if question in "03" else question))
    before = records(tmp_path)

    class Never:
        async def score(self, task: Task, completion: str) -> Score:
            return Score(0.0, "wrong")

    asyncio.run(rescore(tmp_path, [selection(2)], {"math": Never()}))
    after = records(tmp_path)
    assert list(after) == list(before)
    assert [after["t/0", 0].status, after["t/1", 0].status] == ["wrong", "wrong"]
    assert [after["t/2", 0], after["t/3", 0]] == [before["t/2", 0], before["t/3", 0]]


def test_two_runs_are_compared_item_by_item(tmp_path: Path) -> None:
    run(tmp_path / "a", Answering(lambda question, _: "9"))
    run(tmp_path / "b", Answering(lambda question, _: question))
    found = compare_runs(tmp_path / "a", tmp_path / "b")["toy"]
    assert (found.difference.value, found.better, found.worse) == (1.0, 4, 0)
    run(tmp_path / "c", Answering(lambda question, _: question), count=3)
    with pytest.raises(OpenQwQError, match="1 items are in one run only"):
        compare_runs(tmp_path / "a", tmp_path / "c")


def test_a_limit_draws_the_same_items_each_time_and_kinds_are_checked() -> None:
    benchmark = selection().benchmark
    tasks = items(50) + items(5, kind="hard")
    first, second = (select(benchmark, "", tasks, 10) for _ in range(2))
    assert [t.id for t in first.tasks] == [t.id for t in second.tasks]
    assert len(first.tasks) == 10
    assert {t.kind for t in select(benchmark, "hard", tasks, None).tasks} == {"hard"}
    with pytest.raises(OpenQwQError, match="no items of kind 'odd': use one of easy, hard"):
        select(benchmark, "odd", tasks, None)


async def test_failures_and_empty_replies_are_tried_again_then_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(responders, "FIRST_PAUSE", 0.0)

    class Flaky:
        def __init__(self, *answers: str) -> None:
            self.answers = list(answers)

        async def reply(self, *_: object) -> ChatReply:
            answer = self.answers.pop(0)
            if answer == "fail":
                raise TimeoutError("too slow")
            return ChatReply("", answer, "stop")

    params = SamplingParams()
    chat = Flaky("fail", " ", "good")
    assert (await PatientResponder(chat, 3).reply([], (), params)).answer == "good"
    with pytest.raises(OpenQwQError, match="no answer in 2 attempts: an empty reply"):
        await PatientResponder(Flaky("fail", "", "good"), 2).reply([], (), params)
    with pytest.raises(OpenQwQError, match="2 attempts: too slow"):
        await PatientResponder(Flaky("", "fail", "good"), 2).reply([], (), params)


@pytest.mark.parametrize(
    ("answer", "vote"),
    [
        ("So \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{1} no, \\boxed{ 042 }", "42"),
        ("The answer is 1,234", "1234"),
        ("\\boxed{unclosed 7", "7"),
        ("none", None),
    ],
)
def test_the_vote_is_the_last_box_or_the_last_number(answer: str, vote: str | None) -> None:
    assert voted_answer(answer) == vote
