"""torch.compile for lanes: one compiled function per lane and bucket, made in the background, never recompiled.

What the settings here guard against (each was measured or met):
* a function shared by lanes or buckets recompiles spuriously, so each gets its own code object;
* inductor's settings are thread-local, so they travel as options of the compiled function itself;
* its worker pool would outlive us, so compilation stays in this process;
* a recompilation in a lane stalls for seconds, so after warming it fails instead and the batch is repeated eagerly.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from grove.inference_server.networks.networks import Outputs

Network = Callable[[Tensor], Outputs]

_CLOSE_S = 5.0
_NICENESS = 10

_compiling = threading.RLock()  # dynamo serialises anyway; this also keeps the stance below consistent


@contextmanager
def _compilation() -> Iterator[None]:
    """Allow compilation inside, and let any attempt outside fail fast (the stance is one for the whole process)."""
    from grove.common.kernels import cache_home  # and numba: only who compiles need wait for it

    with _compiling:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_home() / "inductor"))
        torch.compiler.set_stance("default")
        try:
            yield
        finally:
            torch.compiler.set_stance("fail_on_recompile")


def compile_for(network: Network, example: Tensor, name: str, cpp_wrapper: bool = False) -> Network:
    """Return `network` compiled for exactly the shape and dtype of `example`, warmed by two calls.

    Weights stay inputs of the compiled code (never frozen into it), so they may be changed in place. Must be called
    under the same inference mode and thread count as the later calls, with an `example` made under them.

    Raises:
        Exception: whatever the compiler raises.
    """
    options: dict[str, Any] = {"cpp_wrapper": cpp_wrapper, "compile_threads": 1, "freezing": False}
    with _compilation():
        compiled = torch.compile(_own_function(network, name), dynamic=False, fullgraph=True, options=options)
        for _ in range(2):
            compiled(example)
    return compiled


def _own_function(network: Network, name: str) -> Network:
    """Return a function that calls `network`, with its own code object: dynamo keeps compiled code per object."""

    def call(observations: Tensor) -> Outputs:
        return network(observations)

    code = call.__code__.replace(co_name=f"call_{name}")
    return FunctionType(code, call.__globals__, code.co_name, None, call.__closure__)


class CompiledBuckets:
    """The buckets of one lane, compiled one after the other in a background thread; eager until then."""

    def __init__(
        self, network: Network, new_rows: Callable[[int], Tensor], buckets: tuple[int, ...], name: str
    ) -> None:
        """`new_rows(bucket)` returns rows [bucket, ...] as they will be delivered."""
        self._network, self._new_rows, self._name = network, new_rows, name
        self._buckets = tuple(reversed(buckets))  # the top bucket carries most rows
        self._ready: dict[int, Network] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._compile_all, name=f"compile-{name}", daemon=True)
        self.recompiles = 0
        """Calls that dynamo refused after warming; they were repeated eagerly."""
        self.fault = ""
        """Why compilation ended early."""

    @property
    def ready(self) -> tuple[int, ...]:
        """Buckets that run compiled by now, ascending."""
        return tuple(sorted(self._ready))

    def start(self) -> None:
        """Begin compiling in the background."""
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the last bucket; return whether the background thread has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Give up buckets not begun and wait a moment for the one being compiled."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)

    def __call__(self, observations: Tensor) -> Outputs:
        """Compute the rows, compiled where their bucket is ready."""
        compiled = self._ready.get(len(observations))
        if compiled is None:
            return self._network(observations)
        try:
            return compiled(observations)
        except RuntimeError:  # the fail_on_recompile stance; a true fault of the network is raised again below
            outputs = self._network(observations)
            self.recompiles += 1
            return outputs

    def _compile_all(self) -> None:
        torch.set_num_threads(1)
        with suppress(OSError, AttributeError):  # on Linux the priority of this thread alone, elsewhere no such call
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        with torch.inference_mode():
            for bucket in self._buckets:
                if self._stop.is_set():
                    return
                try:
                    example = self._new_rows(bucket)
                    self._ready[bucket] = compile_for(self._network, example, f"{self._name}_{bucket}")
                except Exception as error:  # any compiler fault: the lane simply stays eager
                    self.fault = f"torch.compile failed: {type(error).__name__}: {str(error).strip().splitlines()[:1]}"
                    return
