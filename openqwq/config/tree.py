"""The root of a run's settings, and its tables: data, engine, sandbox, evaluation, cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from openqwq.config.stages import Stage
from openqwq.types import Device, Precision


@dataclass(frozen=True)
class ShapeConfig:
    """The shape of a model made from nothing; its vocabulary is the tokenizer's."""

    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rope_theta: float = 10_000.0
    max_position_embeddings: int = 512


@dataclass(frozen=True)
class TokenizerConfig:
    """A byte-level BPE trained on the training splits of all staged data.

    `like` takes that of a model (directory, GGUF file or hub id) in its place, so that a student
    made from nothing shares its teacher's vocabulary.
    """

    like: str = ""
    vocab_size: int = 400
    tasks_per_table: int = 500


@dataclass(frozen=True)
class DataConfig:
    """One `[data.NAME]` table: what is asked, and how it is judged.

    Exactly one origin: `rows` (a file, or `hf://datasets/OWNER/NAME@REVISION/path`), `source` (a
    generator by name, or `file.py:function`), or an `environment` that has tasks of its own.
    Templates substitute `{column}`; a lone `"{column}"` passes the column's value on as it is.
    """

    rows: str = ""
    source: str = ""
    # options of the source or the environment
    options: Mapping[str, Any] = field(default_factory=dict)
    # by name, `file.py:Class`, `verifiers:ENV_ID`; "none": without it
    environment: str = ""
    messages: str = ""  # template of the whole conversation
    prompt: str = ""
    system: str = ""
    answer: str = ""
    answer_pattern: str = ""  # a regular expression: its last match, group 1
    solution: str = ""  # template of a worked completion, thinking included
    tests: str = ""  # template of hidden tests
    rules: str = ""  # template of verifiable instructions
    tools: str = ""  # template of tool specifications
    chosen: str = ""  # templates of the two answers of a preference
    rejected: str = ""
    verifier: str = ""  # a judge by name, or `file.py:function`; none: by what the row has
    held_out: str | float | None = None  # a file, or a share split by content hash
    limit: int | None = None  # training rows, in file order
    max_turns: int | None = None  # replies in an episode; none: the stage's


@dataclass(frozen=True)
class EngineConfig:
    """What the engine runs at once; see `engine.EngineLimits`."""

    slots: int = 0  # 0: as many as a third of the free memory holds, at most 256
    max_length: int = 0  # tokens of prompt and reply; 0: what the data and the stages need
    prefill_tokens: int = 4096
    lanes: int = 16


@dataclass(frozen=True)
class SandboxConfig:
    """Where programs run: on this machine, at an isolation level that must be named to be lower.

    A program that a task gives no limits of its own may use these, for each test: seconds, and
    bytes of address space and of output. `packages` are installed ones that it may import, or
    directories of packages.
    """

    workers: int = 2
    level: Literal["full", "no-landlock"] = "full"
    wall_seconds: float = 10.0
    cpu_seconds: float = 10.0
    memory_bytes: int = 512 * 2**20
    output_bytes: int = 2**20
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationConfig:
    """How held-out problems are asked, unless a stage says otherwise."""

    data: tuple[str, ...] = ()  # none: every staged table with held-out problems
    limit: int = 100  # problems of each table
    samples: int = 4
    temperature: float = 1.0
    max_tokens: int | None = None  # none: the largest of the RL stages', else 1,024
    seed: int = 1234
    benchmark_data: str = ""  # a folder of benchmarks; empty: the hub


@dataclass(frozen=True)
class ClusterConfig:
    """Who runs where on Ray; with `learners` 0 everything is in one process."""

    learners: int = 0  # ranks that share the trained weights
    samplers: int = 1
    sampler: Literal["torch", "vllm"] = "torch"  # the engine in each
    verifiers: int = 1
    address: str = ""  # of a running Ray cluster; empty: one is started on this machine
    cpus_per_actor: float = 1.0
    gpus_per_learner: float = 0.0
    gpus_per_sampler: float = 0.0
    threads_per_actor: int = 1  # of PyTorch
    mode: Literal["synchronous", "one_step_off", "asynchronous"] = "synchronous"
    max_staleness: int = 8  # asynchronous: updates a sample may be behind, at most
    timeout: float = 1800.0  # seconds that one call to an actor may take
    offload: bool = False  # shards in host memory


@dataclass(frozen=True)
class PlanConfig:
    """What `qwq train --plan` assumes of a cluster, or of one card, that is not there."""

    shape: ShapeConfig | None = None  # of the model, where its files are not at hand
    vocab_size: int = 152064
    gpu: Literal["A100", "H100", "H200", "B200"] = "H200"
    gpus_per_node: int = 8
    mean_completion: float = 0.4  # share of an RL stage's max_tokens
    memory_gib: float = 0.0  # of a run in one process; 0: what is free on this machine
    verdict_seconds: float = 0.02  # of one verifier actor for one completion


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    seed: int = 0
    # directory, GGUF file or hub id (id@revision); none: fresh weights of `shape`
    model: str = ""
    # How a model that has no think tokens writes its thinking: tags as text, or two new tokens.
    thinking: Literal["text", "tokens"] = "text"
    precision: Precision = "fp32"  # of products; auto: the faster one here
    threads: int = 0  # of PyTorch; 0: as many as cores
    device: Device = "cpu"  # of a run in one process
    # RL's sampler and learner agree on log-probs to the last bit
    deterministic: bool = False
    recompute: bool = False  # keep only the layers' inputs for the backward pass
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    shape: ShapeConfig | None = None
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: Mapping[str, DataConfig] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    engine: EngineConfig = EngineConfig()
    sandbox: SandboxConfig = SandboxConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    cluster: ClusterConfig = ClusterConfig()
    plan: PlanConfig = PlanConfig()

    def stage(self, name: str) -> Stage:
        """The stage called `name`; KeyError if there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def staged_data(self) -> list[str]:
        """The tables that stages train on, each once, in the order of their first use."""
        names: dict[str, None] = {}
        for stage in self.stages:
            names |= dict.fromkeys(stage.data)
        return list(names)
