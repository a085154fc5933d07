"""Our verdicts on IFEval's published responses beside the published ones, by instruction."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from set_rows import rows

from openqwq.verify.instructions import follows_rule

# Prompts whose published verdicts are not the rule's, by key, and why.
DIFFERENT = {
    1122: "asks for the letter '#', for which upstream puts a letter drawn at random at each run; "
    "we count '#': its ten verdicts, two kinds for five answers, differ from ours in five",
}


@dataclass
class Agreement:
    """Verdicts on one instruction by one criterion: how many are equal, of how many."""

    equal: int = 0
    total: int = 0
    differing: list[tuple[int, str]] = field(default_factory=list)  # prompt and model


def agreement(data: Path, criterion: str) -> dict[str, Agreement]:
    """Judge every response; prompts of DIFFERENT count only in `differing`."""
    prompts = {prompt["key"]: prompt for prompt in rows(data, "ifeval/prompts")}
    found: defaultdict[str, Agreement] = defaultdict(Agreement)
    for row in rows(data, "ifeval/responses"):
        prompt = prompts[row["key"]]
        if row["response"] is None or row[criterion] is None:  # the model gave none
            continue
        rules = zip(
            prompt["instruction_id_list"], prompt["kwargs"], row[criterion], strict=True
        )
        for rule_id, arguments, verdict in rules:
            equal = follows_rule(
                rule_id, arguments, row["response"], loose=criterion == "loose"
            )
            if equal != verdict:
                found[rule_id].differing.append((row["key"], row["model"]))
            if row["key"] not in DIFFERENT:
                found[rule_id].equal += equal == verdict
                found[rule_id].total += 1
    return dict(found)
