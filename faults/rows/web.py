"""A web process is stopped or killed, or its clients behave badly.

Other clients notice nothing, or come back by themselves and are right again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.scene import Scene, running_scene
from server.domain.bus_message import progress_message
from server.domain.session import Progress, timestamp
from server.domain.tokens import new_token
from server.services import Services
from server.system.processes import raise_file_limit
from testkit.costs import pss_bytes
from testkit.load import BOUNDARY, Client, Held, Times, close_all, connect_all, form, hold
from testkit.photos import photo
from testkit.profiles import QUIET
from tryon.protocol.paths import SESSIONS

RATE: Final = 4.0
CROWD: Final[dict[str, Any]] = QUIET | {"sockets_per_session": 20000}
PROGRESS_FRAMES: Final = 'tryon_frames_total{kind="progress"}'
PATIENT_SECONDS: Final = 60
"""Period of the pings where a client that owes a pong must not be cut for it."""
GROWTH_BYTES: Final = 32 * 2**20
"""How much larger a web process may become by clients that behave badly."""


# -- clients on bare sockets, which take nothing ---------------------------------------


def _upgrade(path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def _deaf_socket(port: int, path: str) -> socket.socket:
    """Open a WebSocket, or by its path a stream, that reads its snapshot and no more.

    Its window is as small as may be. Blocks.
    """
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(10)
    made.connect(("127.0.0.1", port))
    plain = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    made.sendall(plain if "/events" in path else _upgrade(path))
    said = b""
    while b'"type":"snapshot"' not in said:
        got = made.recv(4096)
        assert got, "refused"
        said += got
    return made


async def _deaf_sockets(port: int, paths: Sequence[str]) -> list[socket.socket]:
    return [await asyncio.to_thread(_deaf_socket, port, path) for path in paths]


async def _stuff(services: Services, held: Sequence[Held], *, bytes_each: int = 8 * 2**20) -> int:
    """Fill every buffer of clients that follow these sessions and do not read.

    The kernel takes 4 MiB a connection (``net.ipv4.tcp_wmem``). Returns the number of
    progress frames for each follower.
    """
    count = 0
    for each in held:
        progress = Progress(each.seq, each.claim.attempt, timestamp(each.claim.session.updated_at), stage="x" * 15000)
        message = progress_message(each.session_id, progress)
        async with services.redis.pipeline(transaction=False) as pipe:
            count = bytes_each // len(message)
            for _ in range(count):
                pipe.publish(services.bus.channel(each.session_id), message)
            await pipe.execute()
    return count


async def _settled(scene: Scene) -> None:
    """Wait until the web process has handed out every published message."""
    before, now = -1.0, 0.0
    while before != now:
        await asyncio.sleep(0.2)
        before, now = now, await scene.metric(PROGRESS_FRAMES)


async def _followers(scene: Scene, transport: str = "ws") -> int:
    """Return the number of followers that the web process counts.

    A client that does not read may not learn of its end.
    """
    return int(await scene.metric(f'tryon_followers{{transport="{transport}"}}'))


async def _until_left(scene: Scene, count: int, seconds: float) -> float:
    """Wait until at most this many followers are left; return the seconds."""
    began = time.monotonic()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while await _followers(scene) > count:
                await asyncio.sleep(0.05)
    return time.monotonic() - began


# -- the rows --------------------------------------------------------------------------


async def terminated(pace: Pace) -> Outcome:
    """Stop a web process (SIGTERM) with many sockets, some of which don't read.

    All other clients are notified, and it ends in time.
    """
    raise_file_limit()
    settings = CROWD | {"ping_seconds": PATIENT_SECONDS}
    async with running_scene(pace, workers=0, **settings) as scene, scene.cluster.services() as services:
        held = await hold(services, 40)
        reading = pace.sockets - pace.stalled
        byes: dict[int, tuple[float, dict[str, Any]]] = {}

        def heard(client: Client, text: bytes) -> None:
            if text.startswith(b'{"type":"bye"'):
                byes[client.number] = (time.monotonic(), json.loads(text))

        paths = [held[20 + number % 20].path for number in range(reading)]
        clients, _ = await connect_all(scene.cluster.port, paths, on_text=heard)
        unread = held[: min(20, pace.stalled)]
        stalled = [unread[number % len(unread)].path for number in range(pace.stalled)]
        streams = [path.replace("/ws?", "/events?") for path in stalled[-(pace.stalled // 5) :]]
        deaf = await _deaf_sockets(scene.cluster.port, stalled + streams)
        await _stuff(services, unread)  # the streams' sessions last: a write may wait for 10 s
        await _settled(scene)
        there = await _followers(scene), await _followers(scene, "sse")
        scene.expect(there == (pace.sockets, len(streams)), f"only {there} followers were left")
        began = time.monotonic()
        scene.cluster.web.send(signal.SIGTERM)
        status = await scene.cluster.web.ended(30)
        exit_seconds = time.monotonic() - began
        notified = max((at - began for at, _ in byes.values()), default=0.0)
        pauses = [bye["retry_after_ms"] for _, bye in byes.values()]
        scene.expect(len(byes) == reading, f"{reading - len(byes)} of {reading} were not notified")
        scene.expect({bye["code"] for _, bye in byes.values()} == {4000}, "a client was not notified with 4000")
        scene.expect(all(client.code == 4000 for client in clients), "not every socket was closed with 4000")
        scene.expect(len(set(pauses)) > reading / 4, "they were all asked back at once")
        scene.expect(status in (0, -signal.SIGTERM), f"it ended with {status}")
        scene.promises.within(notified, 1.0, "the last one was notified")
        scene.promises.within(exit_seconds, 5.0, "it was gone")
        earliest, latest = min(pauses, default=0) / 1000, max(pauses, default=0) / 1000
        scene.note(
            f"{len(byes)} of {reading} notified with 4000 within {notified:.2f} s, to come back in {earliest:.1f} "
            f"to {latest:.1f} s; {len(deaf)} that don't read cut off; exit after {exit_seconds:.2f} s"
        )
        await close_all(clients)
        for each in deaf:
            each.close()
    return scene.outcome


async def killed(pace: Pace) -> Outcome:
    """Kill one web process, then the other, under load.

    Each is started again as its supervisor would do it.
    """
    async with running_scene(pace, webs=2) as scene:
        await scene.healthy("redis", "workers")
        async with scene.clients.load(2 * RATE, longest=pace.outage_seconds):
            await scene.until(lambda: len(scene.screens) >= 12)
            await scene.clients.live()
            for web in scene.cluster.webs:
                scene.repaired()
                await web.kill()
                await scene.until(lambda: scene.clients.lost(scene.repaired_at))
                await scene.until(
                    lambda: all(each.connected or each.outcome for each in scene.clients.lost(scene.repaired_at))
                )
                scene.recovered()
                await scene.cluster.start_web(web)
                await scene.outage(pace.outage_seconds / 2)
        await scene.finish(orphans=True)
        for each in scene.outcome.uploads:
            scene.expect(each.status in (201, 0), f"an upload got {each.status} {each.why}")
        scene.promises.within(scene.outcome.recovery_seconds or 0.0, 5.0, "all were back")
        scene.promises.nothing_stale()
    return scene.outcome


def _cut_points(pace: Pace, head: bytes, body: bytes) -> dict[str, int]:
    whole = head + body
    part_head = len(head) + body.index(b"\r\n\r\n") + 4
    last = len(whole) - body[::-1].index(BOUNDARY.encode()[::-1]) - len(BOUNDARY) - 4
    points = {
        "before the first byte": 0,
        "in the request line": 9,
        "in the head": len(head) // 2,
        "before the end of the head": len(head) - 2,
        "before the body": len(head),
        "in the first boundary": len(head) + 7,
        "in the part's header": part_head - 20,
        "before the photo": part_head,
        "in the photo's first bytes": part_head + 3,
        "in the photo": (part_head + last) // 2,
        "before the last boundary": last,
        "in the last boundary": last + 10,
        "before the last byte": len(whole) - 1,
    }
    rng = pace.rng()
    for number in range(pace.stalled):
        points[f"somewhere {number}"] = rng.randrange(len(whole))
    return points


async def upload_cut(pace: Pace) -> Outcome:
    """End uploads in the middle, at every kind of place, by FIN and by RST.

    One photo is small, one no longer fits into memory.
    """
    async with running_scene(pace) as scene:
        await scene.healthy("storage")
        count = 0
        for picture in (photo(), photo(1600, 1200, 100, 1.0)):
            body = form(picture)
            head = (
                f"POST {SESSIONS} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {new_token()}\r\n"
                f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode()
            for at in _cut_points(pace, head, body).values():
                for reset in (False, True):
                    await _cut(scene.cluster.port, (head + body)[:at], reset=reset)
                    count += 1
        scene.expect(len(body) > 2**20, "the large photo fits into memory")
        scene.repaired()
        made = await scene.clients.upload()
        scene.recovered()
        assert made is not None
        scene.clients.follow(*made)
        await scene.finish()
        scene.expect(len(await scene.sessions()) == 1, "a cut upload became a session")
        await scene.http.aclose()
        with contextlib.suppress(TimeoutError):
            await scene.until(lambda: not _held_open(scene), 10)
        scene.expect(not (left := _held_open(scene)), f"still open: {left}")
        scene.promises.still_running(*scene.cluster.webs)
        scene.note(f"{count} uploads cut off, nothing left of any")
    return scene.outcome


async def _cut(port: int, data: bytes, *, reset: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(OSError):
        writer.write(data)
        await writer.drain()
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    del reader


def _held_open(scene: Scene) -> list[str]:
    """Return anonymous files and connections that web processes hold for clients."""
    import psutil

    files, connections = [], []
    for pid in (web.pid for web in scene.cluster.webs):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                files.append(os.readlink(descriptor))
        connections += [each for each in psutil.Process(pid).net_connections("tcp") if each.raddr]
    # A balancer has another port, and keeps its connections to the web processes.
    held = [str(each) for each in connections if each.laddr.port == scene.cluster.port]
    return [name for name in files if "(deleted)" in name] + held


async def half_open(pace: Pace) -> Outcome:
    """Silence peers without a word, right after they answered a ping.

    Their kernel takes what comes, no program reads.
    """
    async with running_scene(pace, workers=0, **CROWD) as scene, scene.cluster.services() as services:
        held = await hold(services, 10)
        silent: list[float] = []

        def heard(client: Client, text: bytes) -> None:
            if text.startswith(b'{"type":"ping"') and client.number not in gone:
                gone.add(client.number)
                asyncio.get_running_loop().call_soon(fall_silent, client)

        def fall_silent(client: Client) -> None:
            assert client._transport is not None
            client._transport.pause_reading()
            silent.append(time.monotonic())

        gone: set[int] = set()
        clients, _ = await connect_all(
            scene.cluster.port, [each.path for each in held] * (pace.stalled // 10), on_text=heard
        )
        await scene.until(lambda: len(silent) == len(clients))
        seconds = await _oldest(scene, sorted(silent, reverse=True), 3 * pace.ping_seconds)
        scene.promises.within(seconds, pace.ping_seconds * 45 / 25, "the last silent peer was gone")
        scene.note(f"{len(clients)} silent peers let go {seconds:.1f} s after their last word")
        await close_all(clients)
    return scene.outcome


async def _oldest(scene: Scene, silent: Sequence[float], limit: float) -> float:
    """Return how long the last of them was kept after it fell silent.

    ``silent``: when each did, the last one first.
    """
    oldest = 0.0
    while (count := await _followers(scene)) and oldest < limit:
        oldest = max(oldest, time.monotonic() - silent[count - 1])  # those that fell silent first go first
        await asyncio.sleep(0.05)
    return oldest


async def stalled(pace: Pace) -> Outcome:
    """Let some of many clients stop reading while there is news for all."""
    raise_file_limit()
    async with running_scene(pace, workers=0, **CROWD) as scene, scene.cluster.services() as services:
        held = await hold(services, 30)
        slow, quick = held[:10], held[10:]
        late: list[float] = []
        times = Times()

        def heard(client: Client, text: bytes) -> None:
            if text.startswith(b'{"type":"event"'):
                late.append(time.time() - times.at(text))

        clients, _ = await connect_all(
            scene.cluster.port, [quick[n % len(quick)].path for n in range(pace.sockets - pace.stalled)], on_text=heard
        )
        deaf = await _deaf_sockets(scene.cluster.port, [slow[n % len(slow)].path for n in range(pace.stalled)])
        before = pss_bytes(scene.cluster.web.pid)
        talking = asyncio.create_task(_talk(services, slow, quick), name="news")
        frames = await scene.metric(PROGRESS_FRAMES)
        frames += len(deaf) * await _stuff(services, slow)
        async with asyncio.timeout(30):  # until the last of it was handed out, or the first of them dropped
            while await scene.metric(PROGRESS_FRAMES) < frames and await _followers(scene) == len(clients) + len(deaf):
                await asyncio.sleep(0.02)
        seconds = await _until_left(scene, len(clients), 60)
        grown = pss_bytes(scene.cluster.web.pid) - before
        talking.cancel()
        await asyncio.wait([talking])
        scene.expect(all(client.connected for client in clients), "a client that reads was cut off")
        scene.promises.within(seconds, 10.0, "the last one that does not read was dropped")
        scene.promises.within(max(late, default=0.0), 1.0, "the latest news of the others")
        scene.expect(grown < GROWTH_BYTES, f"the web process has grown by {grown >> 20} MiB")
        scene.outcome.stale_seconds, scene.outcome.stalest = max(late, default=0.0), "ws event"
        scene.note(
            f"{len(deaf)} dropped within {seconds:.1f} s; {len(late)} frames to the other {len(clients)}, the latest after "
            f"{max(late, default=0.0) * 1000:.0f} ms; web process +{max(0, grown) >> 20} MiB"
        )
        await close_all(clients)
        for each in deaf:
            each.close()
    return scene.outcome


async def _talk(services: Services, slow: Sequence[Held], quick: Sequence[Held]) -> None:
    """Make two transitions a turn for quick sessions, and progress for slow ones."""
    while True:
        for each in quick:
            await services.sessions.claims.requeue(each.claim, burnt=False, reason="benchmark")
            claim = await services.sessions.claims.begin(each.session_id, worker="benchmark")
            assert claim is not None
            each.claim = claim
            for other in slow:
                progress = Progress(other.seq, other.claim.attempt, timestamp(claim.session.updated_at), stage="on")
                await services.bus.publish(other.session_id, progress_message(other.session_id, progress))
            await asyncio.sleep(0.2)


async def flooded(pace: Pace) -> Outcome:
    """Send pings without end and read no answer, while other clients are served."""
    ping = b"\x89\xfd\0\0\0\0" + b"p" * 125
    async with running_scene(pace, workers=0, **CROWD) as scene:
        async with scene.cluster.services() as services:
            held = await hold(services, 10)
            scene.props += [each.session_id for each in held]
            await scene.cluster.make_worker().start()
            await scene.cluster.workers_seen(1)
            deaf = await _deaf_sockets(scene.cluster.port, [held[n % 10].path for n in range(pace.stalled)])
            before = peak = pss_bytes(scene.cluster.web.pid)
            flooding = [asyncio.create_task(asyncio.to_thread(_flood, each, ping * 400)) for each in deaf]
            async with scene.clients.load(RATE, longest=1.0):
                began = time.monotonic()
                while not all(task.done() for task in flooding):
                    peak = max(peak, pss_bytes(scene.cluster.web.pid))
                    await asyncio.sleep(0.1)
                seconds = time.monotonic() - began
                sent = sum(task.result() for task in flooding)
                await scene.until(lambda: len(scene.screens) >= 8)
            misused = await scene.metric('tryon_socket_closes_total{code="4500"}')
            scene.expect(misused >= len(deaf), f"only {misused:g} of {len(deaf)} were closed with 4500")
            for each in deaf:
                each.close()
            await scene.finish()
        after = pss_bytes(scene.cluster.web.pid)
        scene.expect(peak - before < GROWTH_BYTES, f"the web process grew by {(peak - before) >> 20} MiB")
        scene.promises.uploads_accepted()
        scene.promises.no_connection_lost()
        scene.promises.nothing_stale()
        scene.note(
            f"{len(deaf)} clients pushed {sent >> 20} MiB of pings before they were cut off, within {seconds:.1f} s; "
            f"web process +{max(0, peak - before) >> 20} MiB at most, +{max(0, after - before) >> 20} MiB after"
        )
    return scene.outcome


def _flood(each: socket.socket, pings: bytes) -> int:
    """Send until the other side closes, 64 MiB at most; return the bytes sent.

    Blocks.
    """
    sent = 0
    each.settimeout(15)
    with contextlib.suppress(OSError):
        while sent < 64 * 2**20:
            each.sendall(pings)
            sent += len(pings)
    return sent


ROWS: Final[dict[str, Row]] = {
    "web-terminated": Row(
        "A web process is stopped (SIGTERM) with many sockets, some of which don't read", terminated, sample=True
    ),
    "web-killed": Row("One web process after the other is killed", killed),
    "upload-cut": Row("Uploads end in the middle, at every kind of place", upload_cut, sample=True),
    "half-open": Row("Clients are gone without a word", half_open),
    "stalled-readers": Row("Clients stop reading", stalled),
    "ping-flood": Row("Clients send pings without end and read nothing", flooded),
}
