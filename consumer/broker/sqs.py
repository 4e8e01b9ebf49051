"""What kombu's SQS transport needs to keep our promise. Imported only for ``sqs://``: boto3 is an extra.

1. A message is kombu's envelope only if it is one in every respect. kombu itself takes any JSON object with
   a member "properties" for one, which would destroy a foreign producer's message.
2. What is not acknowledged is made visible again at once, in whatever queue it was read. kombu looks up the
   route by which it was published, which another process does not know.
"""

import base64
import json
from typing import Any

from kombu.transport import SQS


class SqsChannel(SQS.Channel):
    def _has_queue(self, queue: str, **_: Any) -> bool:
        try:
            self._resolve_queue_url(queue)
        except SQS.DoesNotExistQueueException:
            return False
        return True

    def _message_to_python(self, message: dict[str, Any], queue_name: str, q_url: str) -> dict[str, Any]:
        payload = _envelope(message["Body"]) or {
            "body": message["Body"],
            "properties": {"delivery_info": {"exchange": "", "routing_key": queue_name}},
        }
        properties = payload["properties"]
        properties["delivery_info"].update(sqs_message=message, sqs_queue=q_url)
        properties["delivery_tag"] = message["ReceiptHandle"]
        received = message.get("Attributes", {}).get("ApproximateReceiveCount", 1)
        properties["redelivered"] = int(received) > 1
        return payload

    def _restore(self, message: Any, *_: Any) -> None:
        info = message.delivery_info
        self.sqs().change_message_visibility(
            QueueUrl=info["sqs_queue"],
            ReceiptHandle=info["sqs_message"]["ReceiptHandle"],
            VisibilityTimeout=0,
        )

    def close(self) -> None:
        super().close()
        if self._sqs is not None:
            self._sqs.close()  # kombu leaves its sockets open

    def visibility_timeout_of(self, queue: str) -> int:
        """Seconds for which a received message is hidden from other consumers."""
        name = "VisibilityTimeout"
        answer = self.sqs().get_queue_attributes(
            QueueUrl=self._resolve_queue_url(queue), AttributeNames=[name]
        )
        return int(answer["Attributes"][name])


class SqsTransport(SQS.Transport):
    Channel = SqsChannel


def _envelope(text: str) -> dict[str, Any] | None:
    """Kombu's envelope: JSON, or JSON in Base64 (kombu's default); None for any other message."""
    try:
        source = text if text.lstrip().startswith("{") else base64.b64decode(text, validate=True)
        found = json.loads(source)
        properties = found["properties"]
        if properties["body_encoding"] == "base64":
            base64.b64decode(found["body"], validate=True)
        complete = (
            properties["body_encoding"] in (None, "utf-8", "base64")
            and "delivery_tag" in properties
            and isinstance(properties["delivery_info"], dict)
            and isinstance(found["headers"], dict)
            and isinstance(found["body"], str)
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return found if complete else None
