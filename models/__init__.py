"""Networks for any bands. Imports torch, torchvision and, if asked for, timm; leaves data and training to others."""
