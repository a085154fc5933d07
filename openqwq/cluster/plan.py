"""Does a cluster run fit, and how long is a step? Memory and time from the config alone.

Memory is counted; time is a roofline: products at a share of the peak, decoding at a share of the
memory bandwidth, traffic at a share of the links. The shares are `Efficiency`, and are printed.
"""

import math
from dataclasses import asdict, dataclass

from openqwq.cluster.transfer import BUCKET_BYTES
from openqwq.config import Config, LoraConfig, RlStage, ShapeConfig
from openqwq.engine.limits import EngineLimits
from openqwq.model.fit import parameter_counts
from openqwq.model.qwen2 import ModelConfig
from openqwq.train.plan import adapter_parameters
from openqwq.train.prepare import START
from openqwq.types import OpenQwQError

GB = 1e9
WARNINGS = {
    "push": "the push of weights takes most of a step: train an adapter, or give GPUs faster links",
    "longest": "the longest completion takes most of a step: choose cluster.mode = 'asynchronous', "
    "or a smaller max_tokens",
    "verdicts": "the verifiers take most of a step: raise cluster.verifiers",
}
LOGITS_BYTES = 2**27 * 4 * 3  # of one chunk: logits, their log-softmax, the gradient
RESERVE = 0.06  # of a GPU's memory: CUDA context, NCCL, fragmentation
MIN_SEQUENCES = 4  # that a sampler must hold at full length to be of use


@dataclass(frozen=True)
class Gpu:
    """A data sheet: memory in bytes, dense bf16 FLOP/s, memory and link bytes/s."""

    memory: float
    flops: float
    bandwidth: float
    nvlink: float
    network: float = 50 * GB  # 400 Gb/s a GPU


GPUS = {
    "A100": Gpu(80 * GB, 312e12, 2.0e12, 300 * GB, 25 * GB),
    "H100": Gpu(80 * GB, 989e12, 3.35e12, 450 * GB),
    "H200": Gpu(141 * GB, 989e12, 4.8e12, 450 * GB),
    "B200": Gpu(180 * GB, 2250e12, 8.0e12, 900 * GB),
}


@dataclass(frozen=True)
class Efficiency:
    """Shares of the data sheet that real runs reach (docs/cluster.md: where they are from)."""

    training: float = 0.35
    prefill: float = 0.45
    decode: float = 0.5
    links: float = 0.6


@dataclass(frozen=True)
class Plan:
    """One step of a run; bytes are of one GPU, seconds of the whole cluster."""

    parameters: int
    learner_bytes: dict[str, float]
    sampler_bytes: dict[str, float]
    concurrent: int  # completions that one sampler holds at once
    traffic: dict[str, float]  # bytes a step, of one learner GPU or into one sampler
    seconds: dict[str, float]
    step_seconds: float

    @property
    def bottleneck(self) -> str:
        """What most of a step is spent on."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def warning(self) -> str:
        """What to do where most of a step is spent on neither learning nor drawing; or nothing."""
        return WARNINGS.get(self.bottleneck, "")


def parameter_count(config: Config) -> int:
    """Of an untied Qwen2 of the config's shape."""
    return parameter_counts(_model(config))[0]


def _model(config: Config) -> ModelConfig:
    shape = _shape(config)
    head_dim = shape.hidden_size // shape.num_attention_heads
    return ModelConfig(_vocab_size(config), head_dim=head_dim, **asdict(shape))


def _adapter_count(config: Config) -> int:
    """Parameters of the stage's adapter; 0 where all weights are trained."""
    lora = _rl(config).lora
    if lora is None:
        return 0
    rank = LoraConfig().rank if lora == "continue" else lora.rank
    return adapter_parameters(_model(config), rank)


def _rl(config: Config) -> RlStage:
    """The stage that a plan is about: the first one that samples."""
    for stage in config.stages:
        if isinstance(stage, RlStage):
            return stage
    raise OpenQwQError(
        "a plan is about an rl stage, but the config has none: add one to [[stages]]"
    )


def _shape(config: Config) -> ShapeConfig:
    shape = config.plan.shape or config.shape
    if shape is None:
        raise OpenQwQError(
            f"a cluster's plan reads [plan.shape] and plan.vocab_size: give those of {config.model}"
        )
    return shape


def _vocab_size(config: Config) -> int:
    return config.plan.vocab_size if config.model else config.tokenizer.vocab_size


def _max_length(config: Config) -> int:
    """Tokens of prompt and reply; where none are set, prompts as long as a tenth of a reply."""
    return config.engine.max_length or round(1.1 * _rl(config).max_tokens)


