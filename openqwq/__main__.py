"""`python -m openqwq` is the command `qwq`."""

import sys

from openqwq.cli import main

if __name__ == "__main__":
    sys.exit(main())
