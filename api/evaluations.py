"""Find what sponsors published about their models' accuracy, and believe only the sponsors."""

from __future__ import annotations

import threading
from pathlib import Path

from api.entries import Evaluation
from api.queries import cid_text, hexed
from marketplace.accuracy import MILLION, decode_accuracy, folder_of, signer_of
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
        return Evaluation(
            project=hexed(project),
            settled_rounds=accuracy.settled_rounds,
            accuracy=accuracy.millionths / MILLION,
            samples=accuracy.samples,
            data=accuracy.data,
            model_cid=cid_text(accuracy.model),
            signer=signer,
            signature=hexed(signature),
        )
