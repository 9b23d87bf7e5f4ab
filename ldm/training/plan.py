"""The plan of a run: its stages, built and tried before the first step.

A stage that is to come is built on the meta device (shapes alone), and its captions, classes,
solver, figures and Lightning's settings are tried, before hours go into the one under it.
"""

from collections.abc import Callable
from pathlib import Path

from ldm.config import Config
from ldm.system.data import DataSet
from ldm.training.checks import check_leg, check_output, check_strategies
from ldm.training.legs import Leg, leg_of, point_of

Hold = Callable[[Path], object]


def make_plan(
    run: Config, resume: bool, dry_run: bool, hold: Hold, images: DataSet | None = None
) -> list[Leg]:
    """The stages that a run trains, first things first, the first of them built.

    Refusal for what is wrong with any. `hold` takes a folder before it is looked into. In a dry
    run a folder that holds a run is only mentioned. `images`: data in place of the config's.
    """
    check_strategies(run)
    check_output(run.folder)
    hold(run.folder)
    point = point_of(run, resume, dry_run)  # before the data are read: it is quick
    last = leg_of(run, images or run.data.load())
    last.begin(point)
    legs = [last]
    if stage1 := last.first(resume):
        check_output(stage1.folder)
        hold(stage1.folder)
        legs = [leg_of(stage1, last.images), last]
        legs[0].begin(point_of(stage1, resume, dry_run))
    for leg in reversed(legs):  # what stage 1 starts from is made last: nothing is drawn in between
        leg.module = leg.build() if leg is legs[0] else leg.sketch()
        check_leg(leg)
    return legs
