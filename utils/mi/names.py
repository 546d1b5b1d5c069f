"""Name the choices of MI estimators and layers. Imports nothing: it is read before torch."""

# Lower bounds on mutual information with one value per sample (utils.mi.bounds.per_sample).
BOUNDS = ("dv", "dv-released", "nce", "fd")

# Where the bound of a whole batch averages over locations, and which pairs its second term takes
# (utils.mi.batch_bound).
FORMS = ("average", "location", "pooled")
PAIRINGS = ("all", "others", "released")
# What is measured of a layer (utils.mi.layers.QUANTITIES), and what can be trained: has a gradient.
TRAINED_QUANTITIES = ("activation", "information", "unit")
LAYER_QUANTITIES = (*TRAINED_QUANTITIES, "binned")

# How the samples of an MI loss are selected (utils.mi.patterns.select).
SELECTIONS = ("eq6", "released")


def estimator_files(folder, letters: str = "na") -> dict:
    """Name the files that stage 2 leaves in its folder, a pathlib.Path: {option of stage 3: path}.

    They hold a local and a global network of the natural estimator (n) and of the adversarial (a).
    """
    return {
        f"pre_{part}_{letter}": folder / f"{part}_{letter}_model.pth"
        for letter in letters
        for part in ("local", "global")
    }
