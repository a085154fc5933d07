"""An RL stage on Ray: placement groups, one actor a role, the same trainer on the driver."""

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from openqwq.cluster.actors import LearnerRank, SamplerActor, VerifierActor, software
from openqwq.cluster.asynchronous import AsynchronousTrainer
from openqwq.cluster.push import WeightStream
from openqwq.cluster.rank_reference import RankReference
from openqwq.cluster.remote import RemoteSampler, RemoteVerifier, VerifierPool
from openqwq.cluster.remote_learner import RankTeacher, RemoteLearner
from openqwq.cluster.saved_policy import Errand, SavedPolicy, of_what_is_trained
from openqwq.cluster.sharded import Sharding
from openqwq.cluster.vllm_sampler import VllmSampler
from openqwq.config import ClusterConfig, Config, DistillStage, Stage
from openqwq.engine.limits import EngineLimits
from openqwq.train.frozen import name_of_frozen
from openqwq.train.judges import Bench
from openqwq.train.objective import Frozen
from openqwq.train.placement import Policy, SamplingStage, engine_limits
from openqwq.train.policies import LoadedPolicy
from openqwq.train.rl import Trainer
from openqwq.train.run_policies import Policies
from openqwq.train.user_files import FOLDER
from openqwq.types import Generate, OpenQwQError, Verifier

PLACEMENT_SECONDS = 60


@contextmanager
def ray_placement(config: Config, run: Path | None = None) -> Iterator["RayPlacement"]:
    """Connect to Ray (or start it here) for as long as a run lasts.

    The user's own Python, in `run`, travels to every node.

    Raises OpenQwQError where the cluster cannot hold the run's actors or runs other software.
    """
    cluster = config.cluster
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(
                cluster.address or "local",
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                num_cpus=None if cluster.address else max(1, math.ceil(_cpus(cluster))),
                runtime_env=_own_python(run),
            )
        except (ConnectionError, ValueError, RuntimeError, RayError) as error:
            raise OpenQwQError(
                f"cluster.address {cluster.address!r} does not answer as a Ray cluster ({error}): "
                "start one with `ray start --head` (if it asks for a token, set "
                "RAY_AUTH_MODE=token), or leave it empty to run here"
            ) from error
    group = _reserve(cluster)
    try:
        yield RayPlacement(config, group)
    except GetTimeoutError as error:
        raise OpenQwQError(
            f"actors did not answer within cluster.timeout, {cluster.timeout} s: look at their "
            "logs (/tmp/ray/session_latest/logs), give them more time, then go on with --resume"
        ) from error
    finally:
        remove_placement_group(group)
        if started:
            ray.shutdown()


def _own_python(run: Path | None) -> dict[str, str] | None:
    """Ray's runtime environment that brings RUN/python along; None where there is none."""
    folder = None if run is None else run.absolute() / FOLDER
    if folder is None or not folder.exists():
        return None
    return {"working_dir": str(folder)}


