# What the program raises reaches the script as a failure, whatever its name.
# judge: stdin call script
class SkipTest(Exception): pass
SkipTest.__name__ = "StopIteration"
def f(x):
    raise SkipTest("skipped")
