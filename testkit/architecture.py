"""The diagram and the map of modules in ``docs/architecture.md``, made from the code.

The diagram is drawn from the imports; the map has the first line of every module's
docstring. ``python -m testkit.architecture`` prints both; with ``--write`` it puts them
into the page. A test holds the page to them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from testkit.processes import ROOT

PRODUCT: Final = ("tryon", "server", "worker")
OPENED: Final = ("tryon", "server", "server.adapters", "server.web", "worker")
"""Packages that are drawn part by part; the others are one box each."""

PAGE: Final = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawn by python -m testkit.architecture -->\n", "<!-- end of the drawing -->"
MAP_BEGIN, MAP_END = "<!-- listed by python -m testkit.architecture -->\n", "<!-- end of the list -->"

MAPPED: Final = (*PRODUCT, "alembic", "static", "testkit", "faults", "benchmarks")
"""Folders whose modules are listed; tests are not, for they mirror the modules."""

LEFT_OUT: Final = {"tests", "vendor", "__pycache__"}
SUFFIXES: Final = {".py", ".js", ".ts", ".css"}


def boxes() -> dict[str, Path]:
    """Return the path of every box of the diagram, by its dotted name."""
    found: dict[str, Path] = {}
    for package in OPENED:
        folder = ROOT.joinpath(*package.split("."))
        for path in sorted(folder.iterdir()):
            name = f"{package}.{path.stem}"
            is_box = path.suffix == ".py" or (path / "__init__.py").exists()
            if is_box and name not in OPENED and not path.name.startswith("__"):
                found[name] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, also inside functions.

    Names that only a type checker imports are left out.
    """
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo.extend(ast.iter_child_nodes(node))


def arrows(found: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return the boxes that each box imports."""

    def box_of(name: str) -> str | None:
        return next((box for box in found if name == box or name.startswith(f"{box}.")), None)

    drawn: dict[str, set[str]] = {}
    for box, path in found.items():
        files = [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
        targets = {box_of(name) for file in files for name in imported(file)}
        drawn[box] = {target for target in targets if target is not None and target != box}
    return drawn


def reduced(drawn: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the arrows without each that a longer way shows as well."""

    def reach(box: str, seen: set[str]) -> set[str]:
        for target in drawn[box] - seen:
            seen.add(target)
            reach(target, seen)
        return seen

    return {
        box: {each for each in targets if not any(each in reach(other, set()) for other in targets - {each})}
        for box, targets in drawn.items()
    }


def diagram() -> str:
    """Return the flowchart in Mermaid's language."""
    found = boxes()
    lines = ["flowchart TD"]
    for package in OPENED:
        lines.append(f"  subgraph {package.replace('.', '_')} [{package}]")
        lines += [f"    {_id(box)}[{box.rpartition('.')[2]}]" for box in found if box.rpartition(".")[0] == package]
        lines.append("  end")
    for box, targets in sorted(reduced(arrows(found)).items()):
        lines += [f"  {_id(box)} --> {_id(target)}" for target in sorted(targets)]
    return "\n".join(lines)


def _id(box: str) -> str:
    return box.replace(".", "_")


def job_of(path: Path) -> str:
    """Return the first sentence of a module, as Markdown; "" if it has none."""
    text = path.read_text()
    if path.suffix == ".py":
        line = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    else:
        comment = re.match(r"/\*+(.+?)\*/", text, re.DOTALL)
        words = comment.group(1).replace("\n *", " ").split() if comment else []
        line = re.split(r"(?<=\.) ", " ".join(words))[0]
    line = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"``\1``", line)
    return line.replace("``", "`").replace("|", r"\|")


def listing() -> str:
    """Return a table for each top-level folder: every module, and its job."""
    tables: list[str] = []
    for top in MAPPED:
        lines = [f"### `{top}/`", "", "| Module | Job |", "|---|---|"]
        for folder in sorted({path.parent for path in _modules(ROOT / top)}):
            name = folder.relative_to(ROOT).as_posix()
            package = folder / "__init__.py"
            lines.append(f"| **`{name}/`** | {job_of(package) if package.exists() else ''} |")
            paths = [path for path in _modules(folder) if path.parent == folder and path != package]
            lines += [f"| [`{path.name}`](../{name}/{path.name}) | {job_of(path)} |" for path in paths]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _modules(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES and not LEFT_OUT & set(path.relative_to(ROOT).parts)
    )


def written_page(text: str) -> str:
    """Return the page with the diagram and the map of today's code."""
    drawn = _between(text, BEGIN, f"```mermaid\n{diagram()}\n```\n", END)
    return _between(drawn, MAP_BEGIN, f"\n{listing()}\n\n", MAP_END)


def _between(text: str, begin: str, made: str, end: str) -> str:
    before, found, rest = text.partition(begin)
    after = rest.partition(end)[2]
    assert found, f"{PAGE.name} has no place for {begin.strip()}"
    return f"{before}{begin}{made}{end}{after}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(written_page(PAGE.read_text()))
    else:
        print(diagram(), listing(), sep="\n\n")