def make_plan(config: Config) -> Plan:
    """Memory, traffic and time of one RL step; raises OpenQwQError where it does not fit."""
    for name in ("learners", "samplers"):
        if getattr(config.cluster, name) < 1:
            raise OpenQwQError(f"cluster.{name} is 0: a plan needs at least 1")
    gpu = GPUS[config.plan.gpu]
    parameters = parameter_count(config)
    learner = _learner_bytes(config, parameters)
    _require_fit("learner", learner, gpu.memory, "cluster.learners, or recompute = true")
    sampler, concurrent = _sampler_bytes(config, gpu, parameters)
    traffic = _traffic(config, parameters)
    seconds = _seconds(config, gpu, parameters, concurrent, traffic)
    learn = seconds["learn"] + seconds["push"]
    draw = seconds["prefill"] + seconds["decode"] + seconds["longest"]
    sample = max(draw, seconds["verdicts"])  # completions are judged as they end
    overlapped = config.cluster.mode != "synchronous"
    step = max(learn, sample) if overlapped else learn + sample
    return Plan(parameters, learner, sampler, concurrent, traffic, seconds, step)


def _learner_bytes(config: Config, parameters: int) -> dict[str, float]:
    """FSDP2 with fp32 master weights, or over a frozen base with an adapter on every rank."""
    shape = _shape(config)
    width = _precision_bytes(config)
    tokens = _rl(config).optimiser.micro_batch_tokens
    ends = 2 * _vocab_size(config) * shape.hidden_size
    layer = (parameters - ends) / shape.num_hidden_layers
    # Kept for one layer: inputs of norms, q, k, v, attention output, gate, up, their product.
    inner = tokens * width * (8 * shape.hidden_size + 4 * shape.intermediate_size)
    kept = tokens * width * shape.hidden_size
    held = shape.num_hidden_layers
    activations = held * kept + inner if config.recompute else held * (kept + inner)
    ends_gradient = 0 if _adapter_count(config) else 4 * ends
    return {
        **_state_bytes(config, parameters),
        "gathered": width * (2 * layer + ends) + ends_gradient,  # two layers, and the ends
        "activations": activations + LOGITS_BYTES,
        "push": 2.0 * BUCKET_BYTES,
    }


def _state_bytes(config: Config, parameters: int) -> dict[str, float]:
    """Weights, gradients and optimiser of one rank, and the frozen copy of a KL penalty."""
    shards = 0.0 if config.cluster.offload else parameters / config.cluster.learners
    adapter = _adapter_count(config)
    if adapter:
        base = _precision_bytes(config) * shards
        trained = float(adapter)
    else:
        base = 0.0
        trained = shards
    state = {
        "weights": base + 4 * trained,
        "gradients": 4 * trained,
        "optimiser": 8 * trained,
    }
    stage = _rl(config)
    is_base = adapter and stage.reference == START  # with the adapter off
    if stage.kl_coefficient and not is_base:
        state["reference"] = 4 * shards
    return state


def _sampler_bytes(
    config: Config, gpu: Gpu, parameters: int
) -> tuple[dict[str, float], int]:
    width = _sampler_width(config)
    per_token = _cache_bytes(config)
    used = {"weights": 2 * parameters / width, "activations": 4 * GB}
    room = width * (gpu.memory * (1 - RESERVE) - sum(used.values()))
    full = per_token * _max_length(config)
    if room < MIN_SEQUENCES * full:
        raise OpenQwQError(
            f"a sampler of {width} {config.plan.gpu} has {max(room, 0) / GB:.1f} GB for keys and "
            f"values, and {MIN_SEQUENCES} sequences of {_max_length(config)} tokens need "
            f"{MIN_SEQUENCES * full / GB:.1f} GB: raise cluster.gpus_per_sampler, or lower "
            "engine.max_length"
        )
    expected = per_token * config.plan.mean_completion * _rl(config).max_tokens
    slots = config.engine.slots or EngineLimits.slots
    concurrent = min(slots, int(room / max(expected, 1.0)))
    return used | {"keys and values": concurrent * expected / width}, concurrent


def _require_fit(role: str, used: dict[str, float], memory: float, remedy: str) -> None:
    total = sum(used.values())
    limit = memory * (1 - RESERVE)
    if total > limit:
        parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in used.items())
        raise OpenQwQError(
            f"each {role} GPU needs {total / GB:.1f} GB of {limit / GB:.1f} ({parts}): "
            f"raise {remedy}"
        )


def _precision_bytes(config: Config) -> int:
    return 2 if config.precision == "bf16" else 4


def _sampler_width(config: Config) -> int:
    """GPUs that one sampler spans."""
    return max(1, round(config.cluster.gpus_per_sampler))


def _cache_bytes(config: Config) -> int:
    """Keys and values of one token, in bf16."""
    shape = _shape(config)
    head_dim = shape.hidden_size // shape.num_attention_heads
    return 2 * shape.num_hidden_layers * shape.num_key_value_heads * head_dim * 2


