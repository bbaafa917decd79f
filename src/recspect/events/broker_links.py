"""Links to JetStream, RabbitMQ, Redis streams and Kafka. What each promises is said in `recspect.events.brokers`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from recspect.errors import DataError
from recspect.events.brokers import AGAIN_SECONDS, BATCH, FILL_SECONDS, IDLE_SECONDS, Keep, Place


class _Reading:
    """What the four have in common: FastStream hands over its message as it is, and it is acknowledged behind `keep`."""

    def __init__(self, keep: Keep, bodies: Callable[[Any], Sequence[bytes]]) -> None:
        self._keep, self._bodies = keep, bodies
        self.subscriber: Any = None

    def begin(self, subscriber: Any, parser: Any = None) -> None:
        self.subscriber = subscriber
        subscriber(self._handle, parser=parser, decoder=_as_it_is)

    async def _handle(self, message: Any) -> None:
        await self._keep(self._bodies(message))
        await message.ack()


async def _as_it_is(message: Any) -> Any:
    return message


class _Link:
    """What the four have in common besides: how each is looked after and ended, unless it says otherwise. See `Link`."""

    broker: Any
    ping_seconds = 2.0

    def __init__(self, reading: _Reading) -> None:
        self._reading = reading

    async def alive(self) -> bool:
        """Whether the broker answers and messages are being read."""
        return bool(await self.broker.ping(self.ping_seconds)) and bool(self._reading.subscriber.running)

    async def take_over(self) -> None:
        """The broker gives again by itself what was not acknowledged."""

    async def close(self) -> None:
        await self.broker.stop()


class JetStreamLink(_Link):
    """A durable pull consumer, whose unacknowledged messages come again by themselves. See `Link`.

    Args:
        place: What is read where.
        keep: Keeps the bodies of messages.
    """

    def __init__(self, place: Place, keep: Keep) -> None:
        from faststream.nats import NatsBroker

        self._place = place
        self._client: Any = None
        self.broker = NatsBroker(place.address, max_reconnect_attempts=1, reconnect_time_wait=0, connect_timeout=5, error_cb=_quiet, logger=None, apply_types=False, graceful_timeout=10.0)
        super().__init__(_Reading(keep, lambda message: [each.data for each in message.raw_message]))

    async def open(self) -> None:
        from faststream.middlewares import AckPolicy
        from faststream.nats import JStream, PullSub
        from nats.js.api import ConsumerConfig
        from nats.js.errors import NotFoundError

        place = self._place
        self._client = client = await self.broker.connect()
        # Were the library to give up, FastStream's reading would spin on the closed connection; whoever holds the link makes a new one sooner.
        client.options |= {"max_reconnect_attempts": -1, "reconnect_time_wait": 1}
        streams = client.jetstream()
        try:
            stream = place.stream or await streams.find_stream_name_by_subject(place.name)
            await streams.stream_info(stream)
        except NotFoundError:
            if not place.create:
                raise DataError(f"{place.shown} has no stream {place.stream or f'that holds the subject {place.name}'}",
                                hint=f"nats stream add, or let it be made: --stream {place.stream or 'EVENTS'} --create") from None
            stream = place.stream
            await streams.add_stream(name=stream, subjects=[place.name])
        self._reading.begin(self.broker.subscriber(
            place.name, stream=JStream(stream, declare=False), durable=place.group, pull_sub=PullSub(batch_size=BATCH, timeout=FILL_SECONDS, batch=True),
            config=ConsumerConfig(ack_wait=AGAIN_SECONDS, max_ack_pending=10 * BATCH), ack_policy=AckPolicy.MANUAL))
        await self.broker.start()

    async def close(self) -> None:
        try:
            await self.broker.stop()
        finally:
            if self._client is not None and not self._client.is_closed:
                await self._client.close()


class RabbitLink(_Link):
    """A queue of RabbitMQ, whose unacknowledged messages come again when the connection that had them ends. See `Link`.

    Args:
        place: What is read where.
        keep: Keeps the bodies of messages.
    """

    def __init__(self, place: Place, keep: Keep) -> None:
        from faststream.rabbit import Channel, RabbitBroker

        self._place = place
        self.broker = RabbitBroker(place.address, default_channel=Channel(prefetch_count=2 * BATCH), timeout=5.0, logger=None, apply_types=False, graceful_timeout=10.0)
        super().__init__(_Reading(keep, lambda message: [message.body]))  # one by one; the writes of many at once become one

    async def open(self) -> None:
        from aiormq.exceptions import ChannelNotFoundEntity
        from faststream.middlewares import AckPolicy
        from faststream.rabbit import RabbitQueue

        connection = await self.broker.connect()
        channel = await connection.channel()
        try:
            await channel.declare_queue(self._place.name, passive=True)
            await channel.close()
        except ChannelNotFoundEntity:  # which closes the channel
            if not self._place.create:
                raise DataError(f"{self._place.shown} has no queue {self._place.name!r}", hint="make it where messages are routed, or let it be made: --create") from None
            again = await connection.channel()
            await again.declare_queue(self._place.name, durable=True)
            await again.close()
        self._reading.begin(self.broker.subscriber(RabbitQueue(self._place.name, declare=False), ack_policy=AckPolicy.MANUAL))
        await self.broker.start()


class RedisLink(_Link):
    """A Redis stream with a consumer group, which gives nothing again by itself: what was left behind is asked for. See `Link`.

    Args:
        place: What is read where.
        keep: Keeps the bodies of messages.
    """

    def __init__(self, place: Place, keep: Keep) -> None:
        from faststream.redis import RedisBroker

        self._place, self._keep = place, keep
        self._consumer = socket.gethostname() or "recspect"
        self._client: Any = None
        self.broker = RedisBroker(place.address, logger=None, apply_types=False, graceful_timeout=10.0, socket_connect_timeout=5.0)
        super().__init__(_Reading(keep, lambda message: [entry_body(each) for each in message.raw_message["data"]]))

    async def open(self) -> None:
        from faststream.middlewares import AckPolicy
        from faststream.redis import StreamSub
        from redis.exceptions import ResponseError

        place = self._place
        self._client = await self.broker.connect()
        if not place.create and not await self._client.exists(place.name):
            raise DataError(f"{place.shown} has no stream {place.name!r}", hint="let it be made: --create")
        try:  # from the first message on; FastStream would begin with those that come after it
            await self._client.xgroup_create(place.name, place.group, id="0", mkstream=place.create)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise DataError(f"{place.name!r} in {place.shown} cannot be read as a stream: {error}", hint="is it a key of another type?") from None
        await self._own()
        await self.take_over()
        self._reading.begin(self.broker.subscriber(stream=StreamSub(
            place.name, group=place.group, consumer=self._consumer, batch=True, max_records=BATCH, polling_interval=int(1000 * FILL_SECONDS)), ack_policy=AckPolicy.MANUAL),
            parser=self._parsed)
        await self.broker.start()

    async def _parsed(self, raw: Any) -> Any:
        """FastStream's own parser takes only entries that FastStream's publisher wrote."""
        from faststream.redis.message import RedisBatchStreamMessage

        return RedisBatchStreamMessage(raw_message=raw, body=b"", consumer=self._client, group=self._place.group)

    async def take_over(self) -> None:
        """What others took and did not acknowledge for a minute."""
        start: Any = "0-0"
        while True:
            start, entries, *_ = await self._client.xautoclaim(
                self._place.name, self._place.group, self._consumer, min_idle_time=int(1000 * IDLE_SECONDS), start_id=start, count=BATCH)
            await self._settle(entries)
            if start in (b"0-0", "0-0"):
                return

    async def _own(self) -> None:
        """What this consumer took before it was ended, and did not acknowledge."""
        while True:
            found = await self._client.xreadgroup(self._place.group, self._consumer, {self._place.name: "0"}, count=BATCH)
            entries = [entry for _, entries in (found.items() if isinstance(found, dict) else found or ()) for entry in _flat(entries)]
            if not entries:
                return
            await self._settle(entries)

    async def _settle(self, entries: Sequence[tuple[Any, dict[bytes, bytes] | None]]) -> None:
        if entries:
            await self._keep([entry_body(fields) for _, fields in entries if fields])  # none: it was deleted from the stream since
            await self._client.xack(self._place.name, self._place.group, *(number for number, _ in entries))


class KafkaLink(_Link):
    """A consumer group of Kafka, whose offsets are committed behind the write; it begins with the first message. See `Link`.

    Args:
        place: What is read where.
        keep: Keeps the bodies of messages.
    """

    ping_seconds = 5.0

    def __init__(self, place: Place, keep: Keep) -> None:
        from faststream.kafka import KafkaBroker
        from faststream.middlewares import AckPolicy

        self.broker = KafkaBroker(_hosts(place), security=_security(place), client_id="recspect", logger=None, apply_types=False, graceful_timeout=10.0)
        super().__init__(_Reading(keep, lambda message: [each.value or b"" for each in message.raw_message]))
        self._reading.begin(self.broker.subscriber(
            place.name, group_id=place.group, auto_offset_reset="earliest", batch=True, max_records=BATCH, batch_timeout_ms=int(1000 * FILL_SECONDS),
            ack_policy=AckPolicy.MANUAL))

    async def open(self) -> None:
        await self.broker.start()


# ---------------------------------------------------------------------- details


def entry_body(fields: dict[bytes, bytes]) -> bytes:
    """The event in an entry of a Redis stream: what FastStream's own publisher wrote, or the field `data`, or the only field there is.

    An entry of other fields gives their names, which are no JSON: it becomes a reject that shows them.
    """
    from faststream.redis.message import bDATA_KEY
    from faststream.redis.parser import BinaryMessageFormatV1

    if bDATA_KEY in fields:
        return BinaryMessageFormatV1.parse(fields[bDATA_KEY])[0]
    if b"data" in fields:
        return fields[b"data"]
    return next(iter(fields.values())) if len(fields) == 1 else b"fields without data: " + b", ".join(fields)


def _flat(entries: Any) -> Any:
    """Entries of one stream; newer protocols wrap them once more."""
    return entries[0] if len(entries) == 1 and isinstance(entries[0], list) else entries


def _hosts(place: Place) -> list[str]:
    return place.address.partition("://")[2].rpartition("@")[2].rstrip("/").split(",")


def _security(place: Place) -> Any:
    from faststream.security import BaseSecurity, SASLPlaintext

    parts = urlsplit(place.address)
    encrypted = parts.scheme == "kafka+ssl"
    context = None
    if encrypted:
        import ssl

        context = ssl.create_default_context()
    credentials, sign, _ = parts.netloc.rpartition("@")
    if not sign:
        return BaseSecurity(ssl_context=context, use_ssl=True) if encrypted else None
    user, _, password = credentials.partition(":")
    return SASLPlaintext(unquote(user), unquote(password), ssl_context=context, use_ssl=encrypted)


async def _quiet(_: Exception) -> None:
    """What NATS' library tells of is noticed where the link is looked after."""



__all__ = ["JetStreamLink", "KafkaLink", "RabbitLink", "RedisLink", "entry_body"]
