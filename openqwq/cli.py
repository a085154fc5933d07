"""The `qwq` command: each verb is one short function; what it needs is imported there."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from openqwq import __version__
from openqwq.config import find_config
from openqwq.engine.verbs import (
    add_convert_verb,
    add_fit_verb,
    add_merge_verb,
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
from openqwq.train.evaluation_verb import add_eval_verb
from openqwq.types import OpenQwQError

if TYPE_CHECKING:
    from openqwq.config import Config
    from openqwq.train.placement import Placement

MINI = Path(__file__).parent / "configs" / "mini.toml"
GREETING = """OpenQwQ makes and serves a reasoning model. Four things to do next:

  qwq demo             train a small one from nothing: minutes on two cores
  qwq chat MODEL       talk to one: a directory, a GGUF file or a hub id such as Qwen/QwQ-32B
  qwq serve MODEL      OpenAI's API and a web chat at http://127.0.0.1:8000
  qwq doctor           see what works on this machine

All verbs: qwq --help. One verb: qwq VERB --help."""
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
    parser.add_argument(
        "configs",
        nargs="+",
        type=find_config,
        metavar="CONFIG.toml",
        help="config files, or the names of packaged ones; a later one overrides an earlier one",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="print the memory and time a run would take, and stop",
    )
    _add_run_options(parser, None)
    parser.set_defaults(verb=train_verb)


def _add_report_verb(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="the directory of a run")
    parser.add_argument(
        "--language",
        choices=["en", "zh"],
        default="en",
        help="the language of the page to name",
    )
    parser.set_defaults(verb=report_verb)


def _add_completion_verb(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])
    parser.set_defaults(verb=completion_verb)


def _add_run_options(parser: argparse.ArgumentParser, out: str | None) -> None:
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="override one setting, e.g. stages.rl.steps=50 (may be repeated)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=out, metavar="DIR", help="where to write the run"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved config, and stop"
    )
    parser.add_argument(
        "--skip-bad-rows",
        action="store_true",
        help="leave out rows that cannot be used, and list them",
    )


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
        print(_plan(config, options.skip_bad_rows))
        return
    if options.out is None:
        raise OpenQwQError("train needs a directory for the run: add --out DIR")
    _train(config, options)
    _report(options.out)


def _plan(config: "Config", skip_bad_rows: bool) -> str:
    if config.cluster.learners:
        from openqwq.cluster.plan import describe_plan, make_plan

        return describe_plan(config, make_plan(config))
    from openqwq.train.local_plan import describe_local_plan

    return describe_local_plan(config, skip_bad_rows)


def _train(config: "Config", options: argparse.Namespace) -> None:
    from openqwq.evaluation.progress import Display
    from openqwq.train.outlook import introduction, outlook_of
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
    ("eval", "benchmarks, as their authors score them", add_eval_verb),
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