def _completions(config: Config) -> int:
    return _rl(config).prompts_per_step * _rl(config).group_size


def _mean_tokens(config: Config) -> float:
    return config.plan.mean_completion * _rl(config).max_tokens


def _micro_batches(config: Config) -> int:
    """Rounds that each learner rank runs in a step."""
    total = _completions(config) * _mean_tokens(config)
    share = total / _rl(config).optimiser.micro_batch_tokens
    return max(1, math.ceil(share / config.cluster.learners))


def _traffic(config: Config, parameters: int) -> dict[str, float]:
    gathers = 2 * _precision_bytes(config) * parameters  # forward and backward
    adapter = _adapter_count(config)
    if adapter:  # its gradients are summed once
        learner = _micro_batches(config) * gathers + 8.0 * adapter
        return {"learner": learner, "sampler": 4.0 * adapter}
    learner = _micro_batches(config) * (gathers + 4.0 * parameters)
    return {"learner": learner, "sampler": float(_precision_bytes(config) * parameters)}


def _seconds(
    config: Config,
    gpu: Gpu,
    parameters: int,
    concurrent: int,
    traffic: dict[str, float],
) -> dict[str, float]:
    cluster = config.cluster
    count = _completions(config)
    efficiency = Efficiency()
    tokens = count * _mean_tokens(config)
    passes = 4 if _adapter_count(config) else 6
    if config.recompute:
        passes += 2
    learn = (
        passes * parameters * tokens / (cluster.learners * gpu.flops * efficiency.training)
    )
    one_node = cluster.learners <= config.plan.gpus_per_node
    link = (gpu.nvlink if one_node else gpu.network) * efficiency.links
    prompt = max(_max_length(config) - _rl(config).max_tokens, 0)
    prefill = 2 * parameters * _rl(config).prompts_per_step * prompt

    each = math.ceil(count / cluster.samplers)  # completions of one sampler
    width = _sampler_width(config)
    running = min(each, concurrent)
    bandwidth = width * gpu.bandwidth * efficiency.decode
    read = 2 * parameters + running * _cache_bytes(config) * _mean_tokens(config)
    compute = 2 * parameters * running / (width * gpu.flops * efficiency.prefill)
    a_token = max(read / bandwidth, compute)
    # Waves of mean length, and the longest completion of the last wave, nearly alone.
    longest = 0.0
    if cluster.mode == "synchronous":
        left = _rl(config).max_tokens - _mean_tokens(config)
        longest = left * 2 * parameters / bandwidth
    return {
        "learn": max(learn, traffic["learner"] / link),
        # Every rank sends its share and every sampler takes all, bucket by bucket at once.
        "push": traffic["sampler"] / (gpu.network * efficiency.links),
        "prefill": prefill / (cluster.samplers * width * gpu.flops * efficiency.prefill),
        "decode": each / running * _mean_tokens(config) * a_token,
        "longest": longest,
        "verdicts": count * config.plan.verdict_seconds / max(1, cluster.verifiers),
    }


def describe_plan(config: Config, plan: Plan) -> str:
    """The plan as a page of text."""
    cluster = config.cluster
    gpu = GPUS[config.plan.gpu]
    width = _sampler_width(config)
    lines = [
        f"{plan.parameters:,} parameters; {cluster.learners} learner and "
        f"{cluster.samplers * width} sampler GPUs ({config.plan.gpu}, {gpu.memory / GB:.0f} GB)",
        f"{_completions(config)} completions a step, {_mean_tokens(config):,.0f} tokens on average "
        f"of at most {_rl(config).max_tokens:,}; {cluster.mode}",
        "",
    ]
    for role, used in (("learner", plan.learner_bytes), ("sampler", plan.sampler_bytes)):
        lines.append(f"each {role} GPU, GB")
        lines += [f"  {name:<18}{size / GB:8.1f}" for name, size in used.items()]
        lines.append(
            f"  {'total':<18}{sum(used.values()) / GB:8.1f} of {gpu.memory / GB:.0f}"
        )
    lines += ["", f"one sampler decodes {plan.concurrent} completions at once"]
    lines += [
        f"traffic a step, {name} {size / GB:,.0f} GB" for name, size in plan.traffic.items()
    ]
    lines += ["", "seconds a step"]
    lines += [f"  {name:<18}{value:8.1f}" for name, value in plan.seconds.items()]
    lines.append(f"  {'step':<18}{plan.step_seconds:8.1f}  (most of it: {plan.bottleneck})")
    if plan.warning:
        lines.append(f"warning: {plan.warning}")
    shares = ", ".join(f"{name} {share:.0%}" for name, share in vars(Efficiency()).items())
    lines.append(f"computed with these shares of the data sheet: {shares}")
    return "\n".join(lines)
