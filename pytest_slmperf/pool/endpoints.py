"""Replicas that run already: servers of the OpenAI API, by their addresses, whoever started them.

Each is asked by the engine `openai`, all of them in the pool's own process and event loop: one thread sends everything
and stamps what comes.
"""

from dataclasses import replace
from urllib.parse import urlsplit

from pytest_slmperf.core.engine import EngineFacts, EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.engines.address import device_of_pool
from pytest_slmperf.engines.streaming import Streaming
from pytest_slmperf.pool.devices import Placement
from pytest_slmperf.pool.here import Here
from pytest_slmperf.pool.replica import name_of, own_spec

ENGINE = "openai"
"""The one engine that asks a server at an address."""
OF_ONE = ("url", "command")
"""Options that name a single server."""


class Endpoint(Here):
    """A server that runs, as a replica; it stays when the pool ends."""

    def __init__(self, spec: EngineSpec, number: int, pool: Streaming) -> None:
        assert spec.pool is not None  # noqa: S101 - it is one of a pool
        addresses = spec.pool.addresses
        url = addresses[number - 1]
        label = urlsplit(url).netloc.rpartition("@")[2] or url
        name, own = name_of(number, len(addresses), label), own_spec(spec, number, {"url": url})
        super().__init__(name, own, Placement(label), pool, slowed_alone=spec.pool.slowed_replica is not None)
        self._device = device_of_pool(spec.pool)

    def start(self) -> EngineFacts:
        """Wait until it is ready, and find out how it wants to be asked. All endpoints are one device."""
        facts = super().start()
        return replace(facts, device=self._device or facts.device)


def endpoints(spec: EngineSpec, pool: Streaming) -> tuple[Endpoint, ...]:
    """A replica for each of the pool's addresses, in their order, none of them started.

    Raises UsageError for addresses that aren't as many as replicas, or come twice, and for an engine that asks none.
    """
    addresses, replicas = (spec.pool.addresses, spec.pool.replicas) if spec.pool else ((), 1)
    if spec.engine != ENGINE:
        raise UsageError(f"endpoints are asked by the engine {ENGINE}, and this is {spec.engine}: engine={ENGINE!r}")
    for name in OF_ONE:
        if name in spec.options:
            raise UsageError(f"{name} is of a single server, and endpoints have an address each: leave it out")
    if len(addresses) != replicas:
        raise UsageError(
            f"{replicas} endpoints take the address of each, and there are {len(addresses)}: "
            'addresses=["http://HOST:PORT/v1", …]; a gateway in front of them is a single server, url=… of the engine'
        )
    alike = [address.rstrip("/") for address in addresses]
    twice = next((one for place, one in enumerate(alike) if one in alike[:place]), None)
    if twice is not None:
        raise UsageError(f"{twice} is given twice: a server by itself is one replica")
    return tuple(Endpoint(spec, number, pool) for number in range(1, replicas + 1))
