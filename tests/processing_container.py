"""A Processing job of an example, run on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any


class ProcessingContainer:
    """The container's folders below a folder of this machine, and its script."""

    def __init__(self, base: Path, model_folder: Path) -> None:
        self.base = base
        self.folder = base / "processing"
        for name in ("model", "output"):
            (self.folder / name).mkdir(parents=True)
        with tarfile.open(self.folder / "model" / "model.tar.gz", "w:gz") as archive:
            archive.add(model_folder, "model")
        (base / "mnt").mkdir()
        (base / "config").mkdir()
        (base / "config" / "resourceconfig.json").write_text(
            json.dumps({"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]})
        )

    def run(self, job: dict[str, Any]) -> str:
        *shell, script = job["AppSpecification"]["ContainerEntrypoint"]
        (output,) = job["ProcessingOutputConfig"]["Outputs"]
        assert output["S3Output"]["LocalPath"] == "/opt/ml/processing/output"
        for each in job["ProcessingInputs"]:
            assert each["S3Input"]["LocalPath"] == f"/opt/ml/processing/{each['InputName']}"
        script = script.replace("/opt/ml", str(self.base)).replace("/mnt", str(self.base / "mnt"))
        environ = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        environ |= job.get("Environment", {})
        done = subprocess.run([*shell, script], env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout
