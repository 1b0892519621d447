"""The command that runs the whole workflow."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from nvae_bio.cli.base import FOLDER, cli
from nvae_bio.errors import UserError

DEFAULT = Path("config/config.yaml")  # as Snakemake has it
COPIES = Path("resources/examples")  # where the config of an example is put, in the working folder


class _WithOptions(click.Command):
    """A command after whose `--` come options of another program."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep them in `ctx.obj`."""
        split = args.index("--") if "--" in args else len(args)
        ctx.obj = tuple(args[split + 1 :])
        return super().parse_args(ctx, args[:split])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The first line of the help."""
        return [*super().collect_usage_pieces(ctx), "[-- SNAKEMAKE OPTIONS]"]


def _cores(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"all|[1-9]\d*", value):
        raise click.BadParameter(f"{value!r} is not allowed: should be a number from 1 on, or all")
    return value


@cli.command(cls=_WithOptions)
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--example", metavar="NAME", help="run one of the configs that come with nvae-bio (--list)")
@click.option("--list", "listing", is_flag=True, help="list these examples, and the profiles; run nothing")
@click.option(
    "--cores", metavar="N|all", callback=_cores, help="CPU cores to use; default: all, or what the profile says"
)
@click.option("--folder", type=FOLDER, default=Path(), help="working folder; default: the current one")
@click.option("--profile", metavar="NAME|FOLDER", help="profile of a cluster: slurm, or a folder of your own")
@click.option(
    "--copy", type=click.Path(path_type=Path), metavar="PATH",
    help="copy the example (a file) or the profile (a folder) there, to change it; run nothing",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="tell which jobs there would be")
@click.option(
    "--report/--no-report", default=None, help="make report.html in the end; default: unless there are further options"
)
@click.pass_obj
def run(
    options: tuple[str, ...],
    config: Path | None,
    example: str | None,
    listing: bool,
    cores: str | None,
    folder: Path,
    profile: str | None,
    copy: Path | None,
    dry_run: bool,
    report: bool | None,
) -> None:
    """Run the whole workflow on a config, or on an example, in the current folder.

    The config is CONFIG, or config/config.yaml. Its paths begin in the working folder, where resources/, results/,
    logs/ and report.html are made. What is there already is not made again.

    \b
    Examples:
      nvae-bio run --example pbmc68k
      nvae-bio run --example kang --copy mine.yaml
      nvae-bio run mine.yaml --cores 8 -- --use-conda
      nvae-bio run mine.yaml --profile slurm
    """
    from nvae_bio.run import Call
    from nvae_bio.run import run as run_workflow
    from nvae_bio.shipped import profile_folder

    if listing:
        _list()
        return
    if copy is not None:
        _copy(example, profile, copy)
        return
    found = None if profile is None else profile_folder(profile)
    cores = cores or ("all" if found is None else None)
    report = not options if report is None else report
    with _config(config, example, folder, dry_run) as file:
        places = run_workflow(Call(file, folder, cores, found, dry_run, report, options))
    if places and report:
        click.echo("\n".join(["Results:", *(f"  {place}" for place in places)]))


@contextmanager
def _config(config: Path | None, example: str | None, folder: Path, dry_run: bool) -> Iterator[Path]:
    """The config file that is meant; of an example one that is written, for a dry run outside of the folder."""
    from nvae_bio.data.atomic import atomic_path
    from nvae_bio.shipped import example as example_of

    if config is not None and example is not None:
        raise UserError("run: CONFIG and --example are both given; allowed: one of them")
    if example is None:
        if config is None and not DEFAULT.exists():
            raise UserError(f"run: give a CONFIG or an --example (--list); there is no {DEFAULT} here, either")
        yield config or DEFAULT
        return
    text = example_of(example).text
    with tempfile.TemporaryDirectory() as scratch:
        file = (Path(scratch) if dry_run else folder / COPIES) / f"{example}.yaml"
        with atomic_path(file) as part:
            part.write_text(text, encoding="utf-8")
        yield file


def _list() -> None:
    from nvae_bio.shipped import examples, profiles, workflow_folder

    found = examples().values()
    width = max(len(example.name) for example in found)
    click.echo("\n".join(f"{example.name:{width}}  {example.about}" for example in found))
    click.echo(f"\nProfiles: {', '.join(profiles())}. The keys of a config: {workflow_folder() / 'config/README.md'}")


def _copy(example: str | None, profile: str | None, to: Path) -> None:
    from nvae_bio.data.atomic import atomic_folder, atomic_path
    from nvae_bio.shipped import example as example_of
    from nvae_bio.shipped import profile_folder

    if (example is None) == (profile is None):
        raise UserError("--copy: give either --example or --profile, which is copied")
    if to.exists():
        raise UserError(f"--copy: {to} is there already; name a new one")
    if example is not None:
        text = example_of(example).text
        with atomic_path(to) as part:
            part.write_text(text, encoding="utf-8")
    elif profile is not None:
        source = profile_folder(profile)
        with atomic_folder(to) as part:
            for file in source.glob("*"):
                shutil.copyfile(file, part / file.name)  # not its mode, which may be read-only
