"""The process that runs reasoning-gym's scorers, some of which evaluate what a model wrote.

No text is given to such a scorer that could do more than arithmetic: `refused` says which.
"""

import re
from typing import Any

import reasoning_gym

from openqwq.sandbox.data import decode
from openqwq.verify.workers import JudgeReply, serve

# Scorers that give the answer to `eval`, and those that give it to sympy, which does.
EVALUATED = {"string_insertion", "spiral_matrix", "binary_matrix", "n_queens"}
FORMULAS = {
    "simple_integration",
    "intermediate_integration",
    "polynomial_multiplication",
    "puzzle24",
    "countdown",
}
FUNCTIONS = {
    "exp", "log", "ln", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan",
    "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "Abs", "pi",
}  # fmt: skip
_LITERAL = re.compile(r"[^()*%={}\\]*")  # calls nothing and multiplies nothing
_FORMULA = re.compile(r"[\w\s+\-*/().,^]*")
_ATTRIBUTE = re.compile(r"\.\s*[^\W\d]")


def refused(dataset: str, answer: str) -> bool:
    """Whether evaluating an answer might do more than the arithmetic it should be."""
    if dataset in EVALUATED:
        return not _LITERAL.fullmatch(answer) or " for " in answer
    if dataset in FORMULAS:
        names = re.findall(r"[^\W\d]\w*", answer)
        unknown = [name for name in names if len(name) > 1 and name not in FUNCTIONS]
        return bool(unknown or not _FORMULA.fullmatch(answer) or _ATTRIBUTE.search(answer))
    return False


def verdict(request: dict[str, Any]) -> JudgeReply:
    """The best value of the spellings of one answer; `wrong` where a scorer cannot read them."""
    entry = decode(request["entry"])
    dataset = entry["metadata"]["source_dataset"]
    scorer = reasoning_gym.get_score_answer_fn(dataset)
    best = 0.0
    detail = ""
    for answer in request["answers"]:
        if refused(dataset, answer):
            detail = detail or "not evaluated: it is more than a formula"
            continue
        try:
            best = max(best, float(scorer(answer, entry)))
        except Exception as error:  # any of a hundred third-party scorers
            detail = f"{type(error).__name__}: {error}"[:500]
        if best == 1.0:
            return {"status": "correct", "value": 1.0, "detail": ""}
    if detail and not _reads_gold(scorer, entry):
        return {"status": "error", "value": 0.0, "detail": f"the scorer fails: {detail}"}
    return {"status": "wrong", "value": best, "detail": detail}


def _reads_gold(scorer: Any, entry: dict[str, Any]) -> bool:
    """Whether the scorer works at all, so that what it cannot read is the answer's fault."""
    try:
        scorer(str(entry["answer"]), entry)
    except Exception:
        return False
    return True


if __name__ == "__main__":
    serve(verdict)
