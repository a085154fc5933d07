"""A Bradley-Terry reward model: the policy's own trunk, one number read at a chat's last token.

Trained so that sigmoid(r(chosen) - r(rejected)) is the probability of the preference (Ouyang et
al., arXiv 2203.02155). A saved one opens in transformers as Qwen2ForSequenceClassification.
"""

import json
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import correlation, mean
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from openqwq.config import RewardModelStage
from openqwq.model import checkpoint
from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.qwen2 import Qwen2
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.optimiser import build_optimisers
from openqwq.train.run import Progress
from openqwq.types import Message, OpenQwQError, Pair, Task

ARCHITECTURE, HEAD = "Qwen2ForSequenceClassification", "score.weight"
BINS = 10  # of the calibration error


class RewardModel(nn.Module):
    """`trunk` (its output projection unused) under a scalar head without bias."""

    def __init__(self, trunk: Qwen2, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.trunk, self.tokenizer = trunk, tokenizer
        self.score = nn.Linear(trunk.config.hidden_size, 1, bias=False, device=trunk.device)
        nn.init.zeros_(self.score.weight)

    def encode(self, chat: Sequence[Message]) -> list[int]:
        """A whole chat as the token ids that `forward` reads."""
        return encode_chat(self.tokenizer, chat, add_generation_prompt=False)

    def forward(self, chats: Sequence[Sequence[int]]) -> Tensor:
        """Rewards of encoded chats, (chats,) fp32, each read at its last token."""
        lengths = [len(ids) for ids in chats]
        device = self.score.weight.device
        flat = torch.tensor([i for ids in chats for i in ids], device=device)
        attend = RaggedAttention(lengths, device=device)
        hidden = self.trunk(flat, positions(lengths).to(device), attend)
        rewards: Tensor = self.score(hidden[torch.tensor(lengths).cumsum(0) - 1])[:, 0].float()
        return rewards

    async def rate(self, task: Task, answer: str) -> float:
        """The reward of an answer to a task, for `verify.judge.RewardModelJudge`."""
        reply = Message(role="assistant", content=answer)
        with torch.no_grad():
            return float(self([self.encode([*task.messages, reply])])[0])

    def save(self, directory: Path) -> None:
        """Write a new checkpoint directory in Hugging Face's layout."""
        shape = self.trunk.config
        dtype = self.score.weight.dtype
        config = checkpoint.config_json(shape, dtype, self.tokenizer)
        labels = {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
        tensors = {
            name: weight.detach().contiguous()
            for name, weight in self.trunk.named_parameters()
            if name.startswith("model.")
        }
        partial = directory.with_name(f".{directory.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)  # what a killed process left
            partial.mkdir(parents=True)
            text = json.dumps({**config, "architectures": [ARCHITECTURE], **labels}, indent=2)
            (partial / "config.json").write_text(text)
            save_file(
                {**tensors, HEAD: self.score.weight.detach()},
                partial / checkpoint.WEIGHTS,
                metadata={"format": "pt"},
            )
            self.tokenizer.save(partial)
            partial.rename(directory)
        except (OSError, SafetensorError) as error:
            raise OpenQwQError(
                f"cannot save to {directory} ({error}): free space or choose another"
            ) from error

    @classmethod
    def load(cls, directory: Path) -> "RewardModel":
        """Read what `save` wrote; raises OpenQwQError naming what is missing or damaged."""
        path = directory / "config.json"
        try:
            config: dict[str, Any] = json.loads(path.read_text())
            with safe_open(directory / checkpoint.WEIGHTS, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, SafetensorError) as error:
            raise OpenQwQError(f"cannot read reward model {directory} ({error})") from error
        if config.get("architectures") != [ARCHITECTURE]:
            raise OpenQwQError(
                f"{path} has architectures = {config.get('architectures')!r}: a reward model's is "
                f"[{ARCHITECTURE!r}]"
            )
        families = {family: name for name, family in checkpoint.ARCHITECTURES.items()}
        policy = families.get(config.get("model_type", "qwen2"), "Qwen2ForCausalLM")
        as_policy = {**config, "architectures": [policy], "tie_word_embeddings": True}
        trunk = checkpoint.empty_model(checkpoint.parse_config(as_policy, str(path)))
        head = tensors.pop(HEAD, None)
        checkpoint.check_names(str(directory), checkpoint.needed_names(trunk), tensors.keys())
        if head is None:
            raise OpenQwQError(f"{directory} lacks the tensor {HEAD}: it is no reward model")
        model = cls(checkpoint.fill(trunk, tensors), Tokenizer.load(directory))
        with torch.no_grad():
            model.score.weight.copy_(head)
        return model


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, centre: float = 0.0) -> Tensor:
    """-log sigmoid(chosen - rejected), mean over pairs (pairs,), plus `centre` x (sum of both)².

    The second term (Eisenstein et al., arXiv 2312.09244) fixes what differences leave open: where
    zero is. A sigmoid of a single reward needs it.
    """
    return (-F.logsigmoid(chosen - rejected) + centre * (chosen + rejected).square()).mean()


def train_reward_model(
    model: RewardModel,
    pairs: Sequence[Pair],
    config: RewardModelStage,
    seed: int,
    progress: Progress,
) -> list[dict[str, float]]:
    """Fit `model` to `pairs`; returns the loss and rate of each step. The same every time."""
    settings = config.optimiser
    betas = settings.beta1, settings.beta2
    (optimiser,) = build_optimisers(model, "adamw", settings.lr, betas, settings.weight_decay)
    per_epoch = math.ceil(len(pairs) / config.batch_size)
    epochs = max(1, round(config.epochs))
    total = epochs * per_epoch
    encoded = [(model.encode(pair.chosen), model.encode(pair.rejected)) for pair in pairs]
    log: list[dict[str, float]] = []
    for epoch in range(epochs):
        order = random.Random(f"reward model/{seed}/{epoch}").sample(range(len(pairs)), len(pairs))
        for first in range(0, len(pairs), config.batch_size):
            batch = [encoded[i] for i in order[first : first + config.batch_size]]
            rewards = model([chat for sides in batch for chat in sides])
            loss = bradley_terry_loss(rewards[::2], rewards[1::2], config.centre)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            warm = min(1.0, (len(log) + 1) / max(1, settings.warmup_steps))
            rate = settings.lr * warm * (1 - len(log) / total)
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            log.append({"loss": loss.item(), "lr": rate})
        progress(epoch + 1, log[-1])
    return log


@dataclass(frozen=True)
class PreferenceReport:
    """How a reward model does on pairs it was not trained on; NaN where there is nothing to count.

    `calibration_error` (ECE, ten bins) and `brier` are of sigmoid(margin). `length_correlation` is
    Pearson's, of reward and answer length in tokens; the last two accuracies are over the pairs
    whose chosen answer is the shorter and the longer one: a model that likes length is bad at the
    first. `bins` are (mean confidence, accuracy, pairs) of the calibration's bins that hold any.
    """

    pairs: int
    accuracy: float
    calibration_error: float
    brier: float
    length_correlation: float
    accuracy_where_shorter_is_chosen: float
    accuracy_where_longer_is_chosen: float
    bins: tuple[tuple[float, float, int], ...]


def judge_pairs(
    model: RewardModel, pairs: Sequence[Pair], batch_size: int = 64
) -> PreferenceReport:
    """Rate both sides of every pair and summarise."""
    rewards: list[tuple[float, float]] = []
    with torch.no_grad():
        for first in range(0, len(pairs), batch_size):
            chats = [c for p in pairs[first : first + batch_size] for c in (p.chosen, p.rejected)]
            values = model([model.encode(chat) for chat in chats]).tolist()
            rewards += zip(values[::2], values[1::2], strict=True)
    lengths = [
        (_length(model.tokenizer, p.chosen), _length(model.tokenizer, p.rejected)) for p in pairs
    ]
    return preference_report(rewards, lengths)


def preference_report(
    rewards: Sequence[tuple[float, float]], lengths: Sequence[tuple[int, int]]
) -> PreferenceReport:
    """The summary of (chosen, rejected) rewards and answer lengths in tokens."""
    margins = [chosen - rejected for chosen, rejected in rewards]
    right = [float(margin > 0) for margin in margins]
    likely = [1 / (1 + math.exp(-max(-50.0, min(50.0, margin)))) for margin in margins]
    bins: dict[int, list[tuple[float, float]]] = {}
    for probability, correct in zip(likely, right, strict=True):
        confidence = max(probability, 1 - probability)
        bins.setdefault(min(BINS - 1, int(2 * BINS * (confidence - 0.5))), []).append(
            (confidence, correct)
        )
    summary = [
        (_mean([c for c, _ in members]), _mean([r for _, r in members]), len(members))
        for _, members in sorted(bins.items())
    ]
    flat = [r for pair in rewards for r in pair], [float(n) for pair in lengths for n in pair]
    varied = all(len(set(values)) > 1 for values in flat)
    shorter = [r for r, (a, b) in zip(right, lengths, strict=True) if a < b]
    longer = [r for r, (a, b) in zip(right, lengths, strict=True) if a > b]
    return PreferenceReport(
        pairs=len(rewards),
        accuracy=_mean(right),
        calibration_error=_mean([abs(c - a) for c, a, n in summary for _ in range(n)]),
        brier=_mean([(1 - p) ** 2 for p in likely]),
        length_correlation=correlation(*flat) if varied else math.nan,
        accuracy_where_shorter_is_chosen=_mean(shorter),
        accuracy_where_longer_is_chosen=_mean(longer),
        bins=tuple(summary),
    )


def report_json(report: PreferenceReport) -> Mapping[str, Any]:
    """The report as plain data; NaN becomes null, which JSON has."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in asdict(report).items()
    }


def _length(tokenizer: Tokenizer, chat: Sequence[Message]) -> int:
    return len(tokenizer.encode(chat[-1]["content"]))


def _mean(values: Sequence[float]) -> float:
    return mean(values) if values else math.nan
