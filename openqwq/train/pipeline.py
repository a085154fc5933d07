"""From nothing to a reasoning model: tokenizer, cold start, stage 1, held-out evaluation."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch

from openqwq.config import Config, EngineConfig
from openqwq.engine.engine import Engine, EngineLimits
from openqwq.model import checkpoint
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.sandbox.local import LocalSandbox
from openqwq.tasks.evaluate import Outcome
from openqwq.tasks.mix import build_source
from openqwq.tasks.source import Source, distinct, draw_tasks
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.curriculum import Curriculum
from openqwq.train.learner import Learner
from openqwq.train.progress import Display
from openqwq.train.rl import Trainer
from openqwq.train.rollout import Sampler
from openqwq.train.run import Run, write_atomically
from openqwq.train.sft import train_sft
from openqwq.types import OpenQwQError, SamplingParams, Verifier
from openqwq.verify.code import CodeVerifier
from openqwq.verify.math import MathVerifier


async def run_stages(run: Run, display: Display) -> None:
    """Every stage that the run has not finished yet, in order."""
    config = run.config
    if config.stage2.steps:
        raise OpenQwQError(f"stage2.steps is {config.stage2.steps}: stage 2 is not built; set 0")
    torch.set_num_threads(config.threads or torch.get_num_threads())
    sources = [(build_source(entry), entry.weight) for entry in config.tasks]
    tokenizer = prepare_tokenizer(run, [source for source, _ in sources])
    async with AsyncExitStack() as stack:
        pipeline = Pipeline(run, display, sources, tokenizer, await _verifiers(config, stack))
        model = pipeline.cold_start()
        await pipeline.evaluate("sft", model)
        model = await pipeline.reinforce(model)
        await pipeline.evaluate("stage1", model)


async def _verifiers(config: Config, stack: AsyncExitStack) -> dict[str, Verifier]:
    sandbox = await stack.enter_async_context(
        LocalSandbox(config.sandbox.workers, config.sandbox.level)
    )
    math = await stack.enter_async_context(MathVerifier())
    verifiers: dict[str, Verifier] = {"math": math, "code": CodeVerifier(sandbox)}
    if any(entry.source == "gym" for entry in config.tasks):
        from openqwq.tasks.gym import GymVerifier

        verifiers["gym"] = GymVerifier()
    return verifiers


def prepare_tokenizer(run: Run, sources: Sequence[Source]) -> Tokenizer:
    """The run's tokenizer, trained on its own tasks the first time."""
    directory, config = run.directory / "tokenizer", run.config
    if (directory / "tokenizer_config.json").exists():
        return Tokenizer.load(directory)
    texts = [
        f"user\n{task.messages[-1]['content']}\nassistant\n{task.solution}"
        for source in sources
        for task in islice(
            draw_tasks(source, "train", config.seed), config.tokenizer.tasks_per_source
        )
    ]
    tokenizer = Tokenizer.train(texts, config.tokenizer.vocab_size)
    tokenizer.save(directory)
    return tokenizer


def engine_limits(config: EngineConfig) -> EngineLimits:
    """The engine's own record of its limits."""
    return EngineLimits(**asdict(config))


@dataclass(frozen=True)
class Pipeline:
    """The stages, each of which is skipped where its result is on disk already."""

    run: Run
    display: Display
    sources: list[tuple[Source, float]]
    tokenizer: Tokenizer
    verifiers: dict[str, Verifier]

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
        learner = Learner(model, config.sft.optimiser, config.sft.steps)
        curriculum = Curriculum(self.sources, f"{config.seed}/sft", config.sft.thinking_share)
        with run.timed("cold start"), self.display.stage("cold start", config.sft.steps) as bar:
            train_sft(run, learner, self.tokenizer, curriculum, bar)
        self._save("sft", model)
        return model

    async def reinforce(self, model: Qwen2) -> Qwen2:
        """Stage 1: RL on the task mix with its verifiers."""
        run, config = self.run, self.run.config
        if (saved := self._saved("stage1")) is not None:
            return saved
        engine = self._engine(model)
        trainer = Trainer(
            run,
            Learner(model, config.rl.optimiser, config.rl.steps),
            Sampler(engine, self.tokenizer, self.verifiers),
            engine,
            Curriculum(self.sources, f"{config.seed}/rl"),
        )
        try:
            with run.timed("stage 1"), self.display.stage("RL stage 1", config.rl.steps) as bar:
                await trainer.train(bar)
        finally:
            engine.close()
        self._save("stage1", model)
        return model

    async def evaluate(self, name: str, model: Qwen2) -> None:
        """Judge completions of held-out problems and save every one of them."""
        path = self.run.directory / "evaluation" / f"{name}.json"
        if path.exists():
            return
        config = self.run.config.evaluation
        engine = self._engine(model)
        sampler = Sampler(engine, self.tokenizer, self.verifiers)
        params = SamplingParams(
            config.temperature,
            top_p=1.0,
            top_k=0,
            max_tokens=self.run.config.rl.max_tokens,
            stop_token_ids=self.tokenizer.eos_ids,
        )
        outcomes: list[Outcome] = []
        title = f"evaluate {name}"
        try:
            with self.run.timed(title), self.display.stage(title, len(self.sources)) as bar:
                for done, (source, _) in enumerate(self.sources, 1):
                    outcomes += await self._outcomes(source, sampler, params)
                    bar(done, {"problems": len(outcomes) / config.samples})
        finally:
            engine.close()
        path.parent.mkdir(exist_ok=True)
        record = {"checkpoint": name, "outcomes": [asdict(o) for o in outcomes]}
        write_atomically(path, json.dumps(record, indent=1).encode())

    async def _outcomes(
        self, source: Source, sampler: Sampler, params: SamplingParams
    ) -> list[Outcome]:
        config = self.run.config.evaluation
        tasks = distinct(draw_tasks(source, "held_out", config.seed), config.problems)
        seeded = [
            SamplingParams(**{**asdict(params), "seed": config.seed + 1000 * i})
            for i in range(len(tasks))
        ]
        groups = await asyncio.gather(
            *(
                sampler.attempts(task, own, config.samples)
                for task, own in zip(tasks, seeded, strict=True)
            )
        )
        return [
            Outcome(
                a.task.id,
                a.task.kind,
                a.task.messages[-1]["content"],
                a.text,
                a.score.value,
                a.score.status,
                a.completion.reasoning_tokens,
            )
            for group in groups
            for a in group
        ]

    def _engine(self, model: Qwen2) -> Engine:
        own = Qwen2(model.config)
        own.load_state_dict(model.state_dict())
        return Engine(own, self.tokenizer, engine_limits(self.run.config.engine))

    def _saved(self, name: str) -> Qwen2 | None:
        directory = self.run.directory / name
        return checkpoint.load(directory) if directory.exists() else None

    def _save(self, name: str, model: Qwen2) -> Path:
        directory = self.run.directory / name
        checkpoint.save(model, directory, self.tokenizer)
        return directory
