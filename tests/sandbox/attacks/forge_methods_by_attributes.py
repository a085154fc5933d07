# An instance of a class both sides know does not bring attributes in place of its methods.
# judge: script
def f(x):
    box = Box(None)
    box.same = bool
    return box
