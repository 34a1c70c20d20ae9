"""ResNets for any bands. Knows torch and torchvision only; leaves data and training to others."""
