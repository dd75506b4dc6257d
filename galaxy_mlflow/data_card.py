"""What a folder of fetched pictures says of itself, and its class counts beside the published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from galaxy_mlflow.data_settings import PAPER_FRACTIONS
from galaxy_mlflow.fetch import MANIFEST, MISSING, Fetched
from galaxy_mlflow.nair_abraham import LabelMap, class_of_ttype
from galaxy_mlflow.surveys import SERVERS, Cutouts
from galaxy_mlflow.targets import PUBLISHED_TTYPES, Target

CREDITS: Final[dict[str, str]] = {
    "sdss": (
        "Pictures: Sloan Digital Sky Survey, SkyServer image cutouts (g, r, i; Lupton et al. "
        "2004). SDSS data are public; use them as https://www.sdss.org/collaboration/citing-sdss "
        "asks, and say that they are from SDSS."
    ),
    "legacy": (
        "Pictures: DESI Legacy Imaging Surveys (Dey et al. 2019, AJ 157, 168), viewer cutouts. "
        "The data are public; use them as https://www.legacysurvey.org/acknowledgment asks."
    ),
}
NAIR_ABRAHAM: Final = (
    "Catalogue: Nair & Abraham 2010, ApJS 186, 427 (VizieR J/ApJS/186/427). Cite it, and VizieR "
    "(Ochsenbein et al. 2000, A&AS 143, 23)."
)


@dataclass(frozen=True)
class Verdict:
    """Class counts of the galaxies that have a picture, against the published ones.

    Attributes
    ----------
    found, published : label map -> class -> galaxies
    """

    found: Mapping[str, Mapping[str, int]]
    published: Mapping[str, Mapping[str, int]]

    @property
    def is_published_sample(self) -> bool:
        """Whether every class has as many galaxies as published, under both label maps."""
        return self.found == self.published

    def lines(self) -> list[str]:
        """Return it in words, a line a class."""
        lines = []
        for labels, published in self.published.items():
            lines.append(f"{labels} labels")
            for name, count in published.items():
                has = self.found[labels].get(name, 0)
                differs = "" if has == count else f"  ({has - count:+,})"
                lines.append(f"  {name:<12}{has:>7,} of {count:,}{differs}")
        if self.is_published_sample:
            return [*lines, "These are the class counts of the published study."]
        return [*lines, "These are not the class counts of the published study."]


def verdict(targets: Sequence[Target]) -> Verdict:
    """Compare galaxies, whose labels are T-types, with Schneider, Stenning & Elliott (2023)."""
    found = Counter(int(float(target.label)) for target in targets)
    maps: tuple[LabelMap, ...] = get_args(LabelMap)
    return Verdict(
        {labels: _classes(found, labels) for labels in maps},
        {labels: _classes(PUBLISHED_TTYPES, labels) for labels in maps},
    )


def _classes(ttypes: Mapping[int, int], labels: LabelMap) -> dict[str, int]:
    counts = dict.fromkeys(PAPER_FRACTIONS, 0)
    for ttype, count in ttypes.items():
        name = class_of_ttype(ttype, labels)
        if name is not None:
            counts[name] += count
    return counts


def data_card(cutouts: Cutouts, fetched: Fetched, credits: Sequence[str], study: str) -> str:
    """Return the folder's README.

    Parameters
    ----------
    credits : what to cite beside the survey
    study : lines for a study file
    """
    labels = Counter(target.label for target in fetched.had)
    view = f"{cutouts.arcsec:g} arcsec"
    if cutouts.radii is not None:
        view = f"{cutouts.radii:g} radii of each galaxy"
    counts = "\n".join(f"| {name or '(none)'} | {n:,} |" for name, n in sorted(labels.items()))
    return f"""\
# Galaxies, one cutout each

{len(fetched.had):,} pictures of {cutouts.pixels} x {cutouts.pixels} pixels, {view} a side, from
{cutouts.server or SERVERS[cutouts.survey]}.
{len(fetched.missing):,} galaxies have none: `{MISSING}` says why. `{MANIFEST}` has each picture's
place, address, sha256 and time.

{chr(10).join((*credits, CREDITS[cutouts.survey]))}

| label | pictures |
|---|---|
{counts}

In a study file:

```toml
{study}```
"""
