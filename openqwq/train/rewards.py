"""What an attempt is worth to an RL stage: a verdict, and a weighted sum of rewards.

The table's `verifier` gives the status, which no reward changes; `rewards`, or `rewards_of` for one
table, give the value. An error of any of them makes the attempt an `error`, which is counted and
never trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from openqwq.config import RewardConfig, RlStage
from openqwq.types import OpenQwQError, Score, Task, Verifier
from openqwq.verify.judge import RewardModelJudge
from openqwq.verify.partial import PartialCredit
from openqwq.verify.thinking import ThinkingRules

VERIFIER = "verifier"  # the judge of the task's own table
UNJUDGED = Score(0.0, "scored")
# What to do once a judge that failed is right again.
GO_ON = (
    "go on with --resume (or begin again where it is your own Python, which may not change "
    "within a run)"
)


@dataclass(frozen=True)
class Term:
    """One reward: `judge` None stands for the verdict itself."""

    name: str
    weight: float
    judge: Verifier | None
    config: RewardConfig


@dataclass(frozen=True)
class Rewards:
    """The judges of a stage; a `Verifier` itself.

    `terms` are those of each table, `verifiers` the judges that tasks name.
    """

    verifiers: Mapping[str, Verifier]
    terms: Mapping[str, Sequence[Term]]
    other_terms: Sequence[Term]  # of tables that have none of their own

    async def score(self, task: Task, completion: str) -> Score:
        """The verdict on a completion, worth the stage's rewards."""
        verdict = await self.verdict(task, completion)
        return await self.reward(task, completion, verdict)

    async def verdict(self, task: Task, completion: str) -> Score:
        """What the task's own verifier says; `scored` where it has none."""
        if not task.verifier:
            return UNJUDGED
        if task.verifier not in self.verifiers:
            raise OpenQwQError(
                f"task {task.id} asks for the verifier {task.verifier!r}, which is not open: "
                f"there are {', '.join(self.verifiers) or 'none'}"
            )
        return await self.verifiers[task.verifier].score(task, completion)

    async def reward(self, task: Task, completion: str, verdict: Score) -> Score:
        """`verdict` with the value of the stage's rewards and each of them as a part."""
        if verdict.status == "error":
            return verdict
        value = 0.0
        parts = _under(VERIFIER, verdict.parts)
        for term in self.terms_of(task.kind):
            found = await self._term(term, task, completion, verdict)
            if found.status == "error":
                return Score(0.0, "error", parts, f"reward {term.name}: {found.detail}")
            value += term.weight * found.value
            parts[term.name] = found.value
            if term.judge is not None:
                parts |= _under(term.name, found.parts)
        if task.verifier:
            parts[VERIFIER] = verdict.value
        return Score(value, verdict.status, parts, verdict.detail)

    def terms_of(self, kind: str) -> Sequence[Term]:
        """The rewards of one table."""
        return self.terms.get(kind, self.other_terms)

    def by_status(self, kind: str) -> bool:
        """Whether verdicts decide which groups of a table say something to learn."""
        return any(term.judge is None and term.weight for term in self.terms_of(kind))

    async def _term(self, term: Term, task: Task, completion: str, verdict: Score) -> Score:
        judge: Verifier = term.judge or _Given(verdict)
        config = term.config
        if config.partial_credit:
            judge = PartialCredit(judge, config.partial_credit)
        if config.thinking is not None:
            rules = config.thinking
            judge = ThinkingRules(judge, rules.limit, rules.script, penalty=rules.penalty)
        return await judge.score(task, completion)


def _under(name: str, parts: Mapping[str, float]) -> dict[str, float]:
    """A judge's parts, as those of the reward that it gives."""
    return {f"{name}/{key}": part for key, part in parts.items()}


@dataclass(frozen=True)
class _Given:
    """A verdict that is known already, as a `Verifier`."""

    verdict: Score

    async def score(self, task: Task, completion: str) -> Score:
        return self.verdict


def stage_rewards(
    stage: RlStage, verifiers: Mapping[str, Verifier], judges: Mapping[str, Verifier]
) -> Rewards:
    """The rewards that a stage's config asks for; `judges` are those its `use` keys name."""

    def terms(configs: Sequence[RewardConfig]) -> list[Term]:
        made: list[Term] = []
        for config in configs:
            judge = None if config.use == VERIFIER else judges[config.use]
            if isinstance(judge, RewardModelJudge):
                judge = judge.clamped_to(config.clip)
            made.append(Term(short_name(config.use), config.weight, judge, config))
        return made

    own = {name: terms(configs) for name, configs in stage.rewards_of.items()}
    return Rewards(verifiers, own, terms(stage.rewards))


def short_name(use: str) -> str:
    """How a reward is called in logs: `rewards.py:brevity` without its folder is `brevity`."""
    if use.startswith(("stage:", "model:")):
        return use.partition(":")[2]
    return use.rpartition(":")[2]


def judges_used(stage: RlStage) -> list[str]:
    """Every judge that a stage's rewards name, but for the tables' own verifiers."""
    lists = [stage.rewards, *stage.rewards_of.values()]
    names: dict[str, None] = {}
    for configs in lists:
        names |= dict.fromkeys(config.use for config in configs)
    names.pop(VERIFIER, None)
    return list(names)


def with_limits_applied(rewards: Sequence[Score], rule: str) -> list[float]:
    """Reward values of one group, where attempts that were cut off are worth what `rule` says.

    `zero`: nothing. `lowest`: the least of 0 and of the others' rewards, so that being cut off
    never wins, with negative rewards either.
    """
    others = [score.value for score in rewards if score.status != "truncated"]
    floor = min([0.0, *others]) if rule == "lowest" else 0.0
    values: list[float] = []
    for score in rewards:
        values.append(floor if score.status == "truncated" else score.value)
    return values


def in_one_line(score: Score) -> str:
    """Why a verdict failed: of a traceback, what failed and the error at its end."""
    lines = score.detail.strip().splitlines()
    if len(lines) < 2:
        return score.detail or "no detail"
    return f"{lines[0]} {lines[-1]}; RUN/errors.jsonl has all of it"


class ErrorShare:
    """Counts verdicts that failed, and stops a run where they are too many."""

    LEAST = 32  # verdicts before a share says anything

    def __init__(self, limit: float, stage: str) -> None:
        self._limit = limit
        self._stage = stage
        self.judged = 0
        self.errors = 0

    def count(self, scores: Sequence[Score]) -> None:
        """Add verdicts; raises OpenQwQError where more than the limit are errors."""
        self.judged += len(scores)
        failed = [score for score in scores if score.status == "error"]
        self.errors += len(failed)
        share = self.errors / max(1, self.judged)
        if self.judged >= self.LEAST and share > self._limit and failed:
            raise OpenQwQError(
                f"{self.errors} of {self.judged} verdicts are errors, above max_error_share "
                f"{self._limit:g}; the last one: {in_one_line(failed[-1])}; repair the judge, then "
                f"{GO_ON}, or raise stages.{self._stage}.max_error_share"
            )


def without_value(score: Score) -> Score:
    """The score of an attempt that hit its limit, whatever it says so far."""
    if score.status == "error":
        return score
    return replace(score, value=0.0, status="truncated")


def verdicts_only(verifiers: Mapping[str, Verifier]) -> Rewards:
    """Rewards that are the verdicts themselves, for evaluation."""
    return Rewards(verifiers, {}, [Term(VERIFIER, 1.0, None, RewardConfig(VERIFIER))])
