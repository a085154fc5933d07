# The first thread's end is not the program's: the others still meet the clock.
# run: stdin
# limits: wall_seconds=1.0
# expect: timeout
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).syscall(60, 0)
