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


def adaptive_terms(options: dict) -> dict[str, str]:
    """Name the MI that a defense trained with, and that an adaptive attack goes against.

    options: "mi_loss" and "without" of stage 3, or "defense", as a model file has it; what is
    missing counts as NAMID's. Returns {kind: letter in the files of its estimator}.
    """
    defense = options.get("mi_loss") or options.get("defense") or ""
    if defense.startswith("wmim"):
        return {"standard": "n"}
    kinds = {"natural": "n", "adversarial": "a"}
    return {kind: letter for kind, letter in kinds.items() if kind != options.get("without")}
