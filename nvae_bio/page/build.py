"""A page as text: everything in one file, safe to open, and the same for the same results."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from nvae_bio import schema
from nvae_bio.citation import CITATION
from nvae_bio.config import PageSettings
from nvae_bio.page import judged, pictures, told
from nvae_bio.page.points import pack_points
from nvae_bio.page.results import RunResults, check_results
from nvae_bio.page.tables import Link, Mark
from nvae_bio.page.viewer import bokeh_script, palettes, viewer_item
from nvae_bio.plot.style import house_style

TEMPLATES = files("nvae_bio.page") / "templates"


def build_page(results: RunResults, settings: PageSettings | None = None, name: str = "run") -> str:
    """The one-page report of a run, HTML that needs no other file, no network and no Python.

    Args:
        results: all files of the run, in memory.
        settings: how much the page holds; the defaults if None.
        name: of the run, for the title.

    Returns:
        The text, to be written as UTF-8. The same results and settings give the same text.

    Raises:
        UserError: the results are not all of one run.
    """
    check_results(results)
    settings = settings or PageSettings()
    environment = Environment(
        loader=PackageLoader("nvae_bio.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.tests |= {"link": lambda cell: isinstance(cell, Link), "mark": lambda cell: isinstance(cell, Mark)}
    with house_style():
        return environment.get_template("page.html.j2").render(
            **_scripts(), **_told(results), **_judged(results, settings), name=name, **_embedded_data(results, settings)
        )


def _scripts() -> dict[str, Any]:
    """Code and looks that all pages share, and the policy that lets a browser run these alone and ask no network."""
    code = {"library": bokeh_script(), "script": (TEMPLATES / "page.js").read_text(encoding="utf-8")}
    allowed = " ".join(f"'sha256-{_digest(text)}'" for text in code.values())
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    return {"policy": policy, "style": Markup(style), **{key: Markup(text) for key, text in code.items()}}


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded_data(results: RunResults, settings: PageSettings) -> dict[str, Any]:
    """Points of the embeddings and the figure that shows them, as JSON that cannot end the script that it stands in."""
    points = pack_points(results, settings)
    dumps = partial(json.dumps, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    data = {"points": points, "figure": viewer_item(), "palettes": palettes()}
    return {"points": points, "data": htmlsafe_json_dumps(data, dumps=dumps)}


def _told(results: RunResults) -> dict[str, Any]:
    """Data, training, settings and provenance."""
    return {
        "kind": results.kind,
        "variant": results.variant,
        "nouns": told.nouns(results),
        "facts": told.facts(results),
        "data_said": told.told_of_data(results),
        "removed": told.removed_table(results),
        "class_sizes": told.class_table(results),
        "data_picture": pictures.data_picture(results),
        "training_said": told.told_of_training(results),
        "training": told.training_table(results),
        "history_picture": pictures.history_picture(results),
        "evaluation": told.evaluation_table(results),
        "settings_tables": told.settings_tables(results),
        "versions": told.versions_table(results),
        "provenance": told.provenance_table(results),
        "citation": CITATION,
        "version": str(results.factors.uns[schema.MODEL]["version"]),
        "fingerprint": str(results.factors.uns[schema.MODEL]["fingerprint"]),
    }


def _judged(results: RunResults, settings: PageSettings) -> dict[str, Any]:
    """Factors and audits."""
    suspects, suspects_said = judged.suspects_table(results)
    return {
        "headline": " ".join(judged.words(results)[""]),
        "said": {
            heading: judged.linked_words(results, heading) for heading in ("Shared", "Private", "Capacity", "Notes")
        },
        "classes": results.classes,
        "map": judged.factor_map(results),
        "factors": judged.factor_sections(results, settings),
        "apart": judged.apart_table(results),
        "capacity": judged.capacity_table(results),
        "power": judged.power_parts(results),
        "verdicts": judged.leakage_verdicts(results),
        "leakage": judged.leakage_table(results),
        "suspects": suspects,
        "suspects_said": suspects_said,
        "drawn": pictures.generated_pictures(results),
    }
