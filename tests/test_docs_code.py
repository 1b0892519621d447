"""All code in the documentation runs, or is held against what there is; break a page to see a test fail."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import matplotlib.pyplot as plt
import pytest
import yaml

from nvae_bio.cli import cli, main
from nvae_bio.errors import UserError
from tests.docs_code import (
    CHECKS,
    PAGES,
    ROOT,
    Block,
    Command,
    as_config,
    blocks,
    check_arguments,
    check_inline,
    check_yaml_block,
    commands,
    inline_code,
    text_of,
)
from tests.docs_files import make_files, names_in_memory

# languages of blocks that nothing is done with, but for `text`, which is no code
SHOWN = {"r": "the test environment has no R"}
PARTITION = "slurm_partition=cpu slurm_account=mylab"
NEEDS_CONDA = "the profile for SLURM asks for conda, also in a dry run; tests/test_slurm.py has it"
# commands of nvae-bio that are parsed and not run; every other one runs on the files of tests/docs_files.py, `run` as a
# dry run
PARSED_ONLY = {
    f"nvae-bio run mine.yaml --profile slurm -- --default-resources {PARTITION}": NEEDS_CONDA,
    "nvae-bio run mine.yaml --profile ./profile": NEEDS_CONDA,
    "torchrun --standalone --nproc-per-node=4 -m nvae_bio train --data …": "several processes; see tests/test_ranks.py",
    "srun --nodes=2 --ntasks-per-node=4 --kill-on-bad-exit=1 python -m nvae_bio train --data …": "a cluster",
}
# programs of others, and why no call of them is looked into
OTHERS = {
    "cellxgene": "not installed: it needs older versions of what it shares with this package",
}
# configs that fragments of a page lean on
BASES = {"docs/studies/README.md": "config/studies/planted.yaml"}


def of_language(language: str) -> list[str]:
    return [page for page in PAGES if blocks(page, language)]


def shell(page: str) -> Iterator[Command]:
    for block in blocks(page, "bash"):
        yield from commands(block.text, f"{page}:{block.line}")


def base_of(page: str) -> dict[str, object]:
    if page not in BASES:
        return {}
    values: dict[str, object] = yaml.safe_load((ROOT / BASES[page]).read_text(encoding="utf-8"))
    return values


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that pages name."""
    folder = tmp_path_factory.mktemp("docs")
    make_files(folder)
    return folder


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a copy of them."""
    shutil.copytree(files, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


# --- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    known = {"bash", "python", "text", "yaml", *SHOWN}
    for block in blocks(page):
        assert block.language in known or block.language.startswith("{"), f"{page}:{block.line}: {block.language!r}"
    if blocks(page, "{code-cell}"):
        assert text_of(page).startswith("---\nfile_format: mystnb\n"), page  # without it no cell runs


def test_every_page_of_the_site_is_in_a_toctree() -> None:
    named = [line for block in blocks("docs/index.md", "{toctree}") for line in block.text.split() if line[0] != ":"]
    found = {path.with_suffix("") for name in named for path in (ROOT / "docs").glob(f"{name}.*")}
    pages = {(ROOT / page).with_suffix("") for page in PAGES if page.startswith("docs/")}
    assert pages - found == {ROOT / "docs" / "index"}


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of matplotlib, about what scanpy calls
@pytest.mark.parametrize("page", of_language("python"))
def test_python_runs(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nvae_bio.train.step.usual_epochs", lambda n_samples: 30)  # for 400 where a page names none
    names = names_in_memory()
    before = {*names, *folder.rglob("*")}
    for block in blocks(page, "python"):
        code = "\n" * block.line + block.text  # a traceback has the line of the page
        exec(compile(code, str(ROOT / page), "exec"), names)
    made = {*names, *folder.rglob("*")} - before - {"__builtins__"}
    assert made or capsys.readouterr().out, f"{page}: its code makes and says nothing"
    plt.close("all")


@pytest.mark.parametrize("page", of_language("yaml"))
def test_yaml_is_a_config_or_a_part_of_one(page: str, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        try:
            check_yaml_block(block, tmp_path, base_of(page))
        except (UserError, ValueError) as error:
            pytest.fail(f"{page}:{block.line}: {error}")


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", of_language("bash"))
def test_commands_are_understood(page: str) -> None:
    for command in shell(page):
        try:
            if command.arguments is not None:
                check_arguments(command.arguments)
            elif command.program in CHECKS:
                CHECKS[command.program](list(command.words[1:]))
            else:
                assert command.program in OTHERS, f"{command.where}: {command.program!r} is not known here"
        except (click.ClickException, ValueError) as error:
            pytest.fail(f"{command.where}: {command.text}: {error}")


def runnable(page: str) -> list[Command]:
    return [one for one in shell(page) if one.arguments is not None and one.text not in PARSED_ONLY]


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)])
def test_commands_run(page: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for command in runnable(page):
        arguments = list(command.arguments or [])
        if arguments[0] == "run" and not {"--list", "--copy"} & set(arguments):
            arguments.insert(1, "--dry-run")
        code = main(arguments)
        said = capfd.readouterr()
        assert code == 0, f"{command.where}: {command.text}: {said.out[-500:]}{said.err[-500:]}"


def test_what_is_left_out_is_there() -> None:
    found = [command for page in PAGES for command in shell(page)]
    assert set(PARSED_ONLY) <= {command.text for command in found}
    assert set(OTHERS) <= {command.program for command in found}
    assert set(SHOWN) <= {block.language for page in PAGES for block in blocks(page)}
    assert set(BASES) <= set(of_language("yaml"))


INLINE = re.compile(r"(nvae-bio|snakemake|make|python) \S")


@pytest.mark.parametrize("page", [page for page in PAGES if any(map(INLINE.match, inline_code(page)))])
def test_commands_in_running_text_are_there(page: str) -> None:
    for code in filter(INLINE.match, inline_code(page)):
        try:
            check_inline(code)
        except ValueError as error:
            pytest.fail(f"{page}: `{code}`: {error}")


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_examples_of_the_help_are_understood(name: str) -> None:
    said = cli.commands[name].help or ""
    lines = re.split(r"Examples?:\n", said)[1]
    examples = list(commands(lines))
    assert examples and all(example.words[0] == "nvae-bio" for example in examples)
    for example in examples:
        check_arguments(list(example.words[1:]))


# --- the checks themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        "nvae-bio trian --data x", "nvae-bio train --dta x", "nvae-bio init", "nvae-bio run mine.yaml -- --nonsense",
        "snakemake --confgfile x", "snakemake --configfile config/none.yaml", "make nothing", "make run CONF=x",
        "python -m benchmarks.none", "python -m tests.fuzz --rader x", "python tools/lock.py --chck",
        "pip install 'nvae-bio[none]'",
    ],
)  # fmt: skip
def test_a_wrong_command_is_found(wrong: str) -> None:
    (command,) = commands(wrong)
    with pytest.raises((click.ClickException, ValueError)):
        if command.arguments is not None:
            check_arguments(command.arguments)
        else:
            CHECKS[command.program](list(command.words[1:]))


@pytest.mark.parametrize("wrong", ["nvae-bio trian", "nvae-bio run --exmple x", "make nothing", "snakemake --unlok"])
def test_a_wrong_command_in_running_text_is_found(wrong: str) -> None:
    with pytest.raises(ValueError):
        check_inline(wrong)


@pytest.mark.parametrize("wrong", ["runs: {mine: {dataset: mine, sed: [1]}}", "model: {n_shred: 3}", "nothing: 1"])
def test_a_wrong_fragment_is_found(wrong: str, tmp_path: Path) -> None:
    with pytest.raises((UserError, ValueError)):
        check_yaml_block(Block("page", 1, "yaml", wrong), tmp_path)


def test_fragments_become_configs() -> None:
    assert as_config({"model": {}})["runs"] == {"mine": {"dataset": "mine", "model": {}}}
    assert as_config({"runs": {"a": {"dataset": "b"}}})["datasets"].keys() == {"b"}
    assert as_config({"qc": {}})["runs"] == {"mine": {"dataset": "mine"}}
    assert "study" not in as_config({"label_swaps": 0.1})
