"""A Gradio app that does what spaces for virtual try-on do, without a model.

    python app.py PORT FOLDER

It prints READY when it serves. ``does`` makes a call behave: ``fail TEXT`` raises a
``gr.Error``, ``crash`` any other exception. ``wait NAME`` writes ``FOLDER/NAME.runs``,
and goes on when ``FOLDER/NAME`` is there; if the call is cancelled meanwhile, it writes
``FOLDER/NAME.stopped``. ``FOLDER/calls`` has a line for each begin and end of a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import gradio as gr  # type: ignore[import-not-found]  # it is in an environment of its own
from PIL import Image

FOLDER = Path(sys.argv[2])
PROGRESS = gr.Progress()
NUMBERS = itertools.count()


async def behave(does: str) -> None:
    match does.split(" ", 1):
        case ["fail", text]:
            raise gr.Error(text)
        case ["crash"]:
            raise RuntimeError("a secret of the app")
        case ["wait", name]:
            (FOLDER / f"{name}.runs").touch()
            try:
                while not (FOLDER / name).exists():
                    await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                (FOLDER / f"{name}.stopped").touch()
                raise


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """Write when a call begins, and when it ends in any way."""
    with (FOLDER / "calls").open("a", buffering=1) as file:
        file.write("began\n")
        try:
            yield
        finally:
            file.write("ended\n")


async def take(steps: float, progress: Any) -> None:
    for step in range(int(steps)):
        progress((step + 1, int(steps)), desc="denoising")
        await asyncio.sleep(0.05)  # the app sends the newest progress every 10 ms


def dressed(person: Image.Image, garment: Image.Image) -> Image.Image:
    """Return the person with the garment over the lower half."""
    picture = person.convert("RGB")
    half = picture.height // 2
    picture.paste(garment.convert("RGB").resize((picture.width, picture.height - half)), (0, half))
    number = next(NUMBERS)  # no two are the same: Gradio would write the file of the first once more
    picture.putpixel((0, 0), (number % 256, number // 256, 0))
    return picture


async def tryon(
    editor: dict[str, Any],
    garment: Image.Image | None,
    does: str,
    steps: float,
    progress: Any = PROGRESS,
) -> tuple[Image.Image, Image.Image]:
    """Return the result and the photo without what its layers cover."""
    with counted():
        await take(steps, progress)
        await behave(does or "")
    if garment is None:
        raise gr.Error("No garment was given")
    person = editor["background"].convert("RGB")
    masked = person.copy()
    for layer in editor["layers"]:
        masked.paste((0, 0, 0), (0, 0), layer.convert("L"))
    return dressed(person, garment), masked


def generate_mask(person: Image.Image, category: str) -> tuple[dict[str, Any], Image.Image]:
    """Return an editor's value whose layer covers a part of the photo, and a pose."""
    ground = person.convert("RGBA")
    top = 0 if category == "upper" else ground.height // 2
    layer = Image.new("RGBA", ground.size)
    layer.paste((0, 0, 0, 255), (0, top, ground.width, top + ground.height // 2))
    composite = Image.alpha_composite(ground, layer)
    return {"background": ground, "layers": [layer], "composite": composite}, Image.new("RGB", ground.size, "red")


def process(
    person: Image.Image, garment: Image.Image, mask: dict[str, Any], pose: Image.Image, seed: float, count: float
) -> list[Image.Image]:
    """Return the garment in the place that the mask's layer covers, several times."""
    if pose.convert("RGB").tobytes()[:3] != b"\xff\0\0":
        raise gr.Error("This is not the pose that the first call returned")
    picture = person.convert("RGB")
    picture.paste(garment.convert("RGB").resize(picture.size), (0, 0), mask["layers"][0].getchannel("A"))
    picture.putpixel((0, picture.height - 1), (int(seed) % 256, 0, 0))
    return [picture] * int(count)


async def grow(
    person: Image.Image, garment: Image.Image, does: str, steps: float, progress: Any = PROGRESS
) -> AsyncIterator[tuple[str, Image.Image]]:
    """Yield a picture of the garment alone, then the result."""
    with counted():
        yield "first", garment.convert("RGB")
        yield "first and", garment.convert("RGB")
        await take(steps, progress)
        await behave(does or "")
    yield "last", dressed(person, garment)


with gr.Blocks(analytics_enabled=False) as demo:
    editor, mask = gr.ImageEditor(type="pil"), gr.ImageEditor(type="pil")
    person, garment, pose, out, second = (gr.Image(type="pil", format="png") for _ in range(5))
    does, category, word = gr.Textbox(), gr.Textbox(), gr.Textbox()
    steps, seed, count = gr.Number(), gr.Number(), gr.Number()
    gallery = gr.Gallery(format="png")
    button = gr.Button()
    button.click(tryon, [editor, garment, does, steps], [out, second], api_name="tryon")
    button.click(generate_mask, [person, category], [mask, pose], api_name="generate_mask")
    button.click(process, [person, garment, mask, pose, seed, count], gallery, api_name="process")
    button.click(grow, [person, garment, does, steps], [word, out], api_name="grow")

if __name__ == "__main__":
    demo.queue(max_size=2)
    demo.launch(server_name="127.0.0.1", server_port=int(sys.argv[1]), prevent_thread_lock=True, quiet=True)
    print("READY", flush=True)
    demo.block_thread()
