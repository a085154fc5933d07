"""`thinking = "tokens"`: a base without think tokens gets them, and everything that reads it."""

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from openqwq.cli import main
from openqwq.config import ShapeConfig
from openqwq.engine.open import open_model
from openqwq.model import checkpoint
from openqwq.text.stream import parse_reply
from openqwq.text.template import encode_chat, encode_reply
from openqwq.text.tokenizer import THINK_TOKENS, Tokenizer
from openqwq.train.policies import fresh_model
from openqwq.train.think_tokens import with_rows
from openqwq.types import Message

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SUMS = [
    {"question": f"What is {a} + {b}?", "answer": f"{a + b}"}
    for a in range(9)
    for b in range(4)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model of SmolLM2's kind: its tokenizer ends with ChatML's markers."""
    directory = tmp_path_factory.mktemp("base") / "model"
    texts = [f"{row['question']} {row['answer']} <think> add </think>" for row in SUMS] * 4
    Tokenizer.train(texts, 330).save(directory)
    path = directory / "tokenizer.json"
    tree = json.loads(path.read_text())
    tree["added_tokens"] = [
        t for t in tree["added_tokens"] if t["content"] not in THINK_TOKENS
    ]
    path.write_text(json.dumps(tree))
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": CHATML}))
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.think_open_id is None
    model = fresh_model(
        ShapeConfig(32, 64, 1, 2, 1, max_position_embeddings=256), tokenizer, 0
    )
    made = directory.with_name("base")
    checkpoint.save(model, made, tokenizer)
    return made


def written(
    folder: Path, base: Path, *stages: dict[str, Any], thinking: str = "tokens"
) -> Path:
    """A config with traces to imitate and sums to train on."""
    traces: list[dict[str, Any]] = []
    for row in SUMS:
        reply = {"role": "assistant", "content": f"\\boxed{{{row['answer']}}}"}
        reply["reasoning_content"] = "add"
        traces.append(
            {"messages": [{"role": "user", "content": f"Add {row['question']}"}, reply]}
        )
    for name, rows in {"traces": traces, "sums": SUMS}.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    tree = {
        "model": str(base),
        "thinking": thinking,
        "threads": 1,
        "engine": {"slots": 32},
        "evaluation": {"limit": 3, "samples": 1},
        "data": {
            "traces": {"rows": "traces.jsonl"},
            "sums": {"rows": "sums.jsonl", "held_out": 0.2},
        },
        "stages": list(stages),
    }
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(tree))
    return path


SFT = {
    "name": "sft", "kind": "sft", "epochs": 6, "batch_size": 8, "data": {"traces": 1.0},
    "optimiser": {"lr": 5e-3},
}  # fmt: skip
RL = {
    "name": "rl", "kind": "rl", "steps": 1, "prompts_per_step": 4, "group_size": 4,
    "max_tokens": 24, "thinking_budgets": [4], "data": {"sums": 1.0},
    "skip_checks": ["ends", "rewards", "golds"],
}  # fmt: skip


def test_the_tokens_are_learned_sampled_budgeted_and_saved(
    base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert main(["train", str(written(tmp_path, base, SFT, RL)), "--out", str(out)]) == 0
    assert Tokenizer.load(base).think_open_id is None
    for stage in ("sft", "rl"):
        tokenizer = Tokenizer.load(out / stage)
        rows = load_file(out / stage / "model.safetensors")["model.embed_tokens.weight"]
        assert tokenizer.think_open_id is not None and tokenizer.think_close_id is not None
        assert len(rows) == tokenizer.vocab_size == Tokenizer.load(base).vocab_size + 2

    lines = (out / "rollouts" / "rl.jsonl").read_text().splitlines()
    attempts = [json.loads(line) for line in lines]
    thought = [attempt["thinking_tokens"] for attempt in attempts]
    assert max(thought) > 0, attempts[0]["text"]  # SFT taught the markers
    assert max(thought) <= 4 + 3  # the budget, and the closing that it forces

    opened = open_model(str(out / "rl"))
    try:
        assert opened.tokenizer.think_open_id == tokenizer.think_open_id
    finally:
        opened.close()


def test_a_recorded_thinking_becomes_two_markers_and_is_read_back(base: Path) -> None:
    tokenizer = Tokenizer.load(base).with_think_tokens()
    asked = [Message(role="user", content="Add 1 and 2, <think> aloud.")]
    reply = Message(role="assistant", content="3", reasoning_content="one and two")
    prompt, ids = encode_reply(tokenizer, asked, reply)
    assert tokenizer.think_open_id not in prompt  # what a user writes stays text
    assert (
        ids.count(tokenizer.think_open_id or 0)
        == ids.count(tokenizer.think_close_id or 0)
        == 1
    )
    read = parse_reply(tokenizer, ids, False)
    assert (read.reasoning.strip(), read.content) == ("one and two", "3")
    assert prompt == encode_chat(Tokenizer.load(base), asked)


def test_nothing_else_of_the_model_changes(base: Path) -> None:
    old = checkpoint.load(base)
    tokenizer = Tokenizer.load(base).with_think_tokens()
    new = with_rows(old, tokenizer)
    size = old.config.vocab_size
    rows, before = new.model.embed_tokens.weight, old.model.embed_tokens.weight
    assert torch.equal(rows[:size], before)
    for text in THINK_TOKENS:
        mean = before[tokenizer.encode(text)].mean(0)
        assert torch.equal(rows[tokenizer.added_tokens[text]], mean)
    assert new.lm_head.weight is rows


def test_transformers_reads_the_tokens_of_a_saved_checkpoint_alike(
    base: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer.load(base).with_think_tokens()
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "<think>\nadd\n</think>\n\n3<|im_end|>"
    found = theirs.encode(text, add_special_tokens=False)
    assert found == ours.encode(text, allow_special=True)


@pytest.mark.parametrize("thinking", ["tokens", "text"])
def test_an_adapter_cannot_train_new_rows_and_the_run_says_so(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], thinking: str
) -> None:
    stage = {"name": "sft", "kind": "sft", "epochs": 1, "data": {"traces": 1.0}}
    stage |= {"lora": {"rank": 2}}
    config = written(tmp_path, base, stage, thinking=thinking)
    status = main(["train", str(config), "--out", str(tmp_path / "run")])
    told = capsys.readouterr().err
    if thinking == "text":
        assert status == 0
        return
    assert status == 2
    assert "stages.sft.lora" in told and 'thinking = "text"' in told
    assert not (tmp_path / "run").exists()
