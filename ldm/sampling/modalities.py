"""The modalities that can be sampled, by the `modality` of a model's space: one line each."""

from ldm.sampling.jets import JetSamples
from ldm.sampling.modality import Samples
from ldm.sampling.pictures import PictureSamples
from ldm.sampling.points import PointSamples

MODALITIES: dict[str, type[Samples]] = {
    kind.modality: kind for kind in (PictureSamples, JetSamples, PointSamples)
}
