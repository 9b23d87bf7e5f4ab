"""What is written of pictures: metadata.jsonl, .csv or .tsv, and NAME.txt.

The metadata are as Hugging Face's imagefolder has them.

A table may come from a spreadsheet: with a byte-order mark, in UTF-16 or Windows-1252, cut by
commas, semicolons, tabs or bars. A row names its picture in the column file_name (or filename,
file, image, path), from the table's own folder; backslashes are taken for slashes where that finds
it. null is nothing.
"""

import codecs
import csv
import json
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from ldm.errors import Refusal, one_of
from ldm.pictures.filelist import Files
from ldm.pictures.listing import PICTURE, TABLE, TEXT, Notes, announce_data

FILES = ("file_name", "filename", "file", "image", "path")
CAPTIONS = ("text", "caption")
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass
class Row:
    """One row: where it stands, and its columns."""

    where: str
    values: dict[str, Any]

    def word(self, column: str) -> str | None:
        """A column as text; None where it is not there, empty or null."""
        value = self.values.get(column)
        if isinstance(value, (list, dict)):
            raise Refusal(
                f"{self.where}: column '{column}' holds a {type(value).__name__}, not a text"
            )
        return None if value is None or value == "" else str(value)

    def caption(self, column: str) -> str | None:
        """Of the named column, or of `text` or `caption` if none is, in capitals or not."""
        if column:
            return self.word(column)
        written = {key.lower(): key for key in reversed(self.values)}
        return next((self.word(written[key]) for key in CAPTIONS if key in written), None)


NONE = Row("", {})


@dataclass
class Metadata:
    """The rows of all tables under a folder, by the number of their picture."""

    rows: dict[int, Row] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)

    def of(self, picture: int) -> Row:
        return self.rows.get(picture, NONE)

    def expect(self, column: str, option: str, root: Path) -> None:
        """Refusal where no table has a column."""
        if column not in self.columns:
            if not self.columns:
                raise Refusal(
                    f"{option}: '{column}' is a column, and {root} has no metadata.jsonl or "
                    "metadata.csv"
                )
            raise Refusal(f"{root}/metadata.*: " + one_of(option, column, sorted(self.columns)))


def read_metadata(files: Files, notes: Notes) -> Metadata:
    """The rows that name one of the pictures; Refusal, with the line, of what is malformed."""
    found, root, tables = Metadata(), files.root, files.on(TABLE).tolist()
    known = {_key(files.relative(i)): i for i in files.on(PICTURE).tolist()} if tables else {}
    for number in tables:
        table, folder = files.path(number), files.folders[files["folder"][number]]
        rows = _json_rows(table) if table.suffix.lower() == ".jsonl" else _csv_rows(table)
        for row in rows:
            found.columns |= row.values.keys()
            name = _file_of(row)
            picture = next((known[key] for key in _keys(root, folder, name) if key in known), None)
            if picture is None:
                kind = (
                    f"row of {table.name} names no picture",
                    f"rows of {table.name} name no picture",
                )
                notes.add(kind, f"{name} ({row.where.removeprefix(f'{table} ')})")
                continue
            if picture in found.rows:
                notes.add(
                    (
                        "picture has a second row, which counts",
                        "pictures have a second row, which counts",
                    ),
                    files.path(picture),
                )
            found.rows[picture] = row
    return found


def _file_of(row: Row) -> str:
    """The name in the first of FILES that the row has."""
    written = {key.lower(): key for key in reversed(row.values)}
    column = next((written[name] for name in FILES if name in written), None)
    if column is None:
        there = ", ".join(map(str, row.values)) or "nothing"
        raise Refusal(
            f"{row.where}: every row needs a file_name, as Hugging Face's imagefolder has it "
            f"(there: {there})"
        )
    if not isinstance(name := row.values[column], str) or not name.strip():
        raise Refusal(f"{row.where}: {column} is {name!r}, not the name of a file")
    return name.strip()


def _key(path: str) -> str:
    """A path from the root, as one text: a Mac's letters with accents are those of others."""
    return unicodedata.normalize("NFC", path)


