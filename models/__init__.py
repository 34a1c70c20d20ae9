"""ResNets for any bands. Imports torch and torchvision only; leaves data and training to others."""
