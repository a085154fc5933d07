# Numbers that are none, or beyond any range, agree with nothing.
# judge: stdin call script
def f(x):
    return ["nan", float("nan"), "inf", "sNaN", "1e999999999999999999", "-0", 1e308 * 10][x]
print(float("nan"), "Infinity", "1e999999999999999999", "9" * 100_000)