def _keys(root: Path, folder: str, name: str) -> Iterator[str]:
    """What a row's name may be, from its table's folder."""
    for written in dict.fromkeys((name, name.replace("\\", "/"))):
        if "\0" in written:
            continue
        if ".." not in written and not os.path.isabs(written):
            yield _key(os.path.normpath(os.path.join(folder, written)))
            continue
        yield _key(os.path.relpath(os.path.join(root, folder, written), root))
        if os.path.isabs(written):
            yield _key(os.path.relpath(written, root.resolve()))


# -- tables
def decoded(path: Path) -> tuple[str, str]:
    """A text file, and its encoding; Refusal if that is none that we know."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Refusal(f"{path} cannot be read ({error.strerror})") from None
    for encoding in _encodings(raw):
        try:
            return raw.decode(encoding).removeprefix("\ufeff"), encoding
        except UnicodeDecodeError:
            continue
    raise Refusal(f"{path} is a text in no encoding that is known here; save it as UTF-8")


def _encodings(raw: bytes) -> Iterator[str]:
    marked = [encoding for mark, encoding in MARKS if raw.startswith(mark)]
    if marked:
        yield marked[0]
    elif b"\0" in raw[:64]:  # UTF-16 without its mark: every other byte of plain letters is 0
        yield "utf-16-le" if raw[1:2] == b"\0" else "utf-16-be"
    else:
        yield from ("utf-8", "cp1252")


def _text(table: Path) -> str:
    text, encoding = decoded(table)
    if encoding == "cp1252":
        announce_data(f"{table} is not UTF-8; read as Windows-1252")
    return text


def _json_rows(table: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(table).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{table} line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Refusal(
                f"{where}: not JSON ({getattr(error, 'msg', 'nested too deep')}); a row is one "
                "object a line"
            ) from None
        if not isinstance(values, dict):
            raise Refusal(
                f'{where}: a row is one object a line, {{"file_name": "a.png", "text": "..."}}'
            )
        yield Row(where, values)


def _csv_rows(table: Path) -> Iterator[Row]:
    text, skipped = _text(table), 0
    if text[:4].lower() == "sep=":  # a spreadsheet's own line
        text, skipped = text.partition("\n")[2], 1
    reader = csv.reader(StringIO(text, newline=""), delimiter=_separator(text))
    try:
        head = [name.strip() for name in next(reader, [])]
        if twice := [name for name in head if name and head.count(name) > 1]:
            raise Refusal(f"{table}: two columns are called '{twice[0]}'")
        for fields in reader:
            where = f"{table} line {reader.line_num + skipped}"
            if any(field.strip() for field in fields):
                yield Row(where, _columns(head, fields, where))
    except csv.Error as error:
        raise Refusal(f"{table} line {reader.line_num + skipped}: {error}") from None


def _columns(head: list[str], fields: list[str], where: str) -> dict[str, str]:
    """Refusal for a row longer than the head: an unquoted separator, and words lost behind it."""
    if any(field.strip() for field in fields[len(head) :]):
        raise Refusal(
            f"{where}: {len(fields)} fields, the first line has {len(head)}; put texts with a "
            "separator in quotes"
        )
    return {name: value.strip() for name, value in zip(head, fields, strict=False) if name}


def _separator(text: str) -> str:
    """The one by which the first line names a file, and the most columns."""

    def columns(separator: str) -> tuple[bool, int]:
        names = next(csv.reader([first], delimiter=separator), [])
        return bool({name.strip().lower() for name in names} & set(FILES)), len(names)

    first = text.partition("\n")[0].rstrip("\r")
    return max(",;\t|", key=columns)


# -- NAME.txt
def captions_beside(files: Files, notes: Notes) -> tuple[dict[int, str], list[Path]]:
    """The captions in NAME.txt beside NAME.png, on one line, and the texts beside no picture."""
    texts = files.on(TEXT).tolist()
    beside = {os.path.splitext(files.relative(i))[0]: i for i in texts}
    found: dict[int, str] = {}
    used: set[str] = set()
    for picture in files.on(PICTURE).tolist() if texts else []:
        stem = os.path.splitext(files.relative(picture))[0]
        if stem in beside:
            used.add(stem)
            path = files.path(beside[stem])
            try:
                found[picture] = " ".join(decoded(path)[0].split())
            except Refusal:
                notes.add(("caption's file cannot be read", "captions' files cannot be read"), path)
    return found, [files.path(i) for stem, i in beside.items() if stem not in used]
