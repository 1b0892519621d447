"""Files whose rows are factors: the report of a run, and what each of its seeds has."""

from __future__ import annotations

from nvae_bio import schema
from nvae_bio.schema.provenance import provenance
from nvae_bio.schema.samples import IMAGES, PLACES
from nvae_bio.schema.slot import EFFECT_UNIT, Kind, Slot, obs, obsm, of_factors

_PER_SAMPLE = "nats a sample"
_ENDS = {"": "", "_lower": "lower end of the interval of", "_upper": "upper end of the interval of"}


def _interval(key: str, meaning: str, unit: str) -> tuple[Slot, ...]:
    return tuple(obs(key + end, f"{said} `{key}`" if said else meaning, unit) for end, said in _ENDS.items())


def _by_class(keys: tuple[str, ...], meaning: str, unit: str) -> tuple[Slot, ...]:
    told = (f"{said} `{keys[0]}`" if said else meaning for said in _ENDS.values())
    return tuple(obsm(key, "C", said, unit) for key, said in zip(keys, told, strict=True))


def _effect(meaning: str, over: str) -> tuple[Slot, ...]:
    return (
        Slot("X", "", "F, G", meaning, EFFECT_UNIT),
        Slot("layers", schema.EFFECT_LOWER, "F, G", f"lower end of the effect's interval over {over}", EFFECT_UNIT),
        Slot("layers", schema.EFFECT_UPPER, "F, G", "upper end of that interval", EFFECT_UNIT),
    )


def _table(name: str, meaning: str, *columns: str, when: str = "") -> Slot:
    return Slot("uns", f"{schema.MODEL}/{name}", "", meaning, when=when, columns=columns)


KL = _by_class((schema.KL_BY_CLASS, schema.KL_BY_CLASS_LOWER, schema.KL_BY_CLASS_UPPER), "KL in each class", "nats")
TESTS = _table(
    schema.TESTS, "every test of every seed",
    "seed", "statistic: `own_block`, `own_dim`, `shared` or `hidden`", "class", "dim: −1 for a block", "value: nats",
    "p",
    "smallest_p: the smallest that so many refits allow", "q", "null_median: nats",
    "sufficient: whether it could be called were it alone",
)  # fmt: skip
TOP = (
    obs("top_up", "features that rise most"),
    obs("top_down", "features that fall most"),
    obs("resampled", "what the bootstrap resampled"),
)

