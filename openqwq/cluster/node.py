"""The machine that a part of a run is on."""

import ray.util


def node_address() -> str:
    """What other nodes reach this one by; many machines resolve their own name to a loopback."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address
