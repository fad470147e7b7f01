"""The folder of one run: its lock, and the status that lets a second ``pangu run`` continue.

runs/<name>/status.json     the job as an API server would hold it: metadata and status
runs/<name>/job.yaml        the job as it was read, overrides applied
runs/<name>/logs/<pod>.log  output of each pod, all attempts appended
runs/<name>/local/          what pods see as ConfigMaps and emptyDirs; removed at the end
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from k8s.spec import PanguJob
from k8s.status import JobStatus, from_dict, to_dict
from pangu_core.entry.process import as_workspace_error
from pangu_core.errors import WorkspaceError
from pangu_core.loading import dump_yaml
from pangu_core.workspace import RunPaths

LOCK_FILE: Final = ".lock"


class RunFolder:
    """Files of one run that belong to the runtime."""

    def __init__(self, workspace: Path, job: PanguJob) -> None:
        self.workspace = workspace
        self.root = workspace / RunPaths(job.name).root
        self._job = job

    @property
    def logs(self) -> Path:
        """Folder of the pods' logs."""
        return self.root / "logs"

    @property
    def local(self) -> Path:
        """Folder for what pods see as volumes of their own."""
        return self.root / "local"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; released by the system if the process is killed.

        Raises:
            WorkspaceError: another process holds it, or the folder cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            opened = (self.root / LOCK_FILE).open("a+", encoding="ascii")
        except OSError as error:
            raise as_workspace_error(error) from error
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise WorkspaceError(
                    f"run {self._job.name}",
                    seen=f"held by process {file.read().strip() or 'unknown'}",
                    rule="only one 'pangu run' at a time may work on a run",
                    fix="wait for it, stop it, or give this job another name",
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def load(self) -> tuple[int, JobStatus]:
        """Generation and status of the last start; (1, fresh) for a new run.

        The generation rises when the job's spec is another than the last start's.

        Raises:
            WorkspaceError: the folder belongs to a job with another uid.
        """
        stored = self._stored()
        if not stored:
            return 1, JobStatus()
        metadata = stored["metadata"]
        if metadata["uid"] != self._job.uid:
            raise WorkspaceError(
                str(self.root),
                seen=f"uid {metadata['uid']}",
                rule=f"belongs to another job (this one has uid {self._job.uid})",
                fix="give this job another name, or move the folder away",
            )
        is_changed = stored.get("spec") != self._job.spec.dump()
        return metadata["generation"] + is_changed, from_dict(stored["status"])

    def save(self, generation: int, status: JobStatus) -> None:
        """Replace status.json as a whole: a reader sees the old one or the new one."""
        job = self._job.dump()
        job["metadata"] |= {"uid": self._job.uid, "generation": generation}
        text = json.dumps({**job, "status": to_dict(status)}, ensure_ascii=False, indent=1)
        _replace(self._status_file, text)

    def save_job(self) -> None:
        """Write the job as it was read, so that a run says what it ran."""
        _replace(self.root / "job.yaml", dump_yaml(self._job.dump()))

    @property
    def _status_file(self) -> Path:
        return self.root / "status.json"

    def _stored(self) -> dict[str, Any]:
        try:
            stored: dict[str, Any] = json.loads(self._status_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise WorkspaceError(
                str(self._status_file),
                seen=str(error),
                rule="must be the JSON that an earlier start wrote",
                fix="remove the file; finished stages then end as skipped",
            ) from error
        return stored


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
