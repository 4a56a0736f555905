"""The door: ``python train.py fit`` distils, ``python train.py --help`` says what else there is."""

from pd_lightning.cli import main

if __name__ == "__main__":
    main()
