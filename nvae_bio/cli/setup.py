"""Commands before and beside a run: a config for one's own files, a check of it, the machine, completion."""

from __future__ import annotations

from pathlib import Path

import click

from nvae_bio.cli.base import FILE, cli
from nvae_bio.cli.complete import SHELLS, complete_runs, script

PATH = click.Path(path_type=Path)


@cli.command()
@click.argument("files", nargs=-1, type=PATH, required=True)
@click.option("--output", type=FILE, default=Path("config.yaml"), show_default=True, help="config to write (.yaml)")
@click.option("--force", is_flag=True, help="write over a config that is there")
def init(files: tuple[Path, ...], output: Path, force: bool) -> None:
    """Look into FILES (or a folder of them) and write a commented config for them.

    Whether they hold counts, images or features is told from their values; columns that could be the class, the batch,
    the donor or the condition are listed in comments. No matrix is read whole.

    \b
    Examples:
      nvae-bio init cells.h5ad
      nvae-bio init run1/ run2/ --output mine.yaml
    """
    from nvae_bio.init import init as run

    proposal = run(files, output, force)
    for line in proposal.said:
        click.echo(line)
    for key in ("label_key", "donor_key", "condition_key", "batch_key"):
        if key in proposal.dataset:
            click.echo(f"{key}: {proposal.dataset[key]}")
    for line in proposal.undecided:
        click.echo(f"to decide: {line}")
    click.echo(f"{output} is written; next: nvae-bio check {output}")


@cli.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script that completes commands, options, files and entries of configs in a shell.

    \b
    Examples:
      nvae-bio completion bash >>~/.bash_completion
      nvae-bio completion zsh >"${fpath[1]}/_nvae-bio"
      nvae-bio completion fish >~/.config/fish/completions/nvae-bio.fish
    """
    click.echo(script(shell), nl=False)


@cli.command()
@click.argument("config", type=FILE)
@click.option(
    "--run", "runs", multiple=True, shell_complete=complete_runs, help="name of a run to look at; all if none is given"
)
@click.option("--no-trial", is_flag=True, help="time no training steps; estimates come from the formula alone")
@click.pass_context
def check(context: click.Context, config: Path, runs: tuple[str, ...], no_trial: bool) -> None:
    """Validate CONFIG, open its data cheaply, and estimate what its runs take.

    Every problem is a line on standard error, and the exit code is then 2. Nothing is written.

    \b
    Examples:
      nvae-bio check config.yaml
      nvae-bio check config/config.yaml --run pbmc68k --no-trial
    """
    from nvae_bio.check import check as run
    from nvae_bio.check.show import lines

    checked = run(config, runs, trial=not no_trial)
    for line in lines(checked):
        click.echo(line)
    for problem in checked.problems:
        click.echo(f"nvae-bio: {problem}", err=True)
    if checked.problems:
        context.exit(2)
    click.echo(f"{config}: no problem found; next: nvae-bio run {config}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="print a list of name, state and text as JSON")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Look at this machine and installation: versions, processors, memory, GPU, disk, SLURM, conda.

    Each line is ok, a note (not needed, or slow) or a problem (needed and broken), for which the exit code is 2.

    \b
    Examples:
      nvae-bio doctor
      nvae-bio doctor --json
    """
    import json
    from dataclasses import asdict

    from nvae_bio.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            click.echo(f"{finding.state:8}{finding.name:{width + 2}}{finding.text}")
    if any(finding.state == "problem" for finding in findings):
        context.exit(2)
