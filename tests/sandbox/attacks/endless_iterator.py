# An endless iterator crosses as its first items.
# judge: call script
import itertools
def f(x):
    return itertools.count()
