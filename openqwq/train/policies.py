"""Where a stage's weights come from, and where its result is saved."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from openqwq.config import Config, ShapeConfig, Stage
from openqwq.model import checkpoint, lora
from openqwq.model.fit import read_subject
from openqwq.model.lora import TARGETS, Adapter, AdapterShape
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.tasks.table import DataTable
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import SPECIAL_TOKENS, TEXT_TOKENS, Tokenizer
from openqwq.train.learner import Learner
from openqwq.train.packing import MicroBatch
from openqwq.train.prepare import BEST, START, Prepared
from openqwq.train.run import Run
from openqwq.train.sft import encode_examples
from openqwq.train.think_tokens import shape_with_rows, with_rows, with_setting
from openqwq.types import OpenQwQError


def open_tokenizer(run: Run, prepared: Prepared) -> Tokenizer:
    """The tokenizer of the run's model; a fresh one is trained the first time."""
    config = run.config
    if config.model:
        return with_setting(base_tokenizer(config), config)
    directory = run.directory / "tokenizer"
    if (directory / "tokenizer_config.json").exists():
        return Tokenizer.load(directory)
    tokenizer = fresh_tokenizer(config, prepared.tables)
    tokenizer.save(directory)
    return tokenizer


def base_tokenizer(config: Config) -> Tokenizer:
    """The tokenizer that came with the run's model."""
    from openqwq.engine.open import load_tokenizer, locate

    return load_tokenizer(locate(base_of_adapter(config.model) or config.model))


def fresh_tokenizer(config: Config, tables: Mapping[str, DataTable]) -> Tokenizer:
    """A tokenizer trained on the training splits of all staged tables, or a named model's."""
    if config.tokenizer.like:
        from openqwq.engine.open import load_tokenizer, locate

        return load_tokenizer(locate(config.tokenizer.like, weights=False))
    return Tokenizer.train(_training_texts(config, tables), config.tokenizer.vocab_size)


def _training_texts(config: Config, tables: Mapping[str, DataTable]) -> list[str]:
    """Whole examples of all staged tables, as the template renders them, without its markers.

    Prompts of tools are mostly template, so the tasks' own text would not do. Rows without a reply
    give their prompt.
    """
    in_bytes = Tokenizer.train([], 256 + len(SPECIAL_TOKENS + TEXT_TOKENS))
    markers = set(in_bytes.added_tokens.values())
    limit = config.tokenizer.tasks_per_table
    texts: list[str] = []
    for name in config.staged_data():
        table = tables[name]
        size = limit if table.size is None else min(limit, table.size)
        for number in islice(range(size), limit):
            task = table.draw(number, str(config.seed))
            if task.demonstration or task.solution is not None:
                rendered = [ids for ids, _ in encode_examples(in_bytes, task)]
            else:
                rendered = [encode_chat(in_bytes, task.messages, task.tools)]
            for ids in rendered:
                texts.append(in_bytes.decode(i for i in ids if i not in markers))
    return texts


class RunPlace(Protocol):
    """What says where a run's policies are: a `Run`, or what of it is sent to another node."""

    @property
    def directory(self) -> Path:
        """The run's."""
        ...

    @property
    def config(self) -> Config:
        """The run's."""
        ...


@dataclass(frozen=True)
class LoadedPolicy:
    """A model, with the adapter that hangs on it if there is one.

    `base` is what the adapter's directory names as its base: a hub id, or a path. `stored` is the
    checkpoint that the weights are of, where they are as they were read.
    """

    model: Qwen2
    base: str
    adapter: Adapter | None = None
    stored: Path | None = None


@dataclass(frozen=True)
class PolicyFiles:
    """Where a policy is read from: its `base` (`start`: fresh weights), and its adapter."""

    base: str
    adapter: Path | None = None


def files_of(run: RunPlace, origin: str) -> PolicyFiles:
    """Where what `origin` names is: `start`, a stage of the run, `STAGE:best`, or a path."""
    config = run.config
    if origin == START and not config.model:
        return PolicyFiles(START)
    place = config.model if origin == START else origin
    saved = run.directory / origin.replace(BEST, best_of(""))
    if origin != START and saved.exists():
        place = str(saved.resolve())
    base = base_of_adapter(place)
    if base is None:
        return PolicyFiles(place)
    return PolicyFiles(base, Path(place))


def shape_of(run: RunPlace, origin: str, tokenizer: Tokenizer) -> ModelConfig:
    """The shape of what `load_policy` loads, read from its header alone."""
    from openqwq.engine.open import locate

    files = files_of(run, origin)
    if files.base == START:
        return fresh_config(run.config.shape or ShapeConfig(), tokenizer)
    shape = read_subject(locate(files.base, weights=False)).config
    if _lacks_rows(run, origin, files, tokenizer):
        shape = shape_with_rows(shape, tokenizer)
    return shape