class RayPlacement:
    """See `Placement`."""

    def __init__(self, config: Config, group: PlacementGroup) -> None:
        self.config = config.cluster
        self.group = group
        self._run_config = config
        self._pool: VerifierPool | None = None
        asynchronous = config.cluster.mode != "synchronous"
        self.trainer: type[Trainer] = AsynchronousTrainer if asynchronous else Trainer

    @contextmanager
    def policy(
        self, policies: Policies, stage: SamplingStage, origin: str
    ) -> Iterator[Policy]:
        """See `Placement.policy`; the actors load it, and this process never does."""
        policies.forget()
        folder = policies.run.directory.absolute()
        cluster = self.config
        start = self._saved(policies, origin, folder / f"{stage.name}.start", stage)
        frozen: SavedPolicy | None = None
        frozen_name = name_of_frozen(stage)
        if frozen_name is not None:
            target = folder / f"{stage.name}.frozen"
            frozen = self._saved(policies, frozen_name, target)
        config = policies.run.config  # whose engine is settled by now

        def ranks() -> list[Any]:
            world = cluster.learners
            started = [
                self._actor(LearnerRank, i, rank=i, world=world) for i in range(world)
            ]
            self._check_software(started)
            address = ray.get(started[0].address.remote(), timeout=cluster.timeout)
            sharding = Sharding(start.products, config.recompute, cluster.offload)
            common = (address, start, frozen, stage, sharding, cluster.threads_per_actor)
            calls = [rank.join.remote(*common) for rank in started]
            ray.get(calls, timeout=cluster.timeout)
            return started

        samplers = self._samplers(start, engine_limits(config))
        learner = RemoteLearner(ranks, folder / f"{stage.name}.shards", cluster.timeout)
        compared: Frozen | None = None
        if isinstance(stage, DistillStage):
            compared = RankTeacher(learner) if frozen is not None else None
        elif stage.kl_coefficient:
            compared = RankReference()
        try:
            yield Policy(learner, samplers, samplers, compared)
        finally:
            for actor in (*learner.ranks, *samplers.actors):
                ray.kill(actor)

    @contextmanager
    def generator(
        self, policies: Policies, name: str, policy: str | LoadedPolicy
    ) -> Iterator[Generate]:
        """See `Placement.generator`; what is not on disk is there while it is sampled."""
        folder = policies.run.directory.absolute() / f"{name}.weights"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        target = folder / "policy"
        if isinstance(policy, str):
            policies.forget()
            saved = self._saved(policies, policy, target)
        else:
            products = policies.run.recorded_precision()
            assert products is not None
            trained = of_what_is_trained(policy)
            saved = SavedPolicy.write(target, trained, policies.tokenizer, products)
        samplers = self._samplers(saved, engine_limits(policies.run.config))
        try:
            yield samplers
        finally:
            for actor in samplers.actors:
                ray.kill(actor)
            shutil.rmtree(folder, ignore_errors=True)

    def _saved(
        self, policies: Policies, name: str, target: Path, stage: Stage | None = None
    ) -> SavedPolicy:
        """A policy on disk, as `stage` trains it; brought there by a process on the cluster."""
        errand = Errand(
            directory=policies.run.directory.absolute(),
            config=policies.run.config,
            folder=Path.cwd(),
            name=name,
            stage=stage,
            tokenizer=policies.tokenizer,
            products=policies.products(name),
            target=target,
        )
        node = ray.remote(num_cpus=self.config.cpus_per_actor)(Errand.run)
        strategy = PlacementGroupSchedulingStrategy(self.group, 0)
        task = node.options(scheduling_strategy=strategy).remote(errand)
        found: SavedPolicy = ray.get(task, timeout=self.config.timeout)
        return found

    def _samplers(self, policy: SavedPolicy, limits: EngineLimits) -> RemoteSampler:
        cluster = self.config
        uses_vllm = cluster.sampler == "vllm"
        width = max(1, round(cluster.gpus_per_sampler)) if uses_vllm else 1
        receivers = width if policy.adapter is None else 1
        common: dict[str, Any] = {"policy": policy, "limits": limits}
        common["threads"] = cluster.threads_per_actor

        def sampler(index: int) -> Any:
            bundle = cluster.learners + index
            if uses_vllm:
                return self._actor(VllmSampler, bundle, width=width, **common)
            return self._actor(SamplerActor, bundle, **common)

        # NCCL wants a GPU for each process; what shares one, has none, or is small as an adapter,
        # goes by way of the host.
        apart = min(cluster.gpus_per_learner, cluster.gpus_per_sampler) >= 1
        backend = "nccl" if apart and policy.adapter is None else "gloo"

        def stream() -> WeightStream:
            return WeightStream(backend, receivers, cluster.timeout)

        samplers = RemoteSampler(sampler, cluster.samplers, cluster.timeout, stream)
        self._check_software(samplers.actors)
        return samplers

    async def verifiers(
        self, names: Iterable[str], bench: Bench, seconds: float | None = None
    ) -> Mapping[str, Verifier]:
        """See `Placement.verifiers`."""
        if self._pool is None:
            self._pool = self._open_pool(bench)
        return {name: RemoteVerifier(self._pool, name, seconds) for name in names}

    def _open_pool(self, bench: Bench) -> VerifierPool:
        first = self.config.learners + self.config.samplers

        def judge(index: int) -> Any:
            return self._actor(VerifierActor, first + index, config=self._run_config)

        pool = VerifierPool(judge, self.config.verifiers, self.config.timeout)
        self._check_software(pool.actors)
        bench.stack.callback(lambda: [ray.kill(actor) for actor in pool.actors])
        return pool

    def _actor(self, kind: Callable[..., Any], bundle: int, **arguments: Any) -> Any:
        cluster = self.config
        gpus = 0.0
        if bundle < cluster.learners + cluster.samplers:
            is_learner = bundle < cluster.learners
            gpus = cluster.gpus_per_learner if is_learner else cluster.gpus_per_sampler
        strategy = PlacementGroupSchedulingStrategy(self.group, bundle)
        place = ray.remote(
            num_cpus=cluster.cpus_per_actor, num_gpus=gpus, scheduling_strategy=strategy
        )
        return place(kind).remote(**arguments)

    def _check_software(self, actors: list[Any]) -> None:
        here = software()
        asked = [actor.software.remote() for actor in actors]
        try:
            answers = ray.get(asked, timeout=self.config.timeout)
        except ActorDiedError as error:
            reason = str(error).strip().splitlines()[-1]
            raise OpenQwQError(f"an actor could not start: {reason}") from error
        for there in answers:
            if there != here:
                raise OpenQwQError(
                    f"a node runs {there}, the driver {here}: install the same versions everywhere"
                )


def _cpus(cluster: ClusterConfig) -> float:
    return cluster.cpus_per_actor * (
        cluster.learners + cluster.samplers + cluster.verifiers
    )


def _reserve(cluster: ClusterConfig) -> PlacementGroup:
    """One bundle an actor: learners first, then samplers, then verifiers."""
    for name in ("learners", "samplers", "verifiers"):
        if getattr(cluster, name) < 1:
            raise OpenQwQError(
                f"cluster.{name} is {getattr(cluster, name)}: it must be at least 1"
            )
    if cluster.gpus_per_sampler > 1 and cluster.sampler == "torch":
        raise OpenQwQError(
            f"cluster.gpus_per_sampler is {cluster.gpus_per_sampler}, but our engine computes on "
            "one GPU: set it to 1, or cluster.sampler = 'vllm'"
        )
    gpus = [cluster.gpus_per_learner] * cluster.learners
    gpus += [cluster.gpus_per_sampler] * cluster.samplers + [0.0] * cluster.verifiers
    bundles: list[dict[str, float]] = []
    for count in gpus:
        bundle = {"CPU": cluster.cpus_per_actor}
        if count:
            bundle["GPU"] = count
        bundles.append(bundle)
    group: PlacementGroup = placement_group(bundles, strategy="PACK")
    if not group.wait(PLACEMENT_SECONDS):
        remove_placement_group(group)
        wanted = {"CPU": _cpus(cluster), "GPU": sum(gpus)}
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        there = {name: resources.get(name, 0.0) for name in wanted}
        raise OpenQwQError(
            f"the run needs {wanted}, the cluster has {there}: add nodes, lower the number of "
            "actors, or give each less (cluster.cpus_per_actor, cluster.gpus_per_*)"
        )
    return group
