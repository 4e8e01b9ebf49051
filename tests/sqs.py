"""An SQS over real HTTP (moto's server in a process of its own), and a client as another producer has it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3

from tests.rabbit_setup import free_port
from tests.waiting import wait_until

REGION = "eu-west-3"


class SqsServer:
    """Holds any number of queues; every test uses names of its own."""

    def __init__(self, port: int) -> None:
        self.url = f"sqs://key:secret@127.0.0.1:{port}?region={REGION}"
        self.client: Any = boto3.client(
            "sqs",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name=REGION,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )

    def create(self, queue: str, **attributes: str) -> str:
        """Create the queue as an operator does; returns its URL."""
        answer = self.client.create_queue(QueueName=queue.replace(".", "-"), Attributes=attributes)
        return str(answer["QueueUrl"])

    def put(self, queue: str, body: str) -> None:
        """Send ``body`` as it is, as a producer does that is not kombu."""
        self.client.send_message(QueueUrl=self._url(queue), MessageBody=body)

    def take(self, queue: str) -> list[str]:
        """Remove and return the bodies that are visible, as they are stored."""
        bodies, url = [], self._url(queue)
        while found := self.client.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            for message in found:
                bodies.append(message["Body"])
                self.client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return bodies

    def count(self, queue: str) -> tuple[int, int]:
        """How many messages are visible, and how many are received and not deleted."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.client.get_queue_attributes(QueueUrl=self._url(queue), AttributeNames=names)
        return int(answer["Attributes"][names[0]]), int(answer["Attributes"][names[1]])

    def _url(self, queue: str) -> str:
        return str(self.client.get_queue_url(QueueName=queue.replace(".", "-"))["QueueUrl"])


@contextmanager
def running() -> Iterator[SqsServer]:
    """Start the server on a free port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        server = SqsServer(port)
        try:
            wait_until(lambda: _answers(server), 30, "the SQS server answers")
            yield server
        finally:
            server.client.close()
            process.kill()


def _answers(server: SqsServer) -> bool:
    try:
        server.client.list_queues()
    except Exception:  # noqa: BLE001 botocore raises its own when nothing listens yet
        return False
    return True
