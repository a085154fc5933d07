# A program without descriptors passes nothing.
# judge: stdin call script
import os
def f(x):
    os.closerange(0, 4096)
os.closerange(0, 3)
