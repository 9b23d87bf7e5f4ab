"""TensorBoard: what W&B would get, as event files in the run's folder."""

import importlib.util
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from ldm.config import RunConfig
from ldm.config.schema import to_dict
from ldm.errors import Refusal
from ldm.training.boards.board import Board, TableRows, remove, surviving


def check_installed() -> None:
    """Refusal where the package is missing: Lightning would say so after the data are read."""
    if importlib.util.find_spec("tensorboard") is None:
        raise Refusal("logger.kind: TensorBoard is not installed: pip install 'ldm[tensorboard]'")


class TensorBoard(Board, TensorBoardLogger):
    """Event files in <run>/tensorboard; a resumed run goes on in a file of its own."""

    title = "TensorBoard"

    def __init__(self, run: RunConfig, step: int | None):
        self.place = run.folder / "tensorboard"
        # rows of the checkpoint's own step are of both sides, see metrics_file.py: drop those after
        after = None if step is None else step + 1
        super().__init__(self.place, name="", version="", purge_step=after)
        self.hparams = to_dict(run)  # written beside the event files as hparams.yaml
        self.found = {*self.place.glob("*")}

    @rank_zero_only
    @surviving
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)

    @surviving
    def save(self) -> None:
        super().save()

    @surviving
    def finalize(self, status: str) -> None:
        super().finalize(status)

    @surviving
    def picture(self, name: str, picture: Image.Image, caption: str, step: int) -> None:
        from torchvision.transforms.functional import pil_to_tensor

        self.experiment.add_image(name, pil_to_tensor(picture.convert("RGB")), step)
        self.experiment.add_text(f"{name}/caption", caption, step)

    @surviving
    def animation(self, name: str, path: Path, caption: str, step: int) -> None:
        """The GIF as it is: `add_video` would want moviepy, and code it anew."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        with Image.open(path) as gif:
            width, height = gif.size
        size = {"height": height, "width": width, "colorspace": 3}
        image = Summary.Image(encoded_image_string=path.read_bytes(), **size)
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self.experiment._get_file_writer().add_summary(summary, step)
        self.experiment.add_text(f"{name}/caption", caption, step)

    @surviving
    def table(self, name: str, rows: TableRows, step: int) -> None:
        """The words of it as Markdown; its pictures are in the grid."""
        names = [key for key, value in rows[0].items() if not isinstance(value, Image.Image)]
        lines = [names, ["---"] * len(names), *([row[key] for key in names] for row in rows)]
        text = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
        self.experiment.add_text(name, text, step)

    def discard(self) -> None:
        remove({*self.place.glob("*")} - self.found, self.place)


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
