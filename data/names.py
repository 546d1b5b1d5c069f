"""What is known of each data set before it is read. Imports neither torch nor NumPy."""

from dataclasses import dataclass

AUGMENTATIONS = ("crop", "cropshift", "idbh-weak")  # data/augmentation.py


@dataclass(frozen=True)
class Spec:
    """State what is known of a named set before it is read. None: the data say it.

    Augmentation is the paper's (random crop with padding 4, horizontal flip) wherever a mirrored
    and shifted image keeps its label.
    """

    description: str
    num_classes: int | None
    size: int | None  # height and width of the images that `load` returns
    source_size: int | None  # height and width of the images as distributed
    padding: int  # zero pixels around an image before a random crop
    flip: bool  # mirror horizontally with probability 1/2


# A mirrored digit is another sign, so sets of digits are not flipped; the smaller images are also
# shifted less.
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
