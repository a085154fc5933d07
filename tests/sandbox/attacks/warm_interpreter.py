# The warm interpreter's own stack, reached after the end, has no more rights than the program.
# run: stdin
# expect: ok crashed runtime_error
import os, sys
os._exit = lambda code: None
def climb(*_):
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_locals.items()):
            if name == "self":
                try:
                    value.serve()
                except BaseException:
                    pass
        frame = frame.f_back
climb()
