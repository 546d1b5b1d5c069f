"""What the command line may ask of the MI estimators. Imports nothing, so that it is read before torch is."""

# Lower bounds on mutual information with one value per sample (models.mi_bounds.per_sample).
BOUNDS = ("dv", "dv-released", "nce", "fd")

# What of the target network an estimator sees (models.mi.global_net): its logits, or a stage's feature map.
REPRESENTATIONS = ("logits", "stage3", "stage4")
