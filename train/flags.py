"""The settings that have a flag of `python -m train` and a variable of `make train`. Imports nothing."""

# (flag, field of Config, how its text is read, help). What is not here is set by the recipe, or by --set.
FLAGS = (
    (
        "--gpu",
        "gpu",
        str,
        "0 (default; without a GPU the CPU), 0,1,2,3 (a process each), auto (the least used), or cpu",
    ),
    ("--arch", "arch", str, "resnet18 (default) ... wide_resnet50_2"),
    ("--weights", "weights", str, "imagenet, none or a .safetensors file; default: imagenet where it can be had"),
    ("--conv1", "conv1", str, "filters of new bands on pretrained weights: kaiming (default), mean or copy-red"),
    ("--finetune", "finetune", str, "full (default) or head"),
    ("--input", "input", str, "raw (default) or course"),
    ("--split", "split", str, "course (default), fractions such as 0.7,0.1,0.2@seed, or a .csv of image_name,part"),
    ("--val", "val", float, "fraction of train to choose the best epoch on; default 0: chosen on test"),
    ("--seed", "seed", int, "of order, augmentation and initial weights; default 0"),
    ("--test", "test", str, "center (default) or resize"),
    ("--crop", "crop", int, "pixels a side; default 7/8 of the chip"),
    ("--flips", "flips", str, "none, horizontal, both or dihedral"),
    ("--amp", "amp", str, "auto (default), off, bf16 or fp16"),
    (
        "--compile",
        "compile",
        str,
        "off (default), default or max (slow to start; CUDA graphs: on a GPU with CACHE=device)",
    ),
    ("--epochs", "epochs", int, ""),
    ("--batch", "batch", int, "chips an update, over all GPUs"),
    ("--accumulate", "accumulate", int, "parts in which a GPU takes its share of an update; default 1"),
    ("--lr", "lr", float, "highest learning rate"),
    ("--loss", "loss", str, "bce (default), soft_margin or asymmetric"),
    ("--workers", "workers", int, "reading threads; default: cores, at most 8"),
    ("--cache", "cache", str, "none (default), host or device: keep the decoded store in RAM or on the GPU"),
    (
        "--decode",
        "decode",
        str,
        "auto (default), host or device: where LZ4 is undone; auto: the GPU, or what make tune found",
    ),
    ("--checkpoint-minutes", "checkpoint_minutes", float, "a checkpoint that often, and after each epoch; default 10"),
    ("--tracker", "tracker", str, "none (default) or wandb (offline), beside TensorBoard"),
)
