"""maxRatio: the measured value is at most this times the reference."""


def limit(value: float, reference: float) -> float:
    return value * reference


def passes(measured: float, limit: float) -> bool:
    return measured <= limit
