"""The settings of a training's data, network and execution; `optimisation` has those of the training itself. `config`
puts them together and checks what must fit.

To add a setting, add its field to a group and use `config.NAME` where it acts. The checks, the help, the did-you-mean
lines, docs/settings.md and run.json follow from the field. Imports nothing heavy.
"""

import re
from typing import ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from models.archs import ARCHS
from preprocess.settings import Settings, setting
from preprocess.split_rules import BLOCK_KM, check_rule
from train.band_choice import split_groups
from train.recipes import by_recipe

_ARCH = re.compile("[A-Za-z0-9_]{1,100}")
_GPU_NUMBER = re.compile("0|[1-9][0-9]{0,3}")


def check_gpu(text: str) -> str:
    """ValueError if GPU is neither numbers nor auto nor cpu; for a validator of pydantic."""
    names = text.split(",")
    are_numbers = all(_GPU_NUMBER.fullmatch(name) for name in names) and len(set(names)) == len(names)
    if text != "auto" and set(names) != {"cpu"} and not are_numbers:
        raise ValueError("a number (0), numbers (0,1), auto, or cpu")
    return text


class DataSettings(Settings):
    """Which chips a network is trained and tested on, and what it sees of them."""

    heading: ClassVar[str] = "Data"

    task: Literal[1, 3, 4] = setting(
        ...,
        "1: RGB. 3: RGB and NIR in two networks, joined before the last layer. 4: RGB and NIR in one network.",
        example="TASK=1 (or 3, 4)",
    )
    bands_in: str | None = setting(
        None,
        "Bands of the network, for TASK=1 and 4: any bands of the store in the order of the input channels.",
        hint="B04,B03,B02",
        default_text="those of TASK",
    )
    trunks: str | None = setting(
        None,
        "Bands of each network, for TASK=3: two or more networks with `;` between them.",
        hint='"B04,B03,B02;B08,B11,B12"',
        default_text="those of TASK",
    )
    bands_rgb: str | None = setting(
        None,
        "The bands of the store that are red, green and blue, in this order. They get the pretrained filters of these "
        "colours.",
        hint="B04,B03,B02",
        default_text="the bands named red, green, blue",
    )
    store: str = setting(
        ...,
        "The store: a folder, or an address such as s3://bucket/chips.zarr.",
        hint="path",
        default_text="chips.zarr if DATA is set, else the demo chips",
        on_resume=True,
    )
    split: str = setting(
        "course",
        "How chips are divided. course: the reference project's random split by scikit-learn, 33 % test. blocked: "
        "33 % test as in SPLIT=course, but chips of one block of ground (BLOCK_KM, if the files have coordinates), and "
        "duplicates and adjacent chips of one scene that `make audit` found, are in the same split. column: the split "
        "of the labels file, which the store keeps (SPLIT_COLUMN). 0.8,0.2: fractions of train and test. "
        "0.7,0.1,0.2@5: of train, val and test, drawn with seed 5. "
        "file.csv: columns image_name and split.",
        hint="course|blocked|column|0.8,0.2|file.csv",
    )
    block_km: float = setting(BLOCK_KM, "Side of the blocks of SPLIT=blocked, in km.", gt=0, le=20_000)
    val: float = setting(
        0.0,
        "Fraction of the train split that becomes the val split, on which the best epoch is selected. 0: none. Unless "
        "SPLIT has a val split, the best epoch is then selected on the test split, and the test scores are optimistic.",
        ge=0,
        lt=1,
    )
    input: Literal["raw", "course"] = setting(
        "raw",
        "raw: the files' values, standardised per band by the train split's statistics. course: the values that PIL "
        "gives for Planet's 16-bit files (8 bits, colours divided by NIR), to compare with the "
        "older reference project.",
    )
    crop: int = setting(
        0, "Side of the crop in pixels. 0: CROP_SHARE of the chip's side.", ge=0, le=2**16, default_text="0"
    )
    crop_share: float = by_recipe("crop_share", "Side of the crop as a share of the chip's side.", 0.875, gt=0, le=1)
    flips: Literal["none", "horizontal", "both", "dihedral"] = by_recipe(
        "flips", "Random flips in training. dihedral: all 8 symmetries of a square."
    )
    test: Literal["center", "resize"] = setting(
        "center",
        "How a chip is brought to the size of the crop in evaluation. center: its center is cut out. resize: the "
        "whole chip is resized. Both are deterministic.",
    )
    test_batch: int = by_recipe("test_batch", "Chips per batch in evaluation.", ge=1, le=2**20)
    shuffle_labels: bool = setting(
        False,
        "1: a control experiment: the labels of each split are put in random order. Scores should then be at chance.",
    )

    @field_validator("bands_in", "bands_rgb", "trunks")
    @classmethod
    def _bands_can_be_read(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is None:
            return None
        groups = split_groups(text)
        if info.field_name == "trunks" and len(groups) < 2:
            raise ValueError('the bands of two or more networks with ; between them ("B04,B03,B02;B08")')
        if info.field_name != "trunks" and len(groups) > 1:
            raise ValueError("bands with commas between them, and no ;")
        if info.field_name == "bands_rgb" and len(groups[0]) != 3:
            raise ValueError("three bands: red, green, blue")
        return text

    @field_validator("split")
    @classmethod
    def _split_can_be_read(cls, rule: str) -> str:
        check_rule(rule)
        return rule


class ModelSettings(Settings):
    """The network and its initial weights."""

    heading: ClassVar[str] = "Model"

    arch: str = setting(
        "resnet18",
        f"The network: a ResNet of torchvision ({', '.join(ARCHS)}), or any network of timm, if timm is installed.",
        hint="name",
    )
    weights: str = setting(
        "auto",
        "Initial weights. auto: ImageNet's if torchvision can get them, else none. imagenet: ImageNet's; training is "
        "refused if torchvision cannot get them. none: random. file.safetensors: a file whose tensors have "
        "torchvision's names, or model.safetensors of a run with the same ARCH, INPUT and bands. The last layer is "
        "always new.",
        hint="auto|imagenet|none|file.safetensors",
        default_text="auto; none for the demo chips",
    )
    conv1: Literal["kaiming", "mean", "copy-red"] = setting(
        "kaiming", "How conv1's filters are initialised for bands that the pretrained weights do not have."
    )
    finetune: Literal["full", "head"] = setting(
        "full", "full: train all layers. head: train the last layer only, on pretrained weights."
    )
    pool: Literal["on", "off", "auto"] = setting(
        "on",
        "Max pooling after conv1, the first convolution. off: later layers see twice the resolution. auto: off if the "
        "crop is smaller than 64 pixels.",
    )
    stem: Literal["imagenet", "small", "auto"] = by_recipe(
        "stem",
        "conv1, the first convolution. imagenet: 7 x 7 filters, stride 2. small: 3 x 3 filters, stride 1, for twice "
        "the resolution later. auto: small if the crop is smaller than 64 pixels.",
        "imagenet",
    )

    @field_validator("arch")
    @classmethod
    def _arch_is_a_name(cls, text: str) -> str:
        if not _ARCH.fullmatch(text):
            raise ValueError("the name of a network, of letters, digits and _")
        return text

    @field_validator("weights")
    @classmethod
    def _weights_are_known(cls, text: str) -> str:
        if text not in ("auto", "imagenet", "none") and not text.endswith(".safetensors"):
            raise ValueError("imagenet, none or a .safetensors file")
        return text


class RunSettings(Settings):
    """Where and how a run executes."""

    heading: ClassVar[str] = "Execution"

    gpu: str = setting(
        "0",
        "0: the first GPU. 0,1,2,3: one process per GPU. auto: the GPU that is used least, or the CPU if there is "
        "none. cpu: the CPU. If GPU is set and that GPU cannot be used, training is refused.",
        hint="0|0,1,2,3|auto|cpu",
        default_text="0, or cpu if there is no GPU",
        on_resume=True,
    )
    gpu_given: bool = setting(False, "The user set GPU: refuse a GPU that cannot be used.", on_resume=True, hidden=True)
    amp: Literal["auto", "off", "bf16", "fp16"] = setting(
        "auto", "Mixed precision. auto: bf16 or fp16 on a GPU, off on the CPU."
    )
    compile: Literal["off", "default", "max"] = setting(
        "off", "torch.compile. max: slow to start, with CUDA graphs; on a GPU it needs CACHE=device."
    )
    deterministic: bool = setting(
        False, "1: use GPU kernels whose results are bit-identical each time; they are slower."
    )
    workers: int = setting(
        0,
        "Threads that read the store. 0: what `make tune` measured, else one per core, at most 8.",
        ge=0,
        le=1024,
        on_resume=True,
    )
    cache: Literal["none", "host", "device"] = setting(
        "none", "Decode all chips once and keep them in RAM (host) or on the GPU (device).", on_resume=True
    )
    decode: Literal["auto", "host", "device"] = setting(
        "auto",
        "Decode LZ4 on the CPU (host) or on the GPU (device). auto: what `make tune` measured, else the GPU if there "
        "is one.",
        on_resume=True,
    )
    checkpoint_minutes: float = setting(
        10.0, "Minutes between checkpoints. One is also written after each epoch.", gt=0, le=1e6, on_resume=True
    )
    rank_timeout_minutes: float = setting(
        10.0,
        "With several processes: minutes that a process waits for the others before it ends with exit code 75.",
        gt=0,
        le=1e4,
        on_resume=True,
    )
    tracker: Literal["none", "wandb"] = setting(
        "none",
        "A tracker in addition to TensorBoard. wandb (Weights & Biases) always runs offline; `wandb sync` uploads.",
        on_resume=True,
    )

    @field_validator("gpu")
    @classmethod
    def _gpu_is_a_list_of_numbers(cls, text: str) -> str:
        return check_gpu(text)
