"""Damaged photos, forms, requests and frames, sent to a real server over HTTP.

Every session that is accepted is erased at once. In the end the server must be the same
process, have answered nothing with 5xx and written no stack trace, and hold no more
files, descriptors, memory and processes than before.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from faults.hostile import usage
from faults.hostile.conversation import BOUNDARY, Connection, connected, form, request, status_of
from faults.hostile.verdict import Verdict
from server.domain.tokens import new_token
from testkit.cluster import Cluster, running_cluster
from testkit.mutations import damaged, mutated
from testkit.originals import originals
from testkit.profiles import UNSHARED
from testkit.programs import Program
from tryon.protocol.paths import SESSIONS

CLIENTS: Final = 8
WARM_INPUTS: Final = 150
"""Inputs before the server's usage is noted: it has loaded everything by then."""
PROGRESS_SECONDS: Final = 10.0
MAX_LOST: Final = 3
"""Ends of the server, and inputs without an answer, after which the run is over."""
KINDS: Final = ("photo",) * 6 + ("form",) * 2 + ("request", "frames")
TRACE: Final = b"Traceback (most recent call last)"


class _Answer(msgspec.Struct):
    """The parts of an answer to an upload that later requests use."""

    session_id: str


@dataclass
class Strangers:
    """One run of ``inputs`` damaged inputs of a seed against ``web``.

    ``first``: the number of the first of them.
    """

    cluster: Cluster
    web: Program
    inputs: int
    seed: int
    verdict: Verdict = field(default_factory=Verdict)
    loud: bool = False
    first: int = 0
    done: int = 0
    lost: int = 0
    """Ends of the server, and inputs that it never answered."""
    session: str = ""
    """A session that lives through the run: frames are sent to its socket."""
    token: str = field(default_factory=new_token)
    _restart: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        """Send everything; look for what it leaves behind."""
        self.session = await self._first_session()
        end = self.first + self.inputs
        numbers, warm = iter(range(self.first, end)), iter(range(end, end + WARM_INPUTS))
        await asyncio.gather(*(self._send(warm) for _ in range(CLIENTS)))
        before, self.done = await usage.settled(self.web), 0
        began = time.monotonic()
        progress = asyncio.create_task(self._progress(began))
        await asyncio.gather(*(self._send(numbers) for _ in range(CLIENTS)))
        progress.cancel()
        if self.loud:
            print(f"{self.done:,} inputs over HTTP in {time.monotonic() - began:.0f} s", flush=True)
        if self.web.running:
            self.verdict.leaks += await usage.grown(self.web, before)
            await usage.erase_all(self.cluster)
            self.verdict.leaks += await usage.remaining(self.cluster)
        self.verdict.crashes += self._traces()

    async def _progress(self, began: float) -> None:
        while self.loud:
            await asyncio.sleep(PROGRESS_SECONDS)
            rate = self.done / (time.monotonic() - began)
            left = (self.inputs - self.done) / max(rate, 1e-9)
            print(
                f"{self.done:>9,} over HTTP, {rate:,.0f} a second, {left:.0f} s left, {self.verdict.line}", flush=True
            )

    async def _first_session(self) -> str:
        async with connected(self.web.port) as connection:
            status, body = await connection.ask(self._upload(form(originals()["jpeg"]), self.token))
        assert status == 201, body
        return msgspec.json.decode(body, type=_Answer).session_id

    async def _send(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            if self.lost >= MAX_LOST:
                return
            chance = random.Random(f"http {self.seed}/{number}")
            kind = chance.choice(KINDS)
            try:
                await getattr(self, f"_{kind}")(number, chance)
            except (OSError, TimeoutError) as error:
                await self._lost(f"{kind} {self.seed}/{number}", error)
            self.done += 1

    async def _lost(self, name: str, error: Exception) -> None:
        """Note an input without an answer; start the server again if it has ended."""
        await asyncio.sleep(0.05)  # an end is seen a moment later
        async with self._restart:  # all clients notice one end
            if self.web.running:
                self.verdict.outcomes[f"no answer: {type(error).__name__}"] += 1
                if isinstance(error, TimeoutError):
                    self.lost += 1
                    self.verdict.crashes.append(f"{name} was never answered")
                return
            self.lost += 1
            self.verdict.crashes.append(f"{name} ended the server with {self.web.process.returncode}")
            await self.cluster.start_web(self.web)

    def _count(self, kind: str, number: int, status: int, body: bytes) -> None:
        self.verdict.outcomes[f"{kind}: {status or 'closed'}"] += 1
        if status >= 500:
            self.verdict.server_errors.append(f"{kind} {self.seed}/{number}: {status} {body[:200]!r}")

    def _traces(self) -> list[str]:
        log = self.web.log.read_bytes()
        return [f"a stack trace in the log: {trace[-300:]!r}" for trace in log.split(TRACE)[:-1]]

    # -- the kinds of inputs -----------------------------------------------------------

    @staticmethod
    def _upload(body: bytes, token: str) -> bytes:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return request("POST", SESSIONS, body, Content_Type=kind, X_Client_Token=token)

    async def _uploaded(self, kind: str, number: int, body: bytes) -> None:
        token = new_token()
        async with connected(self.web.port) as connection:
            status, answer = await connection.ask(self._upload(body, token))
            self._count(kind, number, status, answer)
            if status == 201:
                await self._erased(connection, number, answer, token)

    async def _erased(self, connection: Connection, number: int, answer: bytes, token: str) -> None:
        session_id = msgspec.json.decode(answer, type=_Answer).session_id
        status, body = await connection.ask(request("DELETE", f"{SESSIONS}/{session_id}", X_Client_Token=token))
        self._count("erasure", number, status, body)

    async def _photo(self, number: int, chance: random.Random) -> None:
        await self._uploaded("photo", number, form(mutated(self.seed, number)[1]))

    async def _form(self, number: int, chance: random.Random) -> None:
        await self._uploaded("form", number, damaged(form(originals()["png palette"]), chance))

    async def _request(self, number: int, chance: random.Random) -> None:
        heads = [
            self._upload(form(originals()["png palette"]), self.token),
            request("GET", f"{SESSIONS}?limit=5&cursor=x", X_Client_Token=self.token),
            request("GET", f"{SESSIONS}/{self.session}?since=0&wait=0", Authorization=f"Bearer {self.token}"),
            request("GET", f"{SESSIONS}/{self.session}/history", X_Client_Token=self.token),
            request("GET", "/api/tryon/files/inputs/x.jpg?expires=1&key=k&signature=s", Range="bytes=0-1"),
            request("POST", f"{SESSIONS}/{self.session}/cancel", X_Client_Token=self.token),
            self._handshake(),
        ]
        await self._said("request", number, damaged(chance.choice(heads), chance))

    async def _frames(self, number: int, chance: random.Random) -> None:
        frames = masked(1, b'{"type":"ping"}') + masked(9, b"x") + masked(8, b"\x03\xe8bye")
        await self._said("frames", number, self._handshake() + damaged(frames, chance))

    async def _said(self, kind: str, number: int, data: bytes) -> None:
        async with connected(self.web.port) as connection:
            heard = await connection.say(data)
        self._count(kind, number, status_of(heard), heard)

    def _handshake(self) -> bytes:
        return request(
            "GET",
            f"{SESSIONS}/{self.session}/ws",
            Connection="Upgrade",
            Upgrade="websocket",
            Sec_WebSocket_Version="13",
            Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
            Sec_WebSocket_Protocol="tryon.v1",
            X_Client_Token=self.token,
        )


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a short client's frame; its key is zero."""
    return bytes((0x80 | opcode, 0x80 | len(payload))) + bytes(4) + payload


async def run(
    inputs: int, seed: int, verdict: Verdict, *, first: int = 0, planted: str = "", loud: bool = False
) -> None:
    """Start a server without a worker, send it ``inputs``, and stop it."""
    async with running_cluster(webs=0, workers=0, **SETTINGS) as cluster:
        scratch = cluster.folder / "scratch"
        scratch.mkdir()
        environ = {"TMPDIR": str(scratch)} | ({usage.PLANTED: planted} if planted else {})
        web = cluster.make_web(environ, module="faults.hostile.planted" if planted else "server")
        await cluster.start_web(web)
        await Strangers(cluster, web, inputs, seed, verdict, loud, first).run()
        family = usage.family(web)
        if web.running:
            await web.terminate()
        verdict.leaks += await usage.left(family)


SETTINGS: Final[dict[str, Any]] = {
    **UNSHARED,
    "upload_rate": "off",
    "sockets_per_address": 20000,
    "sockets_per_session": 20000,
    "queue_limit": 100000,
    "log_level": "info",
    "log_format": "text",
}
"""Limits on counts are off: what is refused by them is not looked at."""
