"""The memory that a block needs, and what is free."""

from pathlib import Path

from fastanf import memory
from fastanf.grouping import make_blocks
from fastanf.memory import block_memory
from fastanf.presets import expand
from fastanf.replay import replay_bytes


def test_memory_grows_with_lanes_and_replay() -> None:
    one, four = (make_blocks(expand(["ANF-SAC"], num_seeds=n).lanes)[0] for n in (1, 4))
    assert block_memory(four).total == 4 * block_memory(one).total
    assert block_memory(one).replay == replay_bytes(1_000_000, 17, 6, 1)
    assert block_memory(one, 1000).replay == replay_bytes(1000, 17, 6, 1)
    assert block_memory(one, 1000).weights == block_memory(one).weights


def test_memory_limits_of_all_control_groups_above_count(tmp_path: Path) -> None:
    def group(path: str, limit: str, used: int, cache: int = 0) -> None:
        folder = tmp_path / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")

    group("outer", "1000", 400, cache=100)
    group("outer/inner", "max", 300)
    free = memory._control_group_free(tmp_path, "/outer/inner")
    assert free == [700]
    group("outer/inner", "500", 300)
    assert sorted(memory._control_group_free(tmp_path, "/outer/inner")) == [200, 700]
    assert memory._control_group_free(tmp_path, "/elsewhere") == []


def test_memory_of_this_machine_is_positive() -> None:
    assert memory.available_bytes("cpu") > 0
