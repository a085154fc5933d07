"""Requests made from our own document: no 5xx, and no reply that the document does not describe.

FUZZ_EXAMPLES=200 makes the run thorough: that many requests a route, valid and invalid ones.
"""

import itertools
import os
from collections.abc import Callable
from typing import Any
from unittest import SkipTest

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from openqwq.engine.open import OpenedModel
from openqwq.serve.guard import Access
from openqwq.serve.server import ServerOptions

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "4"))
# What the document's types alone cannot rule out is 400: an unknown id of a call, a model's name.
CONFIG = schemathesis.Config.from_dict(
    {
        "checks": {
            "positive_data_acceptance": {"expected-statuses": ["2xx", "400", "404", "429"]}
        }
    }
)


def probed(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> bool:
    """Whether there was anything of that mode to try; raises at the first breach."""
    try:
        cases = operation.as_strategy(generation_mode=mode)
    except SkipTest:  # nothing in this route can be wrong
        return False

    @given(case=cases)
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    def probe(case: Any) -> None:
        if (
            mode == GenerationMode.POSITIVE
            and isinstance(case.body, dict)
            and "model" in case.body
        ):
            case.body["model"] = "scripted"
        case.call_and_validate(headers=headers)

    try:
        probe()
    except (SkipTest, Unsatisfiable):
        return False
    return True


@pytest.mark.filterwarnings("ignore")  # the tool's own, about what it deprecates
def test_no_5xx_and_no_breach_of_the_document(
    scripted: Callable[..., OpenedModel], serve: Any
) -> None:
    model = scripted("so</think>\n\nyes", context=100_000)
    with serve(model, ServerOptions(Access("key"), slots=4)) as server:
        headers = {"Authorization": "Bearer key"}
        schema = schemathesis.openapi.from_url(
            f"{server.url}/openapi.json", headers=headers, config=CONFIG
        )
        seen = set()
        for result, mode in itertools.product(schema.get_all_operations(), GenerationMode):
            operation = result.ok()
            if probed(operation, mode, headers):
                seen.add((operation.label, mode))
        server.wait_until_idle()
    labels = {label for label, _ in seen}
    assert len(labels) == len(list(schema.get_all_operations())) and len(seen) > 20
