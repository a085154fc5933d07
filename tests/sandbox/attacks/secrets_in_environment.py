# Neither the environment nor the memory of it, nor the command line, holds anything of the host's.
# run: stdin
# expect: ok
# observe: stdout has HOME
import ctypes, os, sys
print(dict(os.environ), sys.orig_argv)
block = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
index = 0
while block[index]:
    print(block[index])
    index += 1
