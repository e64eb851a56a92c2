"""Messages of Jupyter's kernel protocol as they go over a server's WebSocket.

The subprotocol ``v1.kernel.websocket.jupyter.org`` has binary frames: the number of offsets, the offsets, then the
channel's name, header, parent header, metadata and content, each as JSON, and buffers. All numbers have 8 bytes, the
lowest first; offsets count from the start of the frame, and the last one is its end.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SUBPROTOCOL = "v1.kernel.websocket.jupyter.org"
_PROTOCOL_VERSION = "5.3"
_NUMBER = 8


@dataclass(frozen=True)
class KernelMessage:
    """A message that a kernel, or its server, has sent."""

    channel: str
    kind: str
    #: Id of the request that it answers; "" when it answers none.
    parent: str
    content: Mapping[str, Any]


def encode_request(channel: str, kind: str, content: Mapping[str, Any], session: str) -> tuple[str, bytes]:
    """Return the id and the frame of a request."""
    identity = uuid.uuid4().hex
    header = {
        "msg_id": identity,
        "msg_type": kind,
        "username": "",
        "session": session,
        "date": datetime.now(UTC).isoformat(),
        "version": _PROTOCOL_VERSION,
    }
    parts = [channel.encode(), *(json.dumps(part).encode() for part in (header, {}, {}, content))]
    offsets = [_NUMBER * (len(parts) + 2)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    numbers = b"".join(number.to_bytes(_NUMBER, "little") for number in (len(offsets), *offsets))
    return identity, numbers + b"".join(parts)


def decode(frame: bytes) -> KernelMessage:
    """Return the message in a frame; its buffers are left out.

    Raises
    ------
    ValueError
        It is no frame of this protocol.
    """
    count = _number(frame, 0)
    if not 6 <= count <= 10_000:
        raise ValueError("the frame has no parts of a kernel message")
    bounds = [_number(frame, index) for index in range(1, 7)]
    channel, header, parent, _, content = (frame[start:end] for start, end in itertools.pairwise(bounds))
    kind = json.loads(header)["msg_type"]
    return KernelMessage(channel.decode(), kind, json.loads(parent).get("msg_id", ""), json.loads(content))


def _number(frame: bytes, index: int) -> int:
    return int.from_bytes(frame[_NUMBER * index : _NUMBER * (index + 1)], "little")
