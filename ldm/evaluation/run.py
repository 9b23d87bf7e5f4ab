"""evaluate.py: from a request to the table and the records, over one process or several."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ldm.errors import say
from ldm.evaluation.autoencoder import AutoencoderEvaluation
from ldm.evaluation.base import Evaluation
from ldm.evaluation.jets import JetEvaluation
from ldm.evaluation.pictures import PictureEvaluation
from ldm.evaluation.points import PointEvaluation
from ldm.evaluation.requests import EvaluationRequest, Opened
from ldm.metrics.records import Figure, append, figure_table, open_log, records

KINDS: dict[str, type[Evaluation]] = {
    "pictures": PictureEvaluation,
    "autoencoder": AutoencoderEvaluation,
    "jets": JetEvaluation,
    "points": PointEvaluation,
}


def evaluate_checkpoint(request: EvaluationRequest) -> dict[str, Figure]:
    """The figures that are asked for, recorded as each metric ends; none on further ranks."""
    opened = Opened.at(request.source.checkpoint)
    evaluation = KINDS[opened.kind](request, opened)
    place = request.source.launch()
    evaluation.restore(place)
    log = open_log(Path(request.output))  # once nothing is left to refuse
    evaluation.make(place)
    if place.ranks.rank > 0:
        return {}
    weights, ranks = request.source.weights, place.ranks
    how = evaluation.record() | {"weights": weights, "device": place.own, "processes": ranks.world}
    how |= {"checkpoint": opened.record()}
    said = f"{opened.file}: step {opened.step}, {weights} weights; {evaluation.describe()}"
    return write_each(log, evaluation.figures(), how, said)


def write_each(
    log: Path, parts: Iterable[dict[str, Figure]], how: dict[str, Any], said: str
) -> dict[str, Figure]:
    """Append each part's records as it ends; at the end, or at an error, print what there is."""
    figures: dict[str, Figure] = {}
    try:
        for found in parts:
            append(log, records(found, how))
            figures |= found
    finally:
        if figures:
            say(f"{said}\n{figure_table(figures)}\nwrote {len(figures)} records to {log}")
    return figures
