"""The JSON response that the package's servers send."""

import json
from typing import Any

from starlette.responses import JSONResponse


class AsciiJson(JSONResponse):
    """JSON in ASCII, since text may hold lone surrogates, which UTF-8 cannot."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content).encode()
