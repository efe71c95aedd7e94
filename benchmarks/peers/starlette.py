"""Plain Starlette, as a sensible tutorial builds it.

One redis pub/sub reader, and ``await ws.send_text()`` for each follower. It does less
than the product: no credentials, no snapshot, no row, no second try.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

followers: dict[str, set[WebSocket]] = {}
pubsub = Redis(port=int(os.environ["REDIS_PORT"]), decode_responses=True).pubsub()


async def read() -> None:
    async for message in pubsub.listen():
        if message["type"] == "message":
            for socket in tuple(followers.get(message["channel"], ())):
                with contextlib.suppress(Exception):
                    await socket.send_text(message["data"])


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    await pubsub.subscribe("keep")
    reading = asyncio.create_task(read())
    yield
    reading.cancel()


async def follow(socket: WebSocket) -> None:
    channel = socket.path_params["channel"]
    await socket.accept()
    channel_followers = followers.setdefault(channel, set())
    channel_followers.add(socket)
    if len(channel_followers) == 1:
        await pubsub.subscribe(channel)
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        channel_followers.discard(socket)
        if not channel_followers:
            followers.pop(channel, None)
            await pubsub.unsubscribe(channel)


app = Starlette(routes=[WebSocketRoute("/ws/{channel}", follow)], lifespan=lifespan)
