"""What the syntax of a source file tells the trainer: where to cut, what is defined, does it parse.

Reads text, returns character offsets. Markdown and languages without a grammar are cut at
paragraphs; they define nothing and always parse.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator

import tree_sitter

LANGUAGES = {
    ".py": "python",
    ".rs": "rust",
    ".js": "javascript",
    ".jsx": "javascript",
    ".mjs": "javascript",
    ".ts": "typescript",
    ".tsx": "tsx",
    ".go": "go",
    ".java": "java",
    ".md": "markdown",
}
MAX_SPAN_CHARS = 1500
MIN_CHARS, MAX_INLINE_CHARS = 4, 80
DEFINITIONS = re.compile(
    r"^(function|class|method|struct|enum|trait|interface|const|static|type|macro|mod)_?"
    r".*(definition|declaration|item)$|^(class|method|function|type)_(declaration|spec)$"
)


@functools.cache
def parser(language: str) -> tree_sitter.Parser | None:
    """Return the parser of a language, None where we carry no grammar."""
    import tree_sitter_go
    import tree_sitter_java
    import tree_sitter_javascript
    import tree_sitter_python
    import tree_sitter_rust
    import tree_sitter_typescript

    grammars = {
        "python": tree_sitter_python.language,
        "rust": tree_sitter_rust.language,
        "javascript": tree_sitter_javascript.language,
        "typescript": tree_sitter_typescript.language_typescript,
        "tsx": tree_sitter_typescript.language_tsx,
        "go": tree_sitter_go.language,
        "java": tree_sitter_java.language,
    }
    if language not in grammars:
        return None
    return tree_sitter.Parser(tree_sitter.Language(grammars[language]()))


def nodes(text: str, language: str) -> Iterator[tuple[tree_sitter.Node, int, int]]:
    """Yield every named node with its character offsets."""
    engine = parser(language)
    if engine is None:
        return
    data = text.encode()
    to_char = byte_to_char(text, data)
    pending = [engine.parse(data).root_node]
    while pending:
        node = pending.pop()
        pending.extend(reversed(node.named_children))
        yield node, to_char(node.start_byte), to_char(node.end_byte)


def byte_to_char(text: str, data: bytes) -> functools.partial | type[int]:
    """Return the map from byte offsets to character offsets."""
    if len(text) == len(data):
        return int
    table = [0] * (len(data) + 1)
    place = 0
    for index, char in enumerate(text):
        width = len(char.encode())
        table[place : place + width] = [index] * width
        place += width
    table[place] = len(text)
    return functools.partial(table.__getitem__)


def cut_spans(text: str, language: str, seed: int) -> list[tuple[int, int]]:
    """Return the (start, end) of pieces worth leaving out, in characters, sorted.

    A cut never falls after white space: a tokenizer merges a newline with the indentation after
    it and a blank with the word after it, so a prefix that ends in either cannot be continued.
    """
    if parser(language) is None:
        return paragraphs(text)
    whole, inline = set(), set()
    for node, start, end in nodes(text, language):
        if node.parent is None or not MIN_CHARS <= end - start <= MAX_SPAN_CHARS:
            continue
        if text[end - 1].isspace():
            continue
        line = text.rfind("\n", 0, start) + 1
        starts_line = not text[line:start].strip()
        if starts_line and text[:line].strip() and (end == len(text) or text[end] == "\n"):
            whole.add((len(text[:line].rstrip()), end))
        elif not starts_line and "\n" not in text[start:end] and end - start <= MAX_INLINE_CHARS:
            inline.add((len(text[:start].rstrip()), end))
    chosen = sorted(inline)
    random.Random(seed).shuffle(chosen)  # noqa: S311 - a choice of training cuts, not a secret
    return sorted(whole | set(chosen[: max(len(whole) // 2, 4)]))


def paragraphs(text: str) -> list[tuple[int, int]]:
    """Return the paragraphs of a text, each with the white space before it."""
    spans = [
        (len(text[: found.start()].rstrip()), found.end())
        for found in re.finditer(r"(?<=\n)[^\n]+(?:\n[^\n]+)*", text)
        if found.end() - found.start() <= MAX_SPAN_CHARS
    ]
    return [span for span in spans if span[0] > 0]


def defined_names(text: str, language: str) -> set[str]:
    """Return the names a file defines: functions, classes, types, constants of those kinds."""
    names = set()
    for node, _, _ in nodes(text, language):
        name = node.child_by_field_name("name")
        if name is not None and DEFINITIONS.match(node.type):
            names.add(name.text.decode())
    return names


def parses(text: str, language: str) -> bool:
    """Say whether a whole text is free of syntax errors."""
    engine = parser(language)
    return engine is None or not engine.parse(text.encode()).root_node.has_error
