"""Provide data sets as uint8 tensors, and batches of them that are cropped, flipped and scaled on
the device.

This file imports neither torch nor NumPy: the command line reads it before they are loaded.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """Describe a named data set before it is read. None: the value comes from the data.

    Augmentation is the paper's (random crop with padding 4, horizontal flip) wherever a mirrored
    and shifted image keeps its label.
    """

    description: str
    num_classes: int | None
    size: int | None  # height and width of the images that `load` returns
    source_size: int | None  # height and width of the images as distributed
    padding: int  # zero pixels around an image before a random crop
    flip: bool  # mirror horizontally with probability 1/2


# A mirrored digit is another sign, so digits are not flipped; smaller images are shifted less.
DATASETS = {
    "digits": Spec(
        "1,797 handwritten digits of scikit-learn, no download", 10, 16, 8, padding=1, flip=False
    ),
    "mnist": Spec("70,000 handwritten digits", 10, 32, 28, padding=2, flip=False),
    "cifar10": Spec("60,000 photographs, 10 classes", 10, 32, 32, padding=4, flip=True),
    "cifar100": Spec("60,000 photographs, 100 classes", 100, 32, 32, padding=4, flip=True),
    "svhn": Spec("99,289 house numbers, cropped digits", 10, 32, 32, padding=4, flip=False),
    "fashion-mnist": Spec("70,000 pieces of clothing", 10, 32, 28, padding=4, flip=True),
    "tiny-imagenet": Spec("110,000 photographs, 200 classes", 200, 64, 64, padding=4, flip=True),
    "arrays": Spec("the four .npy files in --data-dir", None, None, None, padding=4, flip=True),
}


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
