"""What is free on the host: of the machine, of control groups of both versions, of the process."""

import resource
from pathlib import Path

import pytest

from fastanf import free_memory
from fastanf.free_memory import address_space_free, control_group_free, host_free_bytes


class Host:
    """A /proc of a process and the mounted control groups, in a folder."""

    def __init__(self, folder: Path):
        self.proc, self.mounted = folder / "proc", folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text(
            "MemTotal:       100 kB\nMemFree:          1 kB\nMemAvailable:    50 kB\n"
            "SwapFree:    999999 kB\n"
        )
        (self.proc / "self" / "status").write_text("VmSize:\t    30 kB\nVmData:\t    10 kB\n")

    def joins(self, *groups: str) -> None:
        (self.proc / "self" / "cgroup").write_text("".join(f"{group}\n" for group in groups))

    def mounts(self, *lines: str) -> None:
        """Lines after the first three cells; {} stands for the folder of the mounts."""
        text = "".join(f"36 25 0:31 {line.format(self.mounted)}\n" for line in lines)
        (self.proc / "self" / "mountinfo").write_text(text)

    def second(self, path: str, limit: str, used: int, cache: int = 0, high: str = "max") -> None:
        folder = self.mounted / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.high").write_text(f"{high}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.swap.max").write_text("99999999\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\nactive_file 7\n")

    def first(self, path: str, limit: int, used: int, cache: int = 0) -> None:
        folder = self.mounted / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (folder / "memory.memsw.limit_in_bytes").write_text("99999999\n")
        (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {cache}\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


SECOND = "/ {}/own rw,relatime shared:5 - cgroup2 cgroup2 rw,nsdelegate"
FIRST = "{} {{}}/memory rw,relatime - cgroup cgroup rw,memory"


def test_limits_of_all_groups_above_count(host: Host) -> None:
    host.joins("0::/outer/inner")
    host.mounts("/ / rw - ext4 /dev/vda rw", SECOND)
    host.second("own/outer", "1000", 400, cache=100)
    host.second("own/outer/inner", "max", 300)
    assert control_group_free(host.proc) == [700]
    host.second("own/outer/inner", "500", 300)
    assert sorted(control_group_free(host.proc)) == [200, 700]
    host.second("own/outer/inner", "500", 300, high="350")
    assert sorted(control_group_free(host.proc)) == [50, 200, 700]
    host.joins("0::/elsewhere")
    assert control_group_free(host.proc) == []


def test_a_group_beyond_its_limit_leaves_nothing(host: Host) -> None:
    host.joins("0::/")
    host.mounts(SECOND)
    host.second("own", "1000", 1400, cache=100)
    assert control_group_free(host.proc) == [0]


def test_the_first_version_counts_nested_groups_too(host: Host) -> None:
    host.joins("9:name=systemd:/elsewhere", "4:cpu,memory:/job/step", "0::/")
    host.mounts("/ {}/cpu rw - cgroup cgroup rw,cpu", FIRST.format("/"), SECOND)
    host.first("memory", 2**63 - 4096, 800)
    host.first("memory/job", 1000, 600, cache=50)
    host.first("memory/job/step", 900, 100)
    assert sorted(control_group_free(host.proc))[:2] == [450, 800]
    assert host_free_bytes(host.proc) == 450


def test_a_mount_may_begin_at_a_group_below_the_top(host: Host) -> None:
    """As in a container that sees the group's path on the machine, but only its own folder."""
    host.joins("4:memory:/docker/abc/job")
    host.mounts(FIRST.format("/docker/abc"))
    host.first("memory", 1000, 100)
    host.first("memory/job", 500, 100)
    assert sorted(control_group_free(host.proc)) == [400, 900]


@pytest.mark.parametrize("path", ["/../outside", "/docker/abc"])
def test_a_group_that_is_not_mounted_is_read_at_the_top_of_the_mount(host: Host, path: str) -> None:
    host.joins(f"4:memory:{path}")
    host.mounts(FIRST.format("/docker/other"))
    host.first("memory", 1000, 100)
    assert control_group_free(host.proc) == [900]


def test_folders_with_blanks_are_found(host: Host) -> None:
    host.joins("0::/")
    host.mounts("/ {}/with\\040blank rw - cgroup2 none rw")
    host.second("with blank", "1000", 100)
    assert control_group_free(host.proc) == [900]


def test_the_machine_decides_where_no_group_limits_and_swap_is_no_memory(host: Host) -> None:
    assert host_free_bytes(host.proc) == 50 * 1024
    host.joins("0::/", "broken")
    host.mounts("broken", SECOND)
    host.second("own", "max", 10)
    assert host_free_bytes(host.proc) == 50 * 1024
    host.second("own", "30000", 10)
    assert host_free_bytes(host.proc) == 29_990


def test_limits_of_the_process_are_what_is_left_of_its_addresses(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {resource.RLIMIT_AS: resource.RLIM_INFINITY}
    monkeypatch.setattr(
        free_memory.resource,
        "getrlimit",
        lambda which: (limits.get(which, resource.RLIM_INFINITY), resource.RLIM_INFINITY),
    )
    assert address_space_free(host.proc) is None
    limits[resource.RLIMIT_AS] = 100 * 1024
    assert address_space_free(host.proc) == 70 * 1024
    limits[resource.RLIMIT_DATA] = 40 * 1024
    assert address_space_free(host.proc) == 30 * 1024
    limits[resource.RLIMIT_DATA] = 1024
    assert address_space_free(host.proc) == 0


def test_this_machine_has_memory() -> None:
    assert host_free_bytes() > 0
