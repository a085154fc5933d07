"""`qwq eval`: benchmarks and rows of one's own, judged by the judges of training.

Imported for every `qwq --help`: what is heavy is imported where it runs.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from openqwq.config import find_config
from openqwq.engine.verbs import add_model_options, require_counts
from openqwq.types import OpenQwQError

ANNOUNCED = "aime24,livecodebench,livebench,ifeval,bfcl"
LCB_WINDOW = ("2024-08-01", "2025-02-01")  # of the announcement


def add_eval_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq eval`."""
    add_model_options(parser, context="--context-length", precisions=("fp32", "bf16"))
    parser.add_argument(
        "--tasks",
        default=ANNOUNCED,
        help="a comma-separated list of NAME, NAME/KIND, CONFIG.toml[:TABLE] or a file of rows",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/eval"), metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument(
        "--skip-bad-rows",
        action="store_true",
        help="leave out rows of your own that cannot be used, and list them",
    )
    parser.add_argument(
        "--rescore",
        action="store_true",
        help="judge the saved replies again, and generate nothing",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar="RUN",
        help="compare two runs item by item, with a paired test",
    )
    parser.add_argument(
        "--contamination",
        metavar="FILE",
        help="search training rows, or a config's tasks, for benchmark items",
    )
    add_benchmark_directory(parser, "--data")
    parser.add_argument(
        "--allow-changed-data",
        action="store_true",
        help="accept files whose hash is not the known one",
    )
    parser.add_argument(
        "--lcb-release", type=int, default=5, help="release of LiveCodeBench, 1 to 6"
    )
    parser.add_argument(
        "--lcb-window",
        nargs=2,
        default=LCB_WINDOW,
        metavar="DATE",
        help="LiveCodeBench problems from the first date up to the second",
    )
    _add_sampling_options(parser.add_argument_group("sampling"))
    parser.add_argument(
        "--concurrency", type=int, default=8, help="replies generated at the same time"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="processes that judge: sandbox and mathematics",
    )
    parser.set_defaults(verb=eval_verb)


def add_benchmark_directory(parser: argparse.ArgumentParser, flag: str) -> None:
    """The option, `flag` of its verb, for where the files of benchmarks are."""
    parser.add_argument(
        flag,
        type=Path,
        metavar="DIR",
        help="read the benchmarks from here instead of the hub",
    )


def _add_sampling_options(group: argparse._ArgumentGroup) -> None:
    """What is drawn for each item, and how; what is not given is the preset's."""
    group.add_argument(
        "--preset",
        choices=["qwq", "greedy"],
        default="qwq",
        help="what the other settings are by default",
    )
    group.add_argument("--samples", type=int, help="replies to each item")
    group.add_argument("--limit", type=int, help="ask only so many items")
    for name in ("max-tokens", "top-k", "thinking-budget"):
        group.add_argument(f"--{name}", type=int)
    for name in ("temperature", "top-p", "min-p"):
        group.add_argument(f"--{name}", type=float)
    group.add_argument("--seed", type=int, default=0)


def eval_verb(options: argparse.Namespace) -> None:
    """`qwq eval`: run, judge again, compare, or search for contamination."""
    from openqwq.evaluation import suite
    from openqwq.evaluation.benchmarks.data import Library
    from openqwq.evaluation.benchmarks.livecodebench import Window
    from openqwq.evaluation.evaluation import PRESETS, EvaluationSettings, compare_runs
    from openqwq.evaluation.responders import open_responder
    from openqwq.train.judges import open_judges

    require_counts(
        options,
        "samples",
        "limit",
        "max_tokens",
        "concurrency",
        "workers",
        "context_length",
    )
    library = Library(options.data, options.allow_changed_data)
    names = options.tasks.split(",")
    if options.compare:
        suite.print_comparison(compare_runs(*options.compare))
        return
    if options.contamination:
        file = find_config(options.contamination)
        suite.search_contamination(names, library, file, options.skip_bad_rows)
        return
    if not (options.model or options.rescore):
        raise OpenQwQError("no MODEL was named: give a checkpoint, a GGUF file or a hub id")

    changes = {}
    for name in ("max_tokens", "top_k", "thinking_budget", "temperature", "top_p", "min_p"):
        value = getattr(options, name)
        if value is not None:
            changes[name] = value
    params = replace(PRESETS[options.preset], **changes)

    model = str(options.model)
    if options.adapter:
        model += f" with {options.adapter[-1]}"
    if options.precision != "fp32":
        model += f" in {options.precision}"
    settings = EvaluationSettings(
        model, options.preset, params, options.seed, options.samples, options.limit,
        options.concurrency,
    )  # fmt: skip
    window = Window(options.lcb_release, *options.lcb_window)
    request = suite.EvaluationRequest(
        names, library, settings, options.out, window, options.resume, options.workers,
        options.skip_bad_rows,
    )  # fmt: skip

    opened = None
    if not options.rescore:
        opened = partial(
            open_responder, options.model, options.engine, options.concurrency,
            options.context_length, options.precision, options.device, options.adapter,
        )  # fmt: skip
    suite.print_scores(suite.run_suite(request, opened, open_judges))
