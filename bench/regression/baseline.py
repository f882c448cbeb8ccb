"""Bless a store: its numbers become the baseline in git that later runs are held against."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench import environment
from bench.regression.advisory import read_ratios, read_verdicts
from bench.regression.decision import LEAST_PAIRS
from bench.regression.snapshot import Snapshot, load_candidate
from seqlora.errors import BadInputError
from seqlora.files import write_json

PATH = Path(__file__).parent / "baseline" / "gate.json"
ROOT = Path(__file__).parents[2]


def bless(store: Path, path: Path, ledgers: list[Path], timing: Path | None) -> Snapshot:
    """Write the baseline of a store.

    Args:
        store: folder of the cells.
        path: where the baseline goes.
        ledgers: files of `python -m theory --json`, whose verdicts are kept.
        timing: file of `python -m bench timing`, whose ratios are kept.

    Raises:
        BadInputError: uncommitted changes, cells of several revisions or of other code than is checked out, failed
            cells, or too few seeds.
    """
    snapshot = load_candidate(store)
    require_clean(snapshot)
    require_whole(snapshot)
    ratios = read_ratios(timing) if timing else {}
    blessed = snapshot.model_copy(update={"verdicts": read_verdicts(ledgers), "ratios": ratios})
    write_json(path, blessed.model_dump(mode="json"))
    return blessed


def require_clean(snapshot: Snapshot) -> None:
    """The cells were computed by one committed revision, and the code that is checked out is that code.

    Raises:
        BadInputError: they were not, or it is not.
    """
    if snapshot.git_dirty or environment.git_dirty() is not False:
        raise BadInputError("a baseline needs a clean tree: commit the changes (git status), then run the suite again")
    if snapshot.git_revision is None:
        raise BadInputError("the cells come from several revisions, or from none; run the suite again with --force")
    if snapshot.git_revision != environment.git_revision() and code_differs(snapshot.git_revision):
        raise BadInputError(
            f"the cells were computed by revision {snapshot.git_revision[:12]}, whose code is not the one that is "
            "checked out; run the suite again"
        )


def require_whole(snapshot: Snapshot) -> None:
    """No cell failed, and every group has the seeds that a test needs.

    Raises:
        BadInputError: otherwise.
    """
    failed = [entry.cell for entry in snapshot.cells if entry.status == "failed"]
    if failed:
        raise BadInputError(f"{len(failed)} cells failed ({failed[0]}); a baseline must be whole")
    for group in {entry.group for entry in snapshot.cells}:
        seeds = sum(entry.group == group and entry.status == "done" for entry in snapshot.cells)
        if seeds < LEAST_PAIRS:
            raise BadInputError(
                f"{' '.join(map(str, group))} has {seeds} finished seeds, at least {LEAST_PAIRS} needed"
            )


def code_differs(revision: str) -> bool:
    """Whether the code that makes numbers changed between a revision and what is checked out.

    Raises:
        BadInputError: git does not know the revision.
    """
    command = ["git", "-C", str(ROOT), "diff", "--quiet", revision, "--", *environment.CODE]
    try:
        code = subprocess.run(command, capture_output=True, check=False, timeout=60).returncode
    except (OSError, subprocess.SubprocessError) as error:
        raise BadInputError(f"git cannot be asked about revision {revision[:12]} ({error})") from error
    if code not in (0, 1):
        raise BadInputError(f"git does not know revision {revision[:12]}; fetch it, or run the suite again")
    return code == 1
