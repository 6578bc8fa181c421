"""The numbers that the paper printed (arXiv 2108.00259, Appendix E)."""

TABLE_1_CHECKPOINTS = (20_000, 40_000, 60_000, 80_000)
"""Iterations of pre-training after which networks were pruned."""

TABLE_1 = {
    ("MobileNetV2", 10_000): ((82.32, 86.18, 86.11, 86.09), 83.13),
    ("MobileNetV2", 30_000): ((80.19, 87.79, 88.38, 88.67), 87.62),
    ("MobileNetV2", 50_000): ((86.71, 88.33, 91.79, 91.77), 91.44),
    ("ResNet34", 10_000): ((75.29, 85.47, 85.56, 85.01), 85.23),
    ("ResNet34", 30_000): ((84.06, 91.59, 92.31, 92.15), 92.14),
    ("ResNet34", 50_000): ((89.79, 91.34, 94.28, 94.23), 94.18),
}
"""CIFAR-10, by network and training images: test accuracy in % of the pruned and fine-tuned
network for each checkpoint, and of the dense one."""

TABLE_2_EPOCHS = (50, 100, 150)
TABLE_2 = {
    ("MobileNetV2", "60% (80%)"): ((70.05, 71.14, 71.53), 71.70),
    ("MobileNetV2", "40% (65%)"): ((69.23, 70.36, 71.10), 71.70),
    ("ResNet34", "60% (80%)"): ((71.68, 72.56, 72.65), 73.20),
    ("ResNet34", "40% (65%)"): ((69.87, 71.44, 71.33), 73.20),
}
"""ImageNet, by network and multiply-adds (parameters) that are left: top-1 in %, as above."""
