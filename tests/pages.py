"""README and docs as programs read them: their code blocks, and the commands in these."""

import re
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Command:
    page: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.text}"

    def starts(self, *beginnings):
        return self.text.replace(".venv/bin/", "").startswith(beginnings)


def blocks(page, language):
    """(the paragraph before, the code) of every fenced block of a language."""
    text = page.read_text()
    fences = re.finditer(rf"\n```{language}\n(.*?)\n```", text, re.DOTALL)
    return [(text[: at.start()].strip().rsplit("\n\n", 1)[-1], at[1]) for at in fences]


def commands(page: Path) -> list[Command]:
    """One a line: continued lines joined, comments cut, pieces of `&&` apart."""
    text = "\n".join(code for _, code in blocks(page, "bash")).replace("\\\n", " ")
    lines = [re.sub(r"\s# .*", "", line).strip() for line in text.splitlines()]
    pieces = [
        piece for line in lines if line and not line.startswith("#") for piece in line.split(" && ")
    ]
    return [Command(page.name, piece.strip()) for piece in pieces]


EVERY = [command for page in PAGES for command in commands(page)]
