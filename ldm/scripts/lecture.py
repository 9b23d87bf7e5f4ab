"""The figures of the lecture: a picture, what to see in it, and the numbers behind it.

python -m ldm.lecture
python -m ldm.lecture 3
python -m ldm.lecture orders --break
python -m ldm.lecture all --output lecture
"""

import argparse
from pathlib import Path

from ldm.errors import Refusal, guard, say
from ldm.scripts.flags import Parser, home


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "a number, a name, or all (default: list them)"
    parser.add_argument("figure", nargs="?", metavar="FIGURE", help=text)
    text = "draw it with its mistake: what goes wrong teaches"
    parser.add_argument("--break", dest="broken", action="store_true", help=text)
    text = "a folder, in which figures of the same names are replaced (default: lecture)"
    parser.add_argument("--output", type=home, default="lecture", metavar="DIR", help=text)
    return parser.parse_args()


def main() -> None:
    words = parse()
    from ldm.lecture.base import chosen  # slow imports only once the arguments are right
    from ldm.lecture.topics import TOPICS

    if words.figure is None:
        rows = (f"{t.number:3}  {t.name:12} {t.title}; --break: {t.mistake}" for t in TOPICS)
        return say("\n".join(rows))
    lost: list[Refusal] = []
    for topic in chosen(TOPICS, words.figure):
        try:
            made = topic.write(Path(words.output), broken=words.broken)
        except Refusal as error:  # a model or a package is not here: the others are drawn
            lost.append(error)
            continue
        say(f"{topic.number}. {topic.title}\n{made.caption}\nwrote {words.output}/{topic.stem}*\n")
    if lost:
        raise lost[0]


def entry() -> None:
    guard(main)
