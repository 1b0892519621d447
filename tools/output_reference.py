"""The reference of all files, made from the descriptions in nvae_bio/schema.

python tools/output_reference.py            write the tables in the pages
python tools/output_reference.py --check    exit code 1 where they are not up to date

A table stands between the lines `<!-- keys of NAME -->` and `<!-- end of keys -->`; all else is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from nvae_bio import schema
from nvae_bio.schema.provenance import PROVENANCE, is_provenance
from nvae_bio.schema.reference import KINDS
from nvae_bio.schema.slot import Kind, Slot
from tools.generated import write_or_check

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = (DOCS / "outputs.md", DOCS / "simulate.md")
BLOCK = re.compile(r"(?<=<!-- keys of )(\S+)( -->\n).*?(?=<!-- end of keys -->)", re.DOTALL)


def table(kind: Kind) -> Iterator[str]:
    """What a row is, of a table; then a line a key. Columns that nothing is in are left out."""
    told = [slot for slot in kind.slots if kind is PROVENANCE or not is_provenance(slot)]
    rows = [(f"`{slot.name}`", _shape(slot), slot.unit, _meaning(slot), slot.when) for slot in told]
    if len(told) < len(kind.slots):
        rows.append((f'`uns["{schema.MODEL}"]`', "", "", _provenance(kind), ""))
    titles = ("key" if kind.columns else "column", "shape", "unit", "meaning", "only with")
    if not kind.columns:
        yield from (f"A row is {kind.rows}.", "")
    used = [place for place in range(len(titles)) if any(row[place] for row in rows)]
    yield _line(titles[place] for place in used)
    yield "|" + "---|" * len(used)
    for row in rows:
        yield _line(row[place] for place in used)


def _provenance(kind: Kind) -> str:
    """Where the file comes from, in one row; what each entry is has a table of its own."""
    names = (
        f"`{slot.key.partition('/')[2]}`" + (f" ({slot.when})" if slot.when else "")
        for slot in kind.slots
        if is_provenance(slot)
    )
    return f"[where the file comes from](#unsnvae): {', '.join(names)}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shape(slot: Slot) -> str:
    if slot.columns:
        return "table"
    return "" if slot.shape == "" else f"({slot.shape}{'' if ',' in slot.shape else ','})"


def _meaning(slot: Slot) -> str:
    """With the columns of a table, each with what its name does not tell."""
    if not slot.columns:
        return slot.meaning
    parts = (column.partition(": ") for column in slot.columns)
    return f"{slot.meaning}. Columns: {', '.join(f'{name} ({told})' if told else name for name, _, told in parts)}"


def render(text: str, page: str) -> str:
    """A page with its tables made anew.

    Args:
        text: of the page.
        page: its name, for messages.

    Raises:
        SystemExit: a table of a kind that is not there.
    """

    def made(block: re.Match[str]) -> str:
        if block[1] not in KINDS:
            raise SystemExit(f"{page}: keys of {block[1]!r}; allowed: {', '.join(KINDS)}")
        return f"{block[1]}{block[2]}" + "".join(f"{line}\n" for line in table(KINDS[block[1]]))

    return BLOCK.sub(made, text)


def main(argv: list[str] | None = None) -> int:
    """Write the pages, or compare them; each kind must be in one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    args = parser.parse_args(argv)
    old = {page: page.read_text(encoding="utf-8") for page in PAGES}
    shown = {name for text in old.values() for name, _ in BLOCK.findall(text)}
    if lacking := [name for name, kind in KINDS.items() if kind.slots and name not in shown]:
        print(f"no page has the keys of {lacking[0]}: give it the two lines in {PAGES[0].name}", file=sys.stderr)
        return 1
    new = {page: render(text, page.name) for page, text in old.items()}
    return write_or_check(new, "tools/output_reference.py", check=args.check)


if __name__ == "__main__":
    sys.exit(main())
