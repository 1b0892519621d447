"""Factors that several seeds agree on: their members, and what the members have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import EMPTY_NATS, ReportSettings
from nvae_bio.factors.matching import Cluster, agreements, match_factors

MEMBER_COLUMNS = ["factor", "seed", "kind", "class", "dim", "sign", "agreement", "outcome"]
KL_OF = {"shared": schema.KL_SHARED, "private": schema.KL_PRIVATE}
GAIN_OF = {"shared": schema.GAIN_SHARED, "private": schema.GAIN}
MEAN_OF = {"shared": schema.SHARED, "private": schema.SPECIFIC}


@dataclass(frozen=True)
class Member:
    """A latent dim of one seed.

    Attributes:
        place: of the seed in the run.
        row: of the factor in the report of all seeds.
        kind: `shared`, in z_s, or `private`, in a block.
        dim: in z_s, or in the block.
        sign: 1, or −1 where it points the other way.
        agreement: |cos| of its effect with that of the other members; NaN where there are none.
    """

    place: int
    row: int
    kind: str
    dim: int
    sign: int
    agreement: float


@dataclass(frozen=True)
class Factor:
    """What one or several seeds have found.

    Attributes:
        kind: `shared`, or `private` to a class, wherever its members lie.
        label: the class, empty for a shared factor.
        members: at most one a seed.
    """

    kind: str
    label: str
    members: tuple[Member, ...]

    @property
    def n_found(self) -> int:
        """Seeds that found it."""
        return len(self.members)

    @property
    def agreement(self) -> float:
        """Mean over members; NaN where there is one."""
        return float(np.mean([member.agreement for member in self.members]))

    def text(self, seeds: Sequence[int]) -> str:
        """Its members in words: seed, block or z_s, dim and sign."""
        parts = [
            f"seed {seeds[one.place]} · {'z_s' if one.kind == 'shared' else self.label} · {one.dim} "
            f"{'+' if one.sign > 0 else '−'}"
            for one in self.members
        ]
        return ", ".join(parts)

    def columns(self, embedded: Sequence[AnnData], keys: dict[str, str], *, is_signed: bool = False) -> np.ndarray:
        """A number of each sample and member, (members, n); NaN outside the class of a private factor.

        Args:
            embedded: of each seed.
            keys: obsm of a shared dim, and of a dim of the own block.
            is_signed: whether members that point the other way are turned.
        """
        first = embedded[self.members[0].place]
        classes = [str(name) for name in first.uns[schema.MODEL]["classes"]]
        parts = []
        for one in self.members:
            adata = embedded[one.place]
            dim, key = one.dim, keys[one.kind]
            if key == schema.KL_PRIVATE:
                dim += classes.index(self.label) * int(adata.uns[schema.MODEL]["n_private"])
            values = np.asarray(adata.obsm[key], dtype=float)[:, dim] * (one.sign if is_signed else 1)
            parts.append(np.where(own_class(adata) == self.label, values, np.nan) if self.label else values)
        return np.stack(parts)


def own_class(embedded: AnnData) -> np.ndarray:
    """The class whose block each sample has: its label, or the likeliest class where it has none, (n,)."""
    label = embedded.obs[schema.LABEL].astype(object)
    return np.asarray(label.where(label.notna(), embedded.obs[schema.PREDICTED].astype(object)).astype(str))


def _candidates(seeds: AnnData, scope: int | None) -> np.ndarray:
    """Rows of the factors of all seeds that may be one: shared ones, or those private to the class at `scope`.

    They are active, or could not be judged and are not empty. A shared dim that a class has for itself is the class's.
    """
    obs, private_to = seeds.obs, np.asarray(seeds.obsm[schema.PRIVATE_TO])
    shared, outcome = (obs["kind"] == "shared").to_numpy(), obs["outcome"].astype(str)
    there = ((outcome == "active") | ((outcome == "under-powered") & (obs["kl"] >= EMPTY_NATS))).to_numpy()
    if scope is None:
        return np.flatnonzero(shared & there & ~private_to.any(1))
    own = (obs["class"].astype(str) == str(seeds.uns[schema.MODEL]["classes"][scope])).to_numpy()
    return np.flatnonzero((shared & private_to[:, scope]) | (~shared & there & own))


def find_factors(seeds: AnnData, settings: ReportSettings) -> list[Factor]:
    """The factors of a run, each with the latent dims of the seeds that found it.

    Args:
        seeds: what `report_seeds` gives.
        settings: `agreement`, from which on effects count as one.

    Returns:
        Shared ones, then private ones by class; of each those found in most seeds first.
    """
    obs, effect = seeds.obs, np.asarray(seeds.X)
    numbers = list(dict.fromkeys(obs["seed"].tolist()))
    found = []
    for place, scope in enumerate(("", *map(str, seeds.uns[schema.MODEL]["classes"]))):
        rows = _candidates(seeds, place - 1 if place else None)
        by_seed = [rows[(obs["seed"].iloc[rows] == number).to_numpy()] for number in numbers]
        effects = [effect[places] for places in by_seed]
        for cluster in match_factors(effects, settings.agreement):
            found.append(_factor(scope, cluster, effects, by_seed, obs))
    return found


def _factor(
    scope: str, cluster: Cluster, effects: list[np.ndarray], by_seed: list[np.ndarray], obs: pd.DataFrame
) -> Factor:
    alike, members = agreements(cluster, effects), []
    for place, position in cluster.rows.items():
        row = int(by_seed[place][position])
        kind, dim = str(obs["kind"].iloc[row]), int(obs["dim"].iloc[row])
        members.append(Member(place, row, kind, dim, cluster.signs[place], alike[place]))
    return Factor("private" if scope else "shared", scope, tuple(members))


def n_needed(n_seeds: int, settings: ReportSettings) -> int:
    """Seeds in which a factor must be found to be published; two at least, where there are as many.

    >>> [n_needed(n, ReportSettings()) for n in (1, 2, 3, 5, 10)]
    [1, 2, 2, 3, 5]
    """
    return max(math.ceil(settings.seed_share * n_seeds), min(n_seeds, 2))


def named(factors: Sequence[Factor], strength: Sequence[float], n_seeds: int, settings: ReportSettings) -> list[int]:
    """The order of the report: published first, shared before private ones, by class, the strongest first.

    Args:
        factors: as found.
        strength: of each, such as the nats that it is worth.
        n_seeds: of the run.
        settings: of the report.

    Returns:
        Places in `factors`.
    """
    needed = n_needed(n_seeds, settings)

    def key(place: int) -> tuple[bool, bool, str, float]:
        one = factors[place]
        return one.n_found < needed, one.kind == "private", one.label, -float(np.nan_to_num(strength[place]))

    return sorted(range(len(factors)), key=key)


def names_of(factors: Sequence[Factor]) -> list[str]:
    """`shared 1`, `shared 2`, …, `NK cells 1`, …: numbered within z_s and each class, in the order given."""
    counts: dict[str, int] = {}
    names = []
    for one in factors:
        scope = one.label or "shared"
        counts[scope] = counts.get(scope, 0) + 1
        names.append(f"{scope} {counts[scope]}")
    return names


def member_table(factors: Sequence[Factor], names: Sequence[str], seeds: AnnData) -> pd.DataFrame:
    """A row a member: factor, seed, kind, class, dim, sign, agreement, outcome in its seed."""

    def rows() -> Iterator[tuple[object, ...]]:
        for name, one in zip(names, factors, strict=True):
            for member in one.members:
                of = seeds.obs.iloc[member.row]
                yield (
                    name, int(of["seed"]), member.kind, one.label, member.dim, member.sign, member.agreement,
                    str(of["outcome"]),
                )  # fmt: skip

    return pd.DataFrame(list(rows()), columns=MEMBER_COLUMNS)


def scores_of(factors: Sequence[Factor], embedded: Sequence[AnnData]) -> tuple[np.ndarray, np.ndarray]:
    """Score of each sample on each factor, (n, factors), and its standard deviation over members.

    The score is the mean of its members' posterior means, in standard deviations of the prior; NaN for samples of
    classes that cannot have the factor. The deviation is NaN where one seed alone found it.
    """
    means = np.full((embedded[0].n_obs, len(factors)), np.nan, np.float32)
    spread = means.copy()
    for place, one in enumerate(factors):
        values = one.columns(embedded, MEAN_OF, is_signed=True)
        means[:, place] = values.mean(0)
        spread[:, place] = values.std(0, ddof=1) if len(values) > 1 else np.nan
    return means, spread


def losses_of(factors: Sequence[Factor], embedded: Sequence[AnnData]) -> np.ndarray:
    """log-likelihood of each held-out sample that is lost where a factor is set to the mean of its prior, (n, factors).

    In nats, mean over its members; NaN outside the class of a private factor, and in training samples of shared ones.
    """
    parts = [one.columns(embedded, GAIN_OF) + one.columns(embedded, KL_OF) for one in factors]
    return np.stack([part.mean(0) for part in parts], axis=1) if parts else np.zeros((embedded[0].n_obs, 0))


def kl_of(factors: Sequence[Factor], embedded: Sequence[AnnData]) -> np.ndarray:
    """KL of each sample and factor, nats, (n, factors): mean over its members; NaN outside a private one's class."""
    parts = [one.columns(embedded, KL_OF).mean(0) for one in factors]
    return np.stack(parts, axis=1) if parts else np.zeros((embedded[0].n_obs, 0))
