"""From ratings to a better model: 200 choices, a reward model, RL, and what the rule says then.

    python bench/feedback.py DIR [--config FILE] [--ratings 200] [--steps 60]

A model is cold-started as the config says. It answers each question twice, and a simulated reader
chooses by the rule in `feedback_rule.py`: many different words. The choices go into the SQLite
file that `qwq serve --feedback` writes; `qwq feedback export` makes rows of them; a reward model
is trained on the rows, and the policy by RL on its scores alone. The rule itself only judges
questions that were held out. The control is the same with choices made by a coin.

Prints the rule's mean before and after with half a 95% interval, paired by question, and writes
bench/results/feedback.json.
"""

import argparse
import asyncio
import json
import math
import random
import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from feedback_rule import rule

from openqwq.cli import main
from openqwq.config import SftStage, load_config
from openqwq.engine.open import open_model
from openqwq.serve.feedback import FeedbackStore, export_feedback
from openqwq.tasks.instructions import topics
from openqwq.tasks.source import draw_tasks
from openqwq.text.template import encode_chat
from openqwq.types import SamplingParams

RESULTS = Path(__file__).parent / "results" / "feedback.json"
BASE = Path(__file__).with_suffix(".toml")
QUESTIONS = 100  # held out
RULE = Path(__file__).with_name("feedback_rule.py")
CONFIG = """
model = "{base}"
precision = "fp32"
threads = 1

[engine]
max_length = {max_length}

[evaluation]
data = ["asked"]
limit = 100
samples = 4
max_tokens = 64

[data.choices]
rows = "{rows}/preferences.jsonl"

[data.asked]
rows = "{rows}/prompts.jsonl"
verifier = "{rule}:rule"
held_out = "{questions}"

[[stages]]
name = "taste"
kind = "reward_model"
data = {{ choices = 1.0 }}
epochs = 4
optimiser = {{ lr = 1e-3, decay_share = 1.0, final_lr_share = 0.05 }}

[[stages]]
name = "rl"
kind = "rl"
data = {{ asked = 1.0 }}
steps = {steps}
prompts_per_step = 16
group_size = 16
max_tokens = 64
informative = "reward"
kl_coefficient = 0.01
rewards = [{{ use = "stage:taste" }}, {{ use = "verifier", weight = 0 }}]
optimiser = {{ lr = 1e-4, decay_share = 0.2, final_lr_share = 0.1 }}
"""


def cold_start(folder: Path, config: Path) -> Path:
    """The checkpoint of the config's first SFT stage; trained where it is missing."""
    stage = next(s for s in load_config([config]).stages if isinstance(s, SftStage))
    checkpoint = folder / "base" / stage.name
    if not checkpoint.exists():
        text = config.read_text().split("\n[[stages]]")
        only = folder / "base.toml"
        only.write_text("\n[[stages]]".join(text[:2]))
        arguments = ["train", str(only), "--out", str(folder / "base"), "--resume"]
        if main(arguments):
            raise SystemExit("the cold start failed")
    return checkpoint


async def choices(base: Path, count: int, by_coin: bool) -> list[dict[str, Any]]:
    """`count` choices between two answers of the model that differ in the rule's eyes."""
    model = open_model(str(base), slots=16)
    stops = model.tokenizer.eos_ids
    tasks = draw_tasks(topics(3, 7), "train", "ratings")
    coin = random.Random(0)
    made: list[dict[str, Any]] = []
    number = 0
    while len(made) < count:
        task = next(tasks)
        ids = encode_chat(model.tokenizer, list(task.messages))
        params = SamplingParams.for_training(64, stops, 10 * number)
        first, second = await model.generate.generate(ids, params, 2)
        number += 1
        sides = []
        for side in (first, second):
            said = [token for token in side.token_ids if token not in stops]
            sides.append(model.tokenizer.decode(said))
        values = [rule(task, side) for side in sides]
        if values[0] == values[1]:
            continue
        best = coin.randrange(2) if by_coin else values.index(max(values))
        made.append(
            {
                "kind": "preference",
                "id": f"{number}",
                "messages": [dict(message) for message in task.messages],
                "chosen": answer(sides[best]),
                "rejected": answer(sides[1 - best]),
            }
        )
    model.close()
    return made


def answer(completion: str) -> dict[str, str]:
    """A completion as the page sends it."""
    thinking, _, content = completion.rpartition("</think>")
    said = {"content": content.strip()}
    return {**said, "reasoning_content": thinking.strip()} if thinking.strip() else said


def learn(folder: Path, base: Path, options: argparse.Namespace, by_coin: bool) -> dict[str, Any]:
    """Ratings, rows, a run, and what the rule says before and after it."""
    name = "coin" if by_coin else "rule"
    database, rows, out = (folder / f"{name}{end}" for end in (".db", "-rows", "-run"))
    if not database.exists():  # the slow part of a run that is repeated
        made = asyncio.run(choices(base, options.ratings, by_coin))
        store = FeedbackStore(database)
        for opinion in made:
            store.put(opinion)
        store.close()
    counts = export_feedback(database, rows)
    length = load_config([options.config]).engine.max_length or 512
    config = folder / f"{name}.toml"
    questions = folder / "questions.jsonl"
    text = CONFIG.format(
        base=base.resolve(),
        rows=rows.resolve(),
        questions=questions.resolve(),
        rule=RULE,
        steps=options.steps,
        max_length=length,
    )
    config.write_text(text)
    write_questions(questions)
    shutil.rmtree(out, ignore_errors=True)
    if main(["train", str(config), "--out", str(out)]):
        raise SystemExit(f"the run {out} failed")
    return {"rows": counts, **change(out)}


def write_questions(path: Path) -> None:
    """Questions of the side that nobody has rated an answer to."""
    tasks = draw_tasks(topics(3, 7), "held_out", "questions")
    rows = []
    for _ in range(QUESTIONS):
        prompt = [dict(message) for message in next(tasks).messages]
        rows.append(json.dumps({"prompt": prompt}) + "\n")
    path.write_text("".join(rows))


def change(out: Path) -> dict[str, float]:
    """The rule's mean before and after, and half a 95% interval of the paired difference."""
    sides = []
    for checkpoint in ("start", "rl"):
        values: dict[str, list[float]] = {}
        saved = json.loads((out / "evaluation" / f"{checkpoint}.json").read_text())
        for outcome in saved["outcomes"]:
            values.setdefault(outcome["task_id"], []).append(outcome["value"])
        sides.append({task: mean(each) for task, each in values.items()})
    before, after = sides
    gains = [after[task] - before[task] for task in before]
    half = 1.96 * stdev(gains) / math.sqrt(len(gains))
    return {
        "before": mean(before.values()),
        "after": mean(after.values()),
        "gain": mean(gains),
        "half_width": half,
        "questions": len(gains),
    }


def run() -> None:
    """Both runs, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, default=BASE)
    parser.add_argument("--ratings", type=int, default=200)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    base = cold_start(options.folder, options.config)
    found = {}
    for name, by_coin in (("rule", False), ("coin", True)):
        found[name] = learn(options.folder, base, options, by_coin)
        line = found[name]
        print(
            f"{name}: {line['before']:.3f} to {line['after']:.3f}, {line['gain']:+.3f} ±"
            f" {line['half_width']:.3f} on {line['questions']} questions held out"
        )
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run()
