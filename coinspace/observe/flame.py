"""A flame graph: sampled stacks as one SVG, widths by samples, readable without a script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from html import escape

WIDTH = 1200
ROW = 17
# narrower boxes than this many pixels are left out
NARROWEST = 0.4
LETTER = 6.6

Stack = tuple[str, ...]


def folded(stacks: Iterable[Stack]) -> str:
    """Return stacks in the folded form that flame graph tools read: `a;b;c count`, by line."""
    counts = Counter(";".join(name.replace(";", ":") for name in stack) for stack in stacks)
    return "".join(f"{stack} {count}\n" for stack, count in sorted(counts.items()))


class _Box:
    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.children: dict[str, _Box] = {}


def _tree(stacks: Iterable[Stack]) -> _Box:
    root = _Box("all")
    for stack in stacks:
        box = root
        box.count += 1
        for name in stack:
            box = box.children.setdefault(name, _Box(name))
            box.count += 1
    return root


def _colour(name: str) -> str:
    # compiled stages green, the interpreter blue, the rest amber
    if name.startswith("coinspace"):
        return "#5bb98c"
    if name.startswith(("_Py", "Py", "__pyx")):
        return "#7aa6d8"
    return "#e0a458"


def _depth(box: _Box) -> int:
    return 1 + max((_depth(child) for child in box.children.values()), default=0)


def flame_graph(stacks: list[Stack], title: str) -> str:
    """Return the SVG; each box tells its share when the pointer rests on it."""
    root = _tree(stacks)
    height = (_depth(root) + 2) * ROW
    parts: list[str] = []

    def draw(box: _Box, x: float, level: int) -> None:
        width = box.count / root.count * WIDTH
        if width < NARROWEST:
            return
        y = height - (level + 1) * ROW
        share = 100 * box.count / root.count
        label = box.name if len(box.name) * LETTER < width - 4 else ""
        if not label and width > 5 * LETTER:
            label = box.name[-int(width / LETTER) + 1 :]
        parts.append(
            f'<g><title>{escape(box.name)}: {share:.1f} %</title><rect x="{x:.1f}" y="{y}"'
            f' width="{max(width - 0.5, 0.4):.1f}" height="{ROW - 1}" rx="2"'
            f' fill="{_colour(box.name)}"/><text x="{x + 3:.1f}" y="{y + 12}">{escape(label)}'
            "</text></g>"
        )
        for name in sorted(box.children):
            child = box.children[name]
            draw(child, x, level + 1)
            x += child.count / root.count * WIDTH

    if root.count:
        draw(root, 0.0, 0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}"><style>text{{font:11px monospace;fill:#111}}</style>'
        f'<text x="4" y="12">{escape(title)}: {root.count} samples</text>{"".join(parts)}</svg>\n'
    )
