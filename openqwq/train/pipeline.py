"""From nothing to a reasoning model: tokenizer, cold start, RL in two stages, evaluation."""

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from openqwq.agent.environments import (
    CalculatorEnvironment,
    MazeEnvironment,
    StockroomEnvironment,
)
from openqwq.config import RlConfig
from openqwq.data.files import write_atomically
from openqwq.evaluation.evaluate import Outcome
from openqwq.model import checkpoint
from openqwq.model.device import chosen_device
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.tasks.mix import build_source
from openqwq.tasks.source import Source, distinct, draw_tasks
from openqwq.text.tokenizer import SPECIAL_TOKENS, TEXT_TOKENS, Tokenizer
from openqwq.train.curriculum import Curriculum
from openqwq.train.learner import Learner, PolicyLearner
from openqwq.train.placement import LocalPlacement, Placement
from openqwq.train.progress import Display
from openqwq.train.rollout import Sampler
from openqwq.train.run import Run
from openqwq.train.sft import encode_example, train_sft, turns
from openqwq.train.stage2 import (
    Mix,
    prepare_reward_model,
    stage2_mix,
    training_verifiers,
)
from openqwq.types import Generate, SamplingParams, Verifier

# Verifiers that are environments, and who judges the answer there.
ENVIRONMENTS = {"calculator": "math"}


async def run_stages(run: Run, display: Display, placement: Placement | None = None) -> None:
    """Every stage that the run has not finished yet, in order; RL happens where `placement` is."""
    placement = placement or LocalPlacement()
    config = run.config
    torch.set_num_threads(config.threads or torch.get_num_threads())
    first, second = (
        [(build_source(entry), entry.weight) for entry in tasks]
        for tasks in (config.tasks, config.stage2.tasks)
    )
    if config.stage2.steps:
        stage2_mix(first, second, config.stage2.replay_share)  # a mistake in it shows at once
    if config.model:
        tokenizer = take_over(run)
    else:
        tokenizer = prepare_tokenizer(run, [source for source, _ in first + second])
    async with AsyncExitStack() as stack:
        verifiers = dict(await placement.verifiers(config, stack))
        parts = run, display, first, second, tokenizer, verifiers, placement
        pipeline = Pipeline(*parts, chosen_device(config.device))
        model = pipeline.cold_start()
        await pipeline.evaluate("sft", model)
        model = await pipeline.reinforce(model)
        await pipeline.evaluate("stage1", model)
        if config.stage2.steps:
            model = await pipeline.generalise(model)
            await pipeline.evaluate("stage2", model)
            await pipeline.evaluate("without_tools", model)


def take_over(run: Run) -> Tokenizer:
    """The pretrained model that the run begins with, as its `sft`; returns its tokenizer."""
    target = run.directory / "sft"
    if not target.exists():
        from openqwq.engine.open import load_tokenizer, locate  # with libraries that a demo lacks
        from openqwq.model import gguf

        source = locate(run.config.model)
        model = gguf.load(source) if source.is_file() else checkpoint.load(source)
        checkpoint.save(model, target, load_tokenizer(source))
    return Tokenizer.load(target)


def prepare_tokenizer(run: Run, sources: Sequence[Source]) -> Tokenizer:
    """The run's tokenizer, trained on its own tasks the first time."""
    directory, config = run.directory / "tokenizer", run.config
    if (directory / "tokenizer_config.json").exists():
        return Tokenizer.load(directory)
    # Whole examples, as the template renders them: prompts of tools are mostly template.
    in_bytes = Tokenizer.train([], 256 + len(SPECIAL_TOKENS + TEXT_TOKENS))
    markers = set(in_bytes.added_tokens.values())
    texts = [
        in_bytes.decode(i for i in encode_example(in_bytes, turn)[0] if i not in markers)
        for source in sources
        for task in islice(
            draw_tasks(source, "train", config.seed), config.tokenizer.tasks_per_source
        )
        for turn in turns(task)
    ]
    tokenizer = Tokenizer.train(texts, config.tokenizer.vocab_size)
    tokenizer.save(directory)
    return tokenizer


