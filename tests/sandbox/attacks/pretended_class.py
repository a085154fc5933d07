# A class that an object only claims, or a way to be copied that it names, is not taken from it.
# judge: call script
class Claim:
    def __init__(self, kind):
        self.kind = kind
    @property
    def __class__(self):
        return self.kind
    def __int__(self): return 1
    def __float__(self): return 1.0
    def __str__(self): return "x"
    def __iter__(self): return iter(())
    def __reduce__(self): return (exec, ("raise SystemExit(0)",))
    def __getstate__(self): raise SystemExit(0)
    def __eq__(self, other): return True
    __hash__ = None
kinds = [int, float, str, bytes, list, tuple, dict, bool, type(None), type]
def f(x):
    return Claim(kinds[x % len(kinds)])
