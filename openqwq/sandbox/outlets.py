"""The pipes that a program writes into, and how much may come out of each."""

import os
import select

from openqwq.sandbox.protocol import Limits

CHUNK = 2**16
REPORT_BYTES = 2**16  # of a report beyond the output that a value may be


class Outlet:
    """One pipe: what has come out of it so far, of `most` bytes at most."""

    def __init__(self, most: int) -> None:
        self.reader, self.writer = os.pipe()
        self.most = most
        self.text = bytearray()

    @property
    def overflown(self) -> bool:
        """Whether more came out than may."""
        return len(self.text) > self.most

    def read(self) -> bool:
        """Read some of it; return False where no writer is left."""
        chunk = os.read(self.reader, CHUNK)
        self.text += chunk
        return bool(chunk)

    def read_ready(self) -> None:
        """Read what is there, without waiting for more."""
        while not self.overflown and select.select([self.reader], [], [], 0)[0]:
            if not self.read():
                break

    def read_rest(self) -> None:
        """Read what is left in a pipe without writers, and close it."""
        while not self.overflown and self.read():
            pass
        os.close(self.reader)

    def decoded(self) -> str:
        """Return what came out as text, up to `most`."""
        return self.text[: self.most].decode("utf-8", "replace")


class Outlets:
    """Standard output, standard error and the report of one program."""

    def __init__(self, limits: Limits) -> None:
        self.output = Outlet(limits.output_bytes)
        self.errors = Outlet(limits.output_bytes)
        self.report = Outlet(limits.output_bytes + REPORT_BYTES)

    def all(self) -> tuple[Outlet, Outlet, Outlet]:
        """Return the three of them, in the order of a program's descriptors."""
        return self.output, self.errors, self.report

    def writers(self) -> list[int]:
        """Return the ends that a program gets."""
        return [outlet.writer for outlet in self.all()]

    def silent(self) -> bool:
        """Whether nothing at all came out."""
        return not any(outlet.text for outlet in self.all())

    def overflown(self) -> bool:
        """Whether too much came out of one."""
        return any(outlet.overflown for outlet in self.all())

    def clear(self) -> None:
        """Forget what came out."""
        for outlet in self.all():
            outlet.text.clear()

    def texts(self) -> dict[str, str]:
        """Return standard output and standard error as text."""
        return {"stdout": self.output.decoded(), "stderr": self.errors.decoded()}
