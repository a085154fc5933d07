"""What a run report says to somebody who has never seen one: its first sentence, its terms."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean

from openqwq.config import Config
from openqwq.evaluation.comparison import values_by_problem
from openqwq.evaluation.evaluate import Outcome, half_width

STAGE_KINDS = {
    "sft": "supervised fine-tuning",
    "rl": "reinforcement learning",
    "reward_model": "a reward model",
    "distill": "distillation",
}
STAGES_EXPLAINED = {
    "sft": "Supervised fine-tuning: the model is shown worked answers and learns to write them, "
    "token by token.",
    "rl": "Reinforcement learning: the model answers each problem several times, a judge rewards "
    "each answer, and what earned more than its siblings becomes likelier.",
    "reward_model": "A reward model: it reads two answers and learns to give the better one the "
    "higher score, so that a later stage can be rewarded by it.",
    "distill": "Distillation: the model writes, a stronger teacher says how likely it finds each "
    "token, and the model moves towards the teacher.",
}
CHARTS_EXPLAINED = {
    "Held-out pass@1": "Share of single answers that are right, on problems never trained on; the "
    "bar is a 95% interval.",
    "Held-out thinking": "Mean number of tokens (pieces of words) written before the answer.",
    "Loss": "How surprised the model is by what it should write: lower is better.",
    "Learning rate": "How far one step moves the weights.",
    "Reward": "Mean reward of all answers of a step: with a judge of right and wrong, the share "
    "that is right.",
    "Reward by kind": "The same for each kind of problem.",
    "Reward model against gold": "The score that was trained on, and the rule that it stands for: "
    "where they part, the model has found a weakness of the score.",
    "Thinking length": "Mean number of thinking tokens.",
    "Thinking length by kind": "The same for each kind of problem.",
    "Verdicts": "What the judge said of each answer. Truncated: cut off at the token limit.",
    "Prompt groups": "Answers to one prompt form a group; where all earned the same, there is "
    "nothing to learn from it.",
    "Entropy": "How undecided the model is between tokens. Near 0 it no longer tries anything new.",
    "KL from the stage's start": "How far the model has moved from where the stage began.",
    "Sampler–learner gap": "How much the program that samples and the one that trains disagree "
    "about the same tokens: it should stay near 0.",
    "Gradient norm": "Size of the change that a step asks for, before it is limited.",
    "Time of an RL step": "Rollout: answers are written. Learn: weights are updated.",
    "Distance to the teacher": "How much less likely the teacher finds what the student says (the "
    "reverse KL divergence): 0 where they agree.",
    "Calibration": "How often the reward model is right where it is so sure; the dashed line is "
    "perfect.",
}


def first_sentence(
    config: Config, names: Sequence[str], outcomes: Mapping[str, Sequence[Outcome]]
) -> str:
    """What was trained, on what, and what it gained on held-out problems.

    `names` are the checkpoints in order; `outcomes` those that have been evaluated.
    """
    model = config.model or "A model made from nothing"
    kinds = [STAGE_KINDS[stage.kind] for stage in config.stages]
    steps = _listed(list(dict.fromkeys(kinds)))
    tables = _listed(config.staged_data())
    trained = f"{model} was trained by {steps} on {tables}"
    evaluated = [name for name in names if outcomes.get(name)]
    if len(evaluated) < 2:
        return f"{trained}; it has not been compared with its beginning yet."
    before, after, half, problems = _change(outcomes[evaluated[0]], outcomes[evaluated[-1]])
    if not problems:
        return f"{trained}; no problem was asked both before and after."
    begin = "before training" if evaluated[0] == "start" else f"after {evaluated[0]}"
    gain = 100 * (after - before)
    verb = "did not change measurably"
    if abs(gain) > half:
        verb = "rose" if gain > 0 else "fell"
    sign = f"{gain:+.1f}".replace("-", "−")
    interval = f" ± {half:.1f}" if math.isfinite(half) else ""
    return (
        f"{trained}; on {problems} problems that it never saw, the share of right answers {verb} "
        f"from {100 * before:.1f}% {begin} to {100 * after:.1f}% ({sign}{interval} points)."
    )


def _change(first: Sequence[Outcome], last: Sequence[Outcome]) -> tuple[float, float, float, int]:
    """Accuracy before and after over the problems asked both times, half a 95% interval, count."""
    old = values_by_problem(first)
    new = values_by_problem(last)
    both = [problem for problem in old if problem in new]
    if not both:
        return math.nan, math.nan, math.nan, 0
    before = mean(old[problem] for problem in both)
    after = mean(new[problem] for problem in both)
    half = half_width([100 * (new[problem] - old[problem]) for problem in both])
    return before, after, half, len(both)


def _listed(words: Sequence[str]) -> str:
    """The words with commas and a last "and"."""
    if len(words) < 2:
        return "".join(words) or "nothing"
    return f"{', '.join(words[:-1])} and {words[-1]}"
