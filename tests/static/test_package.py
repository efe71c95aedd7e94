"""The npm package ``tryon-push``: what is in it, how large it is, and its types."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from server import __version__
from testkit.node_packages import node_packages
from testkit.processes import ROOT

pytestmark = pytest.mark.xdist_group("npm")

STATIC: Final = ROOT / "static"

CORE_BYTES: Final = 5300
"""Maximum size of ``tryon.js``, minified and compressed."""
WATCH_BYTES: Final = 1400
"""The same of ``tryon-watch.js``, which no page needs for one session."""
SHARED_BYTES: Final = 1900
"""The same of ``tryon-shared.js``, which tabs load that are on an event stream."""


def run_tool(name: str, *arguments: str, folder: Path = ROOT) -> str:
    """Return the output of a tool of the locked packages, which has to succeed."""
    command = (str(node_packages() / ".bin" / name), *arguments)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_package_holds_client_hook_and_types_alone(project: Path) -> None:
    """With the licence; of the server's version; nothing of the demo page."""
    package = project / "node_modules" / "tryon-push"
    files = {path.name for path in package.iterdir()}
    scripts = {"tryon.js", "tryon-lower.js", "tryon-progress.js", "tryon-shared.js", "tryon-tabs.js"} | {
        "tryon-watch.js",
        "react.js",
    }
    types = {"tryon.d.ts", "tryon-watch.d.ts", "react.d.ts"}
    assert files == {"LICENSE", "README.md", "package.json"} | types | scripts
    for name in files:
        assert (package / name).read_bytes() == (STATIC / name).read_bytes(), "the served source"
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    made: Any = json.loads((package / "package.json").read_text())
    assert made["version"] == __version__
    assert (made["type"], made["sideEffects"], sorted(made["exports"])) == (
        "module",
        False,
        [".", "./react", "./watch"],
    )
    assert not {"dependencies", "scripts", "main"} & set(made)


def test_core_is_below_its_size_limit(project: Path) -> None:
    """Minified by esbuild, compressed by gzip; the rest is loaded when it is needed."""
    sizes = {}
    for path in sorted(STATIC.glob("tryon*.js")):
        minified = run_tool("esbuild", "--minify", "--format=esm", str(path))
        sizes[path.name] = len(gzip.compress(minified.encode(), 9))
    print(sizes)
    assert sizes["tryon.js"] <= CORE_BYTES
    assert sizes.pop("tryon-watch.js") <= WATCH_BYTES
    assert sizes.pop("tryon-shared.js") <= SHARED_BYTES
    assert sum(sizes.values()) <= 8800


def test_bundle_loads_the_rest_later(project: Path) -> None:
    """A bundler splits it at the imports, and leaves out what is not used of it."""
    (project / "app.js").write_text('import { TryOn } from "tryon-push"; console.log(TryOn);\n')
    run_tool("esbuild", "--bundle", "--splitting", "--format=esm", "--minify", "--outdir=out", "app.js", folder=project)
    assert sorted(re.sub(r"-\w+\.js$", "", path.name) for path in (project / "out").iterdir()) == [
        "app.js",
        "chunk",
        "tryon-lower",
        "tryon-progress",
        "tryon-shared",
    ]
    (project / "none.js").write_text('import { TryOn } from "tryon-push"; console.log(1);\n')
    assert run_tool("esbuild", "--bundle", "--format=esm", "--minify", "none.js", folder=project) == "console.log(1);\n"


# -- the types -------------------------------------------------------------------------

