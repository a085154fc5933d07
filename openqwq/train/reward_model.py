"""A Bradley-Terry reward model: the policy's own trunk, one number read at a chat's last token.

Trained so that sigmoid(r(chosen) - r(rejected)) is the probability of the preference (Ouyang et
al., arXiv 2203.02155). A saved one opens in transformers as Qwen2ForSequenceClassification.
"""

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from openqwq.config import RewardModelStage
from openqwq.data.files import new_directory
from openqwq.evaluation.progress import Progress
from openqwq.model import checkpoint
from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.qwen2 import Qwen2
from openqwq.model.tensor_file import write_tensors
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.optimiser import build_optimisers, rate_at
from openqwq.types import Message, OpenQwQError, Pair, Task

ARCHITECTURE, HEAD = "Qwen2ForSequenceClassification", "score.weight"
EncodedPair = tuple[list[int], list[int]]  # chosen and rejected


class RewardModel(nn.Module):
    """`trunk` (its output projection unused) under a scalar head without bias."""

    def __init__(self, trunk: Qwen2, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.trunk = trunk
        self.tokenizer = tokenizer
        self.score = nn.Linear(trunk.config.hidden_size, 1, bias=False, device=trunk.device)
        nn.init.zeros_(self.score.weight)

    def encode(self, chat: Sequence[Message]) -> list[int]:
        """A whole chat as the token ids that `forward` reads."""
        return encode_chat(self.tokenizer, chat, add_generation_prompt=False)

    def forward(self, chats: Sequence[Sequence[int]]) -> Tensor:
        """Rewards of encoded chats, (chats,) fp32, each read at its last token."""
        lengths: list[int] = []
        token_ids: list[int] = []
        for ids in chats:
            lengths.append(len(ids))
            token_ids += ids
        device = self.score.weight.device
        flat = torch.tensor(token_ids, device=device)
        attend = RaggedAttention(lengths, device=device)
        hidden = self.trunk(flat, positions(lengths).to(device), attend)

        lasts = torch.tensor(lengths).cumsum(0) - 1
        rewards: Tensor = self.score(hidden[lasts])[:, 0].float()
        return rewards

    async def rate(self, task: Task, answer: str) -> float:
        """The reward of an answer to a task, for `verify.judge.RewardModelJudge`."""
        reply = Message(role="assistant", content=answer)
        with torch.no_grad():
            return float(self([self.encode([*task.messages, reply])])[0])

    def save(self, directory: Path) -> None:
        """Write a new checkpoint directory in Hugging Face's layout."""
        config = checkpoint.config_json(
            self.trunk.config, self.score.weight.dtype, self.tokenizer
        )
        config["architectures"] = [ARCHITECTURE]
        config |= {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
        tensors = {HEAD: self.score.weight.detach()}
        for name, weight in self.trunk.named_parameters():
            if name.startswith("model."):
                tensors[name] = weight.detach()
        with new_directory(directory) as folder:
            (folder / "config.json").write_text(json.dumps(config, indent=2))
            write_tensors(tensors, tensors.items(), folder / checkpoint.WEIGHTS)
            self.tokenizer.save(folder)

    @classmethod
    def load(cls, directory: Path) -> "RewardModel":
        """Read what `save` wrote; raises OpenQwQError naming what is missing or damaged."""
        path = directory / "config.json"
        try:
            config: dict[str, Any] = json.loads(path.read_text())
            tensors = load_file(directory / checkpoint.WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise OpenQwQError(f"cannot read reward model {directory} ({error})") from error
        if config.get("architectures") != [ARCHITECTURE]:
            raise OpenQwQError(
                f"{path} has architectures = {config.get('architectures')!r}: a reward model's is "
                f"[{ARCHITECTURE!r}]"
            )
        shape = checkpoint.parse_config(_as_policy(config), str(path))
        trunk = checkpoint.empty_model(shape)
        head = tensors.pop(HEAD, None)
        checkpoint.check_names(
            str(directory), checkpoint.needed_names(trunk), tensors.keys()
        )
        if head is None:
            raise OpenQwQError(
                f"{directory} lacks the tensor {HEAD}: it is not a reward model"
            )
        model = cls(checkpoint.fill(trunk, tensors), Tokenizer.load(directory))
        with torch.no_grad():
            model.score.weight.copy_(head)
        return model


def _as_policy(config: Mapping[str, Any]) -> dict[str, Any]:
    """The description of the policy whose trunk a reward model has."""
    family = config.get("model_type", "qwen2")
    architecture = "Qwen2ForCausalLM"
    for name, known in checkpoint.ARCHITECTURES.items():
        if known == family:
            architecture = name
    return {**config, "architectures": [architecture], "tie_word_embeddings": True}


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
    """Fit `model` to `pairs`; returns the loss and rate of each step. The same every time.

    The last pass is a part of one where `epochs` has a fraction.
    """
    settings = config.optimiser
    betas = (settings.beta1, settings.beta2)
    optimisers = build_optimisers(
        model, settings.name, settings.lr, betas, settings.weight_decay
    )
    encoded = [(model.encode(pair.chosen), model.encode(pair.rejected)) for pair in pairs]
    batches = _batches(len(pairs), config, seed)
    progress(0, {})
    log: list[dict[str, float]] = []
    for epoch, places in batches:
        batch = [encoded[place] for place in places]
        loss = 0.0
        for part in _micro_batches(batch, settings.max_tokens_per_micro_batch):
            rewards = model(list(chain.from_iterable(part)))
            mean = bradley_terry_loss(rewards[::2], rewards[1::2], config.centre)
            share = mean * (len(part) / len(batch))
            share.backward()  # type: ignore[no-untyped-call]
            loss += share.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)

        rate = rate_at(settings, len(log), len(batches))
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        log.append({"loss": loss, "lr": rate})
        if len(log) == len(batches) or batches[len(log)][0] > epoch:
            progress(epoch + 1, log[-1])
    return log


def pairs_of_epochs(pairs: int, config: RewardModelStage) -> int:
    """How many pairs a stage's epochs over `pairs` are; raises OpenQwQError where it is none."""
    count = round(pairs * config.epochs)
    if not count:
        raise OpenQwQError(
            f"stages.{config.name}.epochs is {config.epochs:g}, which is none of the {pairs} "
            "pairs: raise it"
        )
    return count


def _batches(
    pairs: int, config: RewardModelStage, seed: int
) -> list[tuple[int, Sequence[int]]]:
    """Which pairs each step learns from, and in which epoch."""
    left = pairs_of_epochs(pairs, config)
    batches: list[tuple[int, Sequence[int]]] = []
    for epoch in range(math.ceil(config.epochs)):
        draws = random.Random(f"reward model/{seed}/{epoch}")
        order = draws.sample(range(pairs), pairs)[:left]
        left -= len(order)
        for first in range(0, len(order), config.batch_size):
            batches.append((epoch, order[first : first + config.batch_size]))
    return batches


def _micro_batches(
    batch: Sequence[EncodedPair], tokens: int
) -> Iterator[Sequence[EncodedPair]]:
    """The pairs in parts of at most `tokens` (0: any number), but for a pair that is longer."""
    part: list[EncodedPair] = []
    held = 0
    for chosen, rejected in batch:
        length = len(chosen) + len(rejected)
        if part and tokens and held + length > tokens:
            yield part
            part = []
            held = 0
        part.append((chosen, rejected))
        held += length
    yield part
