"""The `qwq` command: each verb is one short function; what it needs is imported there."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from openqwq import __version__
from openqwq.config import find_config
from openqwq.engine.verbs import (
    add_convert_verb,
    add_fit_verb,
    add_merge_verb,
    add_model_options,
)
from openqwq.evaluation.rollouts import add_rollouts_verb
from openqwq.evaluation.verdicts import add_verify_verb
from openqwq.sandbox.verbs import add_sandbox_verb
from openqwq.serve.doctor import add_doctor_verb
from openqwq.serve.feedback import add_feedback_verb
from openqwq.serve.settings import apply_settings
from openqwq.serve.verbs import (
    add_agent_verb,
    add_ask_verb,
    add_chat_verb,
    add_mcp_verb,
    add_models_verb,
    add_serve_verb,
)
from openqwq.train.data_verbs import add_collect_verb, add_data_verb
from openqwq.types import OpenQwQError

if TYPE_CHECKING:
    from openqwq.config import Config
    from openqwq.train.placement import Placement

MINI = Path(__file__).parent / "configs" / "mini.toml"
LCB_WINDOW = ("2024-08-01", "2025-02-01")  # of the announcement
GREETING = """OpenQwQ makes and serves a reasoning model. Four things to do next:

  qwq demo             train a small one from nothing: minutes on two cores
  qwq chat MODEL       talk to one: a directory, a GGUF file or a hub id such as Qwen/QwQ-32B
  qwq serve MODEL      OpenAI's API and a web chat at http://127.0.0.1:8000
  qwq doctor           see what works on this machine