USE: Final = """
import { TryOn, Problem, randomText, type RefusalCode, type Session, type SessionEvent } from "tryon-push";
import * as declared from "tryon-push";
import { useTryOn, type TryOnState } from "tryon-push/react";
import { watchAll, type Watching } from "tryon-push/watch";
import * as made from "./implementation.js";
import * as watchingMade from "./watching.js";

const same: Pick<typeof declared, "randomText"> = made;
const problem: declared.Problem = new made.Problem({ code: "network" }) as unknown as declared.Problem;
const names: Record<keyof declared.TryOn, unknown> = new made.TryOn({ base: "https://tryon.example" });
const following: Record<keyof declared.Following, unknown> = new made.TryOn().follow("id");
const watching: Record<keyof Watching, unknown> = watchingMade.watchAll(new made.TryOn());

export async function use(file: File): Promise<string | null> {
  const tryon = new TryOn({ base: "https://tryon.example" });
  const session: Session = await tryon.upload(file, { params: { size: "M" }, onProgress: (part) => part.toFixed(2) });
  const run = tryon.run({ image: file, garment: file, params: { size: "M" }, signal: AbortSignal.timeout(9000) });
  for await (const { status, queue_position } of run) void [status.length, queue_position?.toFixed()];
  const ended: Session = await run;
  const shown: string = (await tryon.share(ended)).link + (await tryon.limits()).formats[0];
  if (problem.code === "rate_limited" || problem.code === "network") return shown;
  if (ended.error?.code === "person_not_found") return ended.error.message;
  // @ts-expect-error no such code
  const wrong: RefusalCode = "rate_limitted";
  new TryOn({ base: "https://tryon.example", fetch: (url, init) => fetch(url, init), WebSocket });
  const seen: SessionEvent[] = [];
  const following = tryon.follow(session, { onEvent: (event) => seen.push(event), onGone: (code) => code.length });
  // @ts-expect-error no such transport
  tryon.follow(session, { transports: ["pigeon"] });
  const all = watchAll(tryon, { transports: ["sse"], onEnded: (id, reason) => id + reason, onSession: console.log });
  const living: Session[] = all.sessions;
  // @ts-expect-error a long poll is about one session
  watchAll(tryon, { transports: ["long-poll"] }).close(living);
  // @ts-expect-error a status is one of five
  if (session.status === "done") return wrong;
  return (await following.done).links.output;
}

export async function hook(file: File): Promise<string | null> {
  const { start, share, tryon, preview, error }: TryOnState & { share?: never } = useTryOn({ base: "https://tryon.example" });
  const ended = (await start({ image: file, garment: file })) ?? (await start(file));
  // @ts-expect-error no such part of an upload
  await start({ picture: file });
  return ended && (await tryon.share(ended)).link + (preview ?? share ?? error?.detail);
}
void [same, problem, names, following, watching, Problem, randomText];
"""

GIVEN: Final = """
declare const file: File;
declare function show(...news: unknown[]): void;
"""
"""Declarations that the examples of the guides take as given."""

GUIDES: Final = (ROOT / "docs" / "browser-client.md", ROOT / "docs" / "react.md", STATIC / "README.md")


def examples() -> Iterator[str]:
    """Yield the examples of the guides, as TypeScript."""
    for path in GUIDES:
        found = re.findall(r"^```(?:jsx?|tsx)\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        assert found, path
        for code in found:
            code = re.sub(r'"https://\S+/static/(tryon|react)\.js"', '"tryon-push"', code)
            yield f"{code}\nexport {{}};\n" if "file: File" in code else f"{code}\nexport {{}};{GIVEN}"


@pytest.mark.parametrize("resolution", ["bundler", "nodenext"])
def test_types_match_script_and_examples(project: Path, resolution: str) -> None:
    """A use of every call and the guides' examples compile with strict checks."""
    (project / "use.ts").write_text(USE)
    for path in STATIC.glob("*.js"):
        name = path.name.replace("tryon.js", "implementation.js").replace("tryon-watch.js", "watching.js")
        if name != "react.js":
            (project / name).write_text(path.read_text().replace('"./tryon.js"', '"./implementation.js"'))
    names = ["use.ts"]
    for number, code in enumerate(examples()):
        names.append(f"example{number}.tsx")
        (project / names[-1]).write_text(code)
    (project / "package.json").write_text('{ "type": "module" }')
    options = {
        "strict": True, "noEmit": True, "allowJs": True, "checkJs": False, "target": "es2022", "jsx": "react-jsx",
        "module": "es2022" if resolution == "bundler" else "nodenext", "moduleResolution": resolution,
        "lib": ["es2022", "dom", "dom.iterable"], "types": [],
    }  # fmt: skip
    (project / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": names}))
    run_tool("tsc", "-p", ".", folder=project)
