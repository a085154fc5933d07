# kill(0) reaches the program's own group only.
# run: stdin
# expect: crashed
# observe: error has SIGKILL
import os, signal
os.kill(0, signal.SIGKILL)
