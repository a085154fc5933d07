"""The `qwq` command: each verb is one short function; what it needs is imported there."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from openqwq import __version__
from openqwq.types import OpenQwQError

if TYPE_CHECKING:
    from openqwq.config import Config

MINI = Path(__file__).parent / "configs" / "mini.toml"
FAMILIES = {
    "arithmetic": ("addition", "subtraction", "multiplication"),
    "code": ("linear", "pipeline"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; a user's mistake is one line on standard error and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("qwq", description="Make and talk to a reasoning model.")
    parser.add_argument("--version", action="version", version=f"openqwq {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    demo = verbs.add_parser("demo", help="train the miniature from nothing: minutes on two cores")
    _add_run_options(demo, "runs/demo")
    demo.set_defaults(verb=demo_verb, configs=[])
    train = verbs.add_parser("train", help="a run from config files")
    train.add_argument("configs", nargs="+", type=Path, metavar="CONFIG.toml")
    _add_run_options(train, None)
    train.set_defaults(verb=train_verb)
    report = verbs.add_parser("report", help="write a run's report again")
    report.add_argument("run", type=Path, help="a run directory")
    report.set_defaults(verb=report_verb)
    chat = verbs.add_parser("chat", help="talk to a model in the terminal")
    chat.add_argument("model", type=Path, help="a checkpoint directory, e.g. runs/demo/stage1")
    chat.add_argument("--temperature", type=float, default=0.6)
    chat.add_argument("--max-tokens", type=int, default=1024)
    chat.add_argument("--seed", type=int, default=0)
    chat.set_defaults(verb=chat_verb)
    sandbox = verbs.add_parser("sandbox", help="the code execution sandbox")
    sandbox.add_argument("action", choices=["doctor"], help="doctor: which layers hold here")
    sandbox.set_defaults(verb=sandbox_verb)
    return parser


def _add_run_options(parser: argparse.ArgumentParser, out: str | None) -> None:
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="override one setting, e.g. rl.steps=50 (may be repeated)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=out, required=out is None, metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")


def demo_verb(options: argparse.Namespace) -> None:
    """`qwq demo`: the miniature and its report."""
    options.configs = [MINI]
    train_verb(options)
    if not options.dry_run:
        print(f"Talk to it:  qwq chat {options.out}/stage1   (ask: What is 3587 + 467?)")


def train_verb(options: argparse.Namespace) -> None:
    """`qwq train`: every stage of a run, then its report."""
    from openqwq.config import dump_config, load_config

    config = load_config(options.configs, options.overrides)
    if options.dry_run:
        print(dump_config(config), end="")
        return
    _train(config, options)
    _report(options.out)


def _train(config: "Config", options: argparse.Namespace) -> None:
    from openqwq.train.pipeline import run_stages
    from openqwq.train.progress import Display
    from openqwq.train.run import InterruptedRun, Run

    run = Run(options.out, config, options.resume)
    try:
        asyncio.run(run_stages(run, Display()))
    except InterruptedRun as stop:
        print(f"qwq: {stop}", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        run.close()


def report_verb(options: argparse.Namespace) -> None:
    """`qwq report`: tables and plots of a run."""
    _report(options.run)


def _report(run: Path) -> None:
    from openqwq.tasks.report import print_summary, write_report

    path = write_report(run, FAMILIES)
    print_summary(run, FAMILIES)
    print(f"Report:      {path}")


def chat_verb(options: argparse.Namespace) -> None:
    """`qwq chat`: a conversation with thinking shown dimmed."""
    from openqwq.serve.terminal import chat

    chat(options.model, options.temperature, options.max_tokens, options.seed)


def sandbox_verb(options: argparse.Namespace) -> None:
    """`qwq sandbox doctor`: every isolation layer, tried."""
    from openqwq.sandbox.doctor import LEVELS
    from openqwq.sandbox.local import doctor

    found = asyncio.run(doctor())
    for layer, problem in found.items():
        print(f"{layer:<14} {problem or 'holds'}")
    levels = [n for n, layers in LEVELS.items() if not any(found[layer] for layer in layers)]
    print(f"levels that hold here: {', '.join(levels) or 'none'}")
    if "full" not in levels:
        raise OpenQwQError("the full level does not hold: programs are refused by default")


if __name__ == "__main__":
    sys.exit(main())