All verbs: qwq --help. One verb: qwq VERB --help."""
ANNOUNCED = "aime24,livecodebench,livebench,ifeval,bfcl"
CONFIGURED = ("ask", "chat", "serve")  # verbs that take settings from variables and files
FAMILIES = {
    "arithmetic": ("addition", "subtraction", "multiplication"),
    "code": ("linear", "pipeline"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; a user's mistake is one line on standard error and exit code 2."""
    parser, verbs = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        print(GREETING)
        return 0
    try:
        if words and words[0] in CONFIGURED:
            apply_settings({verb: verbs[verb] for verb in CONFIGURED}, words[0], os.environ)
        options = parser.parse_args(words)
        options.verb(options)
    except OpenQwQError as error:
        print(f"qwq: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("qwq: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The command's parser, and the parser of each verb."""
    parser = argparse.ArgumentParser(
        "qwq", description="Make and talk to a reasoning model."
    )
    parser.add_argument("--version", action="version", version=f"openqwq {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for name, help_text, add_options in VERBS:
        add_options(verbs.add_parser(name, help=help_text))
    return parser, verbs.choices


def _add_demo_verb(parser: argparse.ArgumentParser) -> None:
    _add_run_options(parser, "runs/demo")
    parser.set_defaults(verb=demo_verb, configs=[], plan=False)


def _add_train_verb(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", nargs="+", type=find_config, metavar="CONFIG.toml")
    parser.add_argument("--plan", action="store_true", help="memory and time; no run")
    _add_run_options(parser, None)
    parser.set_defaults(verb=train_verb)


def _add_report_verb(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument(
        "--language", choices=["en", "zh"], default="en", help="which page to name"
    )
    parser.set_defaults(verb=report_verb)


def _add_completion_verb(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])
    parser.set_defaults(verb=completion_verb)


def _add_run_options(parser: argparse.ArgumentParser, out: str | None) -> None:
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="override one setting, e.g. rl.steps=50 (may be repeated)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=out, metavar="DIR", help="the run's directory"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved config and stop"
    )
    parser.add_argument("--skip-bad-rows", action="store_true", help="list them and go on")


def _add_eval_verb(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser, context="--context-length", precisions=("fp32", "bf16"))
    parser.add_argument(
        "--tasks",
        default=ANNOUNCED,
        help="NAME, NAME/KIND, CONFIG.toml[:TABLE] or rows, by commas",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/eval"), metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument(
        "--rescore", action="store_true", help="judge its saved replies again"
    )
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar="RUN", help="a paired test"
    )
    parser.add_argument(
        "--contamination", metavar="FILE", help="training rows, or a config"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="local files, not the hub's"
    )
    parser.add_argument("--allow-changed-data", action="store_true")
    parser.add_argument(
        "--lcb-release", type=int, default=5, help="LiveCodeBench's, 1 to 6"
    )
    parser.add_argument("--lcb-window", nargs=2, default=LCB_WINDOW, metavar="DATE")
    parser.add_argument("--preset", choices=["qwq", "greedy"], default="qwq")
    for name in ("samples", "limit", "max-tokens", "top-k", "thinking-budget"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("temperature", "top-p", "min-p"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=8, help="replies at once")
    parser.add_argument(
        "--workers", type=int, default=2, help="sandbox and maths processes"
    )
    parser.set_defaults(verb=eval_verb)


def demo_verb(options: argparse.Namespace) -> None:
    """`qwq demo`: the miniature and its report."""
    options.configs = [MINI]
    train_verb(options)
    if not options.dry_run:
        last = next(n for n in ("stage2", "stage1") if (options.out / n).exists())
        model = f"{options.out}/{last}"
        print(f"Talk to it:  qwq chat {model}   (ask: What is 3587 + 467?)")
        print(
            f"With a tool: qwq agent {model} --tools calculator   (ask: What is 58713 * 9421?)"
        )
        print(f"As a server: qwq serve {model}   (a web chat and OpenAI's API)")


def train_verb(options: argparse.Namespace) -> None:
    """`qwq train`: every stage of a run, then its report."""
    from openqwq.config import dump_config, load_config

    config = load_config(options.configs, options.overrides)
    if options.dry_run:
        print(dump_config(config), end="")
        return
    if options.plan:
        print(_plan(config))
        return
    if options.out is None:
        raise OpenQwQError("train needs a directory for the run: add --out DIR")
    _train(config, options)
    _report(options.out)


def _plan(config: "Config") -> str:
    if config.cluster.learners:
        from openqwq.cluster.plan import describe_plan, make_plan

        return describe_plan(config, make_plan(config))
    from openqwq.train.local_plan import describe_local_plan

    return describe_local_plan(config)


def _train(config: "Config", options: argparse.Namespace) -> None:
    from openqwq.train.outlook import introduction, outlook_of
    from openqwq.train.progress import Display
    from openqwq.train.run import InterruptedRun
    from openqwq.train.stages import run_stages
    from openqwq.train.start import start_run

    display = Display()
    if MINI in options.configs:
        print(introduction(config, options.out), file=sys.stderr)
        display = Display(outlook=outlook_of(config))
    run, prepared = start_run(options.out, config, options.resume, options.skip_bad_rows)
    try:
        with _placement(config, options.out) as placement:
            asyncio.run(run_stages(run, prepared, display, placement))
    except InterruptedRun as stop:
        print(f"qwq: {stop}", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        run.close()


def _placement(config: "Config", run: Path) -> "AbstractContextManager[Placement | None]":
    if not config.cluster.learners:
        return nullcontext()
    try:
        from openqwq.cluster.placement import ray_placement
    except ModuleNotFoundError as error:
        raise OpenQwQError(
            f"cluster.learners is {config.cluster.learners}, but {error.name} is not installed: "
            "pip install 'openqwq[cluster]', or set it to 0 to train in one process"
        ) from error
    return ray_placement(config, run)


def report_verb(options: argparse.Namespace) -> None:
    """`qwq report`: tables and plots of a run."""
    _report(options.run, options.language)


def _report(run: Path, language: str = "en") -> None:
    from openqwq.evaluation.report import print_summary, write_report

    path = write_report(run, FAMILIES, language)
    print_summary(run, FAMILIES)
    print(f"Report:      {path}")


def eval_verb(options: argparse.Namespace) -> None:
    """`qwq eval`: run, judge again, compare, or search for contamination."""
    from openqwq.evaluation import suite
    from openqwq.evaluation.benchmarks.data import Library
    from openqwq.evaluation.benchmarks.livecodebench import Window
    from openqwq.evaluation.evaluation import PRESETS, EvaluationSettings, compare_runs
    from openqwq.evaluation.responders import open_responder
    from openqwq.train.judges import open_judges

    library = Library(options.data, options.allow_changed_data)
    names = options.tasks.split(",")
    if options.compare:
        suite.print_comparison(compare_runs(*options.compare))
        return
    if options.contamination:
        suite.search_contamination(names, library, find_config(options.contamination))
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
        names, library, settings, options.out, window, options.resume, options.workers
    )

    opened = None
    if not options.rescore:
        opened = partial(
            open_responder, options.model, options.engine, options.concurrency,
            options.context_length, options.precision, options.device, options.adapter,
        )  # fmt: skip
    suite.print_scores(suite.run_suite(request, opened, open_judges))


def completion_verb(options: argparse.Namespace) -> None:
    """`qwq completion`: print the script, e.g. `eval "$(qwq completion bash)"`."""
    import shtab

    print(shtab.complete(_parser()[0], options.shell))


# In the order of `qwq --help`: the name, what it does, and what adds its options to a parser.
VERBS: tuple[tuple[str, str, Callable[[argparse.ArgumentParser], None]], ...] = (
    ("demo", "train the miniature from nothing: minutes on two cores", _add_demo_verb),
    ("train", "a run from config files", _add_train_verb),
    ("report", "write a run's report again", _add_report_verb),
    ("rollouts", "what a run's policy said, to be read", add_rollouts_verb),
    ("eval", "benchmarks, as their authors score them", _add_eval_verb),
    ("verify", "the judges alone, on rows from a file", add_verify_verb),
    ("data", "what a run would ask, before any training", add_data_verb),
    ("collect", "a teacher's right answers as rows", add_collect_verb),
    ("chat", "talk to a model in the terminal", add_chat_verb),
    ("ask", "one question; the answer alone on standard output", add_ask_verb),
    ("serve", "OpenAI's API and a web chat for a model", add_serve_verb),
    ("models", "the models on this disk", add_models_verb),
    ("completion", "a script that completes qwq in a shell", _add_completion_verb),
    ("fit", "whether a model fits here, before any download", add_fit_verb),
    ("convert", "a checkpoint to GGUF, and back", add_convert_verb),
    ("merge", "a checkpoint with a LoRA adapter merged in", add_merge_verb),
    ("agent", "a model that uses tools, in the terminal", add_agent_verb),
    ("mcp", "our tools for any MCP client, on standard streams", add_mcp_verb),
    ("feedback", "ratings of answers as training rows", add_feedback_verb),
    ("doctor", "what works on this machine, on one page", add_doctor_verb),
    ("sandbox", "the code execution sandbox", add_sandbox_verb),
)


if __name__ == "__main__":
    sys.exit(main())
