"""Message brokers that events are read from, each through FastStream: what is read, what a message holds, how it is made sure that nothing is skipped.

A link is one connection. It reads messages in batches, gives their bodies to whoever keeps them, and acknowledges them when that returns: a message whose
event is not durable stays with the broker. Reconnecting is not done here but by making a new link (`recspect.events.consuming`), the same way for all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from recspect.errors import UsageError

BATCH = 1_000
"""Messages that are read, and kept in one write, at most."""

FILL_SECONDS = 0.25
"""How long a batch is waited for to fill where the broker has fewer messages."""

AGAIN_SECONDS = 10.0
"""After how long JetStream gives a message again that was not acknowledged."""

IDLE_SECONDS = 60.0
"""After how long a Redis stream's message that another consumer took and did not acknowledge is taken over."""

SCHEMES = {"nats": "nats", "tls": "nats", "amqp": "amqp", "amqps": "amqp", "redis": "redis", "rediss": "redis", "kafka": "kafka", "kafka+ssl": "kafka"}
"""Scheme of an address to the broker."""

NEEDS = {"nats": "subject", "amqp": "queue", "redis": "stream", "kafka": "topic"}
"""Broker to the option that names what is read."""

Keep = Callable[[Sequence[bytes]], Awaitable[None]]
"""Takes the bodies of messages; returns when what is in them is durable."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is read where.

    Args:
        address: Of the broker, such as `nats://127.0.0.1:4222`.
        name: The subject, queue, stream or topic.
        stream: The JetStream stream that holds the subject; the broker is asked where it is empty.
        group: Whose place in the messages is kept by the broker: two consumers of one group share them.
        create: Whether a stream or queue that is not there is made (not for Kafka).

    Raises:
        UsageError: No broker's address, no name, or what this broker does not have.
    """

    address: str
    name: str
    stream: str = ""
    group: str = "recspect"
    create: bool = False

    def __post_init__(self) -> None:
        if urlsplit(self.address).scheme not in SCHEMES:
            raise UsageError(f"no broker is reached by {self.shown[:200]!r}", hint="nats://HOST, amqp://USER:PASSWORD@HOST, redis://HOST or kafka://HOST")
        if not self.name:
            raise UsageError(f"nothing is said that is to be read from {self.shown}", hint=f"--{NEEDS[self.broker]} NAME")
        if not self.group or not all(letter.isalnum() or letter in "-_" for letter in self.group):
            raise UsageError(f"the group is called {self.group[:80]!r}", hint="letters, digits, - and _")
        if self.broker == "nats" and self.create and not self.stream:
            raise UsageError("a stream of JetStream that is to be made needs a name", hint="--stream EVENTS --create")
        if self.broker == "kafka" and self.create:
            raise UsageError("a topic of Kafka is made by who runs it: its partitions and copies are their decision", hint="kafka-topics.sh --create")

    @property
    def broker(self) -> str:
        """`nats`, `amqp`, `redis` or `kafka`."""
        return SCHEMES[urlsplit(self.address).scheme]

    @property
    def shown(self) -> str:
        """The address without user and password."""
        return without_password(self.address)

    @property
    def origin(self) -> str:
        """What rejects name as their origin."""
        return f"{self.broker}:{self.name}"


def without_password(address: str) -> str:
    """An address as it may be shown: its user and password are left out; of what is no address, what is before its `://`."""
    scheme, sign, rest = address.partition("://")
    return f"{scheme}{sign}{rest.rpartition('@')[2]}" if sign else scheme


def place_of(address: str, *, names: Mapping[str, str], group: str = "recspect", create: bool = False) -> Place:
    """A place from what the command line was given.

    Args:
        address: Of the broker.
        names: Option (`subject`, `queue`, `stream`, `topic`) to its value; empty where it was not given.
        group, create: See `Place`.

    Raises:
        UsageError: An option that the broker of this address does not have, or none of what it needs; see also `Place`.
    """
    needed = NEEDS.get(SCHEMES.get(urlsplit(address).scheme, ""), "")
    beside = "stream" if needed == "subject" else ""
    place = Place(address=address, name=names.get(needed, ""), stream=names.get(beside, ""), group=group, create=create)
    odd = [name for name, value in names.items() if value and name not in (needed, beside)]
    if odd:
        raise UsageError(f"--{odd[0]} says nothing to {place.shown}", hint=f"--{needed} NAME")
    return place


class Link(Protocol):
    """One connection to a broker. `broker` is FastStream's."""

    broker: Any

    async def open(self) -> None:
        """Connect, and begin to read.

        Raises:
            DataError: What is to be read is not there.
            Exception: Whatever the broker's library raises where it is not reached.
        """
        ...

    async def alive(self) -> bool:
        """Whether messages can come."""
        ...

    async def take_over(self) -> None:
        """Take what another consumer of the group left behind, where the broker does not give it again by itself."""
        ...

    async def close(self) -> None:
        """Let what is being kept be kept and acknowledged, then disconnect."""
        ...


def link_to(place: Place, keep: Keep) -> Link:
    """A link that is not opened yet.

    Args:
        place: What is read where.
        keep: Called with the bodies of a batch; they are acknowledged when it returns, and not where it raises.

    Raises:
        ImportError: FastStream or the broker's library is not installed.
    """
    from recspect.events import broker_links as links

    found: Link = {"nats": links.JetStreamLink, "amqp": links.RabbitLink, "redis": links.RedisLink, "kafka": links.KafkaLink}[place.broker](place, keep)
    return found


__all__ = ["Keep", "Link", "Place", "link_to", "place_of", "without_password"]
