"""Agents' files that somebody made up: the shipped one with one thing wrong in each."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastanf.view import SHIPPED_AGENT

WEIGHT = "actor.0.weight"
METADATA, ABOUT = "__metadata__", "fastanf_agent"
DEEP = "[" * 200_000
MIB = 2**20


class Parts:
    """A file of an agent in parts: what its header says, what it says of itself, and its bytes."""

    def __init__(self) -> None:
        content = SHIPPED_AGENT.read_bytes()
        length = int.from_bytes(content[:8], "little")
        self.header: dict[str, Any] = json.loads(content[8 : 8 + length])
        self.about: dict[str, Any] = json.loads(self.header.pop(METADATA)[ABOUT])
        self.data = content[8 + length :]
        self.metadata: Any = None
        """In place of what `about` makes."""

    def array(self, name: str) -> np.ndarray:
        start, end = self.header[name]["data_offsets"]
        kind = {"F32": "<f4", "U8": "u1"}[self.header[name]["dtype"]]
        return np.frombuffer(self.data[start:end], kind)

    def replace(self, arrays: dict[str, np.ndarray], *without: str) -> None:
        """Put arrays in place of tensors of the same names, and leave some out."""
        kept = {name: self.array(name) for name in self.header if name not in without}
        shapes = {name: self.header[name]["shape"] for name in kept}
        kept |= arrays
        shapes |= {name: list(array.shape) for name, array in arrays.items()}
        names = {"<f4": "F32", "|u1": "U8", "<u2": "U16", "<u4": "U32", "<i8": "I64"}
        self.header, data = {}, b""
        for name, array in kept.items():
            end = len(data) + array.nbytes
            entry = {"dtype": names[array.dtype.str], "data_offsets": [len(data), end]}
            self.header[name] = entry | {"shape": shapes[name]}
            data += array.tobytes()
        self.data = data

    def content(self) -> bytes:
        metadata = {ABOUT: json.dumps(self.about)} if self.metadata is None else self.metadata
        header = json.dumps({METADATA: metadata, **self.header}).encode()
        return struct.pack("<Q", len(header)) + header + self.data


def changed(change: Callable[[Parts], Any]) -> bytes:
    parts = Parts()
    change(parts)
    return parts.content()


def with_header(text: str | bytes, length: int | None = None) -> bytes:
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)


def setter(*path: Any) -> Callable[[Any], bytes]:
    """value -> the file with it at a place in `header` or `about`."""

    def put(value: Any) -> bytes:
        def change(parts: Parts) -> None:
            place: Any = getattr(parts, path[0])
            for key in path[1:-1]:
                place = place[key]
            place[path[-1]] = copy.deepcopy(value)

        return changed(change)

    return put


def headers() -> dict[str, bytes]:
    """Headers that are none, or say what cannot be."""
    whole = Parts().content()
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}

    def one(**values: Any) -> bytes:
        return with_header(json.dumps({"w": entry | values}))

    def several(**entries: dict[str, Any]) -> bytes:
        return with_header(json.dumps(entries))

    bias = Parts().header["actor.0.bias"]["data_offsets"]
    return {
        "empty": b"",
        "three bytes": b"\x02\0\0",
        "length 2**63": with_header("{}", 2**63),
        "length 2**64 - 1": with_header("{}", 2**64 - 1),
        "length 0": with_header("{}", 0),
        "length beyond the end": with_header("{}", 2_000),
        "not JSON": with_header("{'w': 1}"),
        "not UTF-8": with_header(b"\xff\xfe{}"),
        "a list": with_header("[]"),
        "deep": with_header('{"w":' + DEEP),
        "NaN": with_header('{"__metadata__": {"a": NaN}}'),
        "beyond float64": with_header('{"__metadata__": {"a": 1e999}}'),
        "many digits": with_header('{"w": {"shape": [' + "9" * 5_000 + "]}}"),
        "a name twice": with_header('{"w": 1, "w": 2}'),
        "a name twice, among many": with_header(
            "{" + ",".join(f'"{k}":0' for k in [*range(90_000), 89_999]) + "}"
        ),
        "metadata of numbers": with_header('{"__metadata__": {"a": 1}}'),
        "metadata as a list": with_header('{"__metadata__": []}'),
        "a tensor as a list": several(w=[]),  # pyright: ignore[reportArgumentType]
        "a tensor without shape": several(w={"dtype": "F32", "data_offsets": [0, 64]}),
        "a tensor with more": one(pickle="cos\nsystem"),
        "type not known": one(dtype="Q9"),
        "type as a list": one(dtype=["F32"]),
        "shape negative": one(shape=[-2, -2]),
        "shape of fractions": one(shape=[2.0, 2.0]),
        "shape of truths": one(shape=[True, 4]),
        "shape as text": one(shape="22"),
        "shape whose product overflows": one(shape=[2**32, 2**32], data_offsets=[0, 0]),
        "shape of many": one(shape=[1] * 5_000 + [4]),
        "shape of a huge number": one(shape=[2**63]),
        "places beyond the file": one(data_offsets=[0, 2**40], shape=[2**38]),
        "places backwards": one(data_offsets=[16, 0]),
        "places negative": one(data_offsets=[-16, 0]),
        "one place": one(data_offsets=[16]),
        "places do not fit the shape": one(data_offsets=[0, 64]),
        "bytes left over": one(),
        "places overlap": several(v=entry, w=entry | {"data_offsets": [8, 24]}),
        "a hole between places": several(v=entry, w=entry | {"data_offsets": [48, 64]}),
        "two at one place": setter("header", "actor.1.bias", "data_offsets")(bias),
        "cut": whole[:-1],
        "longer": whole + b"\0",
    }


def facts() -> dict[str, bytes]:
    """Files whose tensors are whole, and that say of them what is not allowed."""
    config, spec = Parts().about["config"], Parts().about["spec"]

    def metadata(text: str) -> bytes:
        return changed(lambda parts: setattr(parts, "metadata", {ABOUT: text}))

    def settings(**values: Any) -> bytes:
        return setter("about", "config")(config | values)

    def task(**values: Any) -> bytes:
        return setter("about", "spec")(spec | values)

    row = Parts().about["evaluation"]
    other = spec | {"env_id": "Hopper-v3"}
    empirical = {"noise_distribution": "empirical"}
    own = {"config": config | {"backend": "own"}}
    return {
        "no metadata": changed(lambda parts: setattr(parts, "metadata", {})),
        "facts are no JSON": metadata("{"),
        "facts are a list": metadata("[]"),
        "facts are deep": metadata(DEEP),
        "facts with NaN": metadata('{"format": NaN}'),
        "facts with a name twice": metadata('{"format": 1, "format": 1}'),
        "another format": setter("about", "format")(10**30),
        "a fact too many": setter("about", "__reduce__")("os.system"),
        "no lane": changed(lambda parts: parts.about.pop("lane")),
        "lane as text": setter("about", "lane")("0"),
        "lane as truth": setter("about", "lane")(True),
        "step negative": setter("about", "step")(-1),
        "updates without end": setter("about", "num_updates")(10**400),
        "config as a list": setter("about", "config")([]),
        "config of nobody": settings(__class__="os"),
        "config with a method": settings(cls=1),
        "layers huge": settings(hidden=[10**9, 10**9]),
        "layers huge, within bounds": settings(hidden=[10**6, 10**6]),
        "layers beyond float64": settings(hidden=[10**400]),
        "layers very many": settings(hidden=[1] * 100_000),
        "noise without end": settings(noise_fraction=1 - 2**-53),
        "noise as text": settings(noise_fraction="0.9"),
        "policy that writes to the terminal": settings(policy="\x1b]0;owned\x07"),
        "variant of two lines": settings(variant="a\nb"),
        "empirical noise of another task": changed(
            lambda parts: parts.about.update(
                config=config | {"env": "Hopper-v3", "backend": "own"} | empirical,
                spec=other,
            )
        ),
        "env not known": settings(env="../../HalfCheetah-v3"),
        "env of another size": changed(
            lambda parts: parts.about.update(spec=other, config=config | {"env": "Hopper-v3"})
        ),
        "spec of another env": task(env_id="Hopper-v3"),
        "spec of another size": task(num_features=18),
        "spec huge": changed(
            lambda parts: parts.about.update(own, spec=spec | {"num_features": 2**40})
        ),
        "spec of no actions": changed(
            lambda parts: parts.about.update(
                own, spec=spec | {"num_actions": 0, "action_low": [], "action_high": []}
            )
        ),
        "limits backwards": changed(
            lambda parts: parts.about.update(own, spec=spec | {"action_low": [2.0] * 6})
        ),
        "limits as text": task(action_low="000000"),
        "limits of too many": task(action_low=[-1.0] * 7),
        "spec as text": setter("about", "spec")("HalfCheetah-v3"),
        "evaluation as a list": setter("about", "evaluation")([]),
        "evaluation with text": setter("about", "evaluation")(row | {"return_mean": "1"}),
        "evaluation that writes to the terminal": setter("about", "evaluation")(
            row | {"variant": "\x1b[2J"}
        ),
        "versions deep": setter("about", "versions")({"torch": {"torch": []}}),
        "versions as a list": setter("about", "versions")(["torch"]),
        "sparse shapes as a list": setter("about", "sparse_shapes")([WEIGHT]),
        "sparse shape huge": setter("about", "sparse_shapes")({WEIGHT: [1, 2**31, 2**31]}),
        "sparse shape of another": setter("about", "sparse_shapes")({WEIGHT: [1, 170, 256]}),
        "sparse shape of nothing": setter("about", "sparse_shapes")({"os.system": [1, 2, 2]}),
        "sparse weight said dense": setter("about", "sparse_shapes")({}),
    }


def tensors() -> dict[str, bytes]:
    """Files with tensors that do not belong together."""
    values, bits, bias = (f"{WEIGHT}.values", f"{WEIGHT}.bits", "actor.0.bias")
    mask = np.unpackbits(Parts().array(bits), count=256 * 170, bitorder="little").reshape(256, 170)
    columns, counts = mask.nonzero()[1].astype("<u2"), mask.sum(1).astype("<u4")

    def replaced(arrays: dict[str, Any], *without: str) -> bytes:
        return changed(lambda parts: parts.replace(arrays, *without))

    def connections(columns: Any, counts: Any) -> bytes:
        return replaced({f"{WEIGHT}.columns": columns, f"{WEIGHT}.counts": counts}, bits)

    held = Parts()
    nan = held.array(bias).reshape(1, -1).copy()
    nan[0, 3] = np.nan
    bomb = np.full(256, 2**32 - 1, "<u4")
    wraps = counts.astype("<i8")
    wraps[:2] = [2**62, int(counts[:2].sum()) - 2**62]
    return {
        "a tensor missing": replaced({}, bias),
        "a dense weight missing": replaced({}, "actor.1.weight"),
        "a tensor too many": replaced({"actor.7.weight": np.zeros(2, "<f4")}),
        "a tensor of the optimizer": replaced({"optimizer.exp_avg": np.zeros(2, "<f4")}),
        "a tensor that climbs": replaced({"../../actor": np.zeros(2, "<f4")}),
        "a tensor of another size": replaced({bias: np.zeros((1, 257), "<f4")}),
        "a tensor of no dimension": replaced({bias: np.zeros((), "<f4")}),
        "a tensor of bytes": replaced({bias: np.zeros((1, 256), "u1")}),
        "a weight of whole numbers": replaced({"actor.1.weight": np.zeros((1, 9), "<i8")}),
        "a large tensor without use": replaced({"features.x": np.zeros(10**6, "<f4")}),
        "features without use": replaced({"features.x": np.zeros(3, "<f4")}),
        "an order that is none": replaced(
            {"features.source": np.full((1, 1, 170), 10**6, "<i8"),
             "features.since": np.zeros((1, 1), "<i8")}
        ),
        "an order without its time": replaced(
            {"features.source": np.arange(170, dtype="<i8").reshape(1, 1, 170)}
        ),
        "not finite": replaced({bias: nan}),
        "fewer values": replaced({values: held.array(values)[:-1]}),
        "no values": replaced({values: np.zeros(0, "<f4")}),
        "fewer bits": replaced({bits: held.array(bits)[:-1]}),
        "no bits": replaced({bits: np.zeros_like(held.array(bits))}),
        "all bits": replaced({bits: np.full_like(held.array(bits), 255)}),
        "bits as numbers": replaced({bits: held.array(bits).astype("<f4")}),
        "both forms": replaced({f"{WEIGHT}.columns": columns, f"{WEIGHT}.counts": counts}),
        "neither form": replaced({}, bits),
        "counts without end": connections(columns, bomb),
        "counts that wrap around": connections(columns, wraps),
        "columns beyond the end": connections(np.full_like(columns, 60_000), counts),
        "columns twice": connections(np.zeros_like(columns), counts),
        "counts of too few": connections(columns, counts[:-1]),
    }  # fmt: skip


class Runs:
    """Pickled as a call of a function of the system."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def programs(mark: Path) -> dict[str, bytes]:
    """Files that make another one where they are loaded by pickle."""
    payload = Runs(f"touch {mark}")
    archive = io.BytesIO()
    torch.save(payload, archive)
    text = pickle.dumps(payload)
    return {
        "a pickle": text,
        "an old pickle": pickle.dumps(payload, protocol=0),
        "a torch archive": archive.getvalue(),
        "a pickle behind a length": struct.pack("<Q", len(text)) + text,
        "a pickle in the metadata": changed(
            lambda parts: setattr(parts, "metadata", {ABOUT: text.decode("latin-1")})
        ),
    }


def all_files(mark: Path) -> dict[str, bytes]:
    """Every kind, by what is wrong with it."""
    return headers() | facts() | tensors() | programs(mark)
