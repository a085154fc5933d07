"""Published scores, in percent, of the models on the announcement's chart.

QwQ-32B and DeepSeek-R1: the announcement of 6 March 2025, an image, as press copies of it agree;
o1-mini and the distilled models: DeepSeek-R1 paper (arXiv 2501.12948), tables 4 and 5. What is not
published for a model is not here.
"""

from collections.abc import Mapping

PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "QwQ-32B": {
        "aime24": 79.5, "livecodebench": 63.4, "livebench": 73.1, "ifeval": 83.9, "bfcl": 66.4,
        "aime25": 69.5,
    },
    "DeepSeek-R1-671B": {
        "aime24": 79.8, "livecodebench": 65.9, "livebench": 71.6, "ifeval": 83.3, "bfcl": 62.8,
        "math500": 97.3,
    },
    "OpenAI o1-mini": {
        "aime24": 63.6, "livecodebench": 53.8, "livebench": 59.1, "ifeval": 84.8, "bfcl": 49.3,
        "math500": 90.0,
    },
    "R1-Distill-Llama-70B": {"aime24": 70.0, "livecodebench": 57.5, "math500": 94.5},
    "R1-Distill-Qwen-32B": {"aime24": 72.6, "livecodebench": 57.2, "math500": 94.3},
}  # fmt: skip
CAVEATS = (
    "Published figures are their authors' own, on full benchmarks with hidden tests.",
    "o1-mini: LiveBench is 59.1 in one press copy of the announcement and 57.5 in others; BFCL 49.3"
    " stands in English press copies only; IFEval 84.8 is the DeepSeek-R1 paper's.",
    "BFCL figures are of version 3, whose overall is not comparable with version 4's.",
)
