"""Facts in the documents about the repository: links, paths, commands, settings, examples.

`tests/unit/test_documents.py` compares it with the repository. Only facts are checked, no prose.
A comment `<!-- run -->` before a code block means that the block is executed; in a console block
the lines after a `$ command` are its expected output, where `…` stands for anything.
"""

from __future__ import annotations

import functools
import re
import shlex
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from coinspace.cli import coinspace

ROOT = Path(__file__).resolve().parent.parent
# folders whose paths a document may name
FOLDERS = ("benchmarks", "coinspace", "docs", "ext", "requirements", "tests")
RUN = "<!-- run -->"
CONSOLE = ("", "console", "sh")

_FENCE = re.compile(r"^```(\w*)\s*$")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*$")
_PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./*-]*")


@dataclass(frozen=True)
class Block:
    """A fenced block of code. line: of its first line; run: to be executed."""

    line: int
    language: str
    text: str
    run: bool


@dataclass
class Document:
    """A Markdown file, split into prose and code."""

    path: Path
    # (line number, text) outside blocks
    prose: list[tuple[int, str]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    @functools.cached_property
    def anchors(self) -> set[str]:
        """The names that links into this document can use."""
        found: set[str] = set()
        for _, line in self.prose:
            if heading := _HEADING.match(line):
                name = slug(heading[1])
                # a second heading of the same words gets a number
                count = sum(
                    one == name or re.fullmatch(rf"{re.escape(name)}-\d+", one) is not None
                    for one in found
                )
                found.add(f"{name}-{count}" if count else name)
        return found

    def links(self) -> Iterator[tuple[int, str]]:
        """Yield each link's line and target."""
        for number, line in self.prose:
            for found in _LINK.finditer(_SPAN.sub("", line)):
                yield number, found[1]

    def spans(self) -> Iterator[tuple[int, str]]:
        """Yield each piece of code within a sentence."""
        for number, line in self.prose:
            for found in _SPAN.finditer(line):
                yield number, found[1]

    def paths(self) -> Iterator[tuple[int, str]]:
        """Yield the paths of this repository that are named, `*` for a pattern."""
        for number, text in self.spans():
            if _PATH.fullmatch(text):
                yield number, text
        for block in self.blocks:
            for offset, line in enumerate(block.text.splitlines()):
                for found in re.finditer(rf"(?<![\w./-]){_PATH.pattern}", line):
                    yield block.line + offset, found[0]

    def commands(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the words of each command that is shown, one by one of a pipe or list."""
        for number, text in self.spans():
            if text.startswith(("coinspace ", "make ")):
                yield from ((number, words) for words in split_line(text))
        for block in self.blocks:
            if block.language not in CONSOLE:
                continue
            lines = block.text.replace("\\\n", " ").splitlines()
            shown = any(line.startswith("$ ") for line in lines)
            for offset, line in enumerate(lines):
                if not shown or line.startswith("$ "):
                    for words in split_line(line.removeprefix("$ ")):
                        yield block.line + offset, words


def read(path: Path) -> Document:
    """Read a document."""
    found = Document(path)
    language, begin, lines, run, marked = "", 0, [""], False, False
    inside = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if inside and fence:
            found.blocks.append(Block(begin, language, "\n".join(lines), run))
            inside = False
        elif fence:
            inside, language, begin, lines, run = True, fence[1], number + 1, [], marked
        elif inside:
            lines.append(line)
        else:
            found.prose.append((number, line))
            marked = line == RUN
    return found


def slug(heading: str) -> str:
    """Return the anchor that GitHub makes of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    kept = (c for c in text if c in " -_" or unicodedata.category(c)[0] in "LNM")
    return "".join(kept).replace(" ", "-")


def split_line(line: str) -> Iterator[list[str]]:
    """Yield the commands of a line of shell; what follows two spaces or `#` is an explanation."""
    line = re.split(r"\s{2,}|\s#\s|^#", line.strip())[0]
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word and set(word) <= set("|&;()"):
            while command and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", command[0]):
                command.pop(0)
            if command and command[0].rpartition("/")[2] in ("coinspace", "make"):
                yield [command[0].rpartition("/")[2], *command[1:]]
            command = []
        elif word in ("<", ">", ">>"):
            # the next word is a file
            command.append(word)
        elif command and command[-1] in ("<", ">", ">>"):
            command.pop()
        else:
            command.append(word)


def placeholder(word: str) -> bool:
    """Return whether a word is a placeholder: FEED, EXCHANGE/BASE/QUOTE, $URL, …"""
    return "…" in word or word.startswith("$") or re.fullmatch(r"[A-Z_/]+", word) is not None


def wrong_words(words: list[str]) -> list[str]:
    """Return the words of a `coinspace` command line that the command does not know."""
    command: click.Command = coinspace
    context = click.Context(command)
    wrong: list[str] = []
    positional: list[str] = []
    rest = iter(words[1:])
    for word in rest:
        if word.startswith("-") and word != "-":
            wrong += wrong_option(command.get_params(context), word, rest)
        elif not isinstance(command, click.Group):
            positional.append(word)
        elif placeholder(word):
            return wrong
        else:
            found = command.get_command(context, word)
            if found is None:
                return [*wrong, word]
            command, context = found, click.Context(found, info_name=word, parent=context)
    return wrong + wrong_arguments(command, positional)


def wrong_option(known: list[click.Parameter], word: str, rest: Iterator[str]) -> list[str]:
    """Return the option if it is not known, or does not take its value, which may be in `rest`."""
    name, equals, value = word.partition("=")
    option = next((one for one in known if name in one.opts), None)
    if not isinstance(option, click.Option):
        return [name]
    if option.is_flag:
        return []
    value = value if equals else next(rest, "")
    takes = not isinstance(option.type, click.Choice) or value in option.type.choices
    return [] if takes or placeholder(value) else [f"{name} {value}"]


def wrong_arguments(command: click.Command, words: list[str]) -> list[str]:
    """Return the arguments that a command does not take."""
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    wrong = []
    for i, word in enumerate(words):
        if placeholder(word):
            continue
        taken = next((one for one in arguments[: i + 1] if one.nargs == -1), None)
        argument = arguments[i] if taken is None and i < len(arguments) else taken
        choices = (
            argument.type.choices if argument and isinstance(argument.type, click.Choice) else ()
        )
        if argument is None or (choices and word not in choices):
            wrong.append(word)
    return wrong


@functools.cache
def options() -> set[str]:
    """Return the options of all commands."""
    found: set[str] = set()
    waiting: list[tuple[click.Command, click.Context]] = [(coinspace, click.Context(coinspace))]
    while waiting:
        command, context = waiting.pop()
        found.update(name for one in command.get_params(context) for name in one.opts)
        if isinstance(command, click.Group):
            below = (command.get_command(context, name) for name in command.list_commands(context))
            waiting += [(one, click.Context(one, parent=context)) for one in below if one]
    return found
