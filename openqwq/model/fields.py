"""Named values that describe a model, whichever file they come from, checked as they are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openqwq.model.qwen2 import ModelConfig
from openqwq.types import OpenQwQError


@dataclass(frozen=True)
class Fields:
    """Named values that describe a model; one that is missing or malformed raises OpenQwQError."""

    values: Mapping[str, Any]
    source: str

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive integer; absent or null means `default`."""
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self._refuse(name, value, "a positive integer")
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number; absent or null means `default`."""
        value = self._get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            self._refuse(name, value, "a positive number")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        """True or false; absent or null means `default`."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            self._refuse(name, value, "true or false")
        return bool(value)

    def require(self, name: str, supported: Any) -> None:
        """Refuse every value but the one that `Qwen2` computes, or none."""
        if self._get(name, supported) != supported:
            self._refuse(name, self.values[name], f"{supported!r}, all that is supported")

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        return default if value is None else value

    def _refuse(self, name: str, value: Any, rule: str) -> None:
        raise OpenQwQError(f"{self.source} has {name} = {value!r}: it must be {rule}")


def checked(config: ModelConfig, source: str) -> ModelConfig:
    """`config` itself; raises OpenQwQError if its sizes contradict one another."""
    if config.num_attention_heads % config.num_key_value_heads or config.head_dim % 2:
        raise OpenQwQError(
            f"{source} has {config.num_attention_heads} attention heads, "
            f"{config.num_key_value_heads} key-value heads and head_dim {config.head_dim}: the "
            "second must divide the first, and the third be even"
        )
    return config
