"""A folder of pictures as it is: all of them, none held out, without classes or captions."""

from pathlib import Path

from ldm.errors import Refusal
from ldm.pictures.filelist import Files
from ldm.pictures.folder_set import FolderSet, Picture
from ldm.pictures.folders import ImageFolder
from ldm.pictures.index import files_of
from ldm.pictures.listing import PICTURE
from ldm.pictures.opening import View
from ldm.pictures.survey import readable
from ldm.pictures.transforms import Range

LARGEST = 1024  # px: of a batch that fits anywhere


def whole_folder(root: Path, size: int | None = None, found: Range | None = None) -> FolderSet:
    """Every picture under `root` in colour, at its own size, or cropped and brought to `size` px.

    `found`: the range of pictures whose type has none, where it is another set's. Refusal where
    there are none, or where they differ in size and none is named.
    """
    if not root.is_dir():
        raise Refusal(f"'{root}' is not a folder")
    files = files_of(root)
    pictures = files.on(PICTURE)
    if not len(pictures):
        raise Refusal(f"'{root}' holds no pictures")
    pictures = readable(files, pictures)
    side = size or _own_size(files, files["side"][pictures].tolist())
    data = ImageFolder(root=str(root), size=side, channels=3)
    own = data._found_range(files, pictures)
    view = View((3, side, side), "crop", None, found or own)
    return FolderSet([Picture(files.path(i), 0, "") for i in pictures.tolist()], view)


def _own_size(files: Files, sides: list[int]) -> int:
    """The shorter side that all have."""
    least, most = min(sides), max(sides)
    if least != most:
        raise Refusal(
            f"the pictures of '{files.root}' have shorter sides of {least} to {most} px: name one "
            "to which all are brought by --size N"
        )
    if most > LARGEST:
        raise Refusal(
            f"the pictures of '{files.root}' are {most} px wide: name a smaller size to which they "
            f"are brought, at most {LARGEST}, by --size N"
        )
    return least
