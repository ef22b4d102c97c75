"""An agent's file from anybody: refused in one line, neither run nor given the memory it claims."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastanf.__main__ import main
from fastanf.agent import Agent, load_agent
from fastanf.agent_file import parse_agent
from fastanf.view import SHIPPED_AGENT
from tests import hostile_agents
from tests.hostile_agents import MIB, Parts

# In a process of its own, which may take no more than so much memory beside what it has.
PROGRAM = """
import json, resource, sys
from pathlib import Path
from fastanf.agent import Agent, load_agent
from fastanf.view import SHIPPED_AGENT

load_agent(SHIPPED_AGENT)
status = Path("/proc/self/status").read_text()
has = int(status.split("VmSize:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (has + 2**28, has + 2**28))
answers = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        load_agent(path)
        answers[path.stem] = "loaded"
    except ValueError as error:
        answers[path.stem] = str(error)
    except BaseException as error:
        answers[path.stem] = f"{type(error).__name__}\\n{error}"
print(json.dumps(answers))
"""
ENDLESS_S = 120
"""After which a process is taken to hang; it takes some seconds."""


def test_every_hostile_file_is_refused_in_one_line(tmp_path: Path) -> None:
    folder, mark = tmp_path / "files", tmp_path / "mark"
    folder.mkdir()
    files = hostile_agents.all_files(mark)
    names = {f"{number:03}": name for number, name in enumerate(files)}
    for number, name in names.items():
        (folder / f"{number}.safetensors").write_bytes(files[name])
    # Of holes: what it claims is there, and more than any memory.
    names["claims"] = "a header and a file of four terabytes"
    parts = Parts()
    size = claim_(parts, 10**6)
    (folder / "claims.safetensors").write_bytes(parts.content())
    os.truncate(folder / "claims.safetensors", len(parts.content()) + size)
    names["header"] = "a header of 100 MB"
    (folder / "header.safetensors").write_bytes((100 * MIB).to_bytes(8, "little"))
    os.truncate(folder / "header.safetensors", 101 * MIB)
    names |= {"fifo": "a FIFO", "folder": "a folder", "zero": "a device", "loop": "a loop"}
    os.mkfifo(folder / "fifo.safetensors")
    (folder / "folder.safetensors").mkdir()
    (folder / "zero.safetensors").symlink_to("/dev/zero")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True, text=True, timeout=ENDLESS_S, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert set(answers) == set(names)
    for number, answer in answers.items():
        assert answer != "loaded", names[number]
        assert "\n" not in answer and answer.isprintable(), (names[number], answer)
        assert len(answer) < 1000, names[number]
    assert "does not fit into memory: it needs" in answers["claims"]
    assert not mark.exists()


def claim_(parts: Parts, width: int) -> int:
    """Let a file say that its layers have so many units; returns the bytes of their weights."""
    parts.about["config"]["hidden"] = [width, width]
    parts.about["sparse_shapes"] = {}
    parts.header, parts.data, end = {}, b"", 0
    for index, (outputs, inputs) in enumerate([(width, 170), (width, width), (12, width)]):
        places = [end, end + 4 * outputs * inputs]
        entry = {"dtype": "F32", "shape": [1, outputs, inputs], "data_offsets": places}
        parts.header[f"actor.{index}.weight"] = entry
        end = places[1]
    return end


def test_what_needs_more_memory_than_there_is_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastanf.agent_facts.available_bytes", lambda device: MIB)
    with pytest.raises(
        ValueError, match=r"does not fit into memory: it needs .* 1\.0 MiB are free"
    ):
        load_agent(SHIPPED_AGENT)


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused() -> None:
    content = SHIPPED_AGENT.read_bytes()
    for length in (5, 8, 100, len(content) - 1):
        with pytest.raises(ValueError, match=r"^it (cannot be read|is damaged)") as caught:
            parse_agent(io.BytesIO(content[:length]), len(content), "it")
        assert "\n" not in str(caught.value)


def test_settings_that_claim_more_than_the_tensors_take_no_memory() -> None:
    state = load_agent(SHIPPED_AGENT).state
    for values in ({"hidden": (10**6, 10**6)}, {"noise_fraction": 1 - 2**-53}):
        claimed = dataclasses.replace(state, config=state.config.replace(**values))
        with pytest.raises(ValueError, match=r"actor\.0\.weight must have the shape"):
            Agent(claimed)


def test_agents_are_read_through_links(tmp_path: Path) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(SHIPPED_AGENT)
    assert load_agent(link).num_features == load_agent(SHIPPED_AGENT).num_features


def test_a_file_made_of_the_parts_of_a_good_one_is_good(tmp_path: Path) -> None:
    path = tmp_path / "same.safetensors"
    path.write_bytes(Parts().content())
    assert load_agent(path).step == load_agent(SHIPPED_AGENT).step


@pytest.mark.parametrize("command", ["view", "export"])
@pytest.mark.parametrize("name", ["layers huge", "a pickle", "spec of another env"])
def test_commands_refuse_hostile_files_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    path = tmp_path / "agent.safetensors"
    path.write_bytes(hostile_agents.all_files(tmp_path / "mark")[name])
    with pytest.raises(SystemExit) as caught:
        main([command, str(path)])
    output = capsys.readouterr()
    assert caught.value.code == 2 and output.err.startswith("fastanf: error: agent file")
    assert output.err.count("\n") == 1 and not output.out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["agent.safetensors"]


@pytest.mark.parametrize("name", ["a" * 300 + ".safetensors", "a\0b.safetensors", "..", "-x"])
def test_names_that_no_file_has_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_agent(tmp_path / name)
    assert "\n" not in str(caught.value)
