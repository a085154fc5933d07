"""A student of half the size: RL, a teacher's right answers or distillation; accuracy by FLOP.

    python bench/distil.py DIR --demo DEMO              every seed, then the table and the chart
    python bench/distil.py DIR --demo DEMO --only 0     one seed

DEMO/0, DEMO/1 and DEMO/2 are runs of `qwq demo`, whose stage 1 is the teacher. `qwq collect` asks
it for answers; then openqwq/configs/mini-distil.toml gives the student one cold start and goes on
from there in three ways. FLOP are those of sampling, of the update (three times the forward pass),
and of the teacher or KL reference; the cold start, which all share, and evaluations are left out.
They are compared with the student's own RL, and with the RL that made the teacher.
The figures go to bench/results/distil.json.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from trainings import (
    IMAGES,
    SEEDS,
    mean_of,
    parser_of,
    run_qwq,
    save,
    saved_outcomes,
    seconds,
    train,
)

from openqwq.config import SftStage, load_config
from openqwq.evaluation.evaluate import Outcome, accuracy
from openqwq.model.fit import parameter_counts, read_subject
from openqwq.model.qwen2 import ModelConfig
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message

CONFIGS = ("mini-distil",)
TABLES = ("addition", "subtraction", "multiplication", "linear", "pipeline")
WAYS = ("rl", "imitate", "distil")
ENOUGH = 0.95  # of the teacher's accuracy


@dataclass(frozen=True)
class Shape:
    """What a token costs in a model."""

    config: ModelConfig

    def forward(self, tokens: int, before: int = 0) -> float:
        """FLOP of a forward pass over `tokens` that follow `before` others in their sequence."""
        config = self.config
        seen = tokens * before + tokens * (tokens + 1) / 2
        width = config.num_attention_heads * config.head_dim
        return (
            2.0 * self.multiplied * tokens + 4.0 * config.num_hidden_layers * width * seen
        )

    @cached_property
    def multiplied(self) -> int:
        """Parameters that each token is multiplied with."""
        parameters, embedding = parameter_counts(self.config)
        return parameters if self.config.tie_word_embeddings else parameters - embedding


@dataclass
class Group:
    """Completions of one prompt: their lengths, and whether the update saw them."""

    prompt: int
    trained: bool
    completions: list[int] = field(default_factory=list)

    def forward(self, shape: Shape) -> float:
        """FLOP of one pass over the prompt, once, and all completions."""
        total = shape.forward(self.prompt)
        for tokens in self.completions:
            total += shape.forward(tokens, self.prompt)
        return total


def sampled_flop(
    run: Path, stage: str, student: Shape, frozen: Shape, tokenizer: Tokenizer
) -> list[float]:
    """FLOP of each step of an RL or distill stage; `frozen` is the reference or the teacher."""
    groups: dict[tuple[int, str], Group] = {}
    for line in (run / "rollouts" / f"{stage}.jsonl").read_text().splitlines():
        row = json.loads(line)
        key = (row["step"], row["group"])
        if key not in groups:
            chat = [Message(role="user", content=row["question"])]
            groups[key] = Group(len(encode_chat(tokenizer, chat)), row["trained"])
        groups[key].completions.append(row["tokens"])

    steps: dict[int, float] = {}
    for (step, _), group in groups.items():
        cost = group.forward(student)
        if group.trained:
            cost += 3 * group.forward(student) + group.forward(frozen)
        steps[step] = steps.get(step, 0.0) + cost
    return [steps[step] for step in sorted(steps)]


def imitation_flop(
    traces: Path, steps: int, batch_size: int, student: Shape, teacher: Shape
) -> list[float]:
    """FLOP of each step of `imitate`; what the collection cost is in the first."""
    collection = 0.0
    lengths: dict[str, int] = {}
    for file in sorted(traces.with_suffix(".replies").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            reply = json.loads(line)
            total = reply["prompt_tokens"] + reply["completion_tokens"]
            collection += teacher.forward(total)
            lengths[f"{reply['task_id']}/{reply['sample']}"] = total

    rows = [json.loads(line)["id"] for line in traces.read_text().splitlines()]
    once = sum(student.forward(lengths[row]) for row in rows) / len(rows)
    each = 3 * batch_size * once
    return [collection + each] + [each] * (steps - 1)


def batch_size_of(run: Path, name: str) -> int:
    """How many rows a step of an SFT stage of a run takes."""
    config = load_config([run / "config.toml"])
    (stage,) = (stage for stage in config.stages if stage.name == name)
    assert isinstance(stage, SftStage)
    return stage.batch_size


def evaluations(run: Path, stage: str) -> dict[int, float]:
    """Accuracy over all tables after how many steps; 0 is the cold start."""
    found = {0: _mean(saved_outcomes(run, "cold"))}
    for path in [
        *(run / "evaluation").glob(f"{stage}@*.json"),
        run / f"evaluation/{stage}.json",
    ]:
        steps = json.loads(path.read_text())["steps"]
        found[steps] = _mean(saved_outcomes(run, path.stem))
    return dict(sorted(found.items()))


def _mean(outcomes: Sequence[Outcome]) -> float:
    return accuracy([o for o in outcomes if o.kind in TABLES]).pass_at_1


def run_seed(folder: Path, demo: Path, seed: int, overrides: list[str], limit: int) -> None:
    """Collect from one teacher and train its student in three ways."""
    teacher = demo / str(seed) / "stage1"
    traces = folder / f"traces-{seed}.jsonl"
    if not traces.exists():
        asking = ["--temperature", "0.6", "--top-p", "1", "--max-tokens", "160"]
        asking += ["--keep", "all"]
        effort = ["--limit", str(limit), "--samples", "1", "--concurrency", "64"]
        place = ["--data", "mini-problems.toml", "--out", str(traces)]
        run_qwq(["collect", str(teacher), *place, *asking, *effort, "--seed", str(seed)])
    named = [
        f"data.traces.rows={traces}",
        f"tokenizer.like={teacher}",
        f"stages.distil.teacher={teacher}",
        f"seed={seed}",
    ]
    train(CONFIGS, folder / str(seed), [*named, *overrides])


def figures(folder: Path, demo: Path, seed: int) -> dict[str, Any]:
    """Curves of the three ways, the teacher's accuracy, and FLOP until it is nearly reached."""
    run = folder / str(seed)
    teacher_place = demo / str(seed) / "stage1"
    tokenizer = Tokenizer.load(teacher_place)
    student = Shape(read_subject(run / "cold").config)
    teacher = Shape(read_subject(teacher_place).config)
    wanted = _mean(saved_outcomes(demo / str(seed), "stage1"))

    own_rl = sampled_flop(demo / str(seed), "stage1", teacher, teacher, tokenizer)
    result: dict[str, Any] = {
        "teacher": round(wanted, 4),
        "teacher_rl_flop": sum(own_rl),
        "parameters": {
            "teacher": parameter_counts(teacher.config)[0],
            "student": parameter_counts(student.config)[0],
        },
        "seconds": seconds(run),
    }
    for way in WAYS:
        found = evaluations(run, way)
        if way == "imitate":
            traces = folder / f"traces-{seed}.jsonl"
            rows = batch_size_of(run, way)
            costs = imitation_flop(traces, max(found), rows, student, teacher)
        else:
            frozen = teacher if way == "distil" else student
            costs = sampled_flop(run, way, student, frozen, tokenizer)
        curve = [{"steps": steps, "flop": sum(costs[:steps]), "accuracy": round(value, 4)}
                 for steps, value in found.items()]  # fmt: skip
        reached = [point["flop"] for point in curve if point["accuracy"] >= ENOUGH * wanted]
        result[way] = {
            "curve": curve,
            "flop": sum(costs),
            "flop_to_95": min(reached, default=None),
            "final": curve[-1]["accuracy"],
        }
    return result


