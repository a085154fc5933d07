"""From ratings to a better model: 200 choices, a reward model, RL, and what the rule says then.

    python bench/feedback.py DIR [--config FILE] [--ratings 200] [--steps 16] [--seeds 0 1 2]

A model is cold-started as the config says. It answers each question twice, and a simulated reader
chooses by the rule in `feedback_rule.py`: many different words. The choices go into the SQLite
file that `qwq serve --feedback` writes; `qwq feedback export` makes rows of them; a reward model
is trained on three quarters of the rows and judged on the rest; the policy is trained by RL on its
scores alone. The rule itself only judges questions that were held out.

The control has the same answers, chosen by a coin. Its reward model should be refused, as it ranks
held-out choices no better than a coin; then it is trained all the same, to show what that does.

A seed draws other questions, answers, coins and batches; the cold start is one for all. A run that
was killed goes on with the first of its parts that is not done.

Prints the rule's mean before and after, with half a 95% interval paired by question for each seed,
and over the seeds Student's interval; writes bench/results/feedback.json.
"""

import argparse
import asyncio
import json
import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
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
# 0.975 quantile of Student's t, by seeds
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
Json = dict[str, Any]
CONFIG = """
seed = {seed}
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
rows = "{rows}/learned.jsonl"
held_out = "{rows}/judged.jsonl"

[data.asked]
rows = "{rows}/asked.jsonl"
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
kl_coefficient = 0.1
rewards = [{{ use = "stage:taste" }}, {{ use = "verifier", weight = 0 }}]
optimiser = {{ lr = 1e-4, decay_share = 0.2, final_lr_share = 0.1 }}
"""


@dataclass(frozen=True)
class Options:
    """What each of the runs is told."""

    config: Path
    steps: int
    seed: int


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


async def two_answers(base: Path, count: int, seed: int) -> list[Json]:
    """`count` questions with two answers of the model that differ in the rule's eyes."""
    model = open_model(str(base), slots=16)
    stops = model.tokenizer.eos_ids
    tasks = draw_tasks(topics(3, 7), "train", f"ratings/{seed}")
    found: list[Json] = []
    number = 0
    while len(found) < count:
        task = next(tasks)
        ids = encode_chat(model.tokenizer, list(task.messages))
        params = SamplingParams.for_training(64, stops, 1_000_000 * seed + 10 * number)
        completions = await model.generate.generate(ids, params, 2)
        number += 1
        sides: list[str] = []
        for completion in completions:
            said = [token for token in completion.token_ids if token not in stops]
            sides.append(model.tokenizer.decode(said))
        values = [rule(task, side) for side in sides]
        if values[0] != values[1]:
            messages = [dict(message) for message in task.messages]
            found.append({"messages": messages, "sides": sides, "values": values})
    model.close()
    return found


def choices(found: list[Json], seed: int, by_coin: bool) -> list[Json]:
    """What the reader chooses of them, as the page sends it."""
    coin = random.Random(seed)
    made: list[Json] = []
    for number, question in enumerate(found):
        values = question["values"]
        best = coin.randrange(2) if by_coin else values.index(max(values))
        opinion = {
            "kind": "preference",
            "id": f"{number}",
            "messages": question["messages"],
            "chosen": answer(question["sides"][best]),
            "rejected": answer(question["sides"][1 - best]),
        }
        made.append(opinion)
    return made


def answer(completion: str) -> dict[str, str]:
    """A completion as the page sends it."""
    thinking, _, content = completion.rpartition("</think>")
    said = {"content": content.strip()}
    return {**said, "reasoning_content": thinking.strip()} if thinking.strip() else said


def learn(
    folder: Path, base: Path, found: list[Json], options: Options, by_coin: bool
) -> Json:
    """Ratings, rows, a run, and what the rule says before and after it."""
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "ratings.db"
    for old in folder.glob("ratings.db*"):
        old.unlink()
    store = FeedbackStore(database)
    for opinion in choices(found, options.seed, by_coin):
        store.put(opinion)
    store.close()
    counts = export_feedback(database, folder / "rows")
    set_apart(folder / "rows")

    questions = folder / "questions.jsonl"
    write_questions(questions)
    config = folder / "config.toml"
    text = CONFIG.format(
        seed=options.seed,
        base=base.resolve(),
        rows=(folder / "rows").resolve(),
        questions=questions.resolve(),
        rule=RULE,
        steps=options.steps,
        max_length=load_config([options.config]).engine.max_length or 512,
    )
    config.write_text(text)

    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    command = ["train", str(config), "--out", str(out)]
    refused = main(command) != 0
    if refused:
        if not (out / "taste.json").exists():
            raise SystemExit(f"the run {out} failed before its reward model")
        insist = ["--resume", "--set", 'stages.taste.skip_checks=["chance"]']
        if main([*command, *insist]):
            raise SystemExit(f"the run {out} failed")
    held_out = json.loads((out / "taste.json").read_text())["held_out"]
    return {"rows": counts, "refused": refused, "held_out": held_out, **change(out)}


def set_apart(rows: Path) -> None:
    """Keep every fourth question for judging the reward model: RL does not ask it."""
    prompts = (rows / "prompts.jsonl").read_text().splitlines()
    apart = [json.loads(line)["prompt"] for line in prompts[::4]]
    parts: dict[str, list[str]] = {"asked": [], "learned": [], "judged": []}
    for line in prompts:
        if json.loads(line)["prompt"] not in apart:
            parts["asked"].append(line)
    for line in (rows / "preferences.jsonl").read_text().splitlines():
        part = "judged" if json.loads(line)["prompt"] in apart else "learned"
        parts[part].append(line)
    for name, lines in parts.items():
        (rows / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


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


def over_seeds(gains: Sequence[float]) -> Json:
    """The mean of the seeds' gains with half of Student's 95% interval."""
    half = STUDENT[len(gains)] * stdev(gains) / math.sqrt(len(gains))
    return {"gain": mean(gains), "half_width": half, "seeds": len(gains)}


def told(name: str, seed: int, found: Json) -> str:
    """One run in a line."""
    held_out = found["held_out"]
    refusal = ", refused" if found["refused"] else ""
    return (
        f"{name}, seed {seed}: reward model right on {100 * held_out['accuracy']:.0f}% of"
        f" {held_out['pairs']} choices held out{refusal}; the rule's mean {found['before']:.3f} to"
        f" {found['after']:.3f}, {found['gain']:+.3f} ± {found['half_width']:.3f}"
    )


def run() -> None:
    """Both runs of every seed, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, default=BASE)
    parser.add_argument("--ratings", type=int, default=200)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    base = cold_start(given.folder, given.config)
    results: Json = {"rule": {}, "coin": {}}
    for seed in given.seeds:
        options = Options(given.config, given.steps, seed)
        answers = given.folder / f"answers-{seed}.json"
        if not answers.exists():
            found = asyncio.run(two_answers(base, given.ratings, seed))
            answers.write_text(json.dumps(found))
        for name in results:
            result = given.folder / f"{name}-{seed}.json"
            if not result.exists():
                found = json.loads(answers.read_text())
                folder = given.folder / f"{name}-{seed}"
                learned = learn(folder, base, found, options, by_coin=name == "coin")
                result.write_text(json.dumps(learned))
            results[name][str(seed)] = json.loads(result.read_text())
            print(told(name, seed, results[name][str(seed)]), flush=True)
    if len(given.seeds) in STUDENT:
        for by_seed in results.values():
            by_seed["all"] = over_seeds([each["gain"] for each in by_seed.values()])
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    run()
