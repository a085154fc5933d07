"""The verbs that talk to a model or serve one: chat, ask, serve, models, agent, mcp.

Imported for every `qwq --help`: what is heavy is imported where it runs.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from openqwq.engine.verbs import add_model_options
from openqwq.serve.settings import add_serve_options, add_talk_options
from openqwq.types import OpenQwQError


def add_chat_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq chat`."""
    add_talk_options(parser)
    parser.set_defaults(verb=chat_verb)


def chat_verb(options: argparse.Namespace) -> None:
    """`qwq chat`: a conversation with thinking shown dimmed."""
    from openqwq.serve.terminal import TerminalChat, talker

    with talker(options) as answering:
        TerminalChat(answering, options.system, options.hide_thinking).run()


def add_ask_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq ask`."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[MODEL] QUESTION",
        help="without a question, standard input is read",
    )
    add_talk_options(parser, "--model")
    parser.add_argument(
        "-f",
        "--file",
        type=Path,
        action="append",
        default=[],
        help="send this file along (may be repeated); - is standard input",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the whole reply as one JSON object"
    )
    parser.set_defaults(verb=ask_verb)


def ask_verb(options: argparse.Namespace) -> None:
    """`qwq ask`: one question, its answer on standard output."""
    from openqwq.serve.terminal import ask, question, talker

    words = list(options.words)
    if len(words) > 1 or (words and not options.model and not options.url):
        options.model = words.pop(0)
    messages = question(words, options.file, options.system)
    with talker(options) as answering:
        ask(answering, messages, options.hide_thinking, options.json)


def add_serve_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq serve`."""
    add_serve_options(parser)
    parser.set_defaults(verb=serve_verb)


def serve_verb(options: argparse.Namespace) -> None:
    """`qwq serve`: OpenAI's API and a web chat."""
    from openqwq.serve.guard import Access
    from openqwq.serve.opening import open_catalogue, store_path
    from openqwq.serve.server import ServerOptions, serve
    from openqwq.serve.tool_steps import ServerTools

    hosts = _listed(options.allow_host)
    origins = _listed(options.allow_origin)
    access = Access(options.api_key, hosts, origins)
    access.require_safe(options.host, options.insecure)
    tools = ServerTools.opened(_listed(options.tools), options.mcp)
    limits = ServerOptions(
        access, options.slots, options.queue, options.drain, _listed(options.connect), tools,
        store_path(options.store), options.feedback,
    )  # fmt: skip
    serve(open_catalogue(options), limits, options.host, options.port)


def _listed(text: str) -> tuple[str, ...]:
    """The items of a list written with commas."""
    return tuple(filter(None, text.split(",")))


def add_models_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq models`."""
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(),
        help="directory to look in, as well as the hub's cache",
    )
    parser.set_defaults(verb=models_verb)


def models_verb(options: argparse.Namespace) -> None:
    """`qwq models`: what is on the disk."""
    from openqwq.serve.models import local_models

    found = local_models(options.folder)
    for model in found:
        print(f"{model.size / 1e9:8.2f} GB  {model.kind:<24}  {model.name}")
    if not found:
        print(f"no model in {options.folder} or in the hub's cache", file=sys.stderr)


def add_agent_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq agent`."""
    add_model_options(parser)
    parser.add_argument(
        "--tools", default="", help="tools to offer: python,calculator,files:DIR"
    )
    parser.add_argument(
        "--mcp",
        action="append",
        default=[],
        metavar="COMMAND|URL",
        help="an MCP server (may be repeated)",
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="TOOL",
        help="run this tool without asking (may be repeated)",
    )
    parser.add_argument(
        "--steps", type=int, default=16, help="most replies to one question"
    )
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument(
        "--max-tokens", type=int, default=8192, help="most tokens of one reply"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--transcript",
        type=Path,
        metavar="FILE",
        help="write the conversation to this file",
    )
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="show a written transcript, and stop"
    )
    parser.set_defaults(verb=agent_verb)


def agent_verb(options: argparse.Namespace) -> None:
    """`qwq agent`: a conversation with a model that uses tools."""
    from openqwq.serve.terminal_agent import replay, run_agent

    if options.replay:
        return replay(options.replay)
    if not options.model:
        raise OpenQwQError("model is missing: name one, or a transcript with --replay")
    return run_agent(options)


def add_mcp_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq mcp`."""
    parser.add_argument(
        "--tools",
        default="python,calculator",
        help="tools to offer: python,calculator,files:DIR",
    )
    add_model_options(parser, "--model", "offer the tool ask too, answered by this model")
    parser.add_argument(
        "--http",
        type=int,
        metavar="PORT",
        help="serve at http://127.0.0.1:PORT/mcp instead of standard streams",
    )
    parser.set_defaults(verb=mcp_verb)


def mcp_verb(options: argparse.Namespace) -> None:
    """`qwq mcp`: our tools over the Model Context Protocol."""
    from openqwq.serve.mcp import serve_tools

    asyncio.run(serve_tools(options))
