# The second case cannot read what the first one left.
# judge: stdin call
# observe: detail 0
import glob, os
def f(x):
    found = [p for p in glob.glob("/tmp/*") + glob.glob("/dev/shm/*") + glob.glob("/tmp/.*")]
    open("/tmp/mark", "w").write("EXPECTED")
    os.mkdir("/tmp/.hidden", 0)
    return len(found)
print(f(1))
