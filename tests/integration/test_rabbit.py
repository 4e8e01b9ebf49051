"""The private node and the view of it: what the other integration tests stand on."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time

import amqp
import psutil
import pytest

from tests.broker import Broker, Depth
from tests.rabbit import NodeError, RabbitNode
from tests.waiting import wait_until


def test_what_is_published_is_seen_as_it_was_published(vhost: Broker) -> None:
    """Body, headers and properties come back byte for byte, and looking leaves the message there."""
    vhost.declare("q")
    vhost.publish("q", b"\xff\x00raw", headers={"x-n": 7}, message_id="m-1", content_type="text/plain")
    (seen,) = vhost.messages("q")
    assert seen.body == b"\xff\x00raw"
    assert seen.headers == {"x-n": 7}
    assert seen.properties == {"message_id": "m-1", "content_type": "text/plain", "delivery_mode": 2}
    assert (seen.exchange, seen.routing_key, seen.redelivered) == ("", "q", False)
    assert vhost.depth("q") == Depth(1, 0)


def test_taking_removes_in_order(vhost: Broker) -> None:
    """Everything ready is taken in the order of publication, and the queue is empty at once."""
    vhost.declare("q")
    bodies = [b"%d" % number for number in range(300)]
    vhost.publish("q", *bodies)
    assert [message.body for message in vhost.take("q")] == bodies
    assert vhost.depth("q") == Depth(0, 0)


@pytest.mark.parametrize("arguments", [None, {}], ids=["quorum", "classic"])
def test_depths_are_live(vhost: Broker, arguments: dict[str, str] | None) -> None:
    """Ready and unacknowledged are told apart at once, on both kinds of queue."""
    vhost.declare("q", arguments=arguments)
    vhost.publish("q", b"1", b"2", b"3")
    with vhost.channel() as channel:
        assert channel.basic_get("q") is not None
        assert vhost.queue_depths() == {"q": Depth(2, 1)}
        assert vhost.depth("q").total == 3
    assert wait_until(lambda: vhost.depth("q") == Depth(3, 0))


def test_what_the_broker_itself_moves_is_counted(vhost: Broker) -> None:
    """A message whose time is over and whose target is not there is still in its queue, counted as ready."""
    vhost.declare(
        "q",
        arguments={
            "x-queue-type": "quorum",
            "x-message-ttl": 1,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "nowhere",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
    vhost.publish("q", b"x")
    wait_until(lambda: vhost.depth("q") == Depth(0, 1), 10)


def test_publishing_where_no_queue_is_fails(vhost: Broker) -> None:
    """The tests' own publisher never loses a message silently."""
    with pytest.raises(amqp.ChannelError):
        vhost.publish("nowhere", b"x")


def test_consumers_are_counted_and_cut(vhost: Broker) -> None:
    """A consumer is counted, and closing the connections from the broker's side takes it away."""
    vhost.declare("q")
    assert vhost.consumers("q") == 0
    assert vhost.consumers("no-such-queue") == 0
    with vhost.channel() as channel:
        channel.basic_consume("q")
        assert vhost.consumers("q") == 1
        assert vhost.close_connections() == 1
        wait_until(lambda: vhost.consumers("q") == 0)


def test_queues_can_be_purged_and_deleted(vhost: Broker) -> None:
    """Purging empties, deleting removes."""
    vhost.declare("q")
    vhost.publish("q", b"x")
    vhost.purge("q")
    assert vhost.queue_depths() == {"q": Depth(0, 0)}
    vhost.delete_queue("q")
    assert vhost.queue_depths() == {}


def test_virtual_hosts_are_cheap(rabbitmq: RabbitNode) -> None:
    """A fresh virtual host costs a test a fraction of a second, not a start of rabbitmqctl."""
    started = time.monotonic()
    rabbitmq.add_vhost("cheap")
    rabbitmq.delete_vhost("cheap")
    assert time.monotonic() - started < 2
    with pytest.raises(amqp.NotAllowed), Broker(rabbitmq, "cheap").channel():
        pass


def test_errors_of_the_administration_are_raised(rabbitmq: RabbitNode) -> None:
    """A failing expression is an error, never an empty answer."""
    with pytest.raises(NodeError):
        rabbitmq.eval("no_such_module:f()")
    with pytest.raises(NodeError):
        rabbitmq.ctl("no_such_command")


def test_the_tls_listener_has_a_certificate_for_localhost(rabbitmq: RabbitNode, vhost: Broker) -> None:
    """A client that trusts the node's authority and checks the name gets through."""
    vhost.declare("q")
    verified = {
        "ca_certs": str(rabbitmq.ca_file),
        "cert_reqs": ssl.CERT_REQUIRED,
        "server_hostname": "localhost",
    }
    with vhost.connection(host=f"localhost:{rabbitmq.ports.tls}", ssl=verified) as connection:
        assert connection.channel().queue_declare("q", passive=True).message_count == 0


def test_messages_survive_kill_and_restart(own_rabbitmq: RabbitNode, own_vhost: Broker) -> None:
    """Confirmed messages on a quorum queue are there after a crash and after a restart, at the same URL."""
    own_vhost.declare("q")
    own_vhost.publish("q", b"1", b"2")
    url = own_vhost.url
    own_rabbitmq.kill()
    with pytest.raises(OSError), own_vhost.channel():  # noqa: PT011 - refused, reset: any of them
        pass
    own_rabbitmq.start()
    wait_until(lambda: own_vhost.depth("q") == Depth(2, 0))
    own_rabbitmq.restart()
    wait_until(lambda: own_vhost.depth("q") == Depth(2, 0))
    assert own_vhost.url == url


def test_the_memory_alarm_blocks_publishers(own_rabbitmq: RabbitNode, own_vhost: Broker) -> None:
    """While the alarm is on the broker says ``connection.blocked`` and reads nothing; off, it goes on."""
    own_vhost.declare("q")
    said: list[str] = []
    own_rabbitmq.set_memory_alarm(on=True)
    with own_vhost.connection(
        on_blocked=said.append,
        on_unblocked=lambda: said.append("unblocked"),
    ) as connection:
        connection.channel().basic_publish(amqp.Message(b"x"), routing_key="q")
        connection.drain_events(timeout=10)
        assert len(said) == 1
        assert own_vhost.depth("q") == Depth(0, 0)
        own_rabbitmq.set_memory_alarm(on=False)
        connection.drain_events(timeout=10)
        assert said[1:] == ["unblocked"]
        wait_until(lambda: own_vhost.depth("q") == Depth(1, 0))


def test_a_killed_test_run_leaves_nothing_behind(rabbitmq: RabbitNode) -> None:
    """When the process that owns a node is killed, node, epmd and directory go within seconds."""
    assert rabbitmq.home.is_dir()  # the node exists here: the child can start one too
    code = (
        "import json, time\n"
        "from tests.rabbit import RabbitNode\n"
        "node = RabbitNode()\n"
        "node.start()\n"
        "print(json.dumps([str(node.home), node._beam.pid, node._epmd.pid]), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        home, *pids = json.loads(owner.stdout.readline())
        assert os.path.isdir(home)  # noqa: PTH112
        assert all(psutil.pid_exists(pid) for pid in pids)
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not os.path.exists(home), 20, "the directory is removed")  # noqa: PTH110
    wait_until(lambda: not any(_runs(pid) for pid in pids), 20, "node and epmd are gone")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # adopted by whatever is process 1 here
    except psutil.NoSuchProcess:
        return False
