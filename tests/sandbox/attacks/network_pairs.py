# A pair of connected sockets is of the local family only.
# run: stdin
# expect: ok
# observe: stdout is [1]
import ctypes
libc, pair = ctypes.CDLL(None), (ctypes.c_int * 2)()
print([family for family in range(46) if libc.socketpair(family, 1, 0, pair) == 0])
