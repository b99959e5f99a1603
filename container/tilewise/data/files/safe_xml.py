"""XML that may come from anywhere: entities, which can blow up or read other files, are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

CHUNK = 1 << 20
"""So many bytes of a file are parsed at once."""

ERRORS = (expat.ExpatError, ValueError, LookupError)
"""What a parser raises where the text is not XML, or declares an entity."""


def parse_xml(content: bytes) -> Element:
    """The root of a small file.

    Raises:
        one of :data:`ERRORS`.

    """
    builder = TreeBuilder()
    parser = _parser(builder.start, builder.end, builder.data)
    parser.Parse(content, True)  # noqa: FBT003  # it takes no keyword
    return builder.close()


def children_of_root(path: Path) -> Iterator[Element]:
    """The root itself, still empty, and then its children one by one: a large file is never whole in memory.

    Raises:
        one of :data:`ERRORS`.

    """
    found: list[Element] = []
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        if depth:
            builder.start(tag, attributes)
        else:
            found.append(Element(tag, attributes))
        depth += 1

    def end(tag: str) -> None:
        nonlocal builder, depth
        depth -= 1
        if depth:
            builder.end(tag)
        if depth == 1:
            found.append(builder.close())
            builder = TreeBuilder()

    def data(text: str) -> None:
        if depth > 1:
            builder.data(text)

    parser = _parser(start, end, data)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            parser.Parse(chunk)
            yield from found
            found.clear()
    parser.Parse(b"", True)  # noqa: FBT003
    yield from found


def _parser(
    start: Callable[[str, dict[str, str]], object],
    end: Callable[[str], object],
    data: Callable[[str], object],
) -> expat.XMLParserType:
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = data

    def refuse(name: str, *_: object) -> None:
        raise ValueError(f"it declares the entity {name}, which is not supported")

    parser.EntityDeclHandler = refuse
    return parser
