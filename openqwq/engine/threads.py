"""Where an engine computes: in the thread that asks, or on one that ends with its work."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class CallersThread(Executor):
    """Does at once, in the thread that asks, what is submitted; refuses it after `shutdown`."""

    closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `Executor.submit`."""
        if self.closed:
            raise RuntimeError("the engine is closed")
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `Executor.shutdown`."""
        self.closed = True


def on_a_thread(function: Callable[[], Result]) -> Result:
    """What `function` returns or raises, called on a thread that ends with it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()
