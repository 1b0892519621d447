"""Files of what a model draws, and of simulations with their truth."""

from __future__ import annotations

from nvae_bio import schema
from nvae_bio.schema.provenance import provenance
from nvae_bio.schema.samples import COUNTS, FEATURES, IMAGES, PLACES, SAMPLES
from nvae_bio.schema.slot import ANY, Kind, Slot, obs, obsm, var

_Z = obsm(schema.LATENT, "S + K", "latent: z_s, and the own block", "prior SD")
_FROM = provenance(
    "version", "seed", "generation_seed", "kind", "variant", "classes", "image_shape", when={"image_shape": IMAGES}
)
_LABEL = obs(schema.LABEL, "class that is decoded")


def _drawn(name: str, x: str, *slots: Slot) -> Kind:
    return Kind(name, SAMPLES, FEATURES, (Slot("X", "", "n, G", x), *slots, _Z, *_FROM), inherited=PLACES)


DRAWN = _drawn(
    "samples", "drawn from the likelihood",
    Slot("layers", schema.MEAN, "n, G", "mean of the likelihood"),
    _LABEL,
    obs("sigma", "standard deviation of the prior that the latent is drawn from", "prior SD"),
    obs(schema.LIBRARY, "library of a random training cell of the class", "counts", "counts, `model.size: library`"),
    obs(
        schema.SIZE_FACTOR, "size factor of a random training cell of the class", "on the scale of the library",
        "counts, `model.size: size_factor`",
    ),
    obs(schema.BATCH, "batch of the same training sample", when="the model is told it"),
    obs("{covariate}", "covariates of the same training sample", when="the model is told any"),
)  # fmt: skip
TRAVERSALS = _drawn(
    "traversals", "the decoded mean as one factor moves and all others stay at 0, covariates at their average",
    obs("kind", "`shared` or `private`"),
    obs("dim", "which dim of z_s, or of the block of the class"),
    _LABEL,
    obs("value", "value of the factor", "prior SD"),
)  # fmt: skip
INTERPOLATIONS = _drawn(
    "interpolations", "the decoded mean on the straight line between the posterior means of two held-out samples of a "
    "class, at the library and covariates of the first",
    obs("pair", "number of the pair"),
    obs("step", "0 at the first sample to 1 at the second"),
    _LABEL,
    obs("first", "name of the first sample"),
    obs("second", "name of the second sample"),
)  # fmt: skip
SWAPS = _drawn(
    "swaps", "held-out samples decoded as every class with their own z_s; as its own class a sample keeps its block "
    "(its reconstruction), as any other the block is at 0, the mean of its prior",
    _LABEL,
    obs("sample", "name of the sample"),
    obs("sample_label", "own class of the sample"),
)  # fmt: skip


def _provenance(key: str) -> tuple[Slot, ...]:
    told = {
        "version": "version of nvae-bio", "kind": "counts, images or sounds", "source": "files or name of the source",
        "seed": "seed of all draws",
    }  # fmt: skip
    shape = {"source": ANY}
    return tuple(Slot("uns", f"{key}/{name}", shape.get(name, ""), meaning) for name, meaning in told.items())


_PIXELS = tuple(slot for slot in PLACES if slot.when == IMAGES)
_ARM = "counts with `conditions`"
SIMULATED = Kind(
    "simulated", SAMPLES, FEATURES,
    (
        Slot("X", "", "n, G", "counts (CSR, whole numbers), pixels in [0, 1], or audio features"),
        *_PIXELS,
        obs(schema.LABEL, "class; with `label_swaps`, of some cells another one"),
        obs(schema.BATCH, "batch: `batch0`, …", when=COUNTS),
        obs(schema.DONOR, "donor: `donor0`, …", when=COUNTS),
        obs(schema.CONDITION, "the arm; set `condition_key: condition`", when=_ARM),
        obs(
            schema.LIBRARY, "all counts of the cell, those of genes that are not simulated too: set `library_key: "
            "library`", "counts", COUNTS,
        ),
        *_provenance(schema.SIMULATION),
    ),
)  # fmt: skip


def _varm(key: str, width: str, meaning: str, unit: str = "") -> Slot:
    return Slot("varm", key, f"G, {width}", meaning, unit, COUNTS)


TRUTH = Kind(
    "truth", SAMPLES, FEATURES,
    (
        obsm(schema.ACTIVITY, "P", "activity a of each item, a table with their names as columns"),
        obs(schema.LABEL, "class; of a doublet, of the cell that it is labelled as"),
        obs(schema.BATCH, "batch, as in the data", when=COUNTS),
        obs(schema.DONOR, "donor, as in the data", when=COUNTS),
        obs(schema.CONDITION, "arm, as in the data", when=_ARM),
        obs("library_mean", "expected library, L_i", "counts", COUNTS),
        obs("depth", "the factor in `library_mean` that is depth", when=COUNTS),
        obs("given_label", "label in the data", when="`label_swaps`"),
        obs("is_swapped", "whether the label in the data is another one", when="`label_swaps`"),
        obs("is_doublet", "whether it is a doublet", when="`doublets`"),
        obs("doublet_of", "class of the other cell, or empty", when="`doublets`"),
        _varm(
            schema.LOG_FOLD_CHANGE, "P", "log fold change λ at activity 1, a table with the items as "
            "columns; a gene is a member where it is not 0", "natural log",
        ),
        _varm("batch_effect", ANY, "effect β of each batch, a column a batch", "natural log"),
        _varm("donor_effect", ANY, "effect δ of each donor, a column a donor", "natural log"),
        _varm("class_rate", "C", "share of the library by class at activity 0, markers raised"),
        var("dispersion", "dispersion φ", when=COUNTS),
        var("marker_of", "class whose marker the gene is, or empty", when=COUNTS),
        *_PIXELS,
        Slot("uns", f"{schema.TRUTH}/planted", "", "a row an item: kind, activity, share, and its other settings"),
        Slot("uns", f"{schema.TRUTH}/in_class", "P, C", "which class has which item"),
        Slot("uns", f"{schema.TRUTH}/classes", "C", "names of the classes, in the order of columns"),
        Slot("uns", f"{schema.TRUTH}/settings", "", "settings of the simulation (JSON)"),
        *_provenance(schema.TRUTH),
    ),
)  # fmt: skip
