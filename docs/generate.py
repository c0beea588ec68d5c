"""Writes the generated parts of the documentation. Run it with ``make docs``.

A page may hold blocks between ``<!-- generated: NAME -->`` and ``<!-- end -->``; the rest of the
page is written by hand. ``.env.example`` is generated as a whole.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from pydantic import SecretStr

from recommender.core.settings import setting_fields

PROJECT = Path(__file__).resolve().parent.parent

_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


Row = tuple[str, str, str, str]


def settings_rows() -> Iterator[Row]:
    """Yield name, default, meaning and group of every setting, group by group."""
    for name, (group, field) in setting_fields().items():
        yield name, _text(field.default), field.description or "", group


def _text(default: object) -> str:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, float):
        return f"{default:g}"
    return "" if default is None else str(default)


def settings_tables() -> str:
    """Return a Markdown table for each group of settings."""
    tables = []
    for group, rows in groupby(settings_rows(), key=lambda row: row[3]):
        lines = [f"## {group}", "", "| setting | default | meaning |", "| --- | --- | --- |"]
        lines += [f"| `{n}` | {value and f'`{value}`'} | {text} |" for n, value, text, _ in rows]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def env_example() -> str:
    """Return ``.env.example``: every setting with its default, commented out."""
    parts = ["# Copy this file to .env and uncomment what you change. Written by `make docs`."]
    for group, rows in groupby(settings_rows(), key=lambda row: row[3]):
        parts.append(f"\n# ---- {group} ----")
        parts += [f"\n# {text}\n#{name}={value}" for name, value, text, _ in rows]
    return "\n".join(parts) + "\n"


def room_of(parts: tuple[str, ...]) -> str | None:
    """Return the room of a module given by the parts of its name; None if it is not ours."""
    path = PROJECT.joinpath(*parts[:2])
    if parts[0] == "recommender":
        return parts[1] if len(parts) > 1 and path.is_dir() else "recommender"
    if not (PROJECT / f"{parts[0]}.py").exists():
        return None
    return "dists" if parts[0] == "dists" else "scripts"


def imports_between_rooms() -> dict[str, set[str]]:
    """Return the rooms that each room imports from."""
    imports: dict[str, set[str]] = {}
    for path in [*PROJECT.glob("*.py"), *PROJECT.glob("recommender/**/*.py")]:
        room = room_of(path.relative_to(PROJECT).with_suffix("").parts) or ""
        targets = imports.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            targets |= {r for name in names if (r := room_of(tuple(name.split("."))))} - {room}
    return imports


def rooms_chart() -> str:
    """Return a Mermaid chart of the imports between rooms, without those implied by others."""
    imports = imports_between_rooms()

    def reaches(start: str, end: str, seen: frozenset[str] = frozenset()) -> bool:
        steps = imports[start] - seen
        return end in steps or any(reaches(step, end, seen | steps) for step in steps)

    arrows = [
        f"    {room} --> {target}"
        for room, targets in sorted(imports.items())
        for target in sorted(targets)
        if not any(reaches(via, target, frozenset({room})) for via in targets - {target})
    ]
    return "\n".join(["```mermaid", "flowchart TD", *arrows, "```"])


def generated() -> dict[Path, str]:
    """Return every page and ``.env.example`` with their text as it should be."""
    blocks = {"settings": settings_tables(), "rooms": rooms_chart()}
    pages = {page: page.read_text("utf-8") for page in PROJECT.glob("docs/*.md")}
    filled = {
        page: _BLOCK.sub(lambda match: f"{match[1]}{blocks[match[2]]}\n{match[3]}", text)
        for page, text in pages.items()
    }
    return {**filled, PROJECT / ".env.example": env_example()}


if __name__ == "__main__":
    for file, text in generated().items():
        file.write_text(text, encoding="utf-8")
