# Neither modules nor the warm interpreter keep a word from one case to the next.
# run: stdin
# cases: 3
# expect: ok runtime_error
# observe: stdout is None None None
import builtins, ctypes, heapq, sys
small = ctypes.c_long.from_address(id(100) + 24)
print(getattr(builtins, "mark", None), getattr(heapq, "mark", None), None if small.value == 100 else small.value)
builtins.mark = heapq.mark = sys.mark = "x"
small.value = 7
os = sys.modules["os"]
os.write = os.read = os._exit = None
