"""`grove model convert`: weights that PyTorch saved become a model file. Nothing in the checkpoint is ever executed."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from grove.common.errors import ModelError, SettingError
from grove.game import load_game
from grove.workers.selfplay.evaluators import row_spec

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 3
_REMEDY = "save it with torch.save(model.state_dict(), FILE)"


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Make a model file of a checkpoint: a state dict that torch.save wrote, or {"model_state_dict": ...} around it."""

    checkpoint: tyro.conf.Positional[str]
    """The checkpoint, as FILE.pt or FILE.pt.gz."""
    network: str
    """Network that the weights are of: `PATH/FILE.py:Class`, `package.module:Class`, or a built-in one."""
    game: str = "connect_four"
    """Game that it plays."""
    out: str | None = None
    """Model file to write; by default FILE.safetensors beside the checkpoint."""


def convert(settings: Convert) -> int:
    """Write the model file; returns the exit status. Raises SettingError and ModelError; nothing is written then."""
    from grove.inference_server.models.model_file import load_model, save_model
    from grove.inference_server.networks.networks import build_network

    source = Path(settings.checkpoint)
    target = Path(settings.out or source.with_name(source.name.partition(".")[0] + ".safetensors"))
    rows = row_spec(load_game(settings.game))
    network = build_network(settings.network, rows)
    state = _weights(source)
    _check(source, settings.network, network.state_dict(), state)
    network.load_state_dict(state)
    try:
        version = save_model(target, settings.network, rows, network.state_dict())
    except OSError as error:
        limit = f"it cannot be written ({error.strerror})"
        raise SettingError.of("out", str(target), limit, "choose another place") from None
    load_model(target, rows, trusted_class=settings.network)
    print(f"model {version} for {rows.game}: {target}")
    return 0


def _weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in `path`; the unpickler knows tensors and plain containers and refuses all else."""
    import torch

    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        found: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (OSError, EOFError) as error:
        raise SettingError.of("checkpoint", str(path), f"it cannot be read ({error})", "give a readable file") from None
    except Exception as error:  # whatever it raises on what is no checkpoint
        why = str(error).strip().partition("\n")[0][:200]
        raise ModelError(f"checkpoint {path} holds more than weights, or is none ({why}); {_REMEDY}") from None
    if isinstance(found, Mapping) and isinstance(found.get("model_state_dict"), Mapping):
        found = found["model_state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ModelError(f"checkpoint {path} holds no state dict; {_REMEDY}")
    return dict(found)


def _check(path: Path, spec: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise ModelError, one line, for names or shapes that the network does not have."""
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or extra:
        parts = [f"{text} {_some(names)}" for text, names in (("lacks", missing), ("has besides", extra)) if names]
        raise ModelError(f"checkpoint {path} {' and '.join(parts)}, so it is not of {spec}; give its own --network")
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)}, {spec} needs {tuple(tensor.shape)}"
            raise ModelError(f"checkpoint {path}: {name} is {shapes}; give its own --network and --game")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
