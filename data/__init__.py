"""Data sets as uint8 tensors, and batches of them cropped, flipped and scaled on the device.

This file imports neither torch nor NumPy: the command line is read from it before they are loaded.
"""
from data.names import DATASETS, Spec

__all__ = ["DATASETS", "Spec", "load"]


def load(name: str, data_dir=None, limit_train: int | None = None, limit_test: int | None = None):
    """The data set `name` as a `data.sets.DataSet`, which see for the shapes.

    A `data_dir` with train_images.npy, train_labels.npy, test_images.npy and test_labels.npy is read as it is, whatever
    the name, where it fits the named set. Otherwise the set comes from its own source: digits from scikit-learn,
    tiny-imagenet from its folders in `data_dir`, the others through torchvision, which downloads into `data_dir` what
    is not there yet. Without `data_dir` those look in the folder ``datasets``. `limit_train` and `limit_test` keep
    the first images only.

    Raises InputError, one line that names the option or file, for anything wrong with them.
    """
    from data.sets import load

    return load(name, data_dir, limit_train, limit_test)