REPORT = Kind(
    "factors", "factors", "features",
    of_factors((
        *_effect("effect: change of the decoded mean as the factor moves from −2 to +2 SD", "seeds and samples"),
        obs("kind", "`shared`, or `private` to a class"),
        obs("class", "class of a private factor; empty for a shared one"),
        obs("n_found", "seeds that found it"),
        obs("n_seeds", "seeds of the run"),
        obs("agreement", "mean |cos| of its members' effects; NaN where one seed alone found it"),
        obs("published", "whether as many seeds found it as are asked for"),
        obs("members", "what it is made of, in words: seed, latent, dim and sign"),
        *_interval("kl", "KL in its own class; of a shared factor in the class that uses it most", "nats"),
        obs("kl_class", "the class of `kl` and `loss`"),
        *_interval("loss", "log-likelihood of held-out samples lost without it", _PER_SAMPLE),
        obs(
            "gain", "mean over its members of what the dim adds to the bound of held-out samples: a private one above "
            "the median of its null, a shared one above chance", _PER_SAMPLE,
        ),
        obs("p", "p of a private factor: median over its members"),
        obs(
            "q", "false discovery rate: of as many seeds as are needed the largest, of a shared factor the smallest "
            "over classes",
        ),
        obs("outcome", "active, inactive or under-powered"),
        obs("reading", "what it is, in words"),
        obs("private_to", "classes that have it for themselves"),
        obs("n_used", "classes that use a shared factor"),
        obs("used_by", "names of the classes that use a shared factor"),
        obs(
            "effect_agreement", "of a shared factor: least cos of the effect in a class with that in the other classes "
            "that agree",
        ),
        obs("certificate", "of a shared factor: whether its effect is one and the same in the classes that use it"),
        obs("tag", "what it goes along with: depth, cell cycle, condition, …; empty for nothing"),
        *TOP,
        *KL,
        *_by_class(
            (schema.LOSS_BY_CLASS, schema.LOSS_BY_CLASS_LOWER, schema.LOSS_BY_CLASS_UPPER),
            "log-likelihood of held-out samples lost without it", _PER_SAMPLE,
        ),
        obsm(schema.Q_BY_CLASS, "C", "q in each class; NaN where not asked"),
        obsm(
            schema.AGREEMENT_BY_CLASS, "C", "cos of the effect in a class with that in the other classes that agree; "
            "NaN where not asked",
        ),
        obsm(
            schema.OUTCOME_BY_CLASS, "C", "a table: active, inactive or under-powered in each class; empty where not "
            "asked",
        ),
        *provenance(
            "version", "variant", "classes", "fingerprint", "kind", "effect_unit", "n_shared", "n_private", "settings",
            "report", "seeds", "n_refits", "notes", schema.UNDER_POWERED, schema.POWER_SETTINGS, "image_shape",
            when={schema.POWER_SETTINGS: "`power`", "image_shape": IMAGES},
        ),
        _table(
            schema.MEMBERS, "what each factor is made of, a row a member", "factor", "seed",
            "kind: `shared`: it lies in z_s, also where the factor is private", "class", "dim", "sign", "agreement",
            "outcome: in its seed",
        ),
        TESTS,
        _table(
            schema.NULL, "values of the refits that tests compare with", "kind", "statistic", "class", "value: nats",
            when="a null",
        ),
        _table(
            schema.ASSOCIATIONS, "associations of published factors with columns of obs", "factor", "column", "role",
            "measure: spearman or eta", "effect", "levels: order of a signed effect", "p", "q", "n_samples",
            "constant_within: batch, donor: where the column has one value in each", "donor_test: which, or why none",
            "donor_effect", "donor_p", "donor_q", "n_donors",
        ),
        _table(
            schema.ENRICHMENT, "enrichment of gene sets among the top genes of published factors", "factor",
            "direction", "set", "n_overlap", "n_set", "n_top", "fold", "p", "q", "genes", when="`gene_sets`",
        ),
        _table(
            schema.LEAKAGE, "what probes read off the latents", "seed", "target", "latent: z_s or z_c",
            "probe: linear or neighbours", "score", "lower", "upper", "chance",
            "share: of the way from chance to 1", "limit: score at `max_leakage`",
            "verdict: pass, fail, undecided or not audited", "n_train", "n_held_out", "resampled", "note",
        ),
        _table(
            schema.CAPACITY, "private factors and dims of each class", "class", "n_private: K",
            "n_used: active ones that are published", "n_hidden: those of them that lie in z_s",
            "n_spilled: dims that hold what most classes share", "n_found_once: that one seed alone has",
            "room_left: dims that no factor uses", "under_powered",
        ),
        _table(
            schema.POWER, "how often planted programmes are found", "class", "fold_change", "n_runs", "n_found",
            "power: their ratio", "lower", "upper", "n_genes", "share", "mean_count: counts a cell", when="`power`",
        ),
        _table(
            schema.SUSPECTS, "samples that most seeds suspect, the strongest first", "sample", "label", "suspicion",
            "other_class: which it is about", "nats", "n_seeds", when="the audit",
        ),
    )),
    inherited=PLACES,
)  # fmt: skip

SEEDS = Kind(
    "seed_factors", "latent dims of all seeds", "features",
    of_factors((
        *_effect("effect; of a shared dim that few classes have for themselves the effect in these", "samples"),
        obs("seed", "seed of the model"),
        obs("kind", "a dim of z_s (`shared`), or of a block (`private`)"),
        obs("class", "class of the block; empty for a shared dim"),
        obs("dim", "which dim, from 0"),
        *_interval("kl", "KL in the own class; of a shared dim in the class with the largest", "nats"),
        obs("kl_class", "the class of `kl`"),
        obs("p", "p of the dim; of a shared one the smallest over classes"),
        obs("q", "false discovery rate; of a shared dim the smallest over classes"),
        obs(
            "gain", "what the dim adds to the bound on log p(x|y) of held-out samples: a private one above the median "
            "of its null, a shared one above chance, in the class where that is most", _PER_SAMPLE,
        ),
        obs("block_q", "q of the whole block of a private dim"),
        obs("hidden_q", "q of a shared dim that some class uses most of all for itself"),
        obs(
            "outcome", "active, inactive, or under-powered: too few refits to call the factor by itself, or none",
        ),
        obs(
            "reading", "what an active factor is, in words, or a private dim, active or not, that spilled (`S is too "
            "small`)",
        ),
        obs("private_to", "classes that have it for themselves"),
        obs("n_samples", "held-out samples behind the KL"),
        *TOP,
        *KL,
        obsm(schema.Q_BY_CLASS, "C", "q of a shared dim in each class, of a private one in its own; else NaN"),
        obsm(
            schema.SPREAD_BY_CLASS, "C", "of shared dims: variance within a class beyond what noise makes",
            "prior variances",
        ),
        obsm(schema.GAIN_BY_CLASS, "C", "of shared dims: gain above chance", _PER_SAMPLE),
        obsm(schema.PRIVATE_TO, "C", "whether the class has the factor for itself, or with few others"),
        *provenance(
            "version", "variant", "classes", "fingerprint", "kind", "effect_unit", "report", "n_refits", "notes",
            "image_shape", when={"image_shape": IMAGES},
        ),
        TESTS,
    )),
    inherited=PLACES,
)  # fmt: skip
