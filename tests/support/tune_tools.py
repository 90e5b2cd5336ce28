"""What the tests of `grove tune` share: a network as measured alone, and the default settings of its load."""

from __future__ import annotations

from typing import Any

from grove.bench.tune.space import Choice

BASE = Choice("thread", 1, 2048, 4, 512, 5000, 2, "fp32", 0)
RATES = {64: 0.8, 128: 0.98, 256: 1.0, 512: 0.99}


def network_alone(dtype: str = "fp32", device: str = "cpu (AVX2)") -> dict[str, Any]:
    """As bench/core/peak.py finds it, of a network that gains nothing beyond 128 rows."""
    tried = [{"lanes": 2, "bucket": n, "rows_per_second": 1e5 * r, "cpu_us": 10 / r} for n, r in RATES.items()]
    return {"lanes": 2, "bucket": 256, "tried": tried, "backend": {"device": device, "dtype": dtype}}
