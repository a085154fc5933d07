# A private directory without any permission left is no obstacle to the next case.
# run: stdin
# cases: 3
# expect: ok
# observe: stdout is []
import os
print(sorted(os.listdir("/tmp"))[1:])
open("/tmp/mark", "w").close()
os.chmod("/tmp", 0)
