"""Model files: safetensors with a small JSON description, and the content hash that names a model everywhere.

Nothing is ever unpickled. The description is checked against the tensors before memory for the network is taken, and a
user's class is imported only when the user's own settings name it, never because a file does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from grove.common.errors import ModelError, SettingError
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.interface.rows import RowSpec
from grove.inference_server.networks.networks import build_network, check_network, is_user_class

_FORMAT = "grove-model"
_FORMAT_VERSION = 1
_MOST_HEADER = 100 << 20
"""Bytes of the longest header, the limit of the safetensors library."""
_DTYPES = {"F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network with weights, in its trained form (fp32, CPU), and its name."""

    spec: str
    """Network spec, e.g. ``resnet:blocks=3,channels=32``."""
    row_spec: RowSpec
    network: nn.Module
    version: str
    """Model version: 16 hex digits over description and weights."""


def open_model(settings: NetworkSettings, row_spec: RowSpec) -> LoadedModel:
    """Return the model file of `settings`, or the freshly drawn network where it names none; checked against the game.

    Raises:
        SettingError: the network setting cannot be built or does not fit the rows.
        ModelError: the model file cannot be used.
    """
    if settings.model is not None:
        return load_model(settings.model, row_spec, trusted_class=settings.network)
    network = build_network(settings.network, row_spec, settings.network_seed)
    check_network(network, row_spec)
    version = model_version(settings.network, row_spec, network.state_dict())
    return LoadedModel(spec=settings.network, row_spec=row_spec, network=network, version=version)


def save_model(path: str | Path, spec: str, row_spec: RowSpec, state: Mapping[str, Tensor]) -> str:
    """Write the weights `state` of network `spec` to `path` at once or not at all; return the model version."""
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    blob = safetensors_bytes(tensors, metadata={_FORMAT: _description(spec, row_spec)})
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with scratch.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return model_version(spec, row_spec, tensors)


def load_model(path: str | Path, row_spec: RowSpec, trusted_class: str = "") -> LoadedModel:
    """Return the model in `path` for rows of `row_spec`.

    Args:
        path: a file written by :func:`save_model`.
        row_spec: the rows it will be asked about; a file made for others is refused.
        trusted_class: the user's `--network`; only a class named here is imported.

    Raises:
        ModelError: no such file, truncated, not safetensors (pickles are never opened), other shapes, missing keys.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = _start(path, file)
            metadata, found = _header(path, start)
            spec = _checked_description(path, metadata, row_spec)
            network = _empty_network(path, spec, row_spec, trusted_class)
            _check_shapes(path, network.state_dict(), found)
            _check_size(path, network, os.fstat(file.fileno()).st_size - len(start))
            blob = start + file.read()  # never a mapped file: what is written to it later must not reach the weights
        state = safetensors.torch.load(blob)
    except OSError as error:
        raise ModelError(f"model {path} cannot be read ({error.strerror}); check the path of --model") from error
    except safetensors.SafetensorError as error:
        raise _no_safetensors(path, error) from error
    network.load_state_dict(state, assign=True)
    network.requires_grad_(False).eval()
    _check_outputs(path, network, row_spec)
    return LoadedModel(spec=spec, row_spec=row_spec, network=network, version=model_version(spec, row_spec, state))


def model_version(spec: str, row_spec: RowSpec, state: Mapping[str, Tensor]) -> str:
    """Return 16 hex digits of the SHA-256 over the description and all tensors by name (dtype, shape, bytes)."""
    digest = hashlib.sha256(_description(spec, row_spec).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _description(spec: str, row_spec: RowSpec) -> str:
    fields = {"format_version": _FORMAT_VERSION, "network": spec, "rows": row_spec.to_dict()}
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def _start(path: Path, file: BinaryIO) -> bytes:
    """Return the header of a file with its length before it, as it was read."""
    start = file.read(9)
    # A safetensors file may begin with 0x80 too, the length of its header, but then an opening brace follows.
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:] != b"{"):
        raise ModelError(f"model {path} is a pickle, which can run code and is never opened; use save_model")
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or not 0 < length <= _MOST_HEADER:
        raise _no_safetensors(path, f"a header of {length} bytes")
    return start + file.read(length - 1)


def _header(path: Path, start: bytes) -> tuple[Mapping[str, str], dict[str, tuple[tuple[int, ...], str]]]:
    """Return the metadata of a header, and shape and dtype of every tensor by name."""
    try:
        entries: dict[str, Any] = json.loads(start[8:])
        metadata = dict(entries.pop("__metadata__", {}))
        return metadata, {name: (tuple(entry["shape"]), str(entry["dtype"])) for name, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _no_safetensors(path, f"header: {error}") from error


def _no_safetensors(path: Path, why: object) -> ModelError:
    why = " ".join(str(why).split())
    return ModelError(f"model {path} is truncated or not safetensors ({why}); copy or export it again")


def _checked_description(path: Path, metadata: Mapping[str, str], row_spec: RowSpec) -> str:
    """Return the network spec of a file's description after comparing its rows with `row_spec`."""
    try:
        fields: dict[str, Any] = json.loads(metadata[_FORMAT])
        version, spec, rows = fields["format_version"], fields["network"], RowSpec.from_dict(fields["rows"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"model {path} has no description of its network ({error}); use save_model") from error
    if version != _FORMAT_VERSION or not isinstance(spec, str):
        raise ModelError(f"model {path} has format {version!r}, not {_FORMAT_VERSION}; export it again")
    for name, wanted in row_spec.to_dict().items():
        found = rows.to_dict()[name]
        if found != wanted:
            raise ModelError(f"model {path} was made for {name} {found}, not {wanted}; choose a model of this game")
    return spec


def _empty_network(path: Path, spec: str, row_spec: RowSpec, trusted_class: str) -> nn.Module:
    """Return the network without memory for weights (built-in ones), or the user's class where the user names it."""
    if is_user_class(spec):
        if spec != trusted_class:
            raise ModelError(f"model {path} needs the class {spec}, imported only on request; add --network {spec}")
        return build_network(spec, row_spec)
    try:
        with torch.device("meta"):
            return build_network(spec, row_spec)
    except SettingError as error:
        raise ModelError(f"model {path} describes an impossible network: {error}") from error


def _check_shapes(path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or extra:
        raise ModelError(f"model {path} lacks {missing[:3]} and has {extra[:3]} too many; export it again")
    for name, tensor in wanted.items():
        shape, dtype = found[name]
        if shape != tuple(tensor.shape) or _DTYPES.get(dtype) != tensor.dtype:
            expected = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ModelError(f"model {path}: {name} is {shape} {dtype}, its network needs {expected}; export it again")


def _check_size(path: Path, network: nn.Module, found: int) -> None:
    """Refuse a file whose tensors would not fill it exactly, before it is read."""
    wanted = sum(tensor.nbytes for tensor in network.state_dict().values())
    if found != wanted:
        raise _no_safetensors(path, f"{found} bytes of weights instead of {wanted}")


def _check_outputs(path: Path, network: nn.Module, row_spec: RowSpec) -> None:
    try:
        check_network(network, row_spec)
    except SettingError as error:
        raise ModelError(f"model {path}: {error}") from error
