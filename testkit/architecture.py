"""The flow between the packages, drawn from their imports.

``python -m testkit.architecture`` prints the Mermaid diagram of
``docs/architecture.md``; with ``--write`` it puts the diagram into the page. A test
holds the page to it.
"""

from __future__ import annotations

import ast
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


def drawn_page(text: str) -> str:
    """Return the page with the diagram of today's code."""
    before, begin, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    assert begin, f"{PAGE.name} has no place for the diagram"
    return f"{before}{BEGIN}```mermaid\n{diagram()}\n```\n{END}{after}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(drawn_page(PAGE.read_text()))
    else:
        print(diagram())
