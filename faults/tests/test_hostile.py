"""Hostile inputs: a short run finds nothing, and whatever is planted is found."""

from __future__ import annotations

import asyncio

import pytest

from faults.hostile import conversation, photos, run, slow, strangers, usage
from faults.hostile.photos import Photos
from faults.hostile.verdict import Verdict
from testkit.mutations import mutated, split
from testkit.originals import originals
from testkit.plugin import note

INPUTS = 1_700
REQUESTS = 300


@pytest.fixture(autouse=True)
def impatiently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for planted leaks to go away."""
    monkeypatch.setattr(photos, "SETTLE_SECONDS", 1.0)


@pytest.mark.slow
async def test_hostile_inputs_do_nothing(request: pytest.FixtureRequest) -> None:
    """Two thousand inputs: no crash, no 5xx, no leak."""
    note(request, "Valkey")
    verdict = await run.main(inputs=INPUTS, requests=REQUESTS, seed=13)
    assert verdict.clean, verdict.report()
    assert verdict.line == "0 crashes, 0 5xx, 0 leaks"
    kinds = {name.partition(":")[0] for name in verdict.outcomes}
    assert kinds >= {
        "cleaned as JPEG",
        "cleaned as PNG",
        "cleaned as WEBP",
        "refused",
        "photo",
        "form",
        "request",
        "frames",
    }


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        ("crash", "crashes"),
        pytest.param("memory", "leaks", marks=pytest.mark.slow),
        pytest.param("descriptor", "leaks", marks=pytest.mark.slow),
    ],
)
async def test_planted_fault_of_image_process_is_reported(planted: str, kind: str) -> None:
    """A dead process is traced to its photo; a growing one is seen."""
    run = Photos(200 if planted == "crash" else 1_700, 13, planted)
    await run.run()
    found = getattr(run.verdict, kind)
    assert found and not run.verdict.clean
    if planted == "crash":
        assert found == ["photo 13/77 ended the image process: The image is damaged or incomplete."]
        again = Photos(1, 13, planted, first=77)
        await again.run()
        assert again.verdict.crashes[0] == found[0], "a finding is repeated by its two numbers"


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        pytest.param("crash", "crashes", marks=pytest.mark.slow),
        ("5xx", "server_errors"),
        pytest.param("hang", "crashes", marks=pytest.mark.slow),
        ("memory", "leaks"),
        pytest.param("descriptors", "leaks", marks=pytest.mark.slow),
        pytest.param("process", "leaks", marks=pytest.mark.slow),
        pytest.param("file", "leaks", marks=pytest.mark.slow),
    ],
)
async def test_planted_fault_of_server_is_reported(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, planted: str, kind: str
) -> None:
    """Each planted fault is found, and is named by its kind."""
    note(request, "Valkey")
    monkeypatch.setattr(usage, "SETTLE_SECONDS", 1.0)
    monkeypatch.setattr(usage, "END_SECONDS", 1.0)
    monkeypatch.setattr(strangers, "WARM_INPUTS", 16)
    if planted == "hang":
        monkeypatch.setattr(conversation, "ANSWER_SECONDS", 1.5)
    verdict = Verdict()
    await strangers.run(150, 13, verdict, planted=planted)
    assert getattr(verdict, kind), verdict.report()


async def test_process_of_another_is_no_leak() -> None:
    """A child from before the run, as a test's Valkey, is not reported."""
    other = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        run = Photos(1, 13)
        await run.run()
        assert run.verdict.clean, run.verdict.report()
    finally:
        other.kill()
        await other.wait()


def test_mutations_repeat_by_seed_and_number() -> None:
    """The same two numbers give the same bytes, others give others."""
    assert [mutated(1, number) for number in range(50)] == [mutated(1, number) for number in range(50)]
    assert len({mutated(1, number)[1] for number in range(50)} | {mutated(2, number)[1] for number in range(50)}) > 90


def test_files_split_and_join_to_themselves() -> None:
    """Pieces have all bytes of their file, with the lengths and checksums it has."""
    from testkit.mutations import join

    known = {name: pieces for name, data in originals().items() if (pieces := split(data))}
    assert len(known) >= 20
    for name, pieces in known.items():
        assert join(originals()[name], pieces) == originals()[name], name


def test_report_counts_and_shows_findings() -> None:
    """The last line counts; of many findings the first are shown."""
    verdict = Verdict(crashes=[f"photo {n}" for n in range(30)], leaks=["a file"])
    lines = verdict.report().splitlines()
    assert lines[-1] == verdict.line == "30 crashes, 0 5xx, 1 leaks"
    assert "leak: a file" in lines and "crash: 10 more" in lines


@pytest.mark.slow
async def test_slow_attacks_give_their_memory_back(request: pytest.FixtureRequest) -> None:
    """The canary is pushed to during each attack, and no memory stays.

    How late its pushes are is printed: a busy machine delays them, too.
    """
    note(request, "Valkey")
    verdict = await slow.run(seconds=1.0)
    assert not [found for found in verdict.leaks if "stay" in found], verdict.report()
    assert not [found for found in verdict.leaks if "inf ms" in found], verdict.report()
