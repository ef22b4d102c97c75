"""manifest.json of a run folder: made with a checksum, read with every doubt.

It also keeps the SHA-256 of lanes.csv. Manifests of older versions have neither checksum. Nothing
in a manifest says where to read or write: a run is where its folder is.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastanf.files import read_regular
from fastanf.options import shown
from fastanf.settings import RunConfig
from fastanf.strict_json import strict_loads

FORMAT_VERSION = 1
STATUSES = ("running", "finished", "interrupted", "failed")
MAX_BYTES = 1 << 24
_CHECKSUM, _LANES_CHECKSUMS = "sha256", "lanes_sha256"
_CHECKSUM_LETTERS = 64


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a run folder, without its checksum.

    Raises:
        ValueError: there is none of a known format, it was changed or is damaged, or an entry is
            not what it must be.
    """
    path = Path(path)
    try:
        data = read_regular(path / "manifest.json", MAX_BYTES)
    except OSError as error:
        raise ValueError(
            f"run_dir {str(path)!r} has no readable manifest.json ({error.strerror}): "
            "give the folder of a run"
        ) from error
    try:
        content = strict_loads(data)
        is_whole = _has_its_checksum(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"run_dir {str(path)!r}: manifest.json is not JSON as a run writes it "
            f"({_short(str(error))}): give the folder of a run"
        ) from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, bool) or version != FORMAT_VERSION:
        raise ValueError(
            f"run_dir {str(path)!r} has format_version {shown(version)}: allowed is "
            f"{FORMAT_VERSION}"
        )
    if not is_whole:
        raise ValueError(
            f"run_dir {str(path)!r}: manifest.json was changed or is damaged: put it back as the "
            "run wrote it, or start a new run"
        )
    content.pop(_CHECKSUM, None)
    _check_entries(path, content)
    return content


def manifest_bytes(content: Mapping[str, Any]) -> bytes:
    """The text of a manifest, with the checksum of all else in it.

    Args:
        content: JSON values; others are written as their text. A checksum in it is replaced.

    Raises:
        ValueError: a number is nan or infinite.
    """
    plain = json.loads(json.dumps(content, default=str, allow_nan=False))
    plain.pop(_CHECKSUM, None)
    return (json.dumps({**plain, _CHECKSUM: _checksum(plain)}, indent=2) + "\n").encode()


def lanes_entry(*lanes_csv: bytes) -> dict[str, Any]:
    """The manifest's entry about lanes.csv.

    Args:
        lanes_csv: its content; two while the one is replaced by the other, so that the manifest is
            right at every moment.
    """
    return {_LANES_CHECKSUMS: [hashlib.sha256(each).hexdigest() for each in lanes_csv]}


def check_lanes(path: str | Path, manifest: Mapping[str, Any]) -> bytes:
    """lanes.csv of a run folder, after a look at whether it is what the run wrote.

    Args:
        path: the run folder.
        manifest: its manifest; one of an older version knows nothing of lanes.csv.

    Raises:
        ValueError: it cannot be read, was changed or is damaged.
    """
    path = Path(path)
    try:
        data = read_regular(path / "lanes.csv", MAX_BYTES)
    except OSError as error:
        raise ValueError(
            f"run_dir {str(path)!r} has no readable lanes.csv ({error.strerror}): give the folder "
            "of a run"
        ) from error
    known = manifest.get(_LANES_CHECKSUMS)
    if known is not None and hashlib.sha256(data).hexdigest() not in known:
        raise ValueError(
            f"run_dir {str(path)!r}: lanes.csv was changed or is damaged: put it back as the run "
            "wrote it, or start a new run"
        )
    return data


def run_settings(manifest: Mapping[str, Any]) -> RunConfig:
    """The settings of the command that a manifest keeps.

    Settings that are younger than the run have their defaults. `run_dir` is None whatever the
    manifest says: the run is where its folder is.

    Raises:
        ValueError: there are none, one is unknown, or a value is not allowed.
    """
    settings = manifest.get("run")
    if not isinstance(settings, dict):
        raise ValueError(
            "manifest.json has no settings of a command (run): give the folder of a run that "
            "train.py made"
        )
    known = {field.name for field in dataclasses.fields(RunConfig)}
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ValueError(
            f"manifest.json has the setting {shown(unknown[0])}, which this version does "
            "not know: use the version that began the run"
        )
    try:
        return dataclasses.replace(RunConfig(**settings), run_dir=None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"manifest.json: {_short(str(error))}") from error


def _has_its_checksum(content: Any) -> bool:
    """Whether a manifest is as it was written, as far as it can tell: older ones have no checksum.

    Neither of the two entries is ever without the other, so that damage to a name is seen too.
    """
    if not isinstance(content, dict) or not ({_CHECKSUM, _LANES_CHECKSUMS} & content.keys()):
        return True
    rest = {name: value for name, value in content.items() if name != _CHECKSUM}
    return _LANES_CHECKSUMS in rest and content.get(_CHECKSUM) == _checksum(rest)


def _checksum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check_entries(path: Path, content: Mapping[str, Any]) -> None:
    if "status" not in content:
        raise ValueError(f"run_dir {str(path)!r}: manifest.json has no status: give a whole run")
    for name, (words, is_allowed) in _ENTRIES.items():
        if name in content and not is_allowed(content[name]):
            raise ValueError(
                f"run_dir {str(path)!r}: {name} in manifest.json must be {words}, got "
                f"{shown(content[name])}"
            )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text_or_none, value.values()))


def _are_starts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and _is_text(one.get("started_at", ""))
        and _is_text_or_none(one.get("commit"))
        and _are_versions(one.get("versions", {}))
        for one in value
    )


def _is_study(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict) and all(_is_text(value.get(name)) for name in ("name", "file"))
    )


def _are_checksums(value: Any) -> bool:
    return _are_texts(value) and 1 <= len(value) <= 2 and all(map(is_checksum, value))


def is_checksum(value: Any) -> bool:
    """Whether a value is a SHA-256 as it is written here: 64 digits, small letters."""
    return (
        isinstance(value, str)
        and len(value) == _CHECKSUM_LETTERS
        and set(value) <= set("0123456789abcdef")
    )


_ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "status": (f"one of {', '.join(STATUSES)}", lambda value: value in STATUSES),
    "run": ("an object of settings", lambda value: isinstance(value, dict)),
    "study": ("an object with name and file, or null", _is_study),
    "starts": ("a list of objects with started_at, commit and versions", _are_starts),
    "versions": ("an object of texts", _are_versions),
    "num_starts": ("a whole number of at least 0", _is_count),
    "num_threads": ("a whole number of at least 0", _is_count),
    "command_line": ("a text or a list of texts", lambda v: _is_text(v) or _are_texts(v)),
    "command_lines": ("a list of texts", _are_texts),
    "device": ("a text", _is_text),
    "kernels": ("a text", _is_text),
    "platform": ("a text", _is_text),
    "started_at": ("a text", _is_text),
    "updated_at": ("a text", _is_text),
    "commit": ("a text or null", _is_text_or_none),
    _LANES_CHECKSUMS: ("a list of one or two SHA-256 sums", _are_checksums),
}


def _short(text: str) -> str:
    """One line of at most 300 letters."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."
