"""A workspace for W&B: a run's panels in sections, in the order in which one looks at them, with
the training step as axis.

python docs/workspace.py ENTITY/PROJECT   # once per project, with a W&B key and ldm[workspace]

What is not named here (evaluate/..., discriminator/..., figures of jets) W&B puts into sections by
its prefix.
"""

import argparse

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

AXIS = "trainer/global_step"
PICTURES = (
    "pictures/samples",
    "pictures/reconstructions",
    "pictures/trajectory",
    "pictures/trajectory-animation",
)
LINES: dict[str, dict[str, tuple[str, ...]]] = {  # section -> title of a plot -> what is in it
    "Loss": {
        "held out": ("val/loss",),
        "training": ("train/loss",),
        "by time, 0 nearest the data": tuple(f"loss_by_time/{i}" for i in range(8)),
    },
    "Reconstruction": {"PSNR, dB": ("val/psnr",), "SSIM": ("val/ssim",), "KL": ("val/kl",)},
    "Optimiser": {
        "learning rate": ("train/lr",),
        "gradient norm": ("train/grad_norm",),
        "clipped": ("train/grad_norm_clipped",),
    },
    "Speed": {
        "pictures a second": ("speed/images_per_second",),
        "share of time waiting for data": ("speed/waiting_share",),
        "memory, GB": ("speed/memory_gb",),
    },
}


def workspace(entity: str, project: str) -> ws.Workspace:
    media = [
        wr.MediaBrowser(title=key.partition("/")[2], media_keys=[key], num_columns=1)
        for key in PICTURES
    ]
    sections = [ws.Section(name="Pictures", panels=media, is_open=True)]
    for name, plots in LINES.items():
        panels = [wr.LinePlot(title=title, x=AXIS, y=list(keys)) for title, keys in plots.items()]
        sections.append(
            ws.Section(name=name, panels=panels, is_open=name in ("Loss", "Reconstruction"))
        )
    settings = ws.WorkspaceSettings(x_axis=AXIS, group_by_prefix="first")
    return ws.Workspace(
        entity=entity,
        project=project,
        name="ldm",
        sections=sections,
        settings=settings,
        auto_generate_panels=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", metavar="ENTITY/PROJECT")
    entity, _, project = parser.parse_args().project.partition("/")
    print("saved:", workspace(entity, project).save().url)
