"""How the network is run on this machine: device, number format and kind of execution, each with its reason."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from grove.common.errors import SettingError
from grove.inference_server.backends.served_network import ServedNetwork, random_rows, row_unit_of
from grove.inference_server.backends.toolchain import compiler_fault
from grove.inference_server.interface.network_settings import NetworkSettings
from grove.inference_server.models.model_file import LoadedModel
from grove.inference_server.networks.networks import Outputs
from grove.inference_server.networks.onednn import has_fused_form, onednn_fault

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PROBE_S = 0.1
_SLOW_ROWS = 32
"""Rows timed where the processor has no bf16: there 512 rows of blobnet would take a second a call."""
_MIN_GAIN = 1.1
"""bf16 must be a tenth faster to be worth its rounding."""
_MAX_DRIFT = 0.05
"""Largest change of a probability or value that `auto` accepts; 3 blocks x 32 channels drift by about 0.005."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """A decision about how to run the network; texts say why."""

    device: torch.device
    dtype: torch.dtype
    kind: str
    """`onednn` (fused operators), `compiled` (torch.compile) or `eager`."""
    device_reason: str
    dtype_reason: str
    kind_reason: str
    drift: tuple[float, float] | None
    """Largest absolute change by bf16 of (policy probability, value) on random rows; None for fp32."""

    @property
    def dtype_name(self) -> str:
        """`fp32` or `bf16`."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"


def choose_execution(model: LoadedModel, settings: NetworkSettings, max_batch: int, deterministic: bool) -> Execution:
    """Decide how to run `model` in batches of up to `max_batch` rows; takes a fifth of a second when it must measure.

    Raises:
        SettingError: CUDA was asked for and is not there, or bf16 under deterministic.
    """
    device, device_reason = choose_device(settings.device)
    kind, kind_reason = _choose_kind(model, settings, device, deterministic)
    onednn_rows = max_batch if kind == "onednn" else 0
    dtype, dtype_reason, drift = _choose_dtype(model, settings, device, deterministic, onednn_rows)
    if kind == "onednn" and (fault := onednn_fault(dtype)):
        kind, kind_reason = "eager", fault
    return Execution(
        device=device,
        dtype=dtype,
        kind=kind,
        device_reason=device_reason,
        dtype_reason=dtype_reason,
        kind_reason=kind_reason,
        drift=drift,
    )


def choose_device(wanted: str) -> tuple[torch.device, str]:
    """Return the device for setting `device` and the reason.

    Raises:
        SettingError: CUDA was asked for and torch finds none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        fault = "this torch is a CPU build" if torch.version.cuda is None else "torch finds no CUDA device"
        raise SettingError.of("device", wanted, fault, "use --device cpu or see `grove doctor`")
    if wanted == "cpu":
        return torch.device("cpu"), "asked for"
    if available:
        name = torch.cuda.get_device_name(0)
        return torch.device("cuda"), f"asked for ({name})" if wanted == "cuda" else f"torch finds {name}"
    return torch.device("cpu"), "torch finds no CUDA device"


def _choose_kind(
    model: LoadedModel, settings: NetworkSettings, device: torch.device, deterministic: bool
) -> tuple[str, str]:
    if device.type == "cuda":
        return (
            ("compiled", "asked for") if settings.compile == "on" else ("eager", "CUDA graphs of torch's own kernels")
        )
    if has_fused_form(type(model.network)) and settings.compile != "on":
        fault = onednn_fault(torch.float32)
        return ("eager", fault) if fault else ("onednn", "fused operators, as fast as torch.compile and ready at once")
    if deterministic:
        return "eager", "deterministic runs must not change over to compiled code half-way"
    if settings.compile == "off":
        return "eager", "asked for"
    fault = compiler_fault()
    return ("eager", f"{fault}: see `grove doctor`") if fault else ("compiled", "torch.compile, one bucket at a time")


def _choose_dtype(
    model: LoadedModel, settings: NetworkSettings, device: torch.device, deterministic: bool, onednn_rows: int
) -> tuple[torch.dtype, str, tuple[float, float] | None]:
    if deterministic:
        if settings.dtype == "bf16":
            raise SettingError.of("dtype", "bf16", "deterministic runs compute in fp32", "use --dtype auto or fp32")
        return torch.float32, "deterministic", None
    if settings.dtype == "fp32":
        return torch.float32, "asked for", None
    rows = random_rows(model.row_spec, onednn_rows or 256, device, row_unit_of(model.network))
    slow = device.type == "cpu" and bool(onednn_fault(torch.bfloat16))
    exact = ServedNetwork(model, device, torch.float32, onednn_rows)
    try:
        rounded = ServedNetwork(model, device, torch.bfloat16, 0 if slow else onednn_rows)
        if settings.dtype == "bf16":
            return torch.bfloat16, "asked for", bf16_drift(exact, rounded, rows)
        return _faster_dtype(exact, rounded, rows, rows[:_SLOW_ROWS] if slow else rows)
    except RuntimeError as error:
        if settings.dtype == "bf16":
            raise SettingError.of("dtype", "bf16", f"the network fails in it: {error}", "use --dtype fp32") from error
        return torch.float32, "the network fails in bf16", None


def _faster_dtype(
    exact: ServedNetwork, rounded: ServedNetwork, rows: Tensor, timed_rows: Tensor
) -> tuple[torch.dtype, str, tuple[float, float] | None]:
    fp32, bf16 = eager_rate(exact, timed_rows), eager_rate(rounded, timed_rows)
    facts = f"bf16 {bf16:,.0f} rows/s, fp32 {fp32:,.0f} rows/s a lane"
    if bf16 < _MIN_GAIN * fp32:
        return torch.float32, f"bf16 is not worth its rounding ({facts})", None
    drift = bf16_drift(exact, rounded, rows)
    if max(drift) > _MAX_DRIFT:
        return torch.float32, f"bf16 changes outputs by up to {max(drift):.2g} ({facts})", None
    return torch.bfloat16, f"measured: {facts}", drift


@torch.inference_mode()
def bf16_drift(exact: ServedNetwork, rounded: ServedNetwork, rows: Tensor) -> tuple[float, float]:
    """Return the largest absolute difference of (policy probabilities, values) between two forms of a network."""
    reference, other = exact(rows), rounded(rows)

    def probabilities(outputs: Outputs) -> Tensor:
        return torch.softmax(outputs[0].double(), dim=1)

    policy = (probabilities(reference) - probabilities(other)).abs().max()
    return float(policy), float((reference[1] - other[1]).abs().max())


@torch.inference_mode()
def eager_rate(network: ServedNetwork, rows: Tensor) -> float:
    """Return rows/s of `network` on the batch `rows`, best of a few calls, in one thread on CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = float("inf")
    try:
        network(rows)
        end = time.perf_counter() + _PROBE_S
        while time.perf_counter() < end:
            start = time.perf_counter()
            network(rows)[1].cpu()
            best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return len(rows) / best
