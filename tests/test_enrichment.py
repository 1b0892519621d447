"""Gene sets among the top genes of factors: the test, its background, the file, real data."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, fisher_exact, hypergeom

from nvae_bio.errors import UserError
from nvae_bio.factors.enrichment import COLUMNS, enrich, read_gene_sets

N_GENES = 400
GENES = [f"gene{number}" for number in range(N_GENES)]
MARKERS = {
    "INTERFERON_RESPONSE": "ISG15 IFI6 IFIT1 IFIT2 IFIT3 MX1 MX2 ISG20 IFITM1 IFITM2 IFITM3 OAS1 LY6E IFI35 STAT1 IRF7",
    "B_CELL": "CD79A CD79B MS4A1 CD19 BANK1 TCL1A CD74 HLA-DRA BLNK",
    "NK_CELL": "GNLY NKG7 GZMB PRF1 KLRD1 FGFBP2 CST7 KLRF1 GZMA",
    "MONOCYTE": "LYZ S100A8 S100A9 CD14 FCN1 VCAN FCGR3A MS4A7 CST3 TYROBP",
    "T_CELL": "CD3D CD3E CD3G CD2 IL7R LTB CCR7 TRAC CD8A",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked up, in any test of this file."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def make_sets(sizes: Sequence[int], seed: int = 0) -> pd.DataFrame:
    """Random gene sets of these sizes, named set0, set1, …"""
    rng = np.random.default_rng(seed)
    rows = [(f"set{k}", gene) for k, size in enumerate(sizes) for gene in rng.choice(GENES, size, replace=False)]
    return pd.DataFrame(rows, columns=["source", "target"])


def make_effects(n_factors: int, seed: int = 1) -> tuple[np.ndarray, list[str]]:
    """Effects without any meaning, (factors, genes), and names of the factors."""
    return np.random.default_rng(seed).normal(size=(n_factors, N_GENES)), [f"f{k}" for k in range(n_factors)]


def make_gmt(path: Path, sets: dict[str, str]) -> Path:
    lines = [f"{name}\tmarkers of {name.lower()}\t" + "\t".join(genes.split()) for name, genes in sets.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_p_is_that_of_scipy_against_the_genes_of_the_data() -> None:
    effect, factors = make_effects(2)
    sets = make_sets([3, 10, 40, 150])
    outside = pd.DataFrame([("set0", f"elsewhere{k}") for k in range(500)], columns=["source", "target"])
    table, notes = enrich(effect, GENES, factors, pd.concat([sets, outside]), n_top=30)
    assert (len(table), notes) == (2 * 2 * 4, [])
    assert (table["n_overlap"] > 0).sum() > 8
    for _, row in table.iterrows():
        sign = 1 if row["direction"] == "up" else -1
        top = set(np.array(GENES)[np.argsort(-sign * effect[factors.index(row["factor"])])[:30]])
        members = set(sets.loc[sets["source"] == row["set"], "target"])
        k, m = len(top & members), len(members)
        counts = [[k, m - k], [30 - k, N_GENES - m - 30 + k]]
        assert (row["n_overlap"], row["n_set"], row["n_top"]) == (k, m, 30)
        assert row["p"] == pytest.approx(hypergeom.sf(k - 1, N_GENES, m, 30), rel=1e-10)
        assert row["p"] == pytest.approx(fisher_exact(counts, alternative="greater").pvalue, rel=1e-10)
        assert row["fold"] == pytest.approx(k / 30 * N_GENES / m)
        assert set(filter(None, row["genes"].split(","))) == top & members


def test_q_is_over_all_factors_directions_and_sets() -> None:
    effect, factors = make_effects(3)
    effect[1, :12] += 5
    sets = pd.concat([make_sets([20] * 10), pd.DataFrame({"source": "planted", "target": GENES[:12]})])
    table, _ = enrich(effect, GENES, factors, sets, n_top=25)
    assert len(table) == 3 * 2 * 11
    np.testing.assert_allclose(table["q"], false_discovery_control(table["p"]))
    assert table["q"].min() == pytest.approx(66 * table["p"].min())


def test_a_planted_set_is_found_first_with_its_strongest_genes_first() -> None:
    effect, factors = make_effects(2)
    effect[1, :20] = -np.arange(10, 30)
    sets = pd.concat([make_sets([20] * 30), pd.DataFrame({"source": "planted", "target": GENES[:20]})])
    table, _ = enrich(effect, GENES, factors, sets, n_top=30)
    first = table[(table["factor"] == "f1") & (table["direction"] == "down")].iloc[0]
    assert (first["set"], first["n_overlap"], first["fold"]) == ("planted", 20, pytest.approx(20 / 30 * N_GENES / 20))
    assert first["genes"].split(",") == GENES[19::-1]
    assert first["q"] < 1e-10
    others = table.drop(index=first.name)
    assert others["q"].min() > 0.05


def test_random_effects_have_no_too_small_p() -> None:
    effect, factors = make_effects(10, seed=4)
    sets = make_sets(np.random.default_rng(5).integers(3, 60, 200).tolist(), seed=6)
    table, _ = enrich(effect, GENES, factors, sets, n_top=50)
    assert len(table) == 10 * 2 * 200
    for level in (0.01, 0.05, 0.2):
        assert 0.3 * level < (table["p"] <= level).mean() <= 1.2 * level


def test_turned_effects_swap_up_and_down() -> None:
    effect, factors = make_effects(2)
    sets = make_sets([10, 30, 60])
    table, _ = enrich(effect, GENES, factors, sets, n_top=30)
    turned, _ = enrich(-effect, GENES, factors, sets, n_top=30)
    turned["direction"] = turned["direction"].map({"up": "down", "down": "up"})
    keys = ["factor", "direction", "set"]
    pd.testing.assert_frame_equal(table.set_index(keys).sort_index(), turned.set_index(keys).sort_index())


def test_the_order_of_genes_does_not_matter() -> None:
    effect, factors = make_effects(2)
    sets = make_sets([10, 30, 60])
    order = np.random.default_rng(2).permutation(N_GENES)
    table, _ = enrich(effect, GENES, factors, sets, n_top=30)
    shuffled, _ = enrich(effect[:, order], [GENES[k] for k in order], factors, sets, n_top=30)
    pd.testing.assert_frame_equal(table, shuffled)


def test_only_genes_of_the_sign_are_top_genes() -> None:
    effect = np.zeros((1, N_GENES))
    effect[0, :4], effect[0, 4:10], effect[0, 10] = 1, -1, np.nan
    sets = pd.DataFrame({"source": "first", "target": GENES[:20]})
    table, notes = enrich(effect, GENES, ["f"], sets, n_top=50)
    assert table.set_index("direction")["n_top"].to_dict() == {"up": 4, "down": 6}
    assert table.set_index("direction")["genes"].to_dict() == {
        "up": ",".join(GENES[:4]),
        "down": ",".join(GENES[4:10]),
    }
    assert notes == []
    table, notes = enrich(np.abs(effect), GENES, ["f"], sets, n_top=50)
    assert table["direction"].tolist() == ["up"]
    assert notes == ["factor f moves no gene down: no gene set is tested there"]


def test_sets_without_a_top_gene_have_p_1() -> None:
    effect = np.linspace(1, -1, N_GENES)[None]
    table, _ = enrich(effect, GENES, ["f"], pd.DataFrame({"source": "middle", "target": GENES[190:210]}), n_top=50)
    assert table[["direction", "n_overlap", "fold", "p", "q", "genes"]].to_numpy().tolist() == [
        ["up", 0, 0, 1, 1, ""],
        ["down", 0, 0, 1, 1, ""],
    ]


def test_small_sets_are_counted_and_not_tested() -> None:
    effect, factors = make_effects(1)
    sets = pd.concat([make_sets([2, 5, 1, 8]), pd.DataFrame({"source": "elsewhere", "target": ["a", "b", "c", "d"]})])
    table, notes = enrich(effect, GENES, factors, sets, n_top=30)
    assert set(table["set"]) == {"set1", "set3"}
    assert notes == ["3 of 5 gene sets have fewer than 3 genes in the data and are not tested"]
    table, notes = enrich(effect, GENES, factors, sets, n_top=30, min_genes=9)
    assert (list(table.columns), len(table)) == (list(COLUMNS), 0)
    assert notes == ["5 of 5 gene sets have fewer than 9 genes in the data and are not tested"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["ENSG01", "ENSG02"], "the sets have 'ENSG01', the data 'gene0': name them the same way"),
        (
            ["Other", "GENE7"],
            "the sets have 'GENE7', the data 'gene7': they differ in upper and lower case; of another ",
        ),
    ],
)
def test_sets_of_other_names_are_refused_with_examples(targets: list[str], message: str) -> None:
    effect, factors = make_effects(1)
    with pytest.raises(UserError, match=rf"^report\.gene_sets: no gene of them is in the data; {message}.*$"):
        enrich(effect, GENES, factors, pd.DataFrame({"source": "set", "target": targets}), n_top=30)


def test_read_gene_sets_takes_tabs_alone_for_ends_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "sets.gmt"
    path.write_bytes("\ufeffmy set\ta few words\tA\tB \tA\t\t\r\n\r\nsecond\t\tC\r\n".encode())
    sets = read_gene_sets(path)
    assert sets.to_numpy().tolist() == [["my set", "A"], ["my set", "B"], ["second", "C"]]
    assert list(sets.columns) == ["source", "target"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no gene set; a line has a name, a description and one gene at least"),
        ("\n \n", "holds no gene set"),
        ("one\ttext\tA\ntwo text A B\n", r"line 2 \('two text A B'\) is no gene set"),
        ("one\ttext\tA\n\ntwo\ttext\t\t\n", r"line 3 \('two.*'\) is no gene set"),
        ("\ttext\tA\n", "line 1 .* is no gene set"),
        ("one\ttext\tA\ntwo\ttext\tA\none\ttext\tB\n", "line 3: there is a gene set 'one' already"),
        (b"\x89HDF\r\n\x1a\n\xff\xfe", "cannot be read as gene sets in a .gmt file"),
    ],
)
def test_read_gene_sets_refuses_what_is_no_gmt(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sets.gmt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=message) as caught:
        read_gene_sets(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_read_gene_sets_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.gmt: no such file or folder; expected gene sets in a \.gmt file"):
        read_gene_sets(tmp_path / "none.gmt")


def test_stimulated_blood_cells_answer_interferon(data_folder: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(data_folder / "kang_muscat_ctrl_stim" / "kang_muscat_ctrl_stim.h5ad")
    counts = adata.X.toarray()
    logged = np.log1p(10_000 * counts / counts.sum(1, keepdims=True))
    stimulated = (adata.obs["condition"] == "stim").to_numpy()
    effect = logged[stimulated].mean(0) - logged[~stimulated].mean(0)
    sets = read_gene_sets(make_gmt(tmp_path / "markers.gmt", MARKERS))
    table, _ = enrich(effect[None], list(adata.var_names), ["stimulation"], sets, n_top=30)
    up = table[table["direction"] == "up"].set_index("set")
    assert up.index[0] == "INTERFERON_RESPONSE"
    assert up["q"].iloc[0] < 1e-4
    assert up["genes"].iloc[0].split(",")[0] in {"ISG15", "ISG20", "IFIT1", "IFIT3", "IFI6", "IFITM3"}
    assert up["q"].iloc[1:].min() > 0.05
    assert table[table["direction"] == "down"].set_index("set")["q"]["INTERFERON_RESPONSE"] > 0.5
