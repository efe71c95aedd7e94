"""Every state of the demo page, at once and without a server.

``STATES`` brings a :class:`~testkit.page_scene.Scene` into each state; tests and the
contact sheet walk through them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from PIL import Image, ImageDraw
from playwright.async_api import expect

from testkit.page_scene import SOON_MS, STATIC, Scene
from testkit.page_views import ID, RESULT, SCHEMA, event, failed, later, refusal, session

State: TypeAlias = Callable[[Scene], Awaitable[None]]


# -- choose ----------------------------------------------------------------------------


async def _empty(scene: Scene) -> None:
    await scene.arrive()
    await expect(scene.page.locator(".sample").first).to_be_visible()


async def _chosen(scene: Scene) -> None:
    await scene.arrive()
    await scene.choose()


async def _options(scene: Scene) -> None:
    scene.schema = SCHEMA
    await _chosen(scene)
    await scene.page.locator("#params summary").click()


async def _put(scene: Scene, role: str, name: str, kind: str, data: bytes) -> None:
    """Choose a file for a slot."""
    await scene.page.set_input_files(
        f".slot[data-role={role}] .zone input", {"name": name, "mimeType": kind, "buffer": data}
    )


async def _cut_out(scene: Scene) -> None:
    """Choose a garment as shops have them: black, and cut out of its background."""
    await _chosen(scene)
    shirt = Image.new("RGBA", (500, 600))
    outline = [(170, 40), (330, 40), (480, 130), (440, 240), (370, 210), (370, 560), (130, 560), (130, 210)]
    ImageDraw.Draw(shirt).polygon([*outline, (60, 240), (20, 130)], fill="#101012")
    data = io.BytesIO()
    shirt.save(data, "PNG")
    await _put(scene, "garment", "shirt.png", "image/png", data.getvalue())
    await scene.settled()


async def _unfit(scene: Scene) -> None:
    await scene.arrive()
    await _put(scene, "person", "letter.pdf", "application/pdf", b"%PDF-1.7")
    await expect(scene.page.locator("#notice")).to_be_visible(timeout=SOON_MS)


async def _heic(scene: Scene) -> None:
    await scene.arrive()
    await _put(scene, "person", "IMG_0412.HEIC", "image/heic", b"\0\0\0\x18ftypheic" + bytes(64))
    await expect(scene.page.locator("#notice")).to_be_visible(timeout=SOON_MS)


async def _too_large(scene: Scene) -> None:
    await scene.arrive()
    with Image.open(STATIC / "samples" / "person-1.webp") as picture:
        data = io.BytesIO()
        picture.convert("RGB").save(data, "JPEG")
    padded = data.getvalue() + bytes(11_600_000 - data.tell())
    await _put(scene, "person", "holiday.jpg", "image/jpeg", padded)
    await expect(scene.page.locator("#shrink")).to_be_visible(timeout=SOON_MS)


async def _dropping(scene: Scene) -> None:
    await scene.arrive()
    await scene.page.evaluate(
        """() => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File(["x"], "photo.jpg", { type: "image/jpeg" }));
          const zone = document.querySelector("#photo-zone");
          for (const kind of ["dragenter", "dragover"])
            zone.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer }));
        }"""
    )
    await expect(scene.page.locator("#curtain")).to_be_visible()


async def _history(scene: Scene) -> None:
    states = [session("completed"), session("failed"), session("completed"), session("processing")]
    scene.sessions = [each | {"session_id": ID[:-1] + str(at)} for at, each in enumerate(states)]
    await scene.page.add_init_script(f"localStorage.setItem('tryon.token', '{'t' * 43}')")
    await scene.arrive()
    await expect(scene.page.locator("#mine")).to_be_visible(timeout=SOON_MS)
    await scene.settled()


# -- wait ------------------------------------------------------------------------------


async def _uploading(scene: Scene) -> None:
    await _chosen(scene)
    await scene.page.locator("#go").click()
    await expect(scene.page.locator("#run")).to_be_visible()
    await scene.settled()


async def _refused(scene: Scene) -> None:
    scene.upload = refusal("rate_limited")
    await _uploading(scene)
    await scene.says("One moment, please")


async def _garment_refused(scene: Scene) -> None:
    scene.upload = refusal("unreadable_image", "garment")
    await _uploading(scene)
    await scene.says(re.compile("garment"))


async def _queued(scene: Scene) -> None:
    await scene.follow(session("created"))


async def _working(scene: Scene) -> None:
    await scene.follow(session())


async def _late(scene: Scene) -> None:
    await scene.follow(session(eta_seconds=0.5))
    await expect(scene.page.locator("#meta-time")).to_contain_text("longer than usual", timeout=SOON_MS)


async def _offline(scene: Scene) -> None:
    await _working(scene)
    await scene.page.context.set_offline(True)
    await scene.chip("Offline")


async def _reconnecting(scene: Scene) -> None:
    await _working(scene)
    scene.unreachable = True
    for socket in scene.sockets:
        await socket.close(code=4050)
    await scene.chip("Reconnecting")


async def _interrupted(scene: Scene) -> None:
    await _working(scene)
    await scene.push(event("requeued", "created", attempt=1, reason="lease_expired"))
    await scene.says(re.compile("^Interrupted"))


# -- see -------------------------------------------------------------------------------


async def _result(scene: Scene) -> None:
    await scene.follow(session("completed"))


async def _result_lost(scene: Scene) -> None:
    scene.missing = frozenset({f"{RESULT}.webp"})
    await scene.follow(session("completed"))
    await expect(scene.page.locator("#lost")).to_be_visible(timeout=SOON_MS)


async def _zoomed(scene: Scene) -> None:
    await _result(scene)
    for _ in range(2):
        await scene.page.get_by_role("button", name="Zoom in").click()


async def _share(scene: Scene) -> None:
    await _result(scene)
    await scene.page.locator("#share").click()
    await expect(scene.page.locator("#share-dialog svg")).to_be_visible(timeout=SOON_MS)


async def _sure(scene: Scene) -> None:
    await _result(scene)
    await scene.page.locator("#erase").click()
    await expect(scene.page.locator("#erase-dialog")).to_be_visible()


async def _kept(scene: Scene) -> None:
    scene.deletion = refusal("unavailable")
    await _sure(scene)
    await scene.page.locator("#erase-dialog").get_by_role("button", name="Delete now").click()
    await expect(scene.page.locator("#erase-note")).to_be_visible(timeout=SOON_MS)


async def _erased(scene: Scene) -> None:
    await _sure(scene)
    await scene.page.locator("#erase-dialog").get_by_role("button", name="Delete now").click()
    await scene.says("Everything was erased")


async def _receipt(scene: Scene) -> None:
    await _erased(scene)
    await scene.page.locator("#receipt summary").click()


async def _shared(scene: Scene) -> None:
    scene.session = session("completed")
    await scene.arrive(f"/#session={ID}&ticket=made-up")
    await scene.chip("Finished")
    await scene.settled()


# -- troubles --------------------------------------------------------------------------


async def _failed(scene: Scene) -> None:
    await scene.follow(failed("timeout"))


async def _no_garment(scene: Scene) -> None:
    await scene.follow(failed("garment_not_found"))


async def _cancelled(scene: Scene) -> None:
    await scene.follow(session("cancelled"))


async def _expired(scene: Scene) -> None:
    await _working(scene)
    await scene.push({"type": "error", "code": "expired", "message": "It has expired."})
    for socket in scene.sockets:
        await socket.close(code=4510)
    await scene.says(re.compile("expired"))


async def _result_expired(scene: Scene) -> None:
    scene.missing = frozenset({f"{RESULT}.webp"})  # asks for the session again
    await scene.follow(session("completed", expires_at=later(seconds=-1)))
    scene.session = None
    await scene.says("This result has expired")


async def _nothing(scene: Scene) -> None:
    await scene.arrive(f"/?s={ID}")
    await scene.says("There is nothing here")


# -- behind the scenes -----------------------------------------------------------------


async def _behind(scene: Scene) -> None:
    await _working(scene)
    await scene.page.locator("#chip").click()
    await expect(scene.page.locator(".behind-list li").first).to_be_visible(timeout=SOON_MS)
    await expect(scene.page.locator("#behind")).to_contain_text("ms", timeout=SOON_MS)


async def _code(scene: Scene) -> None:
    await _result(scene)
    await scene.page.locator("#chip").click()
    await scene.page.get_by_role("tab", name="Code").click()


STATES: Final[dict[str, State]] = {
    "choose": _empty,
    "chosen": _chosen,
    "with options": _options,
    "cut out": _cut_out,
    "dropping": _dropping,
    "not a picture": _unfit,
    "HEIC": _heic,
    "too large": _too_large,
    "my try-ons": _history,
    "uploading": _uploading,
    "refused": _refused,
    "garment refused": _garment_refused,
    "in line": _queued,
    "working": _working,
    "late": _late,
    "offline": _offline,
    "reconnecting": _reconnecting,
    "interrupted": _interrupted,
    "result": _result,
    "result not loaded": _result_lost,
    "zoomed": _zoomed,
    "share": _share,
    "delete?": _sure,
    "not deleted": _kept,
    "erased": _erased,
    "receipt": _receipt,
    "made elsewhere": _shared,
    "failed": _failed,
    "garment not found": _no_garment,
    "cancelled": _cancelled,
    "expired": _expired,
    "result expired": _result_expired,
    "nothing here": _nothing,
    "behind the scenes": _behind,
    "code": _code,
}
"""How the page comes into each state, by name."""
