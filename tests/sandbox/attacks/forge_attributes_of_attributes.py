# Nor its class, nor its dictionary.
# judge: script
def f(x):
    box = Box(None)
    vars(box).update({"__class__": bool, "__eq__": bool, "__dict__": {}, "same": dict})
    return box
