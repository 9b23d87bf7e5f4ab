"""Which captions samples are made of: those that are asked for, or those of the checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from ldm.errors import Refusal, say
from ldm.sampling.model import Model

LARGEST = 10_000_000  # bytes of a file of prompts


def prompts_from(
    model: Model, prompt: str | Sequence[str] | None, file: str | None, seeds: Sequence[int]
) -> list[str] | None:
    """The caption of each seed, of several prompts or a file's lines in turn; None without text."""
    if prompt is None and file is None:
        return model.prompts_of(seeds) if model.text is not None else None
    flag = "--prompt" if file is None else "--prompt-file"
    if prompt is not None and file is not None:
        raise Refusal("--prompt and --prompt-file: give one of them")
    if model.text is None:
        raise Refusal(
            f"{flag}: this checkpoint is of a model without text; train one with condition=text"
        )
    given = [prompt] if isinstance(prompt, str) else prompt
    lines = _lines(Path(file)) if file is not None else list(given or [])
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        what = "the prompt" if file is None else file
        raise Refusal(f"{flag}: {what} is empty; leave it out for the checkpoint's own prompts")
    for line in lines:
        if rest := model.text.cut(line):
            say(f"{flag}: longer than {model.text.length} tokens; cut: '{rest:.300}'")
    return [lines[i % len(lines)] for i in range(len(seeds))]


def _lines(file: Path) -> list[str]:
    """Of a file of text; a pipe or a device, which may never end, is none."""
    try:
        if file.exists() and not file.is_file():
            raise Refusal(f"--prompt-file: '{file}' is no file")
        if (size := file.stat().st_size) > LARGEST:
            most = f"at most {LARGEST / 1e6:.0f} are read"
            raise Refusal(f"--prompt-file: '{file}' has {size / 1e6:.0f} MB, {most}")
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise Refusal(f"--prompt-file: '{file}' cannot be read ({why})") from None
