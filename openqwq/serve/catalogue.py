"""The models of one server, by name: loaded on request, the least recently used freed first."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from openqwq.engine.open import OpenedModel
from openqwq.model.fit import available_memory
from openqwq.serve.protocol import ApiError
from openqwq.types import OpenQwQError

HEADROOM = 1.25  # memory that a model needs while it is loaded, in sizes of its files
ANY = "*"  # as an alias: every name that is not another's


@dataclass
class CatalogueEntry:
    """One model that may be asked for, or one of its adapters by that adapter's name.

    `size` is that of its files, bytes, 0 if unknown.
    """

    name: str
    load: Callable[[], OpenedModel]
    size: int = 0
    adapters: tuple[str, ...] = ()
    model: OpenedModel | None = None
    users: int = 0  # requests that use it now
    used: float = 0.0  # when one last took it, seconds


class Catalogue:
    """Models by name; `aliases` are further names, `most` is how many may be loaded at once.

    The first entry is the one that other rooms of the server call "the model".
    """

    def __init__(
        self,
        entries: Sequence[CatalogueEntry],
        aliases: Mapping[str, str] | None = None,
        most: int = 0,
    ) -> None:
        self.entries = {entry.name: entry for entry in entries}
        self.aliases = dict(aliases or {})
        self._most = most
        self._owners: dict[str, CatalogueEntry] = {}  # by the names of models and adapters
        for entry in entries:
            for name in (entry.name, *entry.adapters):
                if name in self._owners:
                    raise OpenQwQError(
                        f"two models are named {name!r}: rename a file or directory"
                    )
                self._owners[name] = entry
        for alias, name in self.aliases.items():
            if name not in self._owners:
                raise OpenQwQError(
                    f"the alias {alias!r} means {name!r}: name one of {self.names}"
                )
            if alias in self._owners:
                raise OpenQwQError(
                    f"the alias {alias!r} is a model's own name: choose another"
                )
        self._loading = asyncio.Lock()
        self._released = asyncio.Event()

    @classmethod
    def of(cls, model: OpenedModel, aliases: Sequence[str] = ()) -> "Catalogue":
        """A catalogue of one model that is open already."""
        entry = CatalogueEntry(model.name, lambda: model, model=model)
        return cls([entry], dict.fromkeys(aliases, model.name))

    @property
    def names(self) -> list[str]:
        """The names of models, each before its adapters', in the order of the command line."""
        return list(self._owners)

    def own_name(self, name: str) -> str:
        """The name of the model or adapter that a request's `model` means; ApiError 404 if none."""
        own = self.aliases.get(name, name)
        if own not in self._owners and ANY in self.aliases:
            own = self.aliases[ANY]
        if own not in self._owners:
            served = ", ".join(repr(each) for each in self.names)
            text = f"model {name!r} is not served here: name one of {served}, or start with --alias"
            raise ApiError(404, text, "model", "model_not_found")
        return own

    def entry(self, name: str) -> CatalogueEntry:
        """The entry that a request's `model` means; ApiError 404 if none does."""
        return self._owners[self.own_name(name)]

    async def lend(self, name: str) -> AbstractContextManager[OpenedModel]:
        """The model of that name, loaded if need be; it stays loaded until the context ends.

        An adapter is lent as its model under the adapter's name.
        """
        name = self.own_name(name)
        entry = self._owners[name]
        if entry.model is None:
            async with self._loading:
                await self._load(entry)
        assert entry.model is not None
        entry.users += 1
        entry.used = time.monotonic()
        return self._lent(entry, replace(entry.model, name=name))

    def close(self) -> None:
        """Free every model."""
        for entry in self.entries.values():
            model = entry.model
            entry.model = None
            if model is not None:
                model.close()

    @contextmanager
    def _lent(self, entry: CatalogueEntry, model: OpenedModel) -> Iterator[OpenedModel]:
        try:
            yield model
        finally:
            entry.users -= 1
            self._released.set()

    async def _load(self, entry: CatalogueEntry) -> None:
        if entry.model is not None:  # another request has loaded it meanwhile
            return
        while not self._fits(entry):
            loaded = [each for each in self.entries.values() if each.model is not None]
            idle = [each for each in loaded if not each.users]
            if not loaded:
                break  # nothing to free: if it does not fit, loading says so
            if not idle:
                self._released.clear()
                await self._released.wait()
                continue
            oldest = min(idle, key=lambda each: each.used)
            model = oldest.model
            oldest.model = None
            assert model is not None
            await asyncio.to_thread(model.close)
        entry.model = await asyncio.to_thread(entry.load)

    def _fits(self, entry: CatalogueEntry) -> bool:
        loaded = sum(each.model is not None for each in self.entries.values())
        if self._most and loaded >= self._most:
            return False
        return entry.size * HEADROOM <= available_memory()
