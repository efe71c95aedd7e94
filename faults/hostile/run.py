"""The runs of ``python -m faults hostile``, and what they print."""

from __future__ import annotations

from faults.hostile import strangers
from faults.hostile.photos import Photos
from faults.hostile.verdict import Verdict


async def main(*, inputs: int, requests: int, seed: int, first: int = 0, loud: bool = True) -> Verdict:
    """Send photos to image processes, then everything over HTTP; print the verdict.

    Both begin with the number ``first``.
    """
    verdict = Verdict()
    if inputs:
        await Photos(inputs, seed, first=first, verdict=verdict, loud=loud).run()
    if requests:
        await strangers.run(requests, seed, verdict, first=first, loud=loud)
    if loud:
        print(verdict.report())
    return verdict
