# Tuples of tuples of tuples, whose hash takes longer than the world, are refused unhashed.
# judge: call script
import json, os
rows = [["tuple"], *[["tuple", [n], [n]] for n in range(64)], ["set", [64]]]
def f(x):
    class Quick(tuple):
        __hash__ = lambda self: 1
    value = Quick()
    for _ in range(64):
        value = Quick((value, value))
    return {value}
