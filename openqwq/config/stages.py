"""The stages of a run: one dataclass for each kind, with the settings that all of them share.

Defaults suit pretrained models of a few hundred million parameters and more; those of the
miniature stand in `configs/mini.toml`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# Peak learning rates where a stage names none, by kind and by what is trained.
FULL_RATES = {"sft": 1e-5, "rl": 1e-6, "distill": 1e-6, "reward_model": 1e-5}
LORA_RATES = {"sft": 2e-4, "rl": 4e-5, "distill": 4e-5, "reward_model": 2e-4}


MOST_MICRO_BATCH = 8192  # tokens, where nobody says how many


@dataclass(frozen=True)
class OptimiserConfig:
    """How gradients become weights. The rate warms up, holds, then decays linearly."""

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 0.0  # the peak; 0: by the stage's kind, and by LoRA or full weights
    warmup_steps: int = 5
    decay_share: float = 0.0  # of all steps, at the end
    final_lr_share: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_tokens_per_micro_batch: int = 0  # 0: what fits into the free memory and is of use

    @property
    def micro_batch_tokens(self) -> int:
        """At most so many tokens in one forward pass."""
        return self.max_tokens_per_micro_batch or MOST_MICRO_BATCH


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters: output = base + alpha / rank · B(A x) (Hu et al., arXiv 2106.09685)."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ()  # names of linear layers; none: all of them


@dataclass(frozen=True)
class ThinkingConfig:
    """Rules on the thinking itself: its format, its script and its length."""

    limit: int = 100  # words
    penalty: float = 1.0  # share of the reward that is lost where a rule is broken
    script: str = "LATIN"


@dataclass(frozen=True)
class RewardConfig:
    """One term of a reward.

    `use` names a judge: `verifier` (the table's own), a judge by name, `file.py:function`,
    `stage:NAME` (the reward model of that stage) or `model:ID` (a language model as judge).
    """

    use: str
    weight: float = 1.0  # 0: only logged
    # share of the value replaced by the fraction of rules that hold
    partial_credit: float = 0.0
    thinking: ThinkingConfig | None = None
    clip: float = 5.0  # rewards of a reward model are clamped to ±clip


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation of one stage; what is not set here is as in `[evaluation]`."""

    every: int = 0  # steps; 0: only before the first stage and after this one
    data: tuple[str, ...] | None = None
    also: tuple[str, ...] = ()  # more tables, which may be in no stage
    benchmarks: tuple[str, ...] = ()  # by the names of `qwq eval`
    limit: int | None = None
    samples: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    # the table whose accuracy names the best checkpoint; none: the mean
    best: str | None = None


@dataclass(frozen=True)
class StageBase:
    """What every stage has. `data` gives each table a weight.

    With `steps`, weights are shares of the draws; with `epochs`, a table is passed
    weight x epochs times. `from_` (in a file: `from`) names the weights that the stage starts
    with: `previous`, a stage, `STAGE:best`, or a path.
    """

    name: str
    data: Mapping[str, float] = field(default_factory=dict)
    from_: str = "previous"
    steps: int = 0
    epochs: float = 0.0
    lora: LoraConfig | Literal["continue"] | None = None
    optimiser: OptimiserConfig = OptimiserConfig()
    checkpoint_every: int = 20
    evaluate: EvaluateConfig = EvaluateConfig()


@dataclass(frozen=True)
class SftStage(StageBase):
    """Supervised fine-tuning on worked solutions and on conversations.

    Of the solutions that a generator writes, `thinking_share` show their thinking, and of those
    to problems with a tool, `tool_share` call it; the rest answer at once. A worked thinking ends
    after one of `thinking_budgets`, tokens, as the engine would end it; none: all of it is shown.
    """

    kind: Literal["sft"] = "sft"
    batch_size: int = 32
    loss_on: Literal["all", "last"] = "all"  # of a conversation's assistant turns
    thinking_share: float = 1.0
    tool_share: float = 1.0
    thinking_budgets: tuple[int, ...] = ()


@dataclass(frozen=True)
class RlStage(StageBase):
    """RL on verifiable rewards (DESIGN section 6)."""

    kind: Literal["rl"] = "rl"
    prompts_per_step: int = 16
    group_size: int = 8
    max_tokens: int = 1024
    temperature: float = 1.0
    thinking_budgets: tuple[int, ...] = ()  # one is drawn for each prompt; none: no budget
    max_turns: int = 8  # replies in an episode
    rewards: tuple[RewardConfig, ...] = (RewardConfig("verifier"),)
    rewards_of: Mapping[str, tuple[RewardConfig, ...]] = field(default_factory=dict)
    informative: Literal["verifier", "reward"] = "verifier"
    truncated: Literal["lowest", "zero", "drop"] = "lowest"
    max_error_share: float = 0.2  # of the verdicts since the start
    reward_seconds: float = 30.0  # that one call of your Python may take
    skip_checks: tuple[Literal["ends", "golds", "rewards", "gap"], ...] = ()
    objective: Literal["cispo", "dapo", "gspo"] = "cispo"
    cispo_cap: float = 5.0
    dapo_clip_low: float = 0.2
    dapo_clip_high: float = 0.28
    gspo_clip_low: float = 3e-4
    gspo_clip_high: float = 4e-4
    token_mask: bool = False  # drop tokens whose ratio is outside [0.5, 5]
    sequence_mask: bool = False  # drop sequences whose mean ratio is outside [0.99, 1.01]
    divide_by_batch_std: bool = False
    # share of more prompts, so as not to wait for the longest replies
    over_sampling: float = 0.0
    # what over_sampling leaves unfinished
    unfinished: Literal["continue", "drop"] = "continue"
    max_refills: int = 1  # rounds of new prompts for groups that say nothing
    retire_pass_rate: float = 0.9
    overlong_buffer: int = 0  # tokens before max_tokens over which a penalty grows; 0: none
    shuffle_rewards: bool = False  # the control: rewards that say nothing
    kl_coefficient: float = 0.0  # of the k3 penalty against `reference`
    reference: str = "start"  # the stage's own start, or what `from` may name


@dataclass(frozen=True)
class PairsConfig:
    """Preference pairs made from the policy's own answers, ranked by the table's verifier."""

    prompts: int = 320  # to train on
    held_out: int = 40  # prompts
    answers: int = 6  # for each prompt
    # pairs at most: the best answer against the worst, and so on inwards
    per_prompt: int = 2
    max_tokens: int = 1024


@dataclass(frozen=True)
class RewardModelStage(StageBase):
    """A Bradley-Terry reward model, from preference rows or from `pairs` over tasks."""

    kind: Literal["reward_model"] = "reward_model"
    pairs: PairsConfig | None = None
    batch_size: int = 32  # pairs
    centre: float = 0.01  # weight of the pull of a pair's rewards towards mean 0
    skip_checks: tuple[Literal["chance"], ...] = ()


@dataclass(frozen=True)
class DistillStage(StageBase):
    """On-policy distillation: the student samples, a teacher scores the same tokens.

    Advantage: teacher log-prob - student log-prob of each token, the reverse KL (Agarwal et al.,
    arXiv 2306.13649). `teacher` is what `from` may name, a hub id, or the URL of an endpoint that
    returns log-probs of a prompt.
    """

    kind: Literal["distill"] = "distill"
    teacher: str = ""
    prompts_per_step: int = 16
    group_size: int = 4
    max_tokens: int = 1024
    temperature: float = 1.0
    max_turns: int = 8


Stage = SftStage | RlStage | RewardModelStage | DistillStage
STAGE_KINDS: Mapping[str, type[Stage]] = {
    "sft": SftStage,
    "rl": RlStage,
    "reward_model": RewardModelStage,
    "distill": DistillStage,
}