def draw(runs: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Accuracy against FLOP: one line a seed and way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    names = {"rl": "RL", "imitate": "collect + SFT", "distil": "on-policy distillation"}
    for way, colour in zip(WAYS, ("#888888", "#3b6fb6", "#c44e52"), strict=True):
        for number, run in enumerate(runs.values()):
            points = run[way]["curve"][1:]
            flop = [point["flop"] for point in points]
            values = [point["accuracy"] for point in points]
            label = names[way] if number == 0 else None
            axes.plot(flop, values, color=colour, marker="o", markersize=3, label=label)
    teacher = mean_of(list(runs.values()), "teacher")
    axes.axhline(teacher, color="black", linewidth=1, linestyle="--")
    axes.annotate(
        "teacher", (1, teacher), xycoords=("axes fraction", "data"), ha="right", va="bottom"
    )
    axes.set_xscale("log")
    axes.set_xlabel("FLOP after the cold start")
    axes.set_ylabel("accuracy, held-out problems of stage 1")
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    """See the module."""
    parser = parser_of(__doc__)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument(
        "--limit", type=int, default=180, help="problems of each kind to collect"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        run_seed(options.folder, options.demo, seed, options.overrides, options.limit)

    done = [s for s in SEEDS if (options.folder / str(s) / "evaluation/rl.json").exists()]
    runs = {str(seed): figures(options.folder, options.demo, seed) for seed in done}
    for seed, run in runs.items():
        for way in WAYS:
            found = run[way]
            reached = found["flop_to_95"]
            shown = "not reached" if reached is None else f"{reached:.2e}"
            share = ""
            if reached is not None:
                own = reached / run["rl"]["flop"]
                taught = reached / run["teacher_rl_flop"]
                share = (
                    f", {own:.2f} of its own RL's and {taught:.2f} of the teacher's RL's"
                )
            print(
                f"seed {seed} {way:<8} {run['teacher']:.1%} teacher, {found['final']:.1%} after"
                f" {found['flop']:.2e} FLOP; 95% of the teacher's: {shown}{share}"
            )
    save("distil", {"runs": runs})
    draw(runs, IMAGES / "distil.png")


if __name__ == "__main__":
    main()
