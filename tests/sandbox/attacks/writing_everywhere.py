# No directory but the private one takes a file.
# run: stdin
# expect: ok
# observe: stdout is []
import os, sys
taken, places = [], ["/", "/dev", "/usr/lib", "/lib", "/lib64", "/root", "/var/tmp", *sys.path]
for root in (os.path.dirname(os.__file__), "/usr/lib"):
    for count, (place, _, _) in enumerate(os.walk(root)):
        places.append(place)
        if count == 200:
            break
for place in places:
    try:
        open(os.path.join(place or "/", "openqwq_mark"), "w")
        taken.append(place)
    except OSError:
        pass
print(taken)
