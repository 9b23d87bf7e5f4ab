"""Sampling against diffusers: the same U-Net, the same starts, as many DDIM steps, and the same
pictures at the end.

python -m benchmarks.sampling --output runs/sampling.json
python -m benchmarks.sampling --device cuda --rounds 15

Timed in turn: `ldm.sampling.generate.generate`, diffusers' `DDIMPipeline`, its scheduler's loop
without the pipeline, and bare calls of the network. All four on DDPM's table of 1000 betas; the
network predicts v, has no classes, and is not trained: times do not depend on the weights. The
first two start from the same noise, a generator a sample, and their pictures are compared: what is
timed does the same work. `floor` is bare calls over bare calls, what the machine's noise does to a
ratio. Where that is no less than what is to be seen, `added` resolves it: the time of all that is
not the network (which is put out and returns its input), over the bare calls.
"""

import statistics
from unittest.mock import patch

import torch
from diffusers import DDIMPipeline, DDIMScheduler
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from benchmarks.clock import arguments, in_turn, line, ratio, start, write
from ldm import config
from ldm.config import SampleConfig
from ldm.diffusion.denoiser import Denoiser, Loss
from ldm.diffusion.schedules import Discrete
from ldm.diffusion.solvers import DDIM
from ldm.networks.unet import PaddedUNet
from ldm.pictures.space import PixelSpace
from ldm.sampling.generate import generate
from ldm.sampling.model import Model
from ldm.system.randomness import generator

TABLE = dict(
    beta_start=1e-4,
    beta_end=0.02,
    timestep_spacing="trailing",
    clip_sample=False,
    set_alpha_to_one=True,
)


class FromZero(nn.Module):
    """diffusers counts the table's steps from 0, the lecture and we from 1: the same network for
    both.
    """

    def __init__(self, net: PaddedUNet):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.net(x, c_noise - 1)


def main() -> None:
    parser = arguments(__doc__, rounds=7, steps=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--config", default="configs/fashion/pixel-cpu.yaml", help="whose network, without classes"
    )
    parser.add_argument(
        "--shape", type=int, nargs=3, default=[1, 28, 28], help="of the pictures: C H W"
    )
    args = start(parser)
    torch.manual_seed(0)
    net = config.load(args.config).network.build(tuple(args.shape)).to(args.device).eval()
    settings = SampleConfig(solver=DDIM(), steps=args.steps, batch_size=args.batch)
    model = Model(
        Denoiser(FromZero(net), Discrete(), Loss("v")), PixelSpace(tuple(args.shape)), (), settings
    )
    pipeline = DDIMPipeline(net.unet, DDIMScheduler(1000, prediction_type="v_prediction", **TABLE))
    pipeline.set_progress_bar_config(disable=True)
    scheduler = DDIMScheduler(1000, prediction_type="v_prediction", **TABLE)
    x, c_noise = (
        torch.randn(args.batch, *args.shape, device=args.device),
        torch.full((args.batch,), 500.0, device=args.device),
    )

    def ours() -> Tensor:
        return generate(model, settings, range(args.batch))

    def theirs() -> Tensor:
        noise = [generator("sample", i) for i in range(args.batch)]
        images = pipeline(
            args.batch, noise, num_inference_steps=args.steps, output_type="np"
        ).images
        return (torch.from_numpy(images).permute(0, 3, 1, 2) * 255).round().to(torch.uint8)

    @torch.inference_mode()
    def loop() -> Tensor:
        scheduler.set_timesteps(args.steps)
        state = x
        for t in scheduler.timesteps:
            state = scheduler.step(net.unet(state, t).sample, t, state).prev_sample
        return state

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(args.steps):
            net(x, c_noise)

    apart = (ours().int() - theirs().int()).abs()
    print(
        f"largest difference of the pictures {apart.max().item()} of 255 grey levels, mean {apart.float().mean():.4f}"
    )
    works = {"ours": ours, "pipeline": theirs, "scheduler": loop, "bare": bare, "again": bare}
    times = in_turn(works, args.rounds, args.device)
    with patch.object(net.unet, "forward", lambda x, *_, **__: UNet2DOutput(sample=x)):
        empty = in_turn(
            {name: works[name] for name in ("ours", "pipeline", "scheduler")},
            args.rounds,
            args.device,
        )
    added = {
        name: statistics.median(spans) / statistics.median(times["bare"])
        for name, spans in empty.items()
    }
    rates = {name: args.batch / min(spans) for name, spans in times.items()}
    print(
        "images/s, best round: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
    )
    found = {
        "images/s over DDIMPipeline": ratio(times["pipeline"], times["ours"]),
        "images/s over its scheduler's loop": ratio(times["scheduler"], times["ours"]),
        "time over bare calls": ratio(times["ours"], times["bare"]),
        "floor": ratio(times["again"], times["bare"]),
    }
    for name, values in found.items():
        asked = {"images/s over DDIMPipeline": "1.0 on a CPU, 1.5 on a GPU"}.get(name, "")
        line(name, values, asked)
    print(
        "added to the network's time: "
        + ", ".join(f"{name} {share:.3%}" for name, share in added.items())
    )
    write(
        args,
        added=added,
        ratios=found,
        seconds=times,
        images_per_second=rates,
        largest_difference=apart.max().item(),
    )


if __name__ == "__main__":
    main()
