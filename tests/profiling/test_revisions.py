"""Trees of earlier revisions, and what cannot be made into one."""

from __future__ import annotations

from pathlib import Path

import benchmark
import pytest
import revisions

from tests.profiling.fake_benchmark import FakeBenchmark


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("wanted", ["no-such-revision", "", "--all", "HEAD:setup.py"])
def test_unknown_revision_is_refused(wanted: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        benchmark.main(FakeBenchmark(), [f"--compare={wanted}"])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == (
        "fastanf: error: --compare must be a git revision or a .csv of earlier rows, "
        f"got {wanted!r}\n"
    )


def test_outside_of_git_revisions_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(revisions, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="--compare needs a git checkout"):
        revisions.resolve("HEAD")


def test_failed_build_is_refused_where_this_tree_has_kernels(tmp_path: Path, monkeypatch) -> None:
    native = tmp_path / "abc" / "fastanf" / "kernels" / "native"
    native.mkdir(parents=True)
    (native / "code.cpp").write_text("int")
    monkeypatch.setattr(revisions, "REVISIONS", tmp_path)
    monkeypatch.setattr(revisions, "_build", lambda path: "expected ';'")
    monkeypatch.setattr(revisions, "has_kernels", lambda path: path == revisions.ROOT)
    with pytest.raises(ValueError, match=r"the kernels of abc could not be built: expected ';'"):
        revisions.tree("abc")
    # Without a compiler both trees compute with the reference.
    monkeypatch.setattr(revisions, "has_kernels", lambda path: False)
    assert revisions.tree("abc") == tmp_path / "abc"


@pytest.mark.usefixtures("repository")
def test_unwritable_folder_of_revisions_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(revisions, "REVISIONS", tmp_path / "file")
    commit = revisions.resolve("HEAD")
    assert commit is not None
    with pytest.raises(ValueError, match="cannot be exported to"):
        revisions.tree(commit)
