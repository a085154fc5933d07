"""What a researcher does in the first week, on a tiny model: own rows, rewards, traces, worlds."""

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from openqwq.cli import main
from openqwq.config import ShapeConfig
from openqwq.evaluation.progress import Display, Progress
from openqwq.model import checkpoint
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.policies import fresh_model

SUMS = [
    {"question": f"What is {a} + {b}?", "answer": f"so #### {a + b}"}
    for a in range(9)
    for b in range(5)
]
RL = {
    "name": "rl",
    "kind": "rl",
    "steps": 2,
    "prompts_per_step": 4,
    "group_size": 4,
    "max_tokens": 8,
    "checkpoint_every": 1,
    "skip_checks": ["ends", "rewards"],
    "data": {"sums": 1.0},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model, as far as its files go."""
    directory = tmp_path_factory.mktemp("base") / "model"
    texts = [row["question"] + row["answer"] for row in SUMS] * 4
    tokenizer = Tokenizer.train(texts, 320)
    shape = ShapeConfig(32, 64, 1, 2, 1, max_position_embeddings=256)
    checkpoint.save(fresh_model(shape, tokenizer, 0), directory, tokenizer)
    return directory


def written(folder: Path, base: Path, stages: list[dict[str, Any]], **data: Any) -> Path:
    """A config file with its rows in a folder."""
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    sums = {
        "rows": "sums.jsonl",
        "prompt": "{question} Put it in \\boxed{}.",
        "system": "You are careful.",
        "answer": "{answer}",
        "answer_pattern": "#### (.+)",
        "held_out": 0.2,
    }
    tree = {
        "model": str(base),
        "threads": 1,
        "engine": {"slots": 32},
        "evaluation": {"limit": 3, "samples": 1},
        "sandbox": {"workers": 1},
        "data": {"sums": sums, **data},
        "stages": stages,
    }
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(tree))
    return path


def records(run: Path, stage: str) -> list[dict[str, Any]]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["stage"] == stage]


def train(config: Path, out: Path, *more: str) -> int:
    return main(["train", str(config), "--out", str(out), *more])


def test_rl_on_my_rows_with_an_adapter_is_evaluated_before_during_and_after(
    base: Path, tmp_path: Path
) -> None:
    stage = RL | {"lora": {"rank": 2}, "evaluate": {"every": 1, "data": ["sums"]}}
    config = written(tmp_path, base, [stage])
    assert train(config, tmp_path / "run") == 0
    names = {path.stem for path in (tmp_path / "run" / "evaluation").iterdir()}
    assert names == {"start", "rl@1", "rl"}
    assert "held_out" in records(tmp_path / "run", "rl")[1]
    adapter = json.loads((tmp_path / "run" / "rl" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["base_model_name_or_path"]) == (2, str(base))
    assert (tmp_path / "run" / "data.lock").exists()
    text = (tmp_path / "run" / "rollouts" / "rl.jsonl").read_text().splitlines()
    assert (
        "You are careful." not in text[0] and "Put it in" in json.loads(text[0])["question"]
    )


def test_an_evaluation_shows_how_many_of_its_problems_are_answered(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[tuple[str, int, int, str]] = []

    @contextmanager
    def stage(
        self: Display, title: str, total: int, unit: str = "step"
    ) -> Iterator[Progress]:
        yield lambda done, metrics: reported.append((title, done, total, unit))

    monkeypatch.setattr(Display, "stage", stage)
    config = written(tmp_path, base, [RL | {"steps": 1}])
    assert train(config, tmp_path / "run") == 0
    assert [each for each in reported if each[0] == "evaluate start"] == [
        ("evaluate start", done, 3, "problem") for done in (0, 1, 2, 3)
    ]


def test_more_steps_continue_the_adapter_and_another_run_starts_from_it(
    base: Path, tmp_path: Path
) -> None:
    (tmp_path / "rewards.py").write_text("def f(task, text):\n    return len(text) % 7\n")
    mine = {
        "rewards": [{"use": "rewards.py:f"}],
        "informative": "reward",
        "truncated": "drop",
    }
    stage = RL | mine | {"lora": {"rank": 2}, "max_tokens": 150, "optimiser": {"lr": 0.01}}
    config = written(tmp_path, base, [stage])
    run = tmp_path / "run"
    assert train(config, run) == 0
    first = load_file(run / "rl" / "adapter_model.safetensors")
    assert train(config, run, "--resume", "--set", "stages.rl.steps=4") == 0
    assert len([r for r in records(run, "rl") if "reward" in r]) == 4
    second = load_file(run / "rl" / "adapter_model.safetensors")
    assert any(not torch.equal(first[name], value) for name, value in second.items())
    assert train(config, tmp_path / "at-once", "--set", "stages.rl.steps=4") == 0
    at_once = load_file(tmp_path / "at-once" / "rl" / "adapter_model.safetensors")
    assert all(torch.equal(second[name], value) for name, value in at_once.items())

    (tmp_path / "other").mkdir()
    onward = written(tmp_path / "other", run / "rl", [RL | {"lora": "continue"}])
    assert train(onward, tmp_path / "onward") == 0
    config_json = json.loads(
        (tmp_path / "onward" / "rl" / "adapter_config.json").read_text()
    )
    assert config_json["base_model_name_or_path"] == str(base)


REWARDS = """
def brevity(task, completion):
    if task.id.endswith(FAILING):
        raise ValueError("no reward for this row")
    assert completion.answer is not None or completion.thinking is not None
    return -0.01 * len(completion)


async def slow(completion, task):
    assert task.id and len(completion) >= 0
    return None
"""


def test_my_reward_is_weighted_in_and_what_it_raises_is_an_error_in_the_log(
    base: Path, tmp_path: Path
) -> None:
    (tmp_path / "rewards.py").write_text(f'FAILING = ("0", "1", "2")\n{REWARDS}')
    uses = [{"use": "verifier"}, {"use": "rewards.py:brevity", "weight": 0.5}]
    stage = RL | {"rewards": uses, "max_error_share": 0.9, "informative": "reward"}
    assert train(written(tmp_path, base, [stage]), tmp_path / "run") == 0
    (first, *_) = records(tmp_path / "run", "rl")
    assert first["errors"] == first["status"]["error"] > 0
    assert first["rewards"]["brevity"] < 0
    errors = (tmp_path / "run" / "errors.jsonl").read_text()
    assert "no reward for this row" in errors and "Traceback" in errors


def test_a_reward_that_fails_too_often_stops_the_run_by_name(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rewards.py").write_text(f'FAILING = ("",)\n{REWARDS}')
    stage = RL | {"rewards": [{"use": "rewards.py:slow"}], "group_size": 16}
    assert train(written(tmp_path, base, [stage]), tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "max_error_share" in error and "returned None" in error


def test_a_reward_that_always_fails_says_in_one_line_where_and_how_to_begin_again(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rewards.py").write_text("def f(task, completion): return task.row['no']\n")
    config = written(tmp_path, base, [RL | {"rewards": [{"use": "rewards.py:f"}]}])
    assert train(config, tmp_path / "run") == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "qwq:" in each]
    assert "rewards.py:f raised KeyError: 'no'; RUN/errors.jsonl has all of it" in line
    assert "begin again where it is your own Python" in line


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("nowhere.py:f", "nowhere.py does not exist"),
        ("rewards.py:missing", "has no 'missing'"),
        ("rewards.py:lone", "it takes (task)"),
        ("rewards.py:turned", "'completion' is given the task"),
        ("maths", "did you mean 'math'"),
        ("stage:taste", "no reward_model stage"),
    ],
)
def test_a_reward_that_stands_for_nothing_is_refused_before_the_run_exists(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], use: str, message: str
) -> None:
    functions = (
        "def f(task, completion): return 1.0\n"
        "def lone(task): return 1.0\n"
        "def turned(completion, answer): return float(completion == answer)\n"
    )
    (tmp_path / "rewards.py").write_text(functions)
    config = written(tmp_path, base, [RL | {"rewards": [{"use": use}]}])
    assert train(config, tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_reward_that_hangs_is_an_error_and_the_run_still_ends(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hangs = "import threading\ndef hang(task, completion): threading.Event().wait()\n"
    (tmp_path / "rewards.py").write_text(hangs)
    stage = RL | {"rewards": [{"use": "rewards.py:hang"}], "reward_seconds": 0.05}
    assert train(written(tmp_path, base, [stage]), tmp_path / "run") == 2
    assert "rewards.py:hang took more than 0.05 s" in capsys.readouterr().err


def test_each_stage_waits_for_my_reward_as_long_as_it_says(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hangs = "import threading\ndef hang(task, completion): threading.Event().wait()\n"
    (tmp_path / "rewards.py").write_text(hangs)
    short = RL | {"rewards": [{"use": "rewards.py:hang"}], "reward_seconds": 0.05}
    long = RL | {"name": "later", "reward_seconds": 60.0}
    assert train(written(tmp_path, base, [short, long]), tmp_path / "run") == 2
    assert "rewards.py:hang took more than 0.05 s" in capsys.readouterr().err


def test_rows_of_one_file_may_need_different_judges(base: Path, tmp_path: Path) -> None:
    tests = [{"stdin": "", "stdout": "1"}]
    rows: list[dict[str, Any]] = [
        {"prompt": "1?", "answer": "1"},
        {"prompt": "2?", "answer": "2"},
    ]
    rows += [{"prompt": f"Print {i}.", "tests": tests} for i in range(4)]
    (tmp_path / "mix.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = RL | {"prompts_per_step": 6, "steps": 1}
    stage |= {"group_size": 16, "max_tokens": 32}  # of which a few end, and are judged
    config = written(tmp_path, base, [stage], sums={"rows": "mix.jsonl"})
    assert train(config, tmp_path / "run") == 0
    lines = (tmp_path / "run" / "rollouts" / "rl.jsonl").read_text().splitlines()
    ended = [json.loads(line) for line in lines]
    ended = [rollout for rollout in ended if rollout["status"] != "truncated"]
    rows_of = {"answer": {"sums:1", "sums:2"}, "tests": {f"sums:{i}" for i in range(3, 7)}}
    judged = {rollout["task"] for rollout in ended}
    assert judged & rows_of["answer"] and judged & rows_of["tests"]


SFT = {"name": "sft", "kind": "sft", "epochs": 1, "batch_size": 8, "data": {"traces": 1.0}}
TASTE = {"name": "taste", "kind": "reward_model", "epochs": 1, "data": {"pairs": 1.0}}
AFTER = RL | {"from": "sft:best"}


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([SFT, AFTER], "sft.evaluate.every is 0 and its steps are 2; evaluate it before"),
        ([SFT | {"evaluate": {"every": 2}}, AFTER], "every is 2 and its steps are 2"),
        ([SFT | {"evaluate": {"every": 1, "data": []}}, AFTER], "is evaluated on no table"),
        (
            [RL | {"from": "start:best"}],
            "stages.rl.from is 'start:best': it must be one of",
        ),
        ([RL | {"evaluate": {"best": "sms"}}], "stages.rl.evaluate.best is 'sms'"),
        (
            [SFT | {"evaluate": {"data": ["traces"]}}],
            "evaluate.data names 'traces', which holds",
        ),
        ([RL | {"steps": 0, "epochs": 1}], "stages.rl.epochs is 1: "),
        ([TASTE | {"data": {"pairs": 0.01}}], "weight 0.01 of 'pairs' is none of its 10"),
        ([TASTE | {"epochs": 0.01}], "stages.taste.epochs is 0.01, which is none of the"),
        (
            [SFT | {"epochs": 0.04}],
            "stages.sft: epochs 0.04 times the weight 1 of 'traces'",
        ),
    ],
)
def test_a_stage_that_could_do_nothing_is_refused_before_the_run(
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stages: list[dict[str, Any]],
    said: str,
) -> None:
    rows = [{"prompt": f"Say {i}.", "completion": f"{i}"} for i in range(10)]
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [
        {"prompt": f"Tell {i}.", "chosen": f"{i}", "rejected": "no"} for i in range(10)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    tables = {"traces": {"rows": "traces.jsonl"}, "pairs": {"rows": "pairs.jsonl"}}
    config = written(tmp_path, base, stages, **tables)
    assert train(config, tmp_path / "run") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_best_policy_of_a_stage_that_is_evaluated_may_be_gone_on_from(
    base: Path, tmp_path: Path
) -> None:
    first = RL | {"name": "first", "evaluate": {"every": 1, "best": "sums"}}
    config = written(tmp_path, base, [first, RL | {"from": "first:best"}])
    assert train(config, tmp_path / "run") == 0


def test_my_traces_are_imitated_then_trained_on(base: Path, tmp_path: Path) -> None:
    rows = []
    for row in SUMS[:20]:
        answer = row["answer"].rpartition(" ")[2]
        reply = {"role": "assistant", "content": f"\\boxed{{{answer}}}"}
        if len(rows) % 2:
            reply["reasoning_content"] = "add them"
        else:
            reply["content"] = f"<think>\nadd them\n</think>\n\n{reply['content']}"
        asked = row["question"].replace("What is", "Add")
        rows.append({"messages": [{"role": "user", "content": asked}, reply]})
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sft = {
        "name": "sft",
        "kind": "sft",
        "epochs": 2,
        "batch_size": 8,
        "data": {"traces": 1.0},
    }
    config = written(tmp_path, base, [sft, RL], traces={"rows": "traces.jsonl"})
    assert train(config, tmp_path / "run") == 0
    losses = [r["cross_entropy"] for r in records(tmp_path / "run", "sft")]
    assert len(losses) == 5  # 2 x 20 rows, 8 at a time
    before = load_file(base / "model.safetensors")
    after = load_file(tmp_path / "run" / "sft" / "model.safetensors")
    assert any(not torch.equal(before[name], value) for name, value in after.items())


WORLD = '''
import random
from openqwq.types import Message, Observation, Score


class Guess:
    """Guess a digit: one hint, two turns."""

    def __init__(self, largest=9):
        self.largest = largest

    async def reset(self, task, seed):
        return Episode(random.Random(seed).randint(0, self.largest))


class Episode:
    def __init__(self, secret):
        self.secret, self.said = secret, ""

    async def step(self, reply, malformed_calls):
        done = bool(self.said)
        self.said = reply["content"]
        hint = Message(role="user", content="Once more.")
        return Observation(() if done else (hint,), done)

    async def score(self):
        right = str(self.secret) in self.said
        return Score(float(right) - 0.001 * len(self.said), "correct" if right else "wrong")

    async def close(self):
        pass
'''


def test_my_environment_plays_its_turns_and_scores_itself(
    base: Path, tmp_path: Path
) -> None:
    (tmp_path / "world.py").write_text(WORLD)
    rows = [{"prompt": f"Guess {i}."} for i in range(8)]
    (tmp_path / "guess.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    guess = {
        "rows": "guess.jsonl",
        "environment": "world.py:Guess",
        "options": {"largest": 3},
    }
    stage = RL | {"data": {"guess": 1.0}, "max_turns": 2, "informative": "reward"}
    assert train(written(tmp_path, base, [stage], guess=guess), tmp_path / "run") == 0
    lines = (tmp_path / "run" / "rollouts" / "rl.jsonl").read_text().splitlines()
    assert any("Once more." in json.loads(line)["text"] for line in lines)


def test_what_my_environment_raises_is_an_error_with_its_traceback(
    base: Path, tmp_path: Path
) -> None:
    broken = WORLD.replace("return Episode(", "return {}[seed] if seed % 2 else Episode(")
    (tmp_path / "world.py").write_text(broken)
    rows = [{"prompt": f"Guess {i}."} for i in range(8)]
    (tmp_path / "guess.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    guess = {"rows": "guess.jsonl", "environment": "world.py:Guess"}
    stage = RL | {"data": {"guess": 1.0}, "max_turns": 2, "max_error_share": 1.0}
    assert train(written(tmp_path, base, [stage], guess=guess), tmp_path / "run") == 0
    (first, *_) = records(tmp_path / "run", "rl")
    assert 0 < first["errors"] == first["status"]["error"]
    errors = (tmp_path / "run" / "errors.jsonl").read_text()
    assert "return {}[seed]" in errors and "KeyError" in errors


OWN_TASKS = """
    def tasks(self, split):
        if split != "train":
            return []
        from openqwq.types import Task
        asked = [({"role": "user", "content": f"Guess {i}."},) for i in range(20)]
        return [Task(id=str(i), kind="", messages=m, verifier="") for i, m in enumerate(asked)]
"""


def test_a_share_of_my_environments_own_tasks_is_held_out(
    base: Path, tmp_path: Path
) -> None:
    (tmp_path / "world.py").write_text(
        WORLD.replace("    async def reset", f"{OWN_TASKS}\n    async def reset", 1)
    )
    own = {"environment": "world.py:Guess", "options": {"largest": 3}, "held_out": 0.3}
    stage = RL | {"data": {"own": 1.0}, "max_turns": 2, "informative": "reward"}
    assert train(written(tmp_path, base, [stage], own=own), tmp_path / "run") == 0
    lines = (tmp_path / "run" / "rollouts" / "rl.jsonl").read_text().splitlines()
    trained = {json.loads(line)["task"] for line in lines}
    record = json.loads((tmp_path / "run" / "evaluation" / "rl.json").read_text())
    held_out = {outcome["task_id"] for outcome in record["outcomes"]}
    assert held_out and not held_out & trained


LEVELS = """
    def tasks(self, split):
        from openqwq.types import Task
        asked = ({"role": "user", "content": f"Level {self.largest}."},)
        ids = ["easy:1", "hard:1"] if split == "train" else []
        return [Task(id=i, kind="", messages=asked, verifier="") for i in ids]
"""


def levels(folder: Path) -> None:
    """world.py: `Guess`, whose tasks and hints both name the option that it was made with."""
    text = WORLD.replace("    async def reset", f"{LEVELS}\n    async def reset", 1)
    text = text.replace("self.largest))", "self.largest), self.largest)")
    text = text.replace(
        "self, secret):", "self, secret, level):\n        self.level = level"
    )
    text = text.replace('"Once more."', 'f"Hint {self.level}."')
    (folder / "world.py").write_text(text)


def test_each_table_is_played_in_its_environment_with_its_own_options(
    base: Path, tmp_path: Path
) -> None:
    levels(tmp_path)
    tables: dict[str, Any] = {
        f"level{level}": {"environment": "world.py:Guess", "options": {"largest": level}}
        for level in (1, 5)
    }
    data = {"level1": 1.0, "level5": 1.0}
    stage = RL | {"data": data, "max_turns": 2, "informative": "reward", "steps": 1}
    stage |= {"prompts_per_step": 8, "skip_checks": ["ends", "rewards", "golds"]}
    assert train(written(tmp_path, base, [stage], **tables), tmp_path / "run") == 0
    lines = (tmp_path / "run" / "rollouts" / "rl.jsonl").read_text().splitlines()
    played = [json.loads(line) for line in lines]
    hints: set[tuple[str, str]] = set()
    for rollout in played:
        for level in ("1", "5"):
            if f"Hint {level}." in rollout["text"]:
                hints.add((rollout["question"], f"Hint {level}."))
    assert hints == {("Level 1.", "Hint 1."), ("Level 5.", "Hint 5.")}
    ids = {rollout["task"] for rollout in played}
    assert ids == {"level1:easy:1", "level1:hard:1", "level5:easy:1", "level5:hard:1"}


def test_two_tasks_of_one_id_are_refused_before_the_run(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    levels(tmp_path)
    world = (tmp_path / "world.py").read_text()
    (tmp_path / "world.py").write_text(world.replace("hard:1", "easy:1"))
    own = {"environment": "world.py:Guess"}
    config = written(tmp_path, base, [RL | {"data": {"own": 1.0}}], own=own)
    assert train(config, tmp_path / "run") == 2
    assert "two tasks of the id 'easy:1' for 'train'" in capsys.readouterr().err


def test_my_environments_prompt_that_is_too_long_is_told_before_the_run(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long_tasks = OWN_TASKS.replace('f"Guess {i}."', 'f"Guess {i}. " * 200')
    (tmp_path / "world.py").write_text(
        WORLD.replace("    async def reset", f"{long_tasks}\n    async def reset", 1)
    )
    own = {"environment": "world.py:Guess"}
    config = written(tmp_path, base, [RL | {"data": {"own": 1.0}}], own=own)
    assert train(config, tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert "data.own: own:" in told and "the stage 'rl' has room for 255" in told
    assert not (tmp_path / "run").exists()


def test_my_preferences_make_a_reward_model_whose_gold_is_logged_next_to_it(
    base: Path, tmp_path: Path
) -> None:
    rows = [
        {"prompt": row["question"], "chosen": "yes please", "rejected": "no"}
        for row in SUMS[:24]
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = {"rows": "pairs.jsonl", "held_out": 0.25}
    taste = {"name": "taste", "kind": "reward_model", "epochs": 1, "data": {"pairs": 1.0}}
    stage = RL | {"rewards": [{"use": "stage:taste"}]}
    assert (
        train(written(tmp_path, base, [taste, stage], pairs=pairs), tmp_path / "run") == 0
    )
    (first, *_) = records(tmp_path / "run", "rl")
    assert {"taste", "verifier"} <= first["rewards"].keys()
    report = json.loads((tmp_path / "run" / "taste.json").read_text())
    assert report["held_out"]["pairs"] > 0


def test_preferences_that_contradict_each_other_are_refused_unless_i_insist(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = ["yes please", "no"]
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(SUMS[:24]):
        chosen = answers[number % 2]
        rejected = answers[1 - number % 2]
        rows.append({"prompt": row["question"], "chosen": chosen, "rejected": rejected})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = {"rows": "pairs.jsonl", "held_out": 0.5}
    taste = {"name": "taste", "kind": "reward_model", "epochs": 1, "data": {"pairs": 1.0}}
    config = written(tmp_path, base, [taste], pairs=pairs)
    assert train(config, tmp_path / "run") == 2
    assert (
        'To go on all the same: stages.taste.skip_checks = ["chance"]'
        in capsys.readouterr().err
    )
    assert (
        json.loads((tmp_path / "run" / "taste.json").read_text())["held_out"]["pairs"] > 0
    )
    insisted = ["--resume", "--set", 'stages.taste.skip_checks=["chance"]']
    assert train(config, tmp_path / "run", *insisted) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Unfinished run" not in page  # though nothing of it is evaluated


def test_a_student_learns_from_a_teacher_that_scores_its_own_tokens(
    base: Path, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.load(base)
    teacher = fresh_model(
        ShapeConfig(32, 64, 1, 2, 1, max_position_embeddings=256), tokenizer, 0
    )
    with torch.no_grad():
        teacher.model.norm.weight.mul_(30.0)  # the student's own opinions, held more firmly
    checkpoint.save(teacher, tmp_path / "teacher", tokenizer)
    stage = {
        "name": "student",
        "kind": "distill",
        "teacher": "teacher/.",
        "steps": 20,
        "prompts_per_step": 4,
        "group_size": 4,
        "max_tokens": 12,
        "data": {"sums": 1.0},
        "optimiser": {"lr": 0.05, "warmup_steps": 1},
    }
    assert train(written(tmp_path, base, [stage]), tmp_path / "run") == 0
    found = [r["reverse_kl"] for r in records(tmp_path / "run", "student")]
    assert len(found) == 20
    assert sum(found[-3:]) < 0.7 * sum(found[:3])


def test_a_teacher_with_another_vocabulary_is_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Tokenizer.train(["another text altogether"] * 9, 300)
    model = fresh_model(ShapeConfig(32, 64, 1, 2, 1, max_position_embeddings=256), other, 1)
    checkpoint.save(model, tmp_path / "teacher", other)
    stage = {
        "name": "student",
        "kind": "distill",
        "teacher": "teacher/.",
        "steps": 1,
        "data": {"sums": 1.0},
    }
    assert train(written(tmp_path, base, [stage]), tmp_path / "run") == 2
    assert "another vocabulary" in capsys.readouterr().err


def test_my_python_is_kept_with_the_run_and_may_not_change_under_it(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "rewards.py"
    mine.write_text("def f(task, completion):\n    return len(completion) * 0.1\n")
    stage = RL | {"rewards": [{"use": "rewards.py:f"}], "informative": "reward"}
    config = written(tmp_path, base, [stage])
    run = tmp_path / "run"
    assert train(config, run) == 0
    assert (run / "python" / "rewards.py").read_text() == mine.read_text()
    mine.write_text("def f(task, completion):\n    return 0.0\n")
    assert train(config, run, "--resume") == 2
    assert "rewards.py has changed since the run began" in capsys.readouterr().err


def test_a_plan_leaves_bad_rows_out_where_the_run_would(
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openqwq.train.plan.product_rate", lambda config, rows, dtype: 1e11)
    config = written(tmp_path, base, [RL])
    with (tmp_path / "sums.jsonl").open("a") as file:
        file.write('{"question": "What is it?", "answer": "nobody knows"}\n')
    assert main(["train", str(config), "--plan"]) == 2
    assert "--skip-bad-rows" in capsys.readouterr().err
    assert main(["train", str(config), "--plan", "--skip-bad-rows"]) == 0


def test_a_plan_says_what_each_stage_needs_without_making_a_run(
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[int] = []

    def rate(config: object, rows: int, dtype: object) -> float:
        threads.append(torch.get_num_threads())
        return 1e11

    monkeypatch.setattr("openqwq.train.plan.product_rate", rate)
    config = written(tmp_path, base, [RL | {"lora": {"rank": 2}}])
    before = torch.get_num_threads()
    try:
        assert main(["train", str(config), "--plan", "--set", "threads=3"]) == 0
    finally:
        torch.set_num_threads(before)
    said = capsys.readouterr().out
    assert "rl: peak" in said and "learning" in said and "fits into" in said
    assert set(threads) == {3}  # the run's


def test_a_plan_for_a_card_that_is_not_here_takes_its_memory_and_names_no_seconds(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path, base, [RL])
    assert main(["train", str(config), "--plan", "--set", "plan.memory_gib=22.5"]) == 0
    said = capsys.readouterr().out
    assert "fits into 22.50 GiB" in said and "s a step" not in said
    assert main(["train", str(config), "--plan", "--set", "plan.memory_gib=0.1"]) == 0
    assert "does not fit" in capsys.readouterr().out


def test_a_student_made_from_nothing_takes_its_teachers_vocabulary(
    base: Path, tmp_path: Path
) -> None:
    stage = {
        "name": "student",
        "kind": "distill",
        "teacher": str(base),
        "steps": 1,
        "prompts_per_step": 2,
        "group_size": 2,
        "max_tokens": 8,
        "data": {"sums": 1.0},
    }
    tree = tomllib.loads(written(tmp_path, base, [stage]).read_text())
    del tree["model"]
    tree["shape"] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
    }
    tree["tokenizer"] = {"like": "base"}
    (tmp_path / "base").symlink_to(base)
    config = tmp_path / "student.toml"
    config.write_text(tomli_w.dumps(tree))
    assert train(config, tmp_path / "run") == 0
    ours = Tokenizer.load(tmp_path / "run" / "student")
    assert ours.vocab_size == Tokenizer.load(base).vocab_size


def test_a_turn_of_weight_zero_is_read_but_not_imitated(base: Path) -> None:
    from openqwq.train.sft import encode_examples
    from openqwq.types import Message, Task

    ask = Message(role="user", content="Hi")
    spoilt = Message(role="assistant", content="bad", weight=0)
    good = Message(role="assistant", content="good")
    task = Task("t", "k", (ask,), "", demonstration=(spoilt, ask, good))
    tokenizer = Tokenizer.load(base)
    ((ids, learned),) = encode_examples(tokenizer, task)
    imitated = [token for token, is_learned in zip(ids, learned, strict=True) if is_learned]
    assert "good" in tokenizer.decode(imitated) and "bad" not in tokenizer.decode(imitated)
    assert "bad" in tokenizer.decode(ids)


def test_a_stage_is_evaluated_on_benchmarks_and_on_tables_that_nothing_trains_on(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functools import partial

    from openqwq.evaluation.benchmarks.data import Library

    changed = partial(Library, allow_changed=True)
    monkeypatch.setattr("openqwq.train.benchmark_tables.Library", changed)
    items = [
        {"question": "How many?", "answer": "2"},
        {"question": "And now?", "answer": "3"},
    ]
    (tmp_path / "gsm8k").mkdir()
    text = "".join(json.dumps(item) + "\n" for item in items)
    (tmp_path / "gsm8k" / "test.jsonl").write_text(text)
    (tmp_path / "only.jsonl").write_text(text.replace("How", "So how"))
    stage = RL | {"steps": 1, "evaluate": {"benchmarks": ["gsm8k"], "data": ["only"]}}
    config = written(tmp_path, base, [stage], only={"rows": "only.jsonl"})
    more = ("--set", f"evaluation.benchmark_data={tmp_path}")
    assert train(config, tmp_path / "run", *more) == 0
    saved = json.loads((tmp_path / "run" / "evaluation" / "rl.json").read_text())
    kinds = [outcome["kind"] for outcome in saved["outcomes"]]
    assert kinds == ["only", "only", "gsm8k", "gsm8k"]
    assert {outcome["status"] for outcome in saved["outcomes"]} <= {"wrong", "truncated"}


def test_a_benchmark_of_several_turns_is_refused_by_name(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, message in (("bfcl", "several turns"), ("gsm", "did you mean 'gsm8k'")):
        config = written(tmp_path, base, [RL | {"evaluate": {"benchmarks": [name]}}])
        assert train(config, tmp_path / "run") == 2
        assert message in capsys.readouterr().err


def test_a_run_refused_on_its_first_batch_may_be_started_again_with_another_prompt(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path, base, [RL | {"skip_checks": ["ends"]}])
    run = tmp_path / "run"
    assert train(config, run) == 2
    assert "skip_checks" in capsys.readouterr().err
    assert (run / "evaluation" / "start.json").exists()
    again = ["--set", "stages.rl.skip_checks=['ends', 'rewards']"]
    other = ["--set", "data.sums.system=Be brief."]
    assert train(config, run, *again, *other) == 0
    assert "Be brief." in (run / "config.toml").read_text()
    assert train(config, run, *again, *other) == 2
    assert "is not empty" in capsys.readouterr().err
