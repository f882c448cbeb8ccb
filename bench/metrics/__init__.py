"""What is measured: every number in a record is named by one of these, which says how to read it."""

from __future__ import annotations

from bench.api import Metric
from bench.registry import Registry

METRICS: Registry[Metric] = Registry("metric")


def define(metric: Metric) -> Metric:
    """Register a metric and return it.

    Raises:
        BadInputError: the name is taken.
    """
    return METRICS.add(metric.name, metric)


# --- Linear layers. All energies are relative to ‖Y_j‖²/N, what concept j wants, so that layers can be averaged.

RELATIVE_ERROR = define(
    Metric(
        "relative_error",
        "relative error",
        "lower",
        lower_bound=0.0,
        margin=0.02,
        description="‖(M_t - D_j) X_j‖² / ‖D_j X_j‖² on held-out activations; 1 for the untrained base",
    )
)
FIT_ERROR = define(
    Metric(
        "fit_error",
        "relative error on the fitted activations",
        "lower",
        lower_bound=0.0,
        description="the same on the activations that the moments came from: where the closed forms are optimal",
    )
)
OUTPUT_CHANGE = define(
    Metric(
        "output_change",
        "forgetting energy",
        "lower",
        lower_bound=0.0,
        description="‖(M_t - M_j) X_j‖² / ‖D_j X_j‖²: what later stages changed; F[t, j] for methods that sum updates",
    )
)
INTERFERENCE_RATIO = define(
    Metric(
        "interference_ratio",
        "interference ratio",
        "lower",
        lower_bound=0.0,
        description="‖(M_T - ΔW_j) X_j‖² / ‖ΔW_j X_j‖²: what the other concepts add, against the concept's own share",
    )
)
ADAPTATION_GAIN = define(
    Metric(
        "adaptation_gain",
        "adaptation gain",
        "higher",
        upper_bound=1.0,
        description="1 - relative error of the concept just trained, on the fitted activations",
    )
)
FRONTIER_DISTANCE = define(
    Metric(
        "frontier_distance",
        "distance to the C8 frontier",
        "lower",
        description="gain of the best rank-r last step that forgets no more, less the step's own, as a share of what "
        "the last concept still missed; only for methods that add one rank-r update and leave the others as they are",
    )
)
OVERLAP = define(Metric("overlap", "‖A_i A_jᵀ‖", "lower", lower_bound=0.0, description="overlap of two bases"))
SMALLEST_ANGLE = define(
    Metric(
        "smallest_angle",
        "smallest principal angle",
        "higher",
        lower_bound=0.0,
        upper_bound=90.0,
        unit="degrees",
        description="between a basis and the span of all others",
    )
)
RESIDUAL_ENERGY = define(
    Metric(
        "residual_energy",
        "residual energy ρ",
        "lower",
        lower_bound=0.0,
        upper_bound=1.0,
        description="tr((I - P_j) Σ_j) / tr Σ_j: what concept j's basis does not see",
    )
)
LEAK = define(
    Metric(
        "leak",
        "leak",
        "lower",
        lower_bound=0.0,
        description="‖A_{j+1:T} X_j‖² / tr Σ_j: the part of concept j's activations that later bases read",
    )
)
UPDATE_NORM = define(
    Metric("update_norm", "‖M_T‖_F", "lower", lower_bound=0.0, description="size of the merged update")
)

# --- Images. Means over generated images, and over all held-out references where there are pairs.

