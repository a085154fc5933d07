# The next case reads its own input, whatever was put in its place: a directory, a link, a pipe.
# run: stdin
# cases: 3
# expect: ok
# observe: stdout is True 1
import os, sys
print("abstract" in sys.stdin.read(), len(os.listdir("/tmp")))
os.unlink("/tmp/.stdin")
os.mkdir("/tmp/.stdin")
os.rename("/tmp/.stdin", "/tmp/other")
os.symlink("/dev/zero", "/tmp/.stdin")
