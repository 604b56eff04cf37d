"""Find what sponsors published about their models' accuracy, and believe only the sponsors.

Documents lie in the home, put there by `tribute project evaluate` or by whoever sends them to the
API: what the sponsor signed needs no other authority.
"""

from __future__ import annotations

import threading
from pathlib import Path

from api.entries import Evaluation
from api.errors import NotSignedError, OutdatedError
from api.queries import cid_text, hexed
from marketplace.accuracy import (
    MILLION,
    Accuracy,
    decode_accuracy,
    folder_of,
    keep,
    signer_of,
)
from marketplace.errors import CodecError
from marketplace.types import Deployment

__all__ = ["Evaluations"]

_MOST_FILES = 10_000
_FILE_LIMIT = 1 << 12


class Evaluations:
    """Read the documents in a home; a file is read again when it has changed."""

    def __init__(self, home: Path, deployment: Deployment) -> None:
        self.home = home
        self.deployment = deployment
        self._known: dict[tuple[Path, int, int], Evaluation | None] = {}
        self._lock = threading.Lock()
        self._accepting = threading.Lock()

    def of(self, project: bytes, sponsor: str) -> dict[int, Evaluation]:
        """Return what the sponsor signed about a project's models, by settled rounds."""
        found: dict[int, Evaluation] = {}
        try:
            files = sorted(folder_of(self.home, project).glob("*.json"))[:_MOST_FILES]
        except OSError:
            return found
        for file in files:
            evaluation = self._read(file, project)
            if evaluation is not None and evaluation.signer == sponsor:
                found[evaluation.settled_rounds] = evaluation
        return dict(sorted(found.items()))

    def accept(
        self, accuracy: Accuracy, signature: bytes, sponsor: str, model: bytes
    ) -> Evaluation:
        """Keep a statement, if the sponsor signed it about this model and no later one is known."""
        signer = signer_of(accuracy, self.deployment, signature)
        if signer != sponsor:
            raise NotSignedError(
                f"the statement is signed by {signer or 'nobody'}, not by the sponsor {sponsor}"
            )
        if accuracy.model != model:
            raise OutdatedError(
                f"the model after {accuracy.settled_rounds} paid rounds is {cid_text(model)}, the "
                f"statement is about {cid_text(accuracy.model)}"
            )
        with self._accepting:
            known = self.of(accuracy.project, sponsor).get(accuracy.settled_rounds)
            if known is not None and known.measured_at > accuracy.measured_at:
                raise OutdatedError(
                    f"the statement is of {accuracy.measured_at}, and one of {known.measured_at} "
                    "is known"
                )
            keep(self.home, accuracy, signature)
        return _shown(accuracy, signature, signer)

    def _read(self, file: Path, project: bytes) -> Evaluation | None:
        try:
            stat = file.stat()
            key = (file, stat.st_mtime_ns, stat.st_size)
            with self._lock:
                if key in self._known:
                    return self._known[key]
            found = self._decode(file.read_bytes()[: _FILE_LIMIT + 1], project)
        except OSError:
            return None
        with self._lock:
            self._known[key] = found
        return found

    def _decode(self, data: bytes, project: bytes) -> Evaluation | None:
        try:
            accuracy, signature = decode_accuracy(data)
        except CodecError:
            return None
        signer = signer_of(accuracy, self.deployment, signature)
        if signer is None or accuracy.project != project:
            return None
        return _shown(accuracy, signature, signer)


def _shown(accuracy: Accuracy, signature: bytes, signer: str) -> Evaluation:
    return Evaluation(
        project=hexed(accuracy.project),
        settled_rounds=accuracy.settled_rounds,
        accuracy=accuracy.millionths / MILLION,
        samples=accuracy.samples,
        data=accuracy.data,
        measured_at=accuracy.measured_at,
        model_cid=cid_text(accuracy.model),
        signer=signer,
        signature=hexed(signature),
    )
