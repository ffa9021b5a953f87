"""The pipelines of shim/README.md, each run as it stands on its real engine. Arguments: ENGINE ARTIFACT.

Runs in the environment of scripts/engines. Exit code 0 where every id has the library's vector, once.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

import shim

README = Path(shim.__file__).with_name("README.md")
TITLES = {"ray": "Ray Data", "spark": "Spark", "daft": "Daft"}
TEXTS = [f"text number {row}, " + "word " * (row % 50) for row in range(60)]


def main() -> None:
    """Run one engine's example in a folder of its own."""
    engine, artifact = sys.argv[1], Path(sys.argv[2]).resolve()
    found = re.search(rf"\n{TITLES[engine]}:\n\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    os.environ["PYSPARK_PYTHON"] = sys.executable  # as where its environment is activated
    model = shim.load(artifact)
    code = found[1].replace("artifacts/all-minilm-l6-v2-onnx-8bit", str(artifact)).replace("384", str(model.dimensions))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("docs").mkdir()
        for part in range(2):
            rows = range(part, len(TEXTS), 2)
            columns = {"id": [f"d{row}" for row in rows], "text": [TEXTS[row] for row in rows]}
            pq.write_table(pa.table(columns), f"docs/{part}.parquet")
        if engine == "ray":
            import ray

            ray.init(num_cpus=4, include_dashboard=False)  # as if there were; the example has two actors
        exec(compile(code, engine, "exec"), {"__name__": "__main__"})
        table = pyarrow.dataset.dataset("vectors", format="parquet").to_table()
    rows = [int(id[1:]) for id in table["id"].to_pylist()]
    assert sorted(rows) == list(range(len(TEXTS))), rows
    vectors = np.stack(table["embedding"].to_numpy())
    off = np.abs(vectors - model.embed([TEXTS[row] for row in rows]).dense).max()
    assert off < 1e-5, off
    print(f"{engine}: {len(rows)} vectors, off by {off:.1e} at most")


if __name__ == "__main__":
    main()