IDENTITY = define(
    Metric(
        "identity",
        "identity similarity",
        "higher",
        lower_bound=-1.0,
        upper_bound=1.0,
        margin=0.02,
        description="cosine of ArcFace embeddings, generated against held-out references; 0 where no face was found",
    )
)
IDENTITY_REAL = define(
    Metric(
        "identity_real",
        "identity of the pictures themselves",
        "higher",
        lower_bound=-1.0,
        upper_bound=1.0,
        description="identity similarity of a concept's training images: what images as good as those would score",
    )
)
DETECTION = define(
    Metric(
        "detection",
        "identity detection rate",
        "higher",
        lower_bound=0.0,
        upper_bound=1.0,
        description="share of images whose identity similarity is above the calibrated threshold (false accepts 1e-3)",
    )
)
FACE_FOUND = define(
    Metric("face_found", "face found", "higher", lower_bound=0.0, upper_bound=1.0, description="share of images")
)
CLIP_TEXT = define(
    Metric(
        "clip_text",
        "CLIP-T",
        "higher",
        lower_bound=-1.0,
        upper_bound=1.0,
        description="raw cosine of image and prompt, the concept's token replaced by its class word; it rises when "
        "identity is lost, so read it beside identity",
    )
)
CLIP_IMAGE = define(
    Metric(
        "clip_image",
        "CLIP-I",
        "higher",
        lower_bound=-1.0,
        upper_bound=1.0,
        description="cosine of images and held-out references; it can rise while identity collapses",
    )
)
DINO = define(
    Metric(
        "dino",
        "DINO",
        "higher",
        lower_bound=-1.0,
        upper_bound=1.0,
        description="cosine of self-supervised ViT features of whole images and held-out references, all pairs",
    )
)
CONTEXT = define(
    Metric(
        "context",
        "context follows the prompt",
        "higher",
        lower_bound=0.0,
        upper_bound=1.0,
        description="share of background and clothing colours that a classifier reads as the prompt asked",
    )
)
CROSS_SIMILARITY = define(
    Metric(
        "cross_similarity",
        "similarity to other concepts",
        "lower",
        lower_bound=-1.0,
        upper_bound=1.0,
        description="identity similarity of a concept's images to another concept's references, after the last stage",
    )
)
DRIFT = define(
    Metric(
        "drift",
        "drift",
        "lower",
        lower_bound=0.0,
        upper_bound=1.0,
        description="(1 - mean cosine)/2 of CLIP embeddings, base against adapted, on prompts without a concept",
    )
)
FORGETTING_ENERGY = define(
    Metric(
        "forgetting_energy",
        "forgetting energy",
        "lower",
        lower_bound=0.0,
        description="‖(M_t - M_j) X_j‖² / ‖ΔW_j X_j‖² on a layer of the diffusion model",
    )
)
FISHER_ENERGY = define(
    Metric(
        "fisher_energy",
        "Fisher energy",
        "lower",
        lower_bound=0.0,
        description="tr(G_j ΔM Σ_j ΔMᵀ) summed over layers, ΔM = M_t - M_j: K-FAC's estimate of what they did to f",
    )
)
PREDICTION_CHANGE = define(
    Metric(
        "prediction_change",
        "change of the prediction",
        "lower",
        lower_bound=0.0,
        description="mean of w (f_t - f_j)², f_t what the denoiser predicts of concept j's noisy images after stage t, "
        "w the loss's weights: what layers' energies stand for, measured",
    )
)
UPDATE_CHANGE = define(
    Metric(
        "update_change",
        "‖M_t - M_j‖_F",
        "lower",
        lower_bound=0.0,
        description="how far later stages moved the weights, whatever the concept's activations: a rival predictor of "
        "what is lost",
    )
)

# --- Images of two concepts, one number a region, see `bench.composed`: drawn region by region, from one prompt with
# two subjects ("plain_"), and by the world itself ("world_": what a model could reach).

for _prefix, _how in (("", ""), ("plain_", "plain prompt: "), ("world_", "the world's own scenes: ")):
    define(
        Metric(
            f"{_prefix}region_identity",
            f"{_how}identity in its region",
            "higher",
            lower_bound=-1.0,
            upper_bound=1.0,
            description="identity similarity of a region to the concept that belongs there; 0 where no face was found",
        )
    )
    define(
        Metric(
            f"{_prefix}leakage",
            f"{_how}leakage",
            "lower",
            lower_bound=-1.0,
            upper_bound=1.0,
            description="identity similarity of a region to the other concept of the image; strangers have 0, and so "
            "has a region without a face",
        )
    )
    for _name, _judge in (("clip_image", "CLIP"), ("dino", "DINO")):
        define(
            Metric(
                f"{_prefix}region_{_name}",
                f"{_how}{_judge} similarity to the own concept",
                "higher",
                lower_bound=-1.0,
                upper_bound=1.0,
                description=f"mean cosine of {_judge} embeddings of a region and the references of its concept",
            )
        )
        define(
            Metric(
                f"{_prefix}leakage_{_name}",
                f"{_how}{_judge} similarity to the other concept",
                "lower",
                lower_bound=-1.0,
                upper_bound=1.0,
                description=f"the same with the other concept of the image: read it against {_prefix}region_{_name}",
            )
        )
    define(
        Metric(
            f"{_prefix}region_face_found",
            f"{_how}face found in its region",
            "higher",
            lower_bound=0.0,
            upper_bound=1.0,
            description="share of regions",
        )
    )
    define(
        Metric(
            f"{_prefix}region_context",
            f"{_how}context of a region follows the prompt",
            "higher",
            lower_bound=0.0,
            upper_bound=1.0,
            description="share of background colours that a classifier reads in regions as the prompt asked",
        )
    )
