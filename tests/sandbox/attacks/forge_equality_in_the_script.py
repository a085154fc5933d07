# A class of the script's own that is lenient cannot be borrowed.
# judge: script
class Lenient:
    pass
def f(x):
    return Lenient()