def load_policy(
    run: RunPlace, origin: str, tokenizer: Tokenizer, mapped: bool = False
) -> LoadedPolicy:
    """What `origin` names (see `files_of`), in fp32.

    An adapter's directory gives its base with the adapter attached. Weights that are `mapped` stay
    in their checkpoint, in its type, and take no memory.
    """
    files = files_of(run, origin)
    if files.base == START:
        shape = run.config.shape or ShapeConfig()
        return LoadedPolicy(fresh_model(shape, tokenizer, run.config.seed), START)

    model, stored = _load_weights(files.base, mapped)
    if _lacks_rows(run, origin, files, tokenizer):
        model = with_rows(model.float(), tokenizer)
        stored = None
    if files.adapter is None:
        return LoadedPolicy(model, files.base, None, stored)
    adapter = lora.load(files.adapter, model)
    lora.attach(model, adapter)
    return LoadedPolicy(model, files.base, adapter, stored)


def _lacks_rows(
    run: RunPlace, origin: str, files: PolicyFiles, tokenizer: Tokenizer
) -> bool:
    """Whether a base has no rows yet for the think tokens of the run's tokenizer."""
    if run.config.thinking == "text" or origin != START or files.adapter is not None:
        return False
    return tokenizer.think_open_id != base_tokenizer(run.config).think_open_id


def for_stage(
    run: RunPlace, stage: Stage, policy: LoadedPolicy, tokenizer: Tokenizer
) -> LoadedPolicy:
    """The policy as a stage trains it: whole, with a fresh adapter, or with the one it has.

    An adapter that is not continued is merged into the weights first, which are then saved as
    `STAGE.base`, so that the next adapter's base is on disk. Raises OpenQwQError for
    `lora = "continue"` without an adapter.
    """
    config = stage.lora
    if config == "continue":
        if policy.adapter is None:
            raise OpenQwQError(
                f"stages.{stage.name}.lora is 'continue', but {policy.base} has no adapter: give a "
                "rank"
            )
        return policy

    model = policy.model
    base = policy.base
    stored = policy.stored
    if policy.adapter is not None:
        lora.detach(model)
        lora.merge(model, policy.adapter)
        stored = None
    if config is None:
        model.requires_grad_(True)
        return LoadedPolicy(model, base, None, stored)

    if policy.adapter is not None or base == START:
        stored = (run.directory / f"{stage.name}.base").resolve()
        if not stored.exists():
            checkpoint.save(model, stored, tokenizer)
        base = str(stored)
    shape = AdapterShape(config.rank, config.alpha, config.targets or TARGETS)
    generator = torch.Generator().manual_seed(run.config.seed)
    adapter = lora.fresh(model, shape, generator, base)
    lora.attach(model, adapter)
    return LoadedPolicy(model, base, adapter, stored)


def base_of_adapter(place: str) -> str | None:
    """The base that a PEFT directory names; None for anything else."""
    path = Path(place) / lora.CONFIG
    if not path.exists():
        return None
    config = json.loads(path.read_text("utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise OpenQwQError(
            f"{path} names no base_model_name_or_path: write the adapter's base there"
        )
    return str(base)


def _load_weights(place: str, mapped: bool) -> tuple[Qwen2, Path | None]:
    """The model, and the checkpoint that it is read from unless that is a GGUF file."""
    from openqwq.engine.open import locate
    from openqwq.model import gguf

    source = locate(place)
    if source.is_file():
        return gguf.load(source), None
    dtype = None if mapped else torch.float32
    return checkpoint.load(source, dtype), source.resolve()


def require_one_vocabulary(run: RunPlace, name: str, tokenizer: Tokenizer) -> None:
    """Raise OpenQwQError where the teacher `name` cannot score the student's tokens.

    Its own tokenizer must give every id the same text; padding rows at the end do not matter.
    """
    from openqwq.engine.open import load_tokenizer, locate

    base = files_of(run, name).base
    own = tokenizer
    if base != START:
        own = load_tokenizer(locate(base, weights=False))
    same = own.vocab_size == tokenizer.vocab_size
    same = same and own.added_tokens == tokenizer.added_tokens
    ids = range(tokenizer.vocab_size) if same else ()
    if not same or any(own.token_bytes(i) != tokenizer.token_bytes(i) for i in ids):
        raise OpenQwQError(
            f"the teacher {name} has another vocabulary than the student: tokens cannot be "
            "compared; name a teacher of the same family, or use qwq collect and an sft stage"
        )


def fresh_model(shape: ShapeConfig, tokenizer: Tokenizer, seed: int) -> Qwen2:
    """A model of `shape` with random weights, its output projection tied to its embedding."""
    model = Qwen2(fresh_config(shape, tokenizer))
    model.initialise(torch.Generator().manual_seed(seed))
    return model


def fresh_config(shape: ShapeConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The shape of a fresh model, whose vocabulary is the tokenizer's."""
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        head_dim=shape.hidden_size // shape.num_attention_heads,
        tie_word_embeddings=True,
        **asdict(shape),
    )


def best_of(stage: str) -> str:
    """The directory of a stage's best policy."""
    return f"{stage}.best"


class AdapterAsItWas:
    """The policy with the adapter as it is now, for a KL penalty while the adapter changes."""

    def __init__(self, learner: Learner, adapter: Adapter) -> None:
        self._learner = learner
        self._adapter = adapter
        self._then = _values(adapter)

    def log_probs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """See `Learner.log_probs`; without gradients."""
        now = _values(self._adapter)
        self._adapter.load(self._then)
        try:
            with torch.no_grad():
                return self._learner.log_probs(batch)
        finally:
            self._adapter.load(now)


def _values(adapter: Adapter) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in adapter.named_parameters()}
