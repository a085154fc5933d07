# A case cannot count up process numbers for the next one to read.
# run: stdin
# expect: ok
# observe: stdout is 2 43
# cases: 3
# needs: /proc/sys/kernel/ns_last_pid
import os
import threading
numbers = []
for _ in range(41):
    thread = threading.Thread(target=lambda: numbers.append(threading.get_native_id()))
    thread.start()
    thread.join()
print(os.getpid(), max(numbers))
