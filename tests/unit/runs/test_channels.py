"""Counting the messages of a kernel."""

from __future__ import annotations

import asyncio
import random

import zmq
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.runs.channels import CountedClient, Tally


@given(
    earlier=st.integers(0, 50),
    lost=st.lists(st.booleans(), max_size=50),
    order=st.randoms(use_true_random=False),
)
def test_every_gap_is_counted(earlier: int, lost: list[bool], order: random.Random) -> None:
    """Whatever is lost before the newest message is missing, in whichever order the rest of it arrives."""
    tally = Tally()
    for number in range(earlier + 1):
        tally.note(f"session_7_{number}")
    tally.begin()
    arriving = [earlier + 1 + index for index, gone in enumerate(lost) if not gone]
    newest = max(arriving, default=earlier)
    order.shuffle(arriving)
    for number in arriving:
        tally.note(f"session_7_{number}")
        tally.note(f"session_8_{number + 99}")
        tally.note("0b5f7c1e-uuid")
    assert tally.missing() == sum(lost[: newest - earlier])


async def test_a_burst_waits_to_be_read_and_leaves_others_their_turn() -> None:
    """20,000 messages that nobody reads yet are not lost, and reading them does not keep other tasks waiting."""
    count = 20_000
    client = CountedClient(ip="127.0.0.1")
    with zmq.Context() as context, context.socket(zmq.XPUB) as kernel:
        kernel.setsockopt(zmq.XPUB_NODROP, 1)  # a full queue is an error here, and silence with a real kernel
        kernel.setsockopt(zmq.SNDTIMEO, 5000)
        kernel.linger = 0
        client.iopub_port = kernel.bind_to_random_port("tcp://127.0.0.1")
        channel = client.iopub_channel
        channel.tally = client.tally
        assert await asyncio.to_thread(kernel.recv) == b"\x01"
        session = client.session.clone()

        def publish() -> None:
            for _ in range(count):
                session.send(kernel, "stream", {"name": "stdout", "text": "x" * 1000})

        await asyncio.to_thread(publish)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        other = asyncio.create_task(count_turns())
        for _ in range(count):
            await channel.get_msg(timeout=5)
        other.cancel()
        client.stop_channels()
    assert client.tally.missing() == 0
    assert turns > count / 100


async def test_a_kernel_is_ready_when_what_it_publishes_arrives() -> None:
    """An answer alone is not enough: who is not heard on iopub yet is asked again, and nothing is left to be read."""
    client, questions = CountedClient(ip="127.0.0.1"), 0
    with zmq.Context() as context, context.socket(zmq.ROUTER) as shell, context.socket(zmq.XPUB) as iopub:
        for name, sock in (("shell_port", shell), ("iopub_port", iopub)):
            sock.linger = 0
            setattr(client, name, sock.bind_to_random_port("tcp://127.0.0.1"))
        session = client.session.clone()

        def answer() -> None:
            """Be a kernel; what is published about the first question is lost."""
            nonlocal questions
            while questions < 2:
                identities, question = session.recv(shell, mode=0)
                questions += 1
                told = {"protocol_version": "5.3", "number": questions}
                session.send(shell, "kernel_info_reply", told, parent=question, ident=identities)
                if questions == 2:
                    for state in ("busy", "idle"):
                        session.send(iopub, "status", {"execution_state": state}, parent=question)

        kernel = asyncio.create_task(asyncio.to_thread(answer))
        client.shell_channel.start()
        client.iopub_channel.start()
        assert await asyncio.to_thread(iopub.recv) == b"\x01"
        assert (await client.until_ready(20))["number"] == 2
        await kernel
        assert not await client.iopub_channel.msg_ready()
        client.stop_channels()
