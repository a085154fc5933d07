"""dspy: a predictor, and one whose answer streams."""

# requires: dspy
import asyncio
import json
import os

import dspy

lm = dspy.LM(
    "openai/puppet", api_base=os.environ["QWQ_URL"] + "/v1", api_key="none", cache=False
)
dspy.configure(lm=lm)
whole = dspy.Predict("question -> answer")(question="Weather in Oslo?").answer


async def main() -> None:
    predict = dspy.streamify(
        dspy.Predict("question -> answer"),
        stream_listeners=[dspy.streaming.StreamListener(signature_field_name="answer")],
    )
    streamed = ""
    async for part in predict(question="Weather in Oslo?"):
        if isinstance(part, dspy.streaming.StreamResponse):
            streamed += part.chunk
    print(json.dumps({"streamed": streamed.partition("[[")[0].strip(), "tool": whole}))


asyncio.run(main())
