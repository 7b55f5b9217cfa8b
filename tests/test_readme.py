"""Every Python block of the README runs, in order, in one namespace, as a reader would paste them."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_blocks_of_the_readme_run(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)
    assert len(blocks) >= 5
    namespace = {"__name__": "readme"}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"README block {number}", "exec"), namespace)
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= dict(hub.commits)[
        "Upload the model"
    ].keys()
