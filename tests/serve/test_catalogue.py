"""Several models: by name and alias, loaded when asked for, the least recently used leaves."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest

from openqwq.engine.open import OpenedModel
from openqwq.serve import catalogue as catalogue_module
from openqwq.serve.catalogue import Catalogue, Entry
from openqwq.serve.protocol import ApiError
from openqwq.serve.server import ServerOptions
from openqwq.types import OpenQwQError

Build = Callable[..., OpenedModel]
CHAT = "/v1/chat/completions"


class Shelf:
    """Three models that note when they are loaded and closed."""

    def __init__(self, scripted: Build) -> None:
        self.notes: list[str] = []
        self.entries = [Entry(name, self.loader(scripted, name)) for name in "abc"]

    def loader(self, scripted: Build, name: str) -> Callable[[], OpenedModel]:
        def load() -> OpenedModel:
            self.notes.append(f"+{name}")
            model = replace(scripted(f"</think>\n\nI am {name}"), name=name)
            close = lambda: self.notes.append(f"-{name}")  # noqa: E731
            model.generate.close = close  # type: ignore[method-assign]
            return model

        return load


@pytest.fixture
def shelf(scripted: Build) -> Shelf:
    return Shelf(scripted)


async def use(catalogue: Catalogue, name: str) -> None:
    with await catalogue.lend(name) as model:
        assert model.name == name


async def test_the_least_recently_used_leaves(shelf: Shelf) -> None:
    catalogue = Catalogue(shelf.entries, most=2)
    for name in "abaca":
        await use(catalogue, name)
    assert shelf.notes == ["+a", "+b", "-b", "+c"]
    catalogue.close()
    assert shelf.notes[-2:] == ["-a", "-c"]


async def test_memory_decides_where_no_number_does(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue_module, "available_memory", lambda: 1000)
    for entry, size in zip(shelf.entries, (700, 900, 5000), strict=True):
        entry.size = size
    catalogue = Catalogue(shelf.entries)
    for name in "abc":  # the last fits nowhere, which loading it says
        await use(catalogue, name)
    assert shelf.notes == ["+a", "-a", "+b", "-b", "+c"]


async def test_a_model_in_use_stays_and_the_next_waits_for_it(shelf: Shelf) -> None:
    catalogue = Catalogue(shelf.entries, most=1)
    with ExitStack() as place:
        place.enter_context(await catalogue.lend("a"))
        waiting = asyncio.create_task(use(catalogue, "b"))
        await asyncio.sleep(0.05)
        assert not waiting.done() and shelf.notes == ["+a"]
        await use(catalogue, "a")  # others may still use the one that is loaded
    await waiting
    assert shelf.notes == ["+a", "-a", "+b"]


async def test_many_who_ask_at_once_load_a_model_once(shelf: Shelf) -> None:
    catalogue = Catalogue(shelf.entries)
    await asyncio.gather(*(use(catalogue, "a") for _ in range(9)))
    assert shelf.notes == ["+a"]


async def test_a_model_that_fails_to_load_may_be_asked_again(shelf: Shelf) -> None:
    load, shelf.entries[0].load = shelf.entries[0].load, broken
    catalogue = Catalogue(shelf.entries)
    with pytest.raises(OpenQwQError, match="no such file"):
        await catalogue.lend("a")
    shelf.entries[0].load = load
    await use(catalogue, "a")


def broken() -> OpenedModel:
    raise OpenQwQError("no such file")


def test_names_are_found_by_alias_and_by_the_star(shelf: Shelf) -> None:
    catalogue = Catalogue(shelf.entries, {"gpt-4o": "b"})
    assert catalogue.entry("gpt-4o").name == "b" and catalogue.entry("c").name == "c"
    with pytest.raises(ApiError, match="'gpt-5' is not served here") as refused:
        catalogue.entry("gpt-5")
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")
    assert Catalogue(shelf.entries, {"*": "c"}).entry("gpt-5").name == "c"


@pytest.mark.parametrize(
    ("aliases", "text"), [({"x": "z"}, "means 'z'"), ({"a": "b"}, "a model's own name")]
)
def test_an_alias_that_leads_nowhere_is_refused(
    shelf: Shelf, aliases: dict[str, str], text: str
) -> None:
    with pytest.raises(OpenQwQError, match=text):
        Catalogue(shelf.entries, aliases)


def test_two_models_of_one_name_are_refused(shelf: Shelf) -> None:
    with pytest.raises(OpenQwQError, match="share a name"):
        Catalogue([*shelf.entries, shelf.entries[0]])


def test_requests_choose_their_model_and_free_it(shelf: Shelf, serve: Any) -> None:
    catalogue = Catalogue(shelf.entries, {"small": "b"}, most=1)
    with serve(catalogue, ServerOptions(slots=4)) as server:
        for name, own in (("a", "a"), ("small", "b"), ("c", "c")):
            for stream in (False, True):
                body = {"model": name, "messages": [{"role": "user", "content": "who?"}]}
                answer = httpx.post(server.url + CHAT, json={**body, "stream": stream}, timeout=60)
                assert f"I am {own}" in answer.text.replace('"}', "") or stream
                assert f'"model": "{own}"' in answer.text
        listed = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert [(each["id"], each["loaded"]) for each in listed] == [
            ("a", False),
            ("b", False),
            ("c", True),
        ]
        assert listed[1]["aliases"] == ["small"] and listed[0]["context_length"] is None
    assert all(entry.users == 0 for entry in shelf.entries)
