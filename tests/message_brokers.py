"""Real message brokers for tests: where they are, how messages get there without any of our code, and a place of one's own that is gone afterwards."""

import asyncio
import contextlib
import os
import uuid
from urllib.parse import urlsplit

import pytest

ADDRESSES = {"nats": os.environ.get("RECSPECT_TEST_NATS", "nats://127.0.0.1:4222"), "amqp": os.environ.get("RECSPECT_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672/"),
             "redis": os.environ.get("RECSPECT_TEST_REDIS", "redis://127.0.0.1:6379/0")}


def require(kind):
    """Skip with the reason where the broker cannot be reached."""
    pytest.importorskip("faststream", reason="the extra broker is not installed")
    where = urlsplit(ADDRESSES[kind])

    async def look():
        _, writer = await asyncio.wait_for(asyncio.open_connection(where.hostname, where.port), 3)
        writer.close()

    try:
        asyncio.run(look())
    except (OSError, TimeoutError) as error:
        pytest.skip(f"no {kind} at {where.hostname}:{where.port}: {error or 'no answer'}")


class Post:
    """A subject, queue or stream of its own on a real broker."""

    def __init__(self, kind):
        self.kind, self.address = kind, ADDRESSES[kind]
        self.name = f"test-{uuid.uuid4().hex}"

    @property
    def host_and_port(self):
        where = urlsplit(self.address)
        return where.hostname, where.port

    def through(self, port):
        """The address behind a forwarder on this machine."""
        where = urlsplit(self.address)
        user = f"{where.username}:{where.password}@" if where.username else ""
        return f"{where.scheme}://{user}127.0.0.1:{port}{where.path}"

    def options(self, address=None):
        """Of `recspect events consume`."""
        named = {"nats": ["--subject", self.name, "--stream", self.name], "amqp": ["--queue", self.name], "redis": ["--stream", self.name]}[self.kind]
        return ["--from", address or self.address, *named]

    def send(self, bodies):
        """Put messages there, in order; returns when the broker has them."""
        asyncio.run({"nats": self._nats, "amqp": self._amqp, "redis": self._redis}[self.kind](bodies))

    async def _nats(self, bodies):
        import nats

        client = await nats.connect(self.address)
        streams = client.jetstream()
        await streams.add_stream(name=self.name, subjects=[self.name])
        for start in range(0, len(bodies), 500):
            await asyncio.gather(*(streams.publish(self.name, body) for body in bodies[start:start + 500]))
        await client.close()

    async def _amqp(self, bodies):
        import aio_pika

        async with await aio_pika.connect(self.address) as connection:
            channel = await connection.channel()
            await channel.declare_queue(self.name, durable=True)
            for start in range(0, len(bodies), 500):
                await asyncio.gather(*(channel.default_exchange.publish(aio_pika.Message(body, delivery_mode=2), self.name) for body in bodies[start:start + 500]))

    async def _redis(self, bodies):
        import redis.asyncio

        async with redis.asyncio.from_url(self.address) as client, client.pipeline(transaction=False) as pipe:
            for body in bodies:
                pipe.xadd(self.name, {"data": body})
            await pipe.execute()

    def left(self):
        """Messages that the broker still keeps for the group: not yet given or not acknowledged."""
        return asyncio.run({"nats": self._left_nats, "amqp": self._left_amqp, "redis": self._left_redis}[self.kind]())

    async def _left_nats(self):
        import nats

        client = await nats.connect(self.address)
        info = await client.jetstream().consumer_info(self.name, "recspect")
        await client.close()
        return info.num_pending + info.num_ack_pending

    async def _left_amqp(self):
        import aio_pika

        async with await aio_pika.connect(self.address) as connection:
            return (await (await connection.channel()).declare_queue(self.name, passive=True)).declaration_result.message_count

    async def _left_redis(self):
        import redis.asyncio

        async with redis.asyncio.from_url(self.address) as client:
            group = next(each for each in await client.xinfo_groups(self.name))
            return group["pending"] + (group["lag"] or 0)

    def remove(self):
        asyncio.run({"nats": self._remove_nats, "amqp": self._remove_amqp, "redis": self._remove_redis}[self.kind]())

    async def _remove_nats(self):
        import nats
        from nats.js.errors import NotFoundError

        client = await nats.connect(self.address)
        with contextlib.suppress(NotFoundError):
            await client.jetstream().delete_stream(self.name)
        await client.close()

    async def _remove_amqp(self):
        import aio_pika

        async with await aio_pika.connect(self.address) as connection:
            await (await connection.channel()).queue_delete(self.name)

    async def _remove_redis(self):
        import redis.asyncio

        async with redis.asyncio.from_url(self.address) as client:
            await client.delete(self.name)
