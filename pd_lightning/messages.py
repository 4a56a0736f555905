"""What a user is told, and what is kept from them: one line for what they can mend, nothing of what they cannot."""

from __future__ import annotations

import logging
import re
import sys
import traceback
import warnings
from typing import NoReturn


def fail(message: str) -> NoReturn:
    """One line on stderr and exit status 2."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


def one_line(message: str) -> str:
    """What a parser of options says is wrong, in one line, without the types that it tried.

    >>> print(one_line("games: Expected a <class 'list'>. Got value: pong, breakout"))
    games: Expected a <class 'list'>. Got value: pong, breakout; did you mean '[pong, breakout]'?
    """
    text = " ".join(message.split())
    for noise in (
        r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: ",
        r" Given value type: \S+ '\S+'>",
        r" Given value: NestedArg\(.*",
        r" - Expected a <class 'NoneType'>",
    ):
        text = re.sub(noise, "", text)
    text = re.sub(r"- (Expected a <class 'list'>) Given value: ", r"\1. Got value: ", text)
    if listed := re.search(r"Expected a <class 'list'>\. Got value: ([\w, ]+)$", text):
        text += f"; did you mean '[{listed[1]}]'?"
    if re.search(r"Expected a <class 'bool'>\. Got value: ", text):
        text += "; give true or false behind the option"
    return text


def our_own(error: BaseException | None) -> BaseException | None:
    """The error, or its cause, that this package raised itself: such messages say what to do."""
    while error is not None:
        *_, frame = [None, *(frame for frame, _ in traceback.walk_tb(error.__traceback__))]
        if frame is not None and frame.f_globals["__name__"].startswith("pd_lightning."):
            return error
        error = error.__cause__
    return None


def quieten() -> None:
    """Silences what third parties say that a user can do nothing about."""
    for message in (
        ".*does not have many workers.*",  # streams read in threads of their own
        ".*have no `val_dataloader`.*",  # live play has nothing to hold out
        ".*isinstance\\(treespec.*",
        ".*is not supported by the model summary.*",
        ".*Experiment logs directory.*exists and is not empty.*",  # TensorBoard's, of the same run
        ".*was not set, defaulting to.*",
        ".*loading a checkpoint outside the 'fit' stage.*",  # averaged weights are what was saved
        ".*The dirpath has changed from.*",  # a resumed run writes to a folder of its own
        ".*all_gather is deprecated.*",  # Lightning's
        ".*Total length of `HeldOut` across ranks is zero.*",  # as was asked for
        ".*is smaller than the logging interval.*",  # of a short recording: updates are counted over all epochs
    ):
        warnings.filterwarnings("ignore", message)
    # float32 that is rounded for Tensor Cores, as one of them advises, would be too coarse for Q-values: see `Head`.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: not re.search("litlogger|TPU available|has Tensor Cores", record.getMessage())
    )
    logging.getLogger("pytorch_lightning.accelerators.cuda").setLevel(logging.WARNING)  # a line for each stage
