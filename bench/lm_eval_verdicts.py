"""Verdicts of `qwq eval` on GSM8K compared with lm-eval's, on the same replies.

    qwq eval MODEL --tasks gsm8k --out RUN
    python bench/lm_eval_verdicts.py RUN --gold test.jsonl.gz      (pip install lm-eval)
    python bench/lm_eval_verdicts.py DIR/full/evaluation/*.json --gold test.jsonl

The last line takes what bench/gsm8k.py saved before and after training. lm-eval's side is its own
task `gsm8k`: the filter `flexible-extract` of its YAML (the last number of a reply) and its exact
match with the YAML's options. Where the two differ the reply is shown. The figures go to
bench/results/lm_eval_verdicts.json.
"""

import argparse
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter
from trainings import save

FILTER = "flexible-extract"
SHOWN = 160  # characters of a reply's end


@dataclass(frozen=True)
class Reply:
    """One reply to the test row `row`, and our verdict."""

    row: int
    text: str
    status: str


def official() -> dict[str, Any]:
    """lm-eval's description of GSM8K."""
    place = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    described: dict[str, Any] = yaml.safe_load(place.read_text())
    return described


def extractor(task: dict[str, Any]) -> RegexFilter:
    """The filter that finds the answer in a reply."""
    for entry in task["filter_list"]:
        if entry["name"] == FILTER:
            arguments = dict(entry["filter"][0])
            arguments.pop("function")
            return RegexFilter(**arguments)
    raise SystemExit(
        f"lm-eval's gsm8k has no filter {FILTER}: this bench reads version 3.0"
    )


def golds(path: Path) -> list[str]:
    """The answers of the test rows, in their order."""
    packed = path.read_bytes()
    text = gzip.decompress(packed) if path.suffix == ".gz" else packed
    return [json.loads(line)["answer"] for line in text.splitlines()]


def replies(run: Path) -> Iterator[Reply]:
    """The replies of a run of `qwq eval`, or of an evaluation that a training saved."""
    if run.is_dir():
        for line in (run / "gsm8k.jsonl").read_text().splitlines():
            record = json.loads(line)
            row = int(record["task_id"].partition("/")[2])
            yield Reply(row, record["answer"] or "", record["status"])
        return
    for outcome in json.loads(run.read_text())["outcomes"]:
        number = int(outcome["task_id"].rpartition("-")[2])  # from 1
        text = outcome["completion"].rpartition("</think>")[2]
        yield Reply(number - 1, text, outcome["status"])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--gold", type=Path, required=True)
    options = parser.parse_args()

    task = official()
    (metric,) = task["metric_list"]
    settings = {name: metric[name] for name in ("ignore_case", "ignore_punctuation")}
    find = extractor(task)
    answers = golds(options.gold)
    counts: Counter[str] = Counter()
    differing: list[dict[str, Any]] = []
    for run in options.runs:
        for reply in replies(run):
            gold = answers[reply.row]
            ((found,),) = find.apply([[reply.text]], [{}])
            verdict = exact_match_hf_evaluate(
                [found], [gold], regexes_to_ignore=metric["regexes_to_ignore"], **settings
            )
            theirs = "right" if verdict["exact_match"] == 1 else "wrong"
            ours = "right" if reply.status == "correct" else "wrong"
            counts[f"ours {ours}, lm-eval {theirs}"] += 1
            if ours != theirs:
                differing.append(
                    {
                        "run": run.name,
                        "row": reply.row,
                        "gold": gold.rpartition("#### ")[2],
                        "end": reply.text[-SHOWN:],
                        "ours": reply.status,
                        "lm_eval_read": found,
                    }
                )

    for name, count in sorted(counts.items()):
        print(f"{count:5}  {name}")
    for entry in differing:
        print(json.dumps(entry))
    versions = {"lm_eval": lm_eval.__version__, "task_version": task["metadata"]["version"]}
    save("lm_eval_verdicts", {**versions, "counts": dict(counts), "differing": differing})


if __name__ == "__main__":
    main()
