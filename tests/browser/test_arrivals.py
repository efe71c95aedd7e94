"""Pictures that are dropped or pasted, and the choice of files and camera."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import expect

from testkit.processes import ROOT
from tests.browser.visitor import DONE_MS, Visitor

pytestmark = pytest.mark.xdist_group("chromium")

ELSEWHERE: Final = "https://pictures.example/cat.jpg"

PASTE: Final = """
([files, texts]) => {
  const transfer = new DataTransfer();
  for (const [name, type, data] of files) {
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  for (const [type, text] of Object.entries(texts)) transfer.setData(type, text);
  const event = new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData: transfer });
  return document.body.dispatchEvent(event);
}
"""
"""Pastes files and texts, as an application put them on the clipboard.

Returns true if the page left the event alone.
"""


async def drop(visitor: Visitor, target: str = "#photo-zone", *files: Path, **texts: str) -> None:
    """Drop files, folders and texts on an element, as the operating system does."""
    devtools = await visitor.page.context.new_cdp_session(visitor.page)
    await visitor.page.locator(target).scroll_into_view_if_needed()
    box = await visitor.page.locator(target).bounding_box()
    assert box is not None
    items = [{"mimeType": kind.replace("_", "/"), "data": text} for kind, text in texts.items()]
    if "text_uri_list" in texts:
        items[list(texts).index("text_uri_list")]["mimeType"] = "text/uri-list"
    data = {"items": items, "files": [str(file) for file in files], "dragOperationsMask": 1}
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    for step in ("dragEnter", "dragOver", "drop"):
        await devtools.send("Input.dispatchDragEvent", {"type": step, "data": data, **at})


async def paste(visitor: Visitor, *files: tuple[str, str, bytes], **texts: str) -> bool:
    encoded = [(name, kind, base64.b64encode(data).decode()) for name, kind, data in files]
    let_be: bool = await visitor.page.evaluate(
        PASTE, [encoded, {kind.replace("_", "/"): text for kind, text in texts.items()}]
    )
    return let_be


async def is_told(visitor: Visitor, words: str) -> None:
    await expect(visitor.page.get_by_role("alert")).to_contain_text(words)
    assert visitor.uploads == []


async def is_taken(visitor: Visitor) -> None:
    """Expect that a photo is in its slot, and can be sent."""
    await expect(visitor.page.get_by_alt_text("Chosen: your photo")).to_be_visible(timeout=DONE_MS)
    await visitor.go()
    await expect(visitor.page.locator("body")).to_have_attribute("data-phase", "following", timeout=DONE_MS)
    await expect(visitor.page.get_by_role("img", name="Your photo")).to_be_visible()


# -- drops -----------------------------------------------------------------------------


async def test_dropped_folder_is_told_in_words(visitor: Visitor, tmp_path: Path) -> None:
    """A photo beside it is taken."""
    folder = tmp_path / "holidays"
    folder.mkdir()
    await visitor.arrive()
    await drop(visitor, "#photo-zone", folder)
    await is_told(visitor, "That is a folder. Please drop one photo out of it.")
    await drop(visitor, "#photo-zone", folder, visitor.photos / "photo.jpg")
    await is_taken(visitor)


async def test_picture_of_other_page_gets_words(visitor: Visitor) -> None:
    """The page cannot read the picture, and the browser does not navigate to it."""
    await visitor.arrive()
    html = f'<a href="https://pictures.example/"><img src="{ELSEWHERE}"></a>'
    await drop(visitor, text_uri_list="https://pictures.example/", text_html=html)
    await is_told(visitor, "That picture is still on another page. Save it to this device first")
    await drop(visitor, text_uri_list=ELSEWHERE)
    await is_told(visitor, "That picture is still on another page.")
    await drop(visitor, text_uri_list="https://pictures.example/about")
    await is_told(visitor, "That is a link, not a picture.")
    assert visitor.page.url.startswith(visitor.url)


@pytest.mark.slow
async def test_picture_of_other_page_comes_as_file(visitor: Visitor) -> None:
    """The browser that shows the picture adds its file to the drag."""
    await visitor.arrive()
    html = f'<img src="{ELSEWHERE}">'
    await drop(visitor, "#photo-zone", visitor.photos / "photo.jpg", text_uri_list=ELSEWHERE, text_html=html)
    await is_taken(visitor)


@pytest.mark.slow
async def test_picture_inside_its_link_is_taken(visitor: Visitor) -> None:
    """The link is a `data:` URL, as for small pictures on search pages."""
    await visitor.arrive()
    data = base64.b64encode((visitor.photos / "garment.png").read_bytes()).decode()
    await drop(visitor, "#garment-zone", text_html=f'<img src="data:image/png;base64,{data}">', text_uri_list="x:y")
    await expect(visitor.page.get_by_alt_text("Chosen: the garment")).to_be_visible()
    await visitor.choose("photo.jpg")
    await is_taken(visitor)


@pytest.mark.slow
async def test_picture_of_own_page_is_taken(visitor: Visitor) -> None:
    """The picture is a result that another tab shows."""
    await visitor.arrive()
    await visitor.try_on()
    await visitor.sees_result()
    result = await visitor.page.locator("#result").get_attribute("src")
    assert result is not None
    await visitor.page.get_by_role("button", name="New photo").click()
    await drop(visitor, text_uri_list=visitor.url + result, text_html=f'<img src="{visitor.url}{result}">')
    await is_taken(visitor)
    assert len(visitor.uploads) == 2


@pytest.mark.slow
async def test_link_dragged_within_page_is_not_taken(visitor: Visitor) -> None:
    """A later drop from outside is taken.

    The link is dragged: the result itself lies below the handle that compares it.
    """
    await visitor.arrive()
    await visitor.try_on()
    await visitor.sees_result()
    await visitor.page.evaluate(
        "() => { window.had = []; for (const kind of ['dragstart', 'drop']) addEventListener(kind, () => had.push(kind)); }"
    )
    await visitor.page.drag_and_drop("#download", "#headline")
    assert await visitor.page.evaluate("had") == ["dragstart"]
    await visitor.says("Your result is ready")
    assert len(visitor.uploads) == 1
    await drop(visitor, "#headline", visitor.photos / "garment.png")
    await expect(visitor.page.get_by_alt_text("Chosen: the garment")).to_be_visible()
    await is_taken(visitor)
    assert len(visitor.uploads) == 2


@pytest.mark.slow
async def test_two_pictures_fill_both_slots(visitor: Visitor) -> None:
    """A third one is left out, and that is said."""
    await visitor.arrive()
    photos = visitor.photos
    await drop(visitor, "footer", photos / "photo.jpg", photos / "garment.png", photos / "photo.webp")
    await expect(visitor.page.get_by_alt_text("Chosen: the garment")).to_be_visible()
    await expect(visitor.page.get_by_role("log")).to_contain_text("One picture for each place")
    await is_taken(visitor)
    assert len(visitor.uploads) == 1


# -- the camera ------------------------------------------------------------------------

CAMERA: Final = """
navigator.mediaDevices.getUserMedia = async () => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 400 });
  const context = canvas.getContext("2d");
  setInterval(() => {
    context.fillStyle = `hsl(${Date.now() % 360} 60% 50%)`;
    context.fillRect(0, 0, 320, 400);
  }, 40);
  await new Promise((resolve) => setTimeout(resolve, 200));
  const stream = canvas.captureStream(25);
  (window.streams ??= []).push(stream);
  return stream;
};
"""
"""A camera that takes a moment to start; machines that run tests have none."""


async def test_photo_is_taken_by_the_camera(visitor: Visitor) -> None:
    """A second click opens no second window, and the camera is off afterwards."""
    await visitor.page.add_init_script(CAMERA)
    await visitor.arrive()
    camera = visitor.page.get_by_role("button", name="Take a photo").first
    await camera.dblclick()
    window = visitor.page.get_by_role("dialog")
    await window.get_by_role("button", name="Take the photo").click()
    await is_taken(visitor)
    assert await visitor.page.evaluate("streams.map((each) => each.getTracks()[0].readyState)") == ["ended"]
    assert len(visitor.uploads) == 1


# -- pastes ----------------------------------------------------------------------------


@pytest.mark.slow
async def test_picture_beside_text_is_pasted(visitor: Visitor) -> None:
    """Word and macOS put several kinds of data on the clipboard."""
    await visitor.arrive()
    photo = (visitor.photos / "photo.jpg").read_bytes()
    rtf = ("notes.rtf", "text/rtf", b"{\\rtf1 notes}")
    html = '<p>notes<img src="file:///C:/clip_image001.png"></p>'
    assert not await paste(visitor, rtf, ("image.jpg", "image/jpeg", photo), text_html=html, text_plain="notes")
    await is_taken(visitor)
    assert len(visitor.uploads) == 1


async def test_pasted_document_is_told_in_words(visitor: Visitor) -> None:
    """Pasted text without a file or picture is left alone."""
    await visitor.arrive()
    assert await paste(visitor, text_plain="notes", text_html="<p>notes</p>")
    await expect(visitor.page.get_by_role("alert")).to_be_hidden()
    assert not await paste(visitor, ("notes.rtf", "text/rtf", b"{\\rtf1 notes}"))
    await is_told(visitor, "“notes.rtf” is not a picture.")
    assert not await paste(visitor, text_html='<img src="file:///C:/clip_image001.png">')
    await is_told(visitor, "That picture is still on another page.")


# -- the camera ------------------------------------------------------------------------


def test_every_input_offers_camera_and_files() -> None:
    """Chrome on Android 13 and later has no camera where all types are pictures.

    Its rule (`SelectFileDialog.isSupportedPhotoPickerTypes`): one type that does not
    begin with `image/` or `video/`, and it opens the chooser with the camera and the
    files. The chooser offers the camera if one of the types is a picture.
    """
    page = (ROOT / "static" / "index.html").read_text()
    inputs = re.findall(r'<input[^>]*type="file"[^>]*>', page)
    assert len(inputs) == 2
    for tag in inputs:
        accept = re.search(r'accept="([^"]*)"', tag)
        assert accept is not None
        types = accept[1].split(",")
        assert any(kind.startswith("image/") for kind in types)
        assert any(not kind.startswith(("image/", "video/")) for kind in types)
        assert not any(kind in ("*/*", "application/octet-stream") or kind.startswith(".") for kind in types)
        assert "capture" not in tag, "the camera alone would take the files away"
