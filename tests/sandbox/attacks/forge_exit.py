# Leaving with status 0 is no pass.
# judge: stdin call script
import os
os._exit(0)
