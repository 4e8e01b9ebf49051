"""What people write instead: a plain kombu + httpx loop, and FastStream + httpx.

They take, post and acknowledge; they validate nothing, retry nothing, measure nothing. Run as a
process by the benchmark: ``python -m tests.bench.loops kombu|faststream BROKER_URL QUEUE REGISTRY_URL``.
"""

import asyncio
import sys

import httpx

IN_FLIGHT = 64
HEADERS = {"Authorization": "Bearer token", "Content-Type": "application/json"}


def kombu_loop(broker_url: str, queue: str, url: str) -> None:
    """One message after the other, as in kombu's own documentation."""
    import kombu  # noqa: PLC0415 each contender carries only what it needs

    with httpx.Client(headers=HEADERS) as client, kombu.Connection(broker_url) as connection:

        def on_message(message: kombu.Message) -> None:
            response = client.post(url, content=message.body)
            if response.status_code == httpx.codes.CREATED:
                message.ack()
            else:
                message.requeue()

        channel = connection.channel()
        bound = kombu.Queue(queue, channel=channel, no_declare=True)
        with kombu.Consumer(channel, [bound], on_message=on_message, prefetch_count=2 * IN_FLIGHT):
            while True:
                connection.drain_events()


def faststream_loop(broker_url: str, queue: str, url: str) -> None:
    """FastStream handles what is prefetched concurrently: as many as we have requests in flight."""
    from faststream import AckPolicy, FastStream  # noqa: PLC0415
    from faststream.rabbit import Channel, RabbitBroker, RabbitMessage, RabbitQueue  # noqa: PLC0415

    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    client = httpx.AsyncClient(headers=HEADERS, limits=limits)
    broker = RabbitBroker(broker_url, log_level=30)

    @broker.subscriber(
        RabbitQueue(queue, durable=True, declare=False),
        channel=Channel(prefetch_count=IN_FLIGHT),
        ack_policy=AckPolicy.REJECT_ON_ERROR,
    )
    async def post(_: object, message: RabbitMessage) -> None:
        response = await client.post(url, content=message.body)
        response.raise_for_status()

    asyncio.run(FastStream(broker).run())


if __name__ == "__main__":
    {"kombu": kombu_loop, "faststream": faststream_loop}[sys.argv[1]](*sys.argv[2:])
