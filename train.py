"""The door: ``python train.py fit`` distils, ``python train.py --help`` says what else there is."""

import os
import sys

from pd_lightning.cli import main

if __name__ == "__main__":
    sys.path.append(os.getcwd())  # where classes of one's own may lie: `--model mine.Huber`
    main()
