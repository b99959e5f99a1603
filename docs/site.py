"""MkDocs' hook: the site is made of the repository's own Markdown files, under their own paths.

MkDocs takes one folder of pages. Ours lie beside what they describe, and their links lead to it. So the hook
replaces the files of ``docs`` by all pages of the repository, and by whatever these link to.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/*.md", "weights/*.md")
CODE = re.compile(r"<code>[^<]*</code>")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """The pages of the repository, the files that they link to, and the theme's."""
    pages = sorted({page for pattern in PATTERNS for page in ROOT.glob(pattern)})
    linked = {(page.parent / link).resolve() for page in pages for link in LINK.findall(page.read_text())}
    theme = [file for file in files if file.src_dir != config["docs_dir"]]
    names = [path.relative_to(ROOT).as_posix() for path in sorted({*pages, *linked}) if path.is_file()]
    return Files(
        [*theme, *(File(name, str(ROOT), config["site_dir"], use_directory_urls=True) for name in names)]
    )


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What GitHub reads and Python-Markdown does not: words after a code block's language."""
    return re.sub(r"^(```\w+) [\w-]+$", r"\1", markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_: Any) -> str:
    """Let the names in a table break behind underscores: in a narrow column they break anywhere else."""
    return re.sub(r"<td.*?</td>", lambda cell: CODE.sub(_may_break, cell[0]), html, flags=re.DOTALL)


def _may_break(code: re.Match[str]) -> str:
    return code[0].replace("_", "_<wbr>")
