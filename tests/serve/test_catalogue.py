"""Several models: by name and alias, loaded when asked for, the least recently used leaves."""

import argparse
import asyncio
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from openqwq.engine.open import OpenedModel
from openqwq.serve import catalogue as catalogue_module
from openqwq.serve.catalogue import Catalogue, CatalogueEntry
from openqwq.serve.opening import open_catalogue, store_path
from openqwq.serve.protocol import ApiError
from openqwq.serve.server import ServerOptions
from openqwq.serve.settings import add_serve_options
from openqwq.types import OpenQwQError

Build = Callable[..., OpenedModel]
CHAT = "/v1/chat/completions"


class Shelf:
    """Three models that note when they are loaded and closed."""

    def __init__(self, scripted: Build) -> None:
        self.notes: list[str] = []
        self.entries = [CatalogueEntry(name, self.loader(scripted, name)) for name in "abc"]

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


async def test_an_adapter_is_its_model_under_a_name_of_its_own(
    scripted: Build, serve: Any
) -> None:
    model = replace(scripted("</think>\n\nyes"), adapters=("maths",))
    catalogue = Catalogue(
        [CatalogueEntry("base", lambda: model, adapters=("maths",))], {"gpt": "maths"}
    )
    with serve(catalogue) as server:
        server = replace(server, model=model)
        for name, adapter in (("base", ""), ("maths", "maths"), ("gpt", "maths")):
            body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
            answer = await asyncio.to_thread(httpx.post, server.url + CHAT, json=body)
            _, params = model.generate.asked[-1]  # type: ignore[attr-defined]
            assert params.adapter == adapter and answer.json()["model"] == (
                adapter or "base"
            )
        listed = await asyncio.to_thread(httpx.get, f"{server.url}/v1/models")
    names = [(each["id"], each["parent"]) for each in listed.json()["data"]]
    assert names == [("base", None), ("maths", "base")]


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
    with pytest.raises(OpenQwQError, match="two models are named 'a'"):
        Catalogue([*shelf.entries, shelf.entries[0]])


def test_requests_choose_their_model_and_free_it(shelf: Shelf, serve: Any) -> None:
    catalogue = Catalogue(shelf.entries, {"small": "b"}, most=1)
    with serve(catalogue, ServerOptions(slots=4)) as server:
        for name, own in (("a", "a"), ("small", "b"), ("c", "c")):
            for stream in (False, True):
                body = {"model": name, "messages": [{"role": "user", "content": "who?"}]}
                answer = httpx.post(
                    server.url + CHAT, json={**body, "stream": stream}, timeout=60
                )
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


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_serve_options(parser)
    return parser.parse_args(arguments)


def test_the_command_line_names_models_aliases_and_how_many_stay(
    saved: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(saved, other)
    given = options(str(saved), str(other), "--alias", "gpt-4o,big=other", "--loaded", "1")
    catalogue = open_catalogue(given)
    first, second = catalogue.entries.values()
    assert (first.name, second.name) == ("tiny", "other")
    assert first.model and not second.model and second.size > 1000
    assert catalogue.entry("gpt-4o") is first and catalogue.entry("big") is second
    asyncio.run(use(catalogue, "other"))
    assert second.model and not first.model
    catalogue.close()
    with pytest.raises(OpenQwQError, match="no model is named"):
        open_catalogue(options())


def test_the_store_is_the_users_own_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert store_path(None) == tmp_path / "openqwq" / "responses.sqlite"
    assert store_path("none") is None and store_path("/x/y.db") == Path("/x/y.db")
