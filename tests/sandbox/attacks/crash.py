# A crash is named, and leaves no core file.
# run: stdin
# expect: crashed
# observe: error has SIGSEGV
import ctypes
ctypes.string_at(1)
