"""The exponential function over a whole array at once, for the softmax of priors.

The compiler cannot vectorise calls of the C library's exp; this loop it can. Cody and Waite's reduction to
[-ln 2 / 2, ln 2 / 2] and the Taylor series to degree 13, whose remainder is below 5e-18; error below two units in the
last place, far below the rounding of priors to float32.
"""

from __future__ import annotations

import numpy as np

from grove.common.kernels import kernel

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93145751953125e-1, 1.42860682030941723212e-6
_LOWEST = -700.0
"""Below it e**x is below 1e-304: no prior."""
_BIAS, _EXPONENT = np.int64(1023), np.int64(52)


@kernel
def exp_all(values, powers):
    """Replace every x <= 0 of `values` float64 [n] by e**x; `powers` int64 [n] is scratch."""
    for i in range(values.shape[0]):
        x = max(values[i], _LOWEST)
        n = np.floor(x * _LOG2_E + 0.5)
        r = (x - n * _LN2_HIGH) - n * _LN2_LOW
        p = 1.0 + r * (1.0 / 13)
        p = 1.0 + r * (1.0 / 12) * p
        p = 1.0 + r * (1.0 / 11) * p
        p = 1.0 + r * (1.0 / 10) * p
        p = 1.0 + r * (1.0 / 9) * p
        p = 1.0 + r * (1.0 / 8) * p
        p = 1.0 + r * (1.0 / 7) * p
        p = 1.0 + r * (1.0 / 6) * p
        p = 1.0 + r * (1.0 / 5) * p
        p = 1.0 + r * (1.0 / 4) * p
        p = 1.0 + r * (1.0 / 3) * p
        p = 1.0 + r * (1.0 / 2) * p
        values[i] = 1.0 + r * p
        powers[i] = (np.int64(n) + _BIAS) << _EXPONENT
    scales = powers.view(np.float64)
    for i in range(values.shape[0]):
        values[i] *= scales[i]
