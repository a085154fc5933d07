"""A server that says one prepared text: PORT STORE TEXT. It stands in a process to be killed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "agent"))
from scripted import Scripted

from openqwq.engine.open import OpenedModel
from openqwq.serve.catalogue import Catalogue
from openqwq.serve.server import ServerOptions, serve
from openqwq.text.tokenizer import Tokenizer

DELAY = 0.03  # seconds a token


def main() -> None:
    port, store, text = sys.argv[1:]
    tokenizer = Tokenizer.train([text] * 4, 300)
    engine = Scripted(tokenizer, [text], DELAY)
    model = OpenedModel("scripted", engine, tokenizer, 4096, "torch", "a test")
    serve(Catalogue.of(model), ServerOptions(store=Path(store)), "127.0.0.1", int(port))


if __name__ == "__main__":
    main()
