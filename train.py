"""Train the agents of one study: `python train.py --help` says what it takes."""

import sys

from fastanf.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
