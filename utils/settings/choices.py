"""Name the values that an option may have, as types of the fields that declare options.

tyro reads the choices from the registries when the program runs. A type checker cannot, and takes
each of these types for `str`.
"""

from typing import TYPE_CHECKING, Literal

import data
import models
from utils.mi.names import (
    BOUNDS,
    FORMS,
    LAYER_QUANTITIES,
    PAIRINGS,
    SELECTIONS,
    TRAINED_QUANTITIES,
)
from utils.schedules import SCHEDULES
from utils.settings import presets

if TYPE_CHECKING:
    Dataset = str
    Augmentation = str
    Arch = str
    Representation = str
    Bound = str
    Selection = str
    LayerQuantity = str
    TrainedQuantity = str
    Preset = str
    Schedule = str
    Norm = str
    Form = str
    Pairs = str
    LocalConvs = int
    Output = str
else:
    Dataset = Literal[tuple(data.DATASETS)]
    Augmentation = Literal[data.AUGMENTATIONS]
    Arch = Literal[tuple(models.ARCHITECTURES)]
    Representation = Literal[models.REPRESENTATIONS]
    Bound = Literal[BOUNDS]
    Selection = Literal[SELECTIONS]
    LayerQuantity = Literal[LAYER_QUANTITIES]
    TrainedQuantity = Literal[TRAINED_QUANTITIES]
    Preset = Literal[tuple(presets.PRESETS)]
    Schedule = Literal[tuple(SCHEDULES)]
    Norm = Literal["linf", "l2"]
    Form = Literal[FORMS]
    Pairs = Literal[PAIRINGS]
    LocalConvs = Literal[models.LOCAL_CONVS]
    Output = Literal[(*models.REPRESENTATIONS, "code")]
