"""Discrepancies: the price of the unbiased form, of a million samples, of products of layers."""

from __future__ import annotations

from bench.timing import NOISE, Case, Row, alternate, in_fresh_python, one_thread

WIDTHS = (16.0, 32.0, 64.0, 128.0, 256.0)
# What getrusage tells of a fresh process begins with the memory of the one that started it.
PEAK = (
    "print(int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')"
    ").split()[1]) / 1024)"
)


@one_thread()
def unbiased_mmd() -> list[Row]:
    """Time the unbiased discrepancy against pytorch-adapt's formula, written out plainly."""
    import torch

    from tlcourse.adaptation import mmd2

    rows = []
    # At 64 samples the checks of the input, 0.03 ms, are a tenth of all.
    for n, limit in ((64, 1.25), (256, NOISE), (1024, NOISE)):
        torch.manual_seed(0)
        x, y = torch.randn(n, 64), torch.randn(n, 64) + 0.2

        def plain(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            xx, yy, xy = (torch.cdist(a, b).square() for a, b in ((x, x), (y, y), (x, y)))
            apart, off = x.new_zeros(()), len(x) * (len(x) - 1)
            for width in WIDTHS:
                kxx, kyy, kxy = (torch.exp(-d / width) for d in (xx, yy, xy))
                within = kxx.sum() - kxx.trace() + kyy.sum() - kyy.trace()
                apart = apart + within / off - 2 * kxy.mean()
            return apart / len(WIDTHS)

        def ours(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            return mmd2(x, y, WIDTHS)

        torch.testing.assert_close(ours(), plain(), rtol=1e-3, atol=1e-5)
        mine, other = (min(t) for t in alternate([ours, plain], seconds=2))
        detail = f"{1e3 * mine:.2f} / {1e3 * other:.2f} ms"
        size = f"2 x {n} samples of 64, 5 kernels"
        rows.append(Row("mmd2 / formula written out", size, mine / other, limit, detail=detail))
    return rows


@one_thread()
def linear_mmd() -> list[Row]:
    """Time the linear discrepancy at 250,000 and 10^6 samples; look at the memory of the latter."""
    import torch

    from tlcourse.adaptation import mmd2

    torch.manual_seed(0)
    x, y = torch.randn(10**6, 16), torch.randn(10**6, 16)

    def of(n: int) -> None:
        mmd2(x[:n], y[:n], 16.0, estimator="linear")

    few, many = (min(t) for t in alternate([lambda: of(250_000), lambda: of(10**6)], least=5))
    detail = f"{1e3 * few:.0f} and {1e3 * many:.0f} ms"
    rows = [
        Row(
            "linear mmd2: 10^6 / 250,000 samples, a quarter",
            "of 16",
            many / few / 4,
            1.3,
            detail=detail,
        )
    ]
    program = (
        "import torch; from tlcourse.adaptation import mmd2; torch.manual_seed(0); "
        "mmd2(torch.randn(10**6, 16), torch.randn(10**6, 16), 16.0, estimator='linear'); " + PEAK
    )
    peak = in_fresh_python(program)
    detail = f"{peak:.0f} MB, the interpreter's own among them"
    rows.append(
        Row("linear mmd2: peak memory / 1 GB", "2 x 10^6 x 16", peak / 1024, 1.0, detail=detail)
    )
    return rows


@one_thread()
def fused_product() -> list[Row]:
    """Compare the memory of RTN's discrepancy where the product of layers is small and large.

    The larger product, formed, would have 2 x 64 x 4,096,000 numbers: 2.1 GB.
    """
    program = (
        "import sys, torch; from tlcourse.adaptation import joint_mmd2; "
        "D, K = int(sys.argv[1]), int(sys.argv[2]); torch.manual_seed(0); "
        "s, t = ((torch.randn(64, D, requires_grad=True), torch.randn(64, K)) for _ in range(2)); "
        "joint_mmd2(s, t, 1.0 * D * K).backward(); " + PEAK
    )
    small, large = (in_fresh_python(program, *sizes) for sizes in (("64", "10"), ("4096", "1000")))
    detail = f"{small:.0f} and {large:.0f} MB"
    size = "64 x 10 and 4096 x 1000"
    return [
        Row(
            "joint_mmd2: peak memory, large / small product",
            size,
            large / small,
            1.1,
            detail=detail,
        )
    ]


CASES: tuple[Case, ...] = (unbiased_mmd, linear_mmd, fused_product)
