"""Which network evaluates the rows, where, and in which number format. Torch-free: every process may read it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from grove.common.errors import SettingError
from grove.inference_server.interface.rows import RowSpec

_DEVICES = ("auto", "cpu", "cuda")
_DTYPES = ("auto", "fp32", "bf16")
_COMPILES = ("auto", "off", "on")


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """The network, its weights and how it is run."""

    network: str = "auto"
    """`resnet:blocks=B,channels=C` for boards, `mlp:layers=L,width=W`, for blob games `blobnet` (4.1M parameters),
    `blobnet:small` (372 thousand) or `blobnet:origin` (4.9M), or a torch.nn.Module as `PATH/FILE.py:Class`. `auto`
    takes resnet:blocks=3,channels=32 for boards (small ones play well above 100k rows/s on two cores), blobnet for blob
    games, mlp:layers=2,width=128 for other rows, and says which."""
    model: str | None = None
    """Path of a model file to load; without one the network starts from `network_seed`."""
    network_seed: int = 0
    """Seed of freshly drawn weights, so that a run without a model file can be repeated."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where torch finds a device, otherwise the CPU, and says which."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` measures both number formats for a moment on this machine and takes the faster that stays accurate."""
    compile: Literal["auto", "off", "on"] = "auto"
    """`auto` runs residual nets and blobnet on CPU with fused oneDNN operators (faster than torch.compile, ready at
    once) and compiles other networks in the background; `off` never compiles; `on` always does."""

    def __post_init__(self) -> None:
        """Raise SettingError for values no machine could use."""
        for name, allowed in (("device", _DEVICES), ("dtype", _DTYPES), ("compile", _COMPILES)):
            if getattr(self, name) not in allowed:
                raise SettingError.of(name, getattr(self, name), f"it must be {' or '.join(allowed)}", "choose one")
        if not 0 <= self.network_seed < 1 << 63:
            raise SettingError.of("network_seed", self.network_seed, "it must be in 0..2**63-1", "choose such a number")


_BOARDS, _BLOB, _OTHERS = "resnet:blocks=3,channels=32", "blobnet", "mlp:layers=2,width=128"
_BLOBNET_CARDS = 13


def default_network(row_spec: RowSpec) -> str:
    """Return the network that `auto` stands for with these rows."""
    name, _, parameters = row_spec.game.partition(":")
    if name == "blob" and _hand(parameters) <= _BLOBNET_CARDS:
        return _BLOB
    return _BOARDS if len(row_spec.observation_shape) in (2, 3) else _OTHERS


def resolve_network(settings: NetworkSettings, row_spec: RowSpec) -> tuple[NetworkSettings, str]:
    """Return the settings with `auto` put into words, and why that network; a model file names its own."""
    if settings.model is not None:
        return settings, f"of {settings.model}"
    if settings.network != "auto":
        return settings, "as asked for"
    found = default_network(row_spec)
    shape = "x".join(map(str, row_spec.observation_shape))
    kind = {_BOARDS: f"auto: boards of {shape}", _BLOB: "auto: a blob game"}.get(found, f"auto: rows of {shape}")
    return replace(settings, network=found), kind


def _hand(parameters: str) -> int:
    """Return the most cards a hand of a blob game can hold, as far as its spec says."""
    items = dict(item.partition("=")[::2] for item in parameters.split(","))
    return max(int(items[name]) if items.get(name, "").isdecimal() else 0 for name in ("cards", "match"))
