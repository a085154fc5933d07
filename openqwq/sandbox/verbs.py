"""`qwq sandbox`: try the isolation layers of this machine, or serve programs over HTTP.

Imported for every `qwq --help`: what is heavy is imported where it runs.
"""

import argparse
import asyncio
import os


def add_sandbox_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq sandbox`."""
    parser.add_argument(
        "action",
        choices=["doctor", "serve"],
        help="doctor: try the isolation layers; serve: run programs over HTTP",
    )
    parser.add_argument(
        "--level",
        default="full",
        help="the isolation level to insist on: full or no-landlock",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8182)
    parser.add_argument(
        "--workers", type=int, help="programs that run at once (default: one per core)"
    )
    parser.add_argument(
        "--queue",
        type=int,
        default=1024,
        help="requests that may run or wait; more are refused",
    )
    parser.add_argument(
        "--sessions", type=int, default=16, help="sessions that may be open at once"
    )
    parser.add_argument(
        "--packages",
        type=lambda text: tuple(filter(None, text.split(","))),
        default=(),
        metavar="NAME,...",
        help="packages that programs may import: names of installed ones, or directories",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="LIMIT=VALUE",
        help="limit for requests that set none, e.g. wall_seconds=2 or memory_bytes=536870912",
    )
    parser.add_argument(
        "--maximum",
        action="append",
        default=[],
        metavar="LIMIT=VALUE",
        help="highest limit that a request may ask for",
    )
    parser.add_argument("--api-key", default=os.environ.get("QWQ_SANDBOX_KEY", ""))
    parser.add_argument(
        "--insecure", action="store_true", help="allow a public address without a key"
    )
    parser.set_defaults(verb=sandbox_verb)


def sandbox_verb(options: argparse.Namespace) -> None:
    """`qwq sandbox doctor` and `qwq sandbox serve`."""
    if options.action == "doctor":
        from openqwq.sandbox.doctor import report, require
        from openqwq.sandbox.local import doctor

        found = asyncio.run(doctor(packages=options.packages))
        print(report(found), flush=True)
        require(options.level, found)
        return

    from openqwq.sandbox.server import serve

    settings = dict(vars(options))
    del settings["verb"], settings["action"]
    serve(**settings)
