"""Program of the environment ``tools``: Helm and schemas, for the tests beside it.

``check.py lint|render CHART`` reads values as JSON from standard input; ``check.py
compose FILE`` parses a Compose file. The answer is JSON on standard output.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any


def lint(chart: str) -> Any:
    import helm_python

    return helm_python.lint(chart, json.load(sys.stdin), strict=True)


def render(chart: str) -> Any:
    """Return each object of the chart, and the schemas that it breaks."""
    import helm_python
    import kubernetes_validate
    import yaml

    found = []
    with helm_python.Chart.load(chart) as loaded:
        rendered = loaded.render(json.load(sys.stdin), name="demo", namespace="shop")
    for path, text in rendered.items():
        for each in yaml.safe_load_all(text) if path.endswith(".yaml") else ():
            if each is None:
                continue
            faults = []
            for version in ("1.30", "1.37"):
                try:
                    kubernetes_validate.validate(each, version, strict=True)
                except kubernetes_validate.SchemaNotFoundError:
                    faults.append("no schema")
                except kubernetes_validate.ValidationError as error:
                    faults.append(f"{version}: {error.message}")
            found.append({"object": each, "faults": faults})
    return found


def interpolated(text: str, variables: dict[str, str]) -> str:
    """Put variables in, as Compose does: ``${NAME:-default}``, ``${NAME:?error}``."""

    def value(match: re.Match[str]) -> str:
        name, kind, word = match.groups()
        if variables.get(name):
            return variables[name]
        if kind == ":?":
            raise ValueError(f"{name}: {word}")
        return word or ""

    return re.sub(r"(?<!\$)\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text).replace("$$", "$")


def compose(path: str) -> Any:
    """Return a Compose file with the variables of standard input in it."""
    import compose_spec

    text = interpolated(Path(path).read_text(), json.load(sys.stdin))
    parsed = compose_spec.PyOptions(apply_merge=True).from_yaml(text)
    parsed.validate()
    return json.loads(parsed.to_json())


if __name__ == "__main__":
    json.dump({"lint": lint, "render": render, "compose": compose}[sys.argv[1]](sys.argv[2]), sys.stdout)
