"""MathAPI: a calculator without state."""

import math
from statistics import pstdev
from typing import Any

from openqwq.evaluation.benchmarks.bfcl_apis.calling import ApiError, require

METRES = {"km": 1e3, "m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "nm": 1e-9}
FACTORS = {
    ("km", "miles"): 0.621371,
    ("m", "ft"): 3.28084,
    ("cm", "in"): 0.393701,
    ("kg", "lb"): 2.20462,
    ("g", "oz"): 0.035274,
    ("l", "gal"): 0.264172,
}
Result = dict[str, Any]


class Mathematics:
    """A configuration is taken and ignored: some scenarios give one."""

    def __init__(self, config: dict[str, Any]) -> None:
        del config

    def _absolute_value(self, number: float) -> Result:
        return {"result": abs(number)}

    def _add(self, a: float, b: float) -> Result:
        return {"result": a + b}

    def _subtract(self, a: float, b: float) -> Result:
        return {"result": a - b}

    def _multiply(self, a: float, b: float) -> Result:
        return {"result": a * b}

    def _divide(self, a: float, b: float) -> Result:
        require(b, "cannot divide by zero")
        return {"result": a / b}

    def _power(self, base: float, exponent: float) -> Result:
        return {"result": float(base) ** exponent}

    def _square_root(self, number: float, precision: int) -> Result:
        require(number >= 0, "a negative number has no real square root")
        return {"result": round(math.sqrt(number), precision)}

    def _logarithm(self, value: float, base: float, precision: int) -> Result:
        require(value > 0 and base > 0 and base != 1, "value and base must be positive, base not 1")
        return {"result": round(math.log(value, base), precision)}

    def _percentage(self, part: float, whole: float) -> Result:
        require(whole, "the whole cannot be zero")
        return {"result": part / whole * 100}

    def _round_number(self, number: float, decimal_places: int = 0) -> Result:
        return {"result": round(number, decimal_places)}

    def _mean(self, numbers: list[float]) -> Result:
        require(numbers, "the list is empty")
        return {"result": sum(numbers) / len(numbers)}

    def _standard_deviation(self, numbers: list[float]) -> Result:
        require(numbers, "the list is empty")
        return {"result": pstdev(numbers)}

    def _sum_values(self, numbers: list[float]) -> Result:
        return {"result": sum(numbers)}

    def _max_value(self, numbers: list[float]) -> Result:
        require(numbers, "the list is empty")
        return {"result": max(numbers)}

    def _min_value(self, numbers: list[float]) -> Result:
        require(numbers, "the list is empty")
        return {"result": min(numbers)}

    def _si_unit_conversion(self, value: float, unit_in: str, unit_out: str) -> Result:
        require(unit_in in METRES and unit_out in METRES, f"units are {', '.join(METRES)}")
        return {"result": value * METRES[unit_in] / METRES[unit_out]}

    def _imperial_si_conversion(self, value: float, unit_in: str, unit_out: str) -> Result:
        if (unit_in, unit_out) == ("c", "f"):
            return {"result": value * 9 / 5 + 32}
        if (unit_in, unit_out) == ("f", "c"):
            return {"result": (value - 32) * 5 / 9}
        if factor := FACTORS.get((unit_in, unit_out)):
            return {"result": value * factor}
        if factor := FACTORS.get((unit_out, unit_in)):
            return {"result": value / factor}
        raise ApiError(f"no conversion from {unit_in} to {unit_out}")
