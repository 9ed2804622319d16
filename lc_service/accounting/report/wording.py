"""How numbers, money and doubts are written, the same in every kind of report.

Invariant: what is a lower bound is never written as if it were the whole. Plain text; escaping is for others.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal

from lc_service.accounting.usage_line import UsageLine

UNKNOWN = "unknown"


def usd(amount: Decimal, rounding: str = ROUND_HALF_EVEN) -> str:
    """Write money: cents from a dollar on, below it as many digits as it takes to tell amounts apart."""
    if not amount:
        return "$0"
    digits = 2 if amount >= 1 else 4 if amount >= Decimal("0.01") else 1 - amount.adjusted()
    return f"${amount.quantize(Decimal(1).scaleb(-digits), rounding):,f}"


def usd_mark(amount: Decimal) -> str:
    """Write an amount of a scale, which is round: `"$0.0025"`, `"$0.50"`."""
    text = f"${Decimal(f'{amount:.6g}').normalize():,f}"
    return f"{text}0" if text[-2:-1] == "." else text


def cost(line: UsageLine) -> str:
    """Write what a line cost; with ≥ where some of it is unknown, and `"unknown"` where all of it is."""
    if not line.unpriced:
        return usd(line.cost_usd)
    # rounded up, it would be no lower bound
    return f"≥ {usd(line.cost_usd, ROUND_DOWN)}" if line.cost_usd else UNKNOWN


def cost_in_words(line: UsageLine) -> str:
    """Write what a line cost, for where there is room: `"at least $1.20"`."""
    return cost(line).replace("≥", "at least")


def compact(number: Decimal) -> str:
    """Write a number in four characters or so: 950, 1.2k, 34M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0") + letter
    return f"{number:.0f}"


def doubts(line: UsageLine) -> list[str]:
    """Return a sentence for each reason why the sums may not be the whole truth."""
    sentences = []
    if line.estimated:
        sentences.append(
            f"The usage of {_attempts(line.estimated, line)} is estimated; the estimates are in the sums."
        )
    if line.unknown:
        sentences.append(
            f"{_attempts(line.unknown, line).capitalize()} may have been billed for tokens that nobody "
            "counted: the sums are lower bounds."
        )
    if unpriced := line.unpriced - line.unknown:
        sentences.append(
            f"{_attempts(unpriced, line).capitalize()} used tokens without a known price: the cost is "
            f"{cost_in_words(line)}."
        )
    return sentences


def _attempts(count: int, line: UsageLine) -> str:
    if count == line.attempts:
        return f"all {count:,} attempts" if count > 1 else "the only attempt"
    return f"{count:,} of {line.attempts:,} attempts"
