"""Shared by the tests of the comparison of a GPU's batches with the CPU's."""

from typing import Any

import numpy as np
import torch

from helpers.chips import BANDS
from pipeline.inputs import Inputs, raw_inputs
from preprocess.zarr_store import Store
from train.config import Config, make_config
from train.device import Device

CHIPS = np.arange(0, 40, 3)
GPU = Device(device=torch.device("cuda", 0), amp=torch.bfloat16, name="a GPU")
CPU = torch.device("cpu")


def inputs_of(store: Store) -> Inputs:
    return raw_inputs(store, BANDS[::-1], np.arange(store.num_chips))


def config_of(store: Store, **settings: Any) -> Config:
    return make_config("default", task=4, store=str(store.path), batch=8, workers=1, **settings)
