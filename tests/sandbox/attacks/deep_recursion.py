# An overflow of the stack ends the program alone.
# run: stdin
# expect: crashed runtime_error memory
import sys
sys.setrecursionlimit(10**9)
def fall(): return fall.__call__()
fall()
