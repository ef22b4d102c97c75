"""Train the agents of one study: `python train.py --help` says what it takes."""

import sys

from fastanf.__main__ import train_command

if __name__ == "__main__":
    sys.exit(train_command(sys.argv[1:]))
