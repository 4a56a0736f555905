"""`python -m pd_lightning fit`: what `python train.py fit` does, from any folder."""

from pd_lightning.cli import main

if __name__ == "__main__":
    main()
