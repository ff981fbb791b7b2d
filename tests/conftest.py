"""One thread a process: the suite runs one process a core, and weights are the same bits for one number only."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the programs that tests start

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True)  # a red suite is to be red again
settings.load_profile("repeatable")
