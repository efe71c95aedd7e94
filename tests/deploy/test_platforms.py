"""The recipes for hosting platforms: syntax, commands, settings, and the front end."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import re
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from playwright.async_api import Browser, expect

from server.config.settings import Config, variable
from testkit.documents import text_of
from testkit.fixtures import StartStack
from testkit.processes import ROOT

FOLDER: Final = ROOT / "deploy/platforms"
COMMANDS: Final = {"tryon migrate", "tryon serve", "arq worker.Settings"}
SETTINGS: Final = {variable(row) for row in Config.__dataclass_fields__.values()}
API: Final = "https://api.shop.example"


def without_init(command: str) -> str:
    return command.removeprefix("tini -- ")


def test_railway_recipe_runs_the_product() -> None:
    """Migrate, then serve; asked whether it is ready before the old one goes."""
    recipe = json.loads((FOLDER / "railway.json").read_text())
    assert (ROOT / recipe["build"]["dockerfilePath"]).is_file()
    deploy = recipe["deploy"]
    assert {without_init(each) for each in (*deploy["preDeployCommand"], deploy["startCommand"])} <= COMMANDS
    assert deploy["healthcheckPath"] == "/api/health/ready"
    assert deploy["drainingSeconds"] >= 30


def test_render_recipe_runs_the_product() -> None:
    """Web and worker have the same settings, which exist."""
    recipe = yaml.safe_load((FOLDER / "render.yaml").read_text())
    web, worker, _ = recipe["services"]
    assert {
        without_init(web["dockerCommand"]),
        without_init(worker["dockerCommand"]),
        web["preDeployCommand"],
    } == COMMANDS
    assert web["envVars"] == worker["envVars"]
    names = [each["key"] for each in (*web["envVars"], *recipe["envVarGroups"][0]["envVars"]) if "key" in each]
    assert {name for name in names if not name.startswith("AWS_")} <= SETTINGS


def test_fly_recipe_runs_the_product() -> None:
    """A machine that sleeps would serve no socket."""
    recipe = tomllib.loads((FOLDER / "fly.toml").read_text())
    assert (FOLDER / recipe["build"]["dockerfile"]).is_file()  # flyctl looks from the folder of the file
    assert {*recipe["processes"].values(), recipe["deploy"]["release_command"]} == COMMANDS
    assert recipe["http_service"]["auto_stop_machines"] == "off"
    config = Config.load(recipe["env"], env_file=None)
    assert config.port == recipe["http_service"]["internal_port"]
    assert recipe["kill_timeout"] >= 30
    text = (FOLDER / "fly.toml").read_text()
    for page in (text, text_of("docs/containers.md")):  # no machine starts before it has its secrets
        assert re.findall(r"fly (launch --no-deploy|secrets set|deploy) .*?--config", page) == [
            "launch --no-deploy",
            "secrets set",
            "deploy",
        ]
    named = re.findall(r"(\w+)=…", text)
    assert {name for name in named if not name.startswith("AWS_")} <= SETTINGS


def test_every_recipe_names_hosts_and_proxies() -> None:
    """The image listens on all addresses: unnamed, the public name gets 421."""
    rows = re.findall(r"^\| \w[\w.]* \| `(deploy/platforms/[\w.]+)` \| .*", text_of("docs/containers.md"), re.MULTILINE)
    assert {ROOT / each for each in rows} == {each for each in FOLDER.iterdir() if each.is_file()}
    for name in rows:
        (row,) = [line for line in text_of("docs/containers.md").splitlines() if f"`{name}`" in line]
        said = row + (ROOT / name).read_text()
        assert {"TRYON_HOSTS", "TRYON_TRUSTED_PROXIES"} <= set(re.findall(r"\bTRYON_[A-Z_]+", said)), name


def test_railway_worker_finds_the_dockerfile() -> None:
    """Its service does not read the JSON file."""
    found = re.findall(r"RAILWAY_DOCKERFILE_PATH=([\w/]+)", text_of("docs/containers.md"))
    assert found == [json.loads((FOLDER / "railway.json").read_text())["build"]["dockerfilePath"]]


class _FrontEnd(http.server.SimpleHTTPRequestHandler):
    """The static front end, with the headers of its vercel.json."""

    fields: dict[str, str] = {}

    def end_headers(self) -> None:
        for name, text in self.fields.items():
            self.send_header(name, text)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def front_end(folder: Path, server: str) -> Iterator[str]:
    """Serve a copy of the front end whose API is ``server``; yield its origin."""

    def edited(text: str) -> str:
        return text.replace(API, server).replace(API.replace("https", "wss"), server.replace("http", "ws"))

    for each in (FOLDER / "vercel").iterdir():
        (folder / each.name).write_text(edited(each.read_text()))
    ((rule,),) = [json.loads((folder / "vercel.json").read_text())["headers"]]
    handler = type("Handler", (_FrontEnd,), {"fields": {each["key"]: each["value"] for each in rule["headers"]}})
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    with site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()
        thread.join()


@pytest.mark.xdist_group("chromium")
async def test_front_end_works_on_an_origin_of_its_own(
    stack: StartStack, chromium: Browser, photos: Path, tmp_path: Path
) -> None:
    """Its policy lets in the product's scripts, calls, sockets and pictures alone."""
    product = await stack(TRYON_MOCK_SECONDS="1", TRYON_MOCK_FAILURE_RATE="0")
    (site := tmp_path / "site").mkdir()
    with front_end(site, product.url) as origin:
        context = await chromium.new_context()
        try:
            page = await context.new_page()
            refused: list[str] = []
            page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
            await page.goto(origin)
            await page.set_input_files("[name=photo]", photos / "photo.jpg")
            await page.get_by_role("button", name="Try it on").click()
            await expect(page.locator("#line")).to_have_text("completed", timeout=30_000)
            await page.wait_for_function("() => document.querySelector('#result').naturalWidth > 0", timeout=30_000)
            assert [each for each in refused if "favicon" not in each and "404" not in each] == []
        finally:
            await context.close()
