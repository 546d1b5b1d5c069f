"""Provide data sets as uint8 tensors, and batches of them that are cropped, flipped and scaled on
the device.

This file imports neither torch nor NumPy: the command line reads it before they are loaded.
"""

from data.names import AUGMENTATIONS, DATASETS, Spec

__all__ = ["AUGMENTATIONS", "DATASETS", "Spec", "load"]


def load(name: str, data_dir=None, limit_train: int | None = None, limit_test: int | None = None):
    """Load the data set `name` as a `data.sets.DataSet`, which documents the shapes.

    Args:
        name: a key of DATASETS.
        data_dir: the folder of the data; None: ``datasets``.
        limit_train: keep the first N training images only.
        limit_test: keep the first N test images only.

    If `data_dir` holds train_images.npy, train_labels.npy, test_images.npy and test_labels.npy,
    these are read for any `name`, provided that they fit the named set. Otherwise the set comes
    from its own source: digits from scikit-learn, tiny-imagenet from its folders in `data_dir`, the
    others through torchvision, which downloads missing files into `data_dir`.

    Raises InputError, in one line that names the option or file, for anything wrong with them.
    """
    from data.sets import load

    return load(name, data_dir, limit_train, limit_test)
