"""Which network evaluates the rows, where, and in which number format. Torch-free: every process may read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.errors import SettingError

_DEVICES = ("auto", "cpu", "cuda")
_DTYPES = ("auto", "fp32", "bf16")
_COMPILES = ("auto", "off", "on")


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """The network, its weights and how it is run."""

    network: str = "resnet:blocks=3,channels=32"
    """`resnet:blocks=B,channels=C` for boards, `mlp:layers=L,width=W`, for blob games `blobnet` (4.1M parameters),
    `blobnet:small` (372 thousand) or `blobnet:origin` (4.9M), or a torch.nn.Module as `package.module:Class`. The
    default plays small boards well above 100k rows/s on two cores."""
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