@dataclass(frozen=True)
class Pipeline:
    """The stages, each of which is skipped where its result is on disk already."""

    run: Run
    display: Display
    first: Mix  # the sources of stage 1
    second: Mix  # those that stage 2 adds
    tokenizer: Tokenizer
    verifiers: dict[str, Verifier]
    placement: Placement
    device: torch.device

    def cold_start(self) -> Qwen2:
        """SFT from fresh weights."""
        run, config = self.run, self.run.config
        if (saved := self._saved("sft")) is not None:
            return saved
        shape = asdict(config.shape)
        head_dim = config.shape.hidden_size // config.shape.num_attention_heads
        model = Qwen2(
            ModelConfig(
                vocab_size=self.tokenizer.vocab_size,
                head_dim=head_dim,
                tie_word_embeddings=True,
                **shape,
            )
        )
        model.initialise(torch.Generator().manual_seed(config.seed))
        learner = Learner(model.to(self.device), config.sft.optimiser, config.sft.steps)
        curriculum = Curriculum(
            [*self.first, *self.second],
            f"{config.seed}/sft",
            config.sft.thinking_share,
            config.sft.tool_share,
        )
        with run.timed("cold start"), self.display.stage("cold start", config.sft.steps) as bar:
            train_sft(run, learner, self.tokenizer, curriculum, bar)
        self._save("sft", model)
        return model

    async def reinforce(self, model: Qwen2) -> Qwen2:
        """Stage 1: RL on the task mix with its verifiers."""
        run, config = self.run, self.run.config
        if (saved := self._saved("stage1")) is not None:
            return saved
        curriculum = Curriculum(self.first, f"{config.seed}/rl")
        place = self.placement
        with place.policy(run, "rl", model, self.tokenizer, config.rl) as (learner, generate, link):
            sampler, before = self._sampler(generate), _reference(model, config.rl)
            parts = config.rl, learner, sampler, link, curriculum
            trainer = place.trainer(run, *parts, reference=before)
            with run.timed("stage 1"), self.display.stage("RL stage 1", config.rl.steps) as bar:
                await trainer.train(bar)
            _take_weights(model, learner)
        self._save("stage1", model)
        return model

    async def generalise(self, model: Qwen2) -> Qwen2:
        """Stage 2: RL on instructions, preferences and tools, with problems of stage 1 replayed."""
        run, config = self.run, self.run.config.stage2
        if (saved := self._saved("stage2")) is not None:
            return saved
        place = self.placement
        with place.policy(run, "stage2", model, self.tokenizer, config) as policy:
            learner, generate, link = policy
            sampler = self._sampler(generate)
            tastes = [source for source, _ in self.second if source.verifier == "preference"]
            reward_model = None
            if tastes:
                with run.timed("reward model"), self.display.stage("reward model", 1) as bar:
                    reward_model = await prepare_reward_model(run, sampler, tastes, model)
                    bar(1, {})
            mix = stage2_mix(self.first, self.second, config.replay_share)
            judges = self.verifiers | training_verifiers(config, reward_model)
            trainer = place.trainer(
                run,
                config,
                learner,
                replace(sampler, verifiers=judges),
                link,
                Curriculum(mix, f"{run.config.seed}/stage2"),
                "stage2",
                _reference(model, config),
            )
            with run.timed("stage 2"), self.display.stage("RL stage 2", config.steps) as bar:
                await trainer.train(bar)
            _take_weights(model, learner)
        self._save("stage2", model)
        return model

    async def evaluate(self, name: str, model: Qwen2) -> None:
        """Judge attempts at held-out problems and save every one of them.

        `without_tools` is the ablation: the problems of sources with tools, asked without them.
        """
        path = self.run.directory / "evaluation" / f"{name}.json"
        if path.exists():
            return
        config = self.run.config.evaluation
        sources = [source for source, _ in (*self.first, *self.second)]
        if ablation := name == "without_tools":
            sources = [source for source in sources if source.verifier in ENVIRONMENTS]
        outcomes: list[Outcome] = []
        title = f"evaluate {name}"
        saved = "stage2" if ablation else name
        with self.placement.generator(self.run, saved, model, self.tokenizer) as generate:
            sampler = self._sampler(generate)
            with self.run.timed(title), self.display.stage(title, len(sources)) as bar:
                for done, source in enumerate(sources, 1):
                    outcomes += await self._outcomes(source, sampler, ablation)
                    bar(done, {"problems": len(outcomes) / config.samples})
        path.parent.mkdir(exist_ok=True)
        record = {"checkpoint": name, "outcomes": [asdict(o) for o in outcomes]}
        write_atomically(path, json.dumps(record, indent=1).encode())

    async def _outcomes(self, source: Source, sampler: Sampler, ablation: bool) -> list[Outcome]:
        config = self.run.config.evaluation
        tasks = distinct(draw_tasks(source, "held_out", config.seed), config.problems)
        if ablation:
            tasks = [replace(t, tools=(), verifier=ENVIRONMENTS[t.verifier]) for t in tasks]
        params = SamplingParams(
            config.temperature,
            top_p=1.0,
            top_k=0,
            max_tokens=self.run.config.rl.max_tokens,
            stop_token_ids=self.tokenizer.eos_ids,
        )
        requests = [
            (task, replace(params, seed=config.seed + 1000 * i)) for i, task in enumerate(tasks)
        ]
        groups = await sampler.groups(requests, config.samples)
        return [
            Outcome(
                a.task.id,
                a.task.kind,
                a.task.messages[-1]["content"],
                a.text,
                a.score.value,
                a.score.status,
                a.reasoning_tokens,
                len(a.completions),
            )
            for group in groups
            for a in group
        ]

    def _sampler(self, generate: Generate) -> Sampler:
        config, judges = self.run.config, self.verifiers
        return Sampler(
            generate,
            self.tokenizer,
            judges,
            {name: CalculatorEnvironment(judges[judge]) for name, judge in ENVIRONMENTS.items()}
            | {"stockroom": StockroomEnvironment(), "maze": MazeEnvironment()},
            config.stage2.max_turns,
            config.engine.max_length,
        )

    def _saved(self, name: str) -> Qwen2 | None:
        directory = self.run.directory / name
        return checkpoint.load(directory).to(self.device) if directory.exists() else None

    def _save(self, name: str, model: Qwen2) -> Path:
        directory = self.run.directory / name
        checkpoint.save(model, directory, self.tokenizer)
        return directory


def _reference(model: Qwen2, config: RlConfig) -> Learner | None:
    """The frozen policy of the KL penalty, where the config has one."""
    return Learner(deepcopy(model), config.optimiser, 0) if config.kl_coefficient else None


def _take_weights(model: Qwen2, learner: PolicyLearner) -> None:
    """The trained weights, which are elsewhere on a cluster."""
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for name, value in learner.named_params():
            parameters[name].copy_(value)
