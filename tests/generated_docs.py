"""The generated parts of the documentation; `make docs` writes them.

A page may hold blocks between ``<!-- generated: NAME -->`` and ``<!-- end -->``; the rest of the
page is written by hand. ``.env.example`` is generated as a whole.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from pydantic import SecretStr

from recommender.core.settings import setting_fields
from tests.support import PROJECT
from tests.test_architecture import MODULES, ROOMS, imports_of, room_of

_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def generated() -> dict[Path, str]:
    """Return every page of ``docs/``, and ``.env.example``, with their text as it should be."""
    blocks = {"settings": settings_tables(), "rooms": rooms_chart()}
    pages = {page: page.read_text("utf-8") for page in PROJECT.glob("docs/*.md")}
    filled = {
        page: _BLOCK.sub(lambda match: f"{match[1]}{blocks[match[2]]}\n{match[3]}", text)
        for page, text in pages.items()
    }
    return {**filled, PROJECT / ".env.example": env_example()}


def settings_rows() -> Iterator[tuple[str, str, str, str]]:
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


def rooms_chart() -> str:
    """Return a Mermaid chart of the imports between rooms, without those implied by others."""
    imports: defaultdict[str, set[str]] = defaultdict(set)
    for name in MODULES:
        ours = imports_of(name) & set(MODULES) - {"recommender"}
        imports[_node(name)] |= {_node(other) for other in ours} - {_node(name)}

    def reaches(start: str, end: str) -> bool:
        return end in imports[start] or any(reaches(via, end) for via in imports[start])

    arrows = [
        f"    {room} --> {target}"
        for room, targets in sorted(imports.items())
        for target in sorted(targets)
        if not any(reaches(via, target) for via in targets - {target})
    ]
    return "\n".join(["```mermaid", "flowchart TD", *arrows, "```"])


def _node(module: str) -> str:
    room = room_of(module)
    return room if room in {*ROOMS, "dists"} else "scripts"
