"""The modalities that the page can show, by the `modality` of a model's space: one line each."""

from ldm.demo.base import Kind
from ldm.demo.jets import JetKind
from ldm.demo.points import PointKind
from ldm.demo.samples import PictureKind

KINDS: dict[str, Kind] = {kind.modality: kind for kind in (PictureKind(), JetKind(), PointKind())}
