"""Student's t: how wide an interval must be whose standard deviation was itself estimated."""

import math
from statistics import NormalDist


def quantile(confidence: float, freedom: int) -> float:
    """So many standard errors on either side hold the mean with this confidence, by G. W. Hill's expansion.

    Algorithm 396 of the Communications of the ACM (1970); exact for 1 and 2 degrees of freedom, and else within 0.01 %.
    """
    outside = 1 - confidence
    if freedom == 1:
        return 1 / math.tan(outside * math.pi / 2)
    if freedom == 2:
        return math.sqrt(2 / (outside * (2 - outside)) - 2)
    n = float(freedom)
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * n
    y = (d * outside) ** (2 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(outside / 2)
        y = x**2
        if freedom < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y**2)
    else:
        y = ((1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (n + 1) / (
            n + 2
        ) + 1 / y
    return math.sqrt(n * y)
