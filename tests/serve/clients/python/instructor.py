"""instructor: a typed answer by a forced tool, by a JSON schema, and streamed in parts."""

# requires: instructor
import json
import os

import instructor
import openai
import pydantic


class City(pydantic.BaseModel):
    """A city and its temperature."""

    city: str
    degrees: int


client = openai.OpenAI(base_url=os.environ["QWQ_URL"] + "/v1", api_key="none")
ask = [{"role": "user", "content": "Oslo?"}]
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.JSON):
    own = instructor.from_openai(client, mode=mode)
    city = own.create(model="puppet", messages=ask, response_model=City)
    assert (city.city, city.degrees) == ("Oslo", 21)
own = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
parts = list(own.create_partial(model="puppet", messages=ask, response_model=City))
print(json.dumps({"streamed": parts[-1].city, "tool": f"{city.degrees}"}))
